// SPDX-License-Identifier: GPL-2.0
//! Counters of one device, and how debugfs shows them.

use kernel::{
    fmt,
    sync::atomic::{Atomic, Relaxed},
};

/// A number that any context may count up; it wraps around rather than overflow.
pub(crate) struct Counter(Atomic<u64>);

impl Counter {
    pub(crate) const fn new() -> Self {
        Self(Atomic::new(0))
    }

    pub(crate) fn add(&self, n: u64) {
        self.0.add(n, Relaxed);
    }

    pub(crate) fn sub(&self, n: u64) {
        self.0.add(n.wrapping_neg(), Relaxed);
    }

    pub(crate) fn inc(&self) {
        self.add(1);
    }

    pub(crate) fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Declares [`Stats`] and the listing of its counters, in the order in which debugfs shows them.
macro_rules! counters {
    ($( $(#[$doc:meta])* $name:ident, )*) => {
        /// What a device has done since its probe.
        pub(crate) struct Stats {
            $( $(#[$doc])* pub(crate) $name: Counter, )*
            /// Time of GET requests, from their entry into the ring until their answer is taken.
            pub(crate) get_latency: Histogram,
        }

        impl Stats {
            pub(crate) fn new() -> Self {
                Self {
                    $( $name: Counter::new(), )*
                    get_latency: Histogram::new(),
                }
            }

            fn write_counters(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                $( write!(f, concat!(stringify!($name), " {}\n"), self.$name.get())?; )*
                Ok(())
            }
        }
    };
}

counters! {
    /// Pages that the host acknowledged.
    pages_put,
    /// Pages that the host delivered.
    pages_got,
    /// Pages that the host forgot.
    pages_flushed,
    /// Pages asked for that the host did not have.
    gets_missed,
    /// Pages that were filled with zeroes because the host did not have them.
    zero_filled,
    /// PUT requests.
    put_batches,
    /// GET requests.
    get_requests,
    /// FLUSH requests, of freed slots and of discards.
    flush_requests,
    /// Notifications of the host.
    kicks,
    /// Interrupts that concerned a request queue.
    interrupts,
    /// Polls that saw their request end.
    polls_hit,
    /// Polls that ran out of time, and left the request to an interrupt.
    polls_missed,
    /// GET requests that were not polled for, because lately polls had not paid.
    polls_skipped,
    /// Pages that the host refused to take.
    refused,
    /// Pages whose request failed for another reason.
    errors,
    /// Pages that failed the host's checksum.
    corrupt,
    /// Bios that found no free request slot or no room in the ring, and waited for one.
    slots_waited,
    /// Writes that waited because a flush of the same page was under way.
    parked_puts,
    /// Freed slots whose flush is not acknowledged yet.
    flush_pending,
    /// Pages that the host has promised to hold.
    grant_pages,
    /// Last health that the host told: 0 well, 1 degraded, 2 ending.
    health,
    /// Events from the host.
    events,
    /// Requests of other users than the disks: clean cache, programs.
    calls_sent,
    /// Those that found no room and were handed back.
    calls_refused,
    /// Resets of the device, after which it was set up anew.
    resets,
    /// Requests that were in flight at a reset and were sent again.
    replayed,
    /// Times that the host had forgotten this guest's pools when the device was set up anew.
    losses,
}

impl Stats {
    /// The file `stats`.
    pub(crate) fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_counters(f)?;
        write!(f, "get_p50_ns {}\n", self.get_latency.quantile(50))?;
        write!(f, "get_p99_ns {}\n", self.get_latency.quantile(99))
    }
}

/// Sub-buckets of a power of two.
const SUB: usize = 4;
/// Times from 2^40 ns (18 minutes) on share the last bucket.
const BUCKETS: usize = 40 * SUB;

/// Counts of times in nanoseconds, in buckets a quarter of a power of two wide.
pub(crate) struct Histogram {
    buckets: [Counter; BUCKETS],
}

impl Histogram {
    const fn new() -> Self {
        Self {
            buckets: [const { Counter::new() }; BUCKETS],
        }
    }

    /// The bucket of `ns`: exact below 4, then by the two bits after the leading one.
    fn bucket(ns: u64) -> usize {
        let Some(log) = ns.checked_ilog2() else {
            return 0;
        };
        if log < 2 {
            return ns as usize;
        }
        let sub = (ns >> (log.wrapping_sub(2))) as usize & (SUB - 1);
        ((log as usize).wrapping_sub(1) * SUB + sub).min(BUCKETS - 1)
    }

    /// The first time beyond bucket `at`.
    fn upper(at: usize) -> u64 {
        let next = at.wrapping_add(1);
        if next <= SUB {
            return next as u64;
        }
        let log = next / SUB + 1;
        ((SUB + next % SUB) as u64) << (log.wrapping_sub(2) & 63)
    }

    pub(crate) fn record(&self, ns: u64) {
        if let Some(bucket) = self.buckets.get(Self::bucket(ns)) {
            bucket.inc();
        }
    }

    /// Upper bound of the time that `percent` of all were within; 0 without any.
    fn quantile(&self, percent: u64) -> u64 {
        let total = self
            .buckets
            .iter()
            .fold(0u64, |sum, b| sum.wrapping_add(b.get()));
        let wanted = total.wrapping_mul(percent).div_ceil(100);
        let mut seen = 0u64;
        for (at, bucket) in self.buckets.iter().enumerate() {
            seen = seen.wrapping_add(bucket.get());
            if seen >= wanted && wanted > 0 {
                return Self::upper(at);
            }
        }
        0
    }

    /// The file `get_latency`: `upper_ns count` of every bucket that counted something.
    pub(crate) fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, bucket) in self.buckets.iter().enumerate() {
            let count = bucket.get();
            if count > 0 {
                write!(f, "{} {}\n", Self::upper(at), count)?;
            }
        }
        Ok(())
    }
}
