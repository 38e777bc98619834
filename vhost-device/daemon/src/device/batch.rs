// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One turn of one ring: a batch of requests is taken, each is served by the caller, and they are given
//! back a few at a time and counted.

use std::time::Instant;

use vm_memory::GuestMemoryMmap;

use super::inflight::Generation;
use super::request::serve::Served;
use super::ring::{Ring, Taken};
use super::worker::{Context, nanos};
use crate::limits::{TAKE_MAX, USE_MAX, USE_PAGES};
use crate::metrics::WorkerMetrics;

/// One ring's turn.
#[derive(Clone, Copy)]
pub(super) struct Batch<'a> {
    pub(super) context: &'a Context<'a>,
    pub(super) metrics: &'a WorkerMetrics,
    pub(super) ring: &'a Ring,
    pub(super) name: &'a str,
    pub(super) mem: &'a GuestMemoryMmap,
}

impl Batch<'_> {
    /// Takes what is in the ring, has each chain served, uses it, and at the end notifies the
    /// driver. At most `limit` chains, and at most [`TAKE_MAX`]. Returns the number used.
    /// `serve` is given those that come after as well, and returns nothing for a request that it has given
    /// back itself.
    pub(super) fn serve(
        &self,
        limit: usize,
        mut serve: impl FnMut(Taken<'_>, &[Option<Taken<'_>>], &mut Turn<'_, '_>) -> Option<Served>,
    ) -> usize {
        let mut taken = [const { None }; TAKE_MAX];
        let (count, generation) = match self.ring.take(self.mem, &mut taken[..limit.min(TAKE_MAX)])
        {
            Ok(taken) => taken,
            Err(kind) => {
                self.context.broken(kind, self.name);
                return 0;
            }
        };
        if count == 0 {
            return 0;
        }
        let mut used = 0;
        let mut turn = Turn {
            batch: self,
            generation,
            start: Instant::now(),
            waited: 0,
            head: 0,
            done: Done::default(),
        };
        for nth in 0..taken.len() {
            let (taken, rest) = taken.split_at_mut(nth + 1);
            let Some(chain) = taken.last_mut().and_then(Option::take) else {
                break;
            };
            if self.ring.draining() {
                turn.use_up(false);
                self.ring.put_back(generation);
                break;
            }
            turn.head = chain.head_index();
            used += 1;
            if let Some(served) = serve(chain, rest, &mut turn) {
                turn.done.push(turn.head, served);
            }
            if turn.done.is_due() {
                turn.use_up(false);
            }
        }
        turn.use_up(true);
        used
    }
}

/// A batch under way.
pub(super) struct Turn<'b, 'a> {
    batch: &'b Batch<'a>,
    generation: Generation,
    start: Instant,
    /// For how long requests that are served now have been taken, in ns.
    waited: u64,
    /// The request that is served.
    head: u16,
    done: Done,
}

impl Turn<'_, '_> {
    /// Gives back what was served before this request, so that it does not wait for long work.
    pub(super) fn give_back(&mut self) {
        if self.done.count > 0 {
            self.use_up(true);
        }
    }

    /// Gives this request back at once. Returns whether the driver has it now.
    pub(super) fn give_back_now(&mut self, served: Served) -> bool {
        self.done.push(self.head, served);
        self.use_up(true)
    }

    /// What the ring knows this request by.
    pub(super) const fn request(&self) -> (Generation, u16) {
        (self.generation, self.head)
    }

    /// The used index that this request gets if all before it have been given back.
    pub(super) fn position(&self) -> u16 {
        self.batch.ring.next_used()
    }

    /// Gives what is done back to the driver, and counts it; before a `pause` if nothing follows
    /// soon. Returns whether the driver has it.
    fn use_up(&mut self, pause: bool) -> bool {
        let Batch {
            context,
            metrics,
            ring,
            name,
            mem,
        } = self.batch;
        let served = (self.done.served.iter()).take(std::mem::take(&mut self.done.count));
        self.done.pages = 0;
        let used = served
            .clone()
            .map(|(head, served)| (*head, served.used_bytes));
        let given = match ring.finish(mem, self.generation, used, pause) {
            Ok(Some(called)) => {
                if called {
                    metrics.called();
                }
                true
            }
            Ok(None) => false,
            Err(kind) => {
                context.broken(kind, name);
                false
            }
        };
        if served.len() == 0 {
            return given;
        }
        let ns = nanos(self.start.elapsed());
        metrics.waited(std::mem::replace(&mut self.waited, ns), served.len());
        for (_, served) in served {
            metrics.served(served, ns);
            if let Some(kind) = served.malformed {
                context.malformed(kind, name);
            }
        }
        given
    }
}

/// Requests that were served and are not given back yet, by their heads.
#[derive(Debug, Default)]
struct Done {
    served: [(u16, Served); USE_MAX],
    count: usize,
    pages: u32,
}

impl Done {
    fn push(&mut self, head: u16, served: Served) {
        self.pages = self.pages.saturating_add(served.page_count());
        if let Some(place) = self.served.get_mut(self.count) {
            *place = (head, served);
            self.count += 1;
        }
    }

    fn is_due(&self) -> bool {
        self.count == USE_MAX || self.pages >= USE_PAGES
    }
}
