// SPDX-License-Identifier: GPL-2.0
//! A pool of a program: its pages' places, and which of them may hold a page.
//!
//! The pool keeps two bits for each index. *Held*: the host holds the page, or may. *Busy*: a call
//! that changes the page is on its way. A second such call for the page is refused, so that of a page
//! never more than one change is in flight, which is what the device asks of its driver, and what
//! makes the count of held pages exact: it is charged before a put is sent, and corrected by the
//! result.
//!
//! A call keeps the pool until it ends. So the host is told to forget the pool when nothing can
//! reach it any more, and its id is nobody else's before that.

use super::{
    abi,
    account::{Opener, Reservation},
    bits::Bits,
};
use crate::{device::Device, pools, wire};
use kernel::{
    prelude::*,
    sync::{
        atomic::{Atomic, Relaxed},
        new_mutex, Arc, Mutex,
    },
    workqueue::{impl_has_work, new_work, Work, WorkItem},
};

/// A pool that holds less than one in so many of its indices is a sparse one on the host.
const SPARSE_SHARE: u32 = 4;

/// Counts of what a program did with its pool.
pub(super) struct Counts {
    pub(super) puts: Atomic<u64>,
    pub(super) gets: Atomic<u64>,
    pub(super) misses: Atomic<u64>,
    pub(super) flushes: Atomic<u64>,
    pub(super) refused: Atomic<u64>,
    pub(super) errors: Atomic<u64>,
}

/// What is known of each page.
struct Pages {
    held: Bits,
    busy: Bits,
    /// Members of `held`, and pages that puts on their way may add.
    count: u32,
}

/// A pool; see the head of this file. Its last reference is dropped where one may sleep.
#[pin_data]
pub(super) struct Pool {
    // Fields are dropped in order: what is reserved comes back when the host has forgotten the pool.
    host: pools::Pool,
    _reservation: Reservation,
    pub(super) device: Arc<Device>,
    pub(super) ephemeral: bool,
    pub(super) object_pages: u32,
    pub(super) limit: u32,
    /// Of the device, when the pool was made: later losses are this pool's.
    losses: u32,
    pub(super) counts: Counts,
    #[pin]
    pages: Mutex<Pages>,
    #[pin]
    farewell: Work<Pool>,
}

impl_has_work! {
    impl HasWork<Self> for Pool { self.farewell }
}

impl WorkItem for Pool {
    type Pointer = Arc<Self>;

    /// The reference is dropped here, in the background.
    fn run(_pool: Arc<Self>) {}
}

/// A run of pages.
#[derive(Clone, Copy)]
pub(super) struct Run {
    pub(super) first: u32,
    pub(super) pages: u32,
}

/// What a call does to a pool's pages.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Op {
    Put,
    Get,
    /// A get that makes the host forget the page.
    Take,
    Flush,
}

impl Op {
    /// Whether the device takes it from a put queue.
    pub(super) fn uses_put_queue(self) -> bool {
        matches!(self, Self::Put | Self::Flush)
    }

    /// Whether pages of the pool change.
    fn changes(self) -> bool {
        self != Self::Get
    }
}

impl Pool {
    /// Makes a pool of device `number`, which reserves its limit. Sleeps.
    pub(super) fn new(
        device: Arc<Device>,
        number: u32,
        opener: &Arc<Opener>,
        wanted: &abi::Create,
    ) -> Result<Arc<Self>> {
        let ephemeral = wanted.kind == abi::kind::EPHEMERAL;
        let limit = match wanted.limit {
            0 => wanted.object_pages,
            limit => limit.min(wanted.object_pages),
        };
        let reservation = Reservation::new(&device, number, opener, ephemeral, limit)?;
        let pages = Pages {
            held: Bits::new(wanted.object_pages)?,
            busy: Bits::new(wanted.object_pages)?,
            count: 0,
        };
        let losses = device.losses();
        let kind = if ephemeral {
            wire::pool_kind::EPHEMERAL
        } else {
            wire::pool_kind::PERSISTENT
        };
        // The host keeps a word for each index of a dense pool, and a table of what is there for a
        // sparse one. Indices are checked here, so that either will do.
        let few = limit < wanted.object_pages / SPARSE_SHARE;
        let host = if few && device.capabilities & wire::capability::SPARSE != 0 {
            device.make_pool(kind, wire::pool_layout::SPARSE, 0)?
        } else {
            device.make_pool(kind, wire::pool_layout::DENSE, wanted.object_pages)?
        };
        Arc::pin_init(
            pin_init!(Self {
                host,
                _reservation: reservation,
                device,
                ephemeral,
                object_pages: wanted.object_pages,
                limit,
                losses,
                counts: Counts::new(),
                pages <- new_mutex!(pages),
                farewell <- new_work!("tmem_pool"),
            }),
            GFP_KERNEL,
        )
    }

    /// The pool's id on the host.
    pub(super) fn id(&self) -> u32 {
        self.host.id()
    }

    /// Pages that the host may hold.
    pub(super) fn held(&self) -> u32 {
        self.pages.lock().count
    }

    /// Begins a call for `runs`, all of them within the pool. `EINVAL`: they overlap. `EBUSY`: another
    /// call changes one of the pages. `ENOSPC`: a put would exceed the limit. Nothing has changed
    /// then; otherwise [`Pool::end`] is due.
    pub(super) fn begin(&self, op: Op, runs: impl Iterator<Item = Run> + Clone) -> Result {
        if !op.changes() {
            return Ok(());
        }
        let mut pages = self.pages.lock();
        let mut more = 0u32;
        for (nth, run) in runs.clone().enumerate() {
            if pages.busy.any(run.first, run.pages) {
                for run in runs.clone().take(nth) {
                    pages.busy.remove(run.first, run.pages);
                }
                drop(pages);
                return Err(if overlap(runs) { EINVAL } else { EBUSY });
            }
            pages.busy.insert(run.first, run.pages);
            let held = pages.held.count(run.first, run.pages);
            more = more.saturating_add(run.pages.saturating_sub(held));
        }
        if op == Op::Put {
            let then = pages.count.saturating_add(more);
            if then > self.limit {
                for run in runs {
                    pages.busy.remove(run.first, run.pages);
                }
                return Err(ENOSPC);
            }
            pages.count = then;
        }
        Ok(())
    }

    /// Ends a call: `results` has a byte for each page of PUT and GET, in order; for a FLUSH one for
    /// each run. A result may become another here.
    pub(super) fn end(&self, op: Op, runs: impl Iterator<Item = Run>, results: &mut [u8]) {
        let mut results = results.iter_mut();
        let mut pages = self.pages.lock();
        let lost = !self.ephemeral && self.losses != self.device.losses();
        for run in runs {
            if op == Op::Flush {
                if let Some(result) = results.next() {
                    self.end_flush(&mut pages, run, *result);
                }
            } else {
                for nth in 0..run.pages {
                    if let Some(result) = results.next() {
                        self.end_page(&mut pages, op, run.first.wrapping_add(nth), result, lost);
                    }
                }
            }
            if op.changes() {
                pages.busy.remove(run.first, run.pages);
            }
        }
    }

    fn end_flush(&self, pages: &mut Pages, run: Run, result: u8) {
        if result != abi::result::OK {
            self.counts.errors.add(u64::from(run.pages), Relaxed);
            return;
        }
        let held = pages.held.count(run.first, run.pages);
        pages.count = pages.count.saturating_sub(held);
        pages.held.remove(run.first, run.pages);
        self.counts.flushes.add(u64::from(run.pages), Relaxed);
    }

    fn end_page(&self, pages: &mut Pages, op: Op, index: u32, result: &mut u8, lost: bool) {
        let held = pages.held.any(index, 1);
        if op == Op::Put {
            // The page was charged when the call began, unless it was held.
            let now = match *result {
                abi::result::OK | abi::result::LOST => true,
                abi::result::REFUSED_FULL | abi::result::REFUSED_FROZEN => false,
                _ => held,
            };
            if now {
                pages.held.insert(index, 1);
            } else {
                pages.held.remove(index, 1);
                pages.count = pages.count.saturating_sub(1);
            }
        } else if *result == abi::result::MISS && held && lost {
            *result = abi::result::LOST;
        } else if op == Op::Take && *result == abi::result::OK && held {
            pages.held.remove(index, 1);
            pages.count = pages.count.saturating_sub(1);
        }
        let counter = match (*result, op) {
            (abi::result::OK, Op::Put) => &self.counts.puts,
            (abi::result::OK, _) => &self.counts.gets,
            (abi::result::MISS, _) => &self.counts.misses,
            (abi::result::REFUSED_FULL | abi::result::REFUSED_FROZEN, _) => &self.counts.refused,
            _ => &self.counts.errors,
        };
        counter.add(1u64, Relaxed);
    }
}

/// Whether any two of the runs share a page. Only looked at when a call is refused anyway.
fn overlap(runs: impl Iterator<Item = Run> + Clone) -> bool {
    let mut later = runs.clone();
    runs.into_iter().any(|run| {
        later.next();
        later.clone().any(|other| {
            run.first < other.first.saturating_add(other.pages)
                && other.first < run.first.saturating_add(run.pages)
        })
    })
}

impl Counts {
    fn new() -> Self {
        Self {
            puts: Atomic::new(0),
            gets: Atomic::new(0),
            misses: Atomic::new(0),
            flushes: Atomic::new(0),
            refused: Atomic::new(0),
            errors: Atomic::new(0),
        }
    }
}
