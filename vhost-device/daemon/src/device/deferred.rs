// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Gets whose answers are kept back until an emulated link would have brought their pages.
//!
//! ```text
//! taken ── reserve: when is it due? ── served: pages and answer are written ── kept ──▶ given back
//!    │                                                                          ▲ due, or the ring stops
//!    └── arrival, on the links' clock                                           │
//! others go on ────────────────────────────────────────────────────────────────┘
//! ```
//! The guest sees nothing of a request before it is in the used ring, so that is all that has to wait.
//! A ring that is to stop gets everything back at once, due or not.

use std::time::Duration;

use super::batch::Batch;
use super::inflight::Generation;
use super::record::DEFERRED_MAX;
use super::request::Malformed;
use super::request::parse::Lane;
use super::request::serve::{Foreseen, Job, Served, Slot, begin};
use super::ring::Ring;
use crate::limits::{LINK_NAP_NS, LINK_SPIN_NS};
use crate::tiers::linked;
use crate::tiers::paths::{Flight, LOWER, Ways};
use tmem_pages::Worker;
use tmem_pages::link::Pending;

/// A request that is served and not given back.
#[derive(Debug)]
struct Kept {
    flight: Flight,
    generation: Generation,
    head: u16,
    served: Served,
    /// When it was served.
    ready: u64,
}

/// Those of one worker.
#[derive(Debug)]
pub(super) struct Deferred {
    ways: Ways,
    kept: Pending<Kept>,
}

impl Deferred {
    pub(super) fn new(ways: Ways) -> Self {
        Self {
            ways,
            kept: Pending::default(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// How many more can be kept.
    pub(super) fn room(&self) -> usize {
        DEFERRED_MAX.saturating_sub(self.kept.len())
    }

    /// Now, on the links' clock.
    pub(super) fn now(&self) -> u64 {
        self.ways.paths().now()
    }

    /// When requests that are taken now arrive; nothing while no link is emulated.
    pub(super) fn arrival(&self) -> Option<u64> {
        self.ways.is_on().then(|| self.now())
    }

    /// Takes the links' time for a get that arrived at `arrival`. Nothing if it has not to wait.
    pub(super) fn reserve(
        &mut self,
        job: &Job<'_>,
        engine: &Worker,
        arrival: u64,
    ) -> Option<Flight> {
        let below = job.pages_below(engine);
        if below == [0; LOWER] {
            return None;
        }
        let flight = self.ways.reserve(below, arrival)?;
        linked::strike(flight.strikes);
        Some(flight)
    }

    /// What the tiers took for the request that was just served; bits that did not hit anything are
    /// forgotten.
    pub(super) fn read_below(&self) -> [u64; LOWER] {
        if !self.ways.paths().is_tiered() {
            return [0; LOWER];
        }
        if self.ways.is_on() {
            linked::strike([None; 2]);
            linked::was_struck();
        }
        linked::take_spent()
    }

    /// Keeps a request back that is served.
    pub(super) fn keep(
        &mut self,
        flight: Flight,
        generation: Generation,
        head: u16,
        served: Served,
    ) {
        let ready = self.now();
        let kept = Kept {
            flight,
            generation,
            head,
            served,
            ready,
        };
        self.kept.push(flight.due, kept);
    }

    /// Waits in place until a request is due, or the ring is to stop. Others that are due before go.
    pub(super) fn wait(&mut self, gets: &Batch<'_>, flight: &Flight) {
        let enough = |_| gets.ring.draining() || (gets.context.over)();
        loop {
            let next = self.kept.next_due().unwrap_or(u64::MAX);
            let now = self.ways.paths().wait(next.min(flight.due), &enough);
            if now >= flight.due || enough(now) {
                return;
            }
            self.land(gets);
        }
    }

    /// A request was given back that was waited for in place.
    pub(super) fn landed_now(&mut self, gets: &Batch<'_>, flight: &Flight) {
        gets.metrics.linked(flight);
        let done = self.now();
        if done >= flight.due {
            self.ways.landed(flight, flight.due, done);
        }
    }

    /// Gives back what is due; if the ring is to stop, everything. Returns how many requests.
    pub(super) fn land(&mut self, gets: &Batch<'_>) -> usize {
        let mut landed = 0;
        while let Some(due) = self.kept.next_due() {
            let now = self.now();
            let early = gets.ring.draining() && due > now;
            let Some((_, kept)) = self.kept.pop_due(if early { u64::MAX } else { now }) else {
                break;
            };
            self.give_back(gets, &kept, early);
            landed += 1;
        }
        landed
    }

    fn give_back(&mut self, gets: &Batch<'_>, kept: &Kept, early: bool) {
        let Batch {
            context,
            metrics,
            ring,
            name,
            mem,
        } = gets;
        let used = (kept.head, kept.served.used_bytes);
        let mut done = kept.ready;
        let published = || done = self.now();
        match ring.finish_deferred(mem, kept.generation, used, published) {
            Ok(Some(called)) => {
                if called {
                    metrics.called();
                }
            }
            // Somebody gave up waiting for it.
            Ok(None) => return,
            Err(kind) => context.broken(kind, name),
        }
        metrics.served(&kept.served, done.saturating_sub(kept.flight.arrival));
        if let Some(kind) = kept.served.malformed {
            context.malformed(kind, name);
        }
        if !early {
            metrics.linked(&kept.flight);
            self.ways.landed(&kept.flight, kept.ready, done);
        }
    }

    /// Forgets everything: the rings are gone.
    pub(super) fn forget(&mut self) {
        self.kept = Pending::default();
    }

    /// Serves what a dead worker had kept back. Returns how many requests that are.
    pub(super) fn serve_again(
        &mut self,
        gets: &Batch<'_>,
        slot: &mut Slot,
        engine: &mut Worker,
        generation: Generation,
        heads: &[u16],
    ) -> usize {
        let table = gets.ring.table();
        for &head in heads {
            let gathered = slot.chain.gather_at(gets.mem, table, head);
            let arrival = self.now();
            let (served, flight) = match gathered {
                Ok(()) => self.serve_one(gets, slot, engine, arrival),
                Err(kind) => (Served::silent(kind), None),
            };
            let flight = flight.unwrap_or(Flight {
                due: arrival,
                arrival,
                parts: [None; LOWER],
                strikes: [None; 2],
            });
            self.keep(flight, generation, head, served);
        }
        heads.len()
    }

    fn serve_one(
        &mut self,
        gets: &Batch<'_>,
        slot: &mut Slot,
        engine: &mut Worker,
        arrival: u64,
    ) -> (Served, Option<Flight>) {
        let mem = gets.mem;
        if self.ways.paths().is_far() {
            let foreseen = Foreseen::of(mem, slot, gets.context.guest);
            foreseen.into_iter().for_each(|pages| pages.tell(engine));
        }
        let mut job = match begin(mem, slot, Lane::Get, gets.context.guest, false) {
            // None such is ever kept back: the guest has changed it.
            Ok(job) if job.takes() => return (Served::silent(Malformed::Flag), None),
            Ok(job) => job,
            Err(served) => return (served, None),
        };
        let flight = if self.ways.is_on() {
            self.reserve(&job, engine, arrival)
        } else {
            None
        };
        while !job.step(mem, engine) {}
        let served = job.finish(mem);
        gets.metrics.read_below(self.read_below());
        (served, flight)
    }

    /// Looks at the rings until one has a request, something was due and is given back, or the rings are
    /// to stop.
    pub(super) fn linger(&mut self, gets: &Batch<'_>, put: &Ring) {
        let Some(due) = self.kept.next_due() else {
            return;
        };
        // With no room for more gets, those that are available have to wait.
        let get = gets.ring.poll_point().filter(|_| self.room() > 0);
        let points = [get, put.poll_point()];
        let stopped = || gets.ring.draining() || put.draining() || (gets.context.over)();
        let called = || points.iter().flatten().any(|point| point.pending(gets.mem));
        loop {
            let now = self.now();
            if now >= due {
                self.land(gets);
                return;
            }
            if stopped() || called() {
                return;
            }
            if due - now > LINK_SPIN_NS {
                std::thread::sleep(Duration::from_nanos(LINK_NAP_NS));
            } else {
                std::hint::spin_loop();
            }
        }
    }
}
