// SPDX-License-Identifier: GPL-2.0
//! Polling for an answer, for a bounded time and only while it pays.
//!
//! A host that polls as well answers within some microseconds, while an interrupt and a wake-up cost
//! tens of them. When the processors are busy, or the host does not poll, polling is a waste; hence
//! a moving average of what polls take, and no polling while that is above the bound.
//!
//! Now and then a few requests in a row are polled for all the same. A single one would not do: the
//! host has gone to sleep while nobody hurried it, and answers the first one late.

use crate::{
    ffi,
    ring::{Done, Pending},
    stats::Stats,
    vq::Queue,
};
use kernel::{
    processor::cpu_relax,
    sync::atomic::{Atomic, Relaxed},
};

/// Requests without polling between two attempts to poll again.
const PAUSE: u64 = 64;
/// A poll changes the average by this share of the difference.
const WEIGHT: u64 = 8;
/// A poll that misses counts for so many times the bound, so that four misses end an attempt, which
/// begins with the average at half the bound.
const MISS: u64 = 2;

/// How long the tasks of a queue poll.
pub(crate) struct Patience {
    /// The bound, in nanoseconds; 0: no polling.
    limit: u64,
    /// Moving average of what polls took, in nanoseconds. Concurrent updates may lose one another;
    /// an average can bear it.
    average: Atomic<u64>,
    /// Requests that were not polled for, and attempts.
    unpolled: Atomic<u64>,
}

impl Patience {
    pub(crate) fn new(limit: u64) -> Self {
        Self {
            limit,
            average: Atomic::new(0),
            unpolled: Atomic::new(0),
        }
    }

    /// Whether to poll for the next request.
    pub(crate) fn pays(&self, stats: &Stats) -> bool {
        if self.limit == 0 {
            return false;
        }
        if self.average.load(Relaxed) <= self.limit {
            return true;
        }
        if self.unpolled.fetch_add(1u64, Relaxed) % PAUSE == PAUSE - 1 {
            self.average.store(self.limit / 2, Relaxed);
            return true;
        }
        stats.polls_skipped.inc();
        false
    }

    /// A poll has taken `took` nanoseconds.
    fn learn(&self, took: u64) {
        let average = self.average.load(Relaxed);
        self.average.store(
            average
                .wrapping_sub(average / WEIGHT)
                .wrapping_add(took / WEIGHT),
            Relaxed,
        );
    }
}

impl Queue {
    /// Polls for a request that was sent without asking for it, if polling pays.
    pub(crate) fn poll_for(&self, pending: &Pending, complete: impl FnMut(Done)) {
        if self.patience.pays(&self.shared.stats) && self.begin_poll(pending) {
            self.poll(pending, complete);
        }
    }

    /// Polls for a request of this queue until it ends or the time is over; `complete` gets it, and
    /// any other that ends meanwhile.
    ///
    /// Not inlined, to keep answers off the stack of writers, who may come from deep inside reclaim.
    #[inline(never)]
    pub(crate) fn poll(&self, pending: &Pending, mut complete: impl FnMut(Done)) {
        let limit = self.patience.limit;
        let hit = loop {
            let (done, over) = self.reap_and(|ring| ring.is_over(pending));
            let idle = done.is_none();
            if let Some(done) = done {
                complete(done);
            }
            if over {
                break true;
            }
            if ffi::now_ns().wrapping_sub(pending.started) > limit {
                break false;
            }
            if idle {
                cpu_relax();
            }
        };
        if hit {
            self.shared.stats.polls_hit.inc();
            self.patience
                .learn(ffi::now_ns().wrapping_sub(pending.started));
        } else {
            self.shared.stats.polls_missed.inc();
            self.patience.learn(limit.saturating_mul(MISS));
        }
        let mut leave = true;
        while !self.listen(leave) {
            leave = false;
            self.reap_all(&mut complete);
        }
    }
}
