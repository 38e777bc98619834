// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A pool's counters: a stripe for each worker, which alone writes it, so that counting takes neither
//! a locked instruction nor a cache line from another core.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::handle::Ticket;
use crate::stats::{Aligned, PoolStats};
use crate::tier::{LOWER, Lower};

/// One stripe. `pages` and `same_filled` count up and down, and wrap in a stripe where a page left
/// that arrived in another; the sum over the stripes is right.
#[derive(Debug, Default)]
pub(crate) struct Stripe {
    pages: AtomicU64,
    same_filled: AtomicU64,
    /// Pages in each tier below DRAM; these wrap too.
    stored: [AtomicU64; LOWER],
    puts: AtomicU64,
    gets: AtomicU64,
    misses: AtomicU64,
    flushes: AtomicU64,
    refused: AtomicU64,
    stale: AtomicU64,
    evicted: AtomicU64,
    corrupt: AtomicU64,
    hits_same: AtomicU64,
    hits_victim: AtomicU64,
    hits_stored: [AtomicU64; LOWER],
    demoted: AtomicU64,
    promoted: AtomicU64,
    ticket_high: AtomicU64,
}

macro_rules! counted {
    ($($(#[$doc:meta])* $name:ident => $field:ident;)*) => {
        $($(#[$doc])* #[inline]
        pub(crate) fn $name(&self, n: u64) { add(&self.$field, n); })*
    };
}

/// Adds to a counter that only the caller writes. A worker's number goes to the next one through a
/// lock, so that one sees what the last one wrote.
#[inline]
fn add(count: &AtomicU64, n: u64) {
    let sum = count.load(Ordering::Relaxed).wrapping_add(n);
    count.store(sum, Ordering::Relaxed);
}

impl Stripe {
    counted! {
        /// Pages stored by a put.
        add_puts => puts;
        /// Pages delivered.
        add_gets => gets;
        /// Gets of nothing.
        add_misses => misses;
        /// Pages flushed.
        add_flushes => flushes;
        /// Puts refused.
        add_refused => refused;
        /// Puts and flushes that met a newer page.
        add_stale => stale;
        /// Pages evicted.
        add_evicted => evicted;
        /// Pages that failed their checksum.
        add_corrupt => corrupt;
        /// Gets of a page of one repeated byte.
        add_hits_same => hits_same;
        /// Gets of a page that was about to leave DRAM.
        add_hits_victim => hits_victim;
        /// Pages that left DRAM for a lower tier.
        add_demoted => demoted;
        /// Pages that came back.
        add_promoted => promoted;
    }

    /// Pages came.
    #[inline]
    pub(crate) fn pages_in(&self, pages: u64, same_filled: u64) {
        add(&self.pages, pages);
        add(&self.same_filled, same_filled);
    }

    /// Pages went.
    #[inline]
    pub(crate) fn pages_out(&self, pages: u64, same_filled: u64) {
        self.pages_in(pages.wrapping_neg(), same_filled.wrapping_neg());
    }

    /// A page is in a lower tier now, and not in its frame any more.
    #[inline]
    pub(crate) fn stored_in(&self, tier: Lower) {
        add(&self.stored[tier.number()], 1);
    }

    /// A page has left a lower tier, for a frame or for good.
    #[inline]
    pub(crate) fn stored_out(&self, tier: Lower) {
        self.stored_out_many(tier, 1);
    }

    /// Pages have left a lower tier.
    #[inline]
    pub(crate) fn stored_out_many(&self, tier: Lower, pages: u64) {
        add(&self.stored[tier.number()], pages.wrapping_neg());
    }

    /// Pages were found in the tiers below DRAM.
    pub(crate) fn stored_found(&self, pages: [u64; LOWER]) {
        for (count, pages) in self.stored.iter().zip(pages) {
            add(count, pages);
        }
    }

    /// A page was delivered from a lower tier.
    #[inline]
    pub(crate) fn add_hit_stored(&self, tier: Lower) {
        add(&self.hits_stored[tier.number()], 1);
    }

    /// Notes a ticket that a request carries.
    #[inline]
    pub(crate) fn saw(&self, ticket: Ticket) {
        if self.ticket_high.load(Ordering::Relaxed) < ticket.get() {
            self.ticket_high.store(ticket.get(), Ordering::Relaxed);
        }
    }
}

/// The counters of a pool.
#[derive(Debug)]
pub(crate) struct Counters {
    stripes: Box<[Aligned<Stripe>]>,
}

impl Counters {
    /// Counters for an engine of so many workers.
    pub(crate) fn new(workers: u16) -> Self {
        // One more for the end of the pool.
        Self {
            stripes: (0..=workers).map(|_| Aligned::default()).collect(),
        }
    }

    /// The stripe that this worker alone counts in.
    #[inline]
    pub(crate) fn stripe(&self, worker: u16) -> &Stripe {
        &self.stripes[usize::from(worker)].0
    }

    /// The sum over all stripes.
    pub(crate) fn sum(&self) -> PoolStats {
        let mut sum = PoolStats::default();
        for Aligned(stripe) in &self.stripes {
            for (total, count) in [
                (&mut sum.pages, &stripe.pages),
                (&mut sum.same_filled, &stripe.same_filled),
                (&mut sum.puts, &stripe.puts),
                (&mut sum.gets, &stripe.gets),
                (&mut sum.misses, &stripe.misses),
                (&mut sum.flushes, &stripe.flushes),
                (&mut sum.refused, &stripe.refused),
                (&mut sum.stale, &stripe.stale),
                (&mut sum.evicted, &stripe.evicted),
                (&mut sum.corrupt, &stripe.corrupt),
                (&mut sum.pm, &stripe.stored[0]),
                (&mut sum.remote, &stripe.stored[1]),
                (&mut sum.hits_same_filled, &stripe.hits_same),
                (&mut sum.hits_victim, &stripe.hits_victim),
                (&mut sum.hits_pm, &stripe.hits_stored[0]),
                (&mut sum.hits_remote, &stripe.hits_stored[1]),
                (&mut sum.demoted, &stripe.demoted),
                (&mut sum.promoted, &stripe.promoted),
            ] {
                *total = total.wrapping_add(count.load(Ordering::Relaxed));
            }
        }
        // A page that moved on while the stripes were read may make a sum one too low.
        let PoolStats {
            pages,
            same_filled,
            pm,
            remote,
            ..
        } = &mut sum;
        for gauge in [pages, same_filled, pm, remote] {
            if *gauge > u64::MAX / 2 {
                *gauge = 0;
            }
        }
        sum.frames = (sum.pages).saturating_sub(sum.same_filled + sum.pm + sum.remote);
        sum
    }

    /// The highest ticket seen; 0 if none.
    pub(crate) fn ticket_high(&self) -> u64 {
        let highs = self.stripes.iter().map(|stripe| &stripe.0.ticket_high);
        highs
            .map(|high| high.load(Ordering::Relaxed))
            .max()
            .unwrap_or(0)
    }

    /// Bytes of the counters.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&*self.stripes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_that_leaves_through_another_worker_is_counted_once() {
        let counters = Counters::new(4);
        counters.stripe(0).pages_in(3, 1);
        counters.stripe(1).pages_out(2, 1);
        let sum = counters.sum();
        assert_eq!((sum.pages, sum.same_filled, sum.frames), (1, 0, 1));
    }

    #[test]
    fn highest_ticket_is_kept_over_all_workers() {
        let counters = Counters::new(2);
        counters.stripe(0).saw(Ticket::new(9).unwrap());
        counters.stripe(1).saw(Ticket::new(5).unwrap());
        counters.stripe(0).saw(Ticket::new(3).unwrap());
        assert_eq!(counters.ticket_high(), 9);
    }
}
