// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What is counted, for people and for programs that draw curves.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::settings::MEMBERS_MAX;

/// Buckets of a histogram: four for each power of two of nanoseconds.
const BUCKETS: usize = 160;

/// A count that only grows, or a gauge that is set.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn one(&self) {
        self.add(1);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How long things took. A bucket is at most a fifth wider than its begin.
#[derive(Debug)]
pub(crate) struct Histogram(Box<[AtomicU64]>);

impl Default for Histogram {
    fn default() -> Self {
        Self((0..BUCKETS).map(|_| AtomicU64::new(0)).collect())
    }
}

fn bucket(nanos: u64) -> usize {
    let nanos = nanos.max(4);
    let power = nanos.ilog2();
    let quarter = (nanos >> (power - 2)) & 3;
    let at = u64::from(power - 2) * 4 + quarter;
    usize::try_from(at).map_or(BUCKETS - 1, |at| at.min(BUCKETS - 1))
}

/// The first nanosecond that is above a bucket.
fn upper(bucket: usize) -> u64 {
    let (power, quarter) = (bucket / 4, bucket % 4);
    let quarter = u64::try_from(quarter).unwrap_or(0);
    (quarter + 5) << power
}

impl Histogram {
    pub(crate) fn record(&self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        if let Some(count) = self.0.get(bucket(nanos)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn snapshot(&self) -> Latency {
        let counts: Vec<u64> = (self.0.iter())
            .map(|count| count.load(Ordering::Relaxed))
            .collect();
        Latency { counts }
    }
}

/// A histogram at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Latency {
    counts: Vec<u64>,
}

impl Latency {
    /// How many times were recorded.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The time that this share, of a million, stayed within.
    #[must_use]
    pub fn quantile(&self, millionths: u64) -> Option<Duration> {
        let count = self.count();
        let rank = (count.saturating_mul(millionths.min(1_000_000)))
            .div_ceil(1_000_000)
            .max(1);
        let mut seen = 0;
        let found = self.counts.iter().position(|bucket| {
            seen += bucket;
            seen >= rank
        });
        found.map(|bucket| Duration::from_nanos(upper(bucket)))
    }

    /// Its buckets that are not empty: the time below which they end, and how many.
    pub fn buckets(&self) -> impl Iterator<Item = (Duration, u64)> {
        (self.counts.iter().enumerate())
            .filter(|(_, count)| **count > 0)
            .map(|(bucket, count)| (Duration::from_nanos(upper(bucket)), *count))
    }
}

macro_rules! counters {
    ($(#[$meta:meta])* $live:ident => $(#[$snap_meta:meta])* $snapshot:ident {
        $($(#[$doc:meta])* $name:ident),* $(,)?
    }) => {
        $(#[$meta])*
        #[derive(Debug, Default)]
        pub(crate) struct $live {
            $(pub(crate) $name: Counter,)*
        }

        $(#[$snap_meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $snapshot {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl $live {
            pub(crate) fn snapshot(&self) -> $snapshot {
                $snapshot { $($name: self.$name.get(),)* }
            }
        }
    };
}

counters! {
    /// Of one store.
    Store =>
    /// What was counted of one store.
    StoreCounters {
        /// Pages put there by writes.
        puts,
        /// Pages got from it by reads.
        gets,
        /// Pages flushed.
        flushes,
        /// Requests that failed, and connections.
        errors,
        /// Reads that went on to another store because it did not answer well.
        failovers,
        /// Reads that asked a second store because it was slow.
        hedges,
        /// Reads that it won as the second store.
        hedges_won,
        /// Pages whose bytes were not the ones that were written.
        bad_copies,
        /// Pages that it should have had and had not.
        missing,
        /// Pages that it refused: it was full, or over quota.
        refused,
        /// Copies that repair, drains and rebalancing brought it.
        repairs,
    }
}

counters! {
    /// Of the client.
    Total =>
    /// What was counted of all stores together.
    ClientCounters {
        /// Pages written.
        writes,
        /// Batches of them.
        batches,
        /// Pages whose write failed.
        write_failures,
        /// Pages written with fewer copies than there should be.
        degraded_writes,
        /// Stores that failed in a write and were replaced by another one in it.
        replaced,
        /// Pages read.
        reads,
        /// Reads that found no good copy.
        read_failures,
        /// Reads that were asked for in advance, and used.
        prefetched,
        /// Pages that were asked for in advance and not used, or changed meanwhile.
        prefetch_wasted,
        /// Reads that the host's own copy of a late page answered.
        held_reads,
        /// Copies that arrived after their write was done.
        late_copies,
        /// Flushes that were given up because too many waited: the store's list is compared later.
        flushes_dropped,
        /// Pages of the vanishing pool put, got, and not found.
        volatile_puts,
        /// Pages of it that were found.
        volatile_hits,
        /// Pages of it that were not.
        volatile_misses,
    }
}

/// All counters.
#[derive(Debug)]
pub(crate) struct Metrics {
    pub(crate) total: Total,
    stores: Box<[(Store, Histogram)]>,
    pub(crate) reads: Histogram,
    pub(crate) writes: Histogram,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        Self {
            total: Total::default(),
            stores: (0..MEMBERS_MAX).map(|_| Default::default()).collect(),
            reads: Histogram::default(),
            writes: Histogram::default(),
        }
    }

    /// The counters of a member. Numbers beyond the last share the last's.
    pub(crate) fn store(&self, member: usize) -> &Store {
        &self.stores[member.min(MEMBERS_MAX - 1)].0
    }

    pub(crate) fn rtt(&self, member: usize) -> &Histogram {
        &self.stores[member.min(MEMBERS_MAX - 1)].1
    }

    pub(crate) fn snapshot(&self) -> MetricsSnapshot {
        MetricsSnapshot {
            total: self.total.snapshot(),
            stores: (self.stores.iter())
                .map(|(store, rtt)| (store.snapshot(), rtt.snapshot()))
                .collect(),
            reads: self.reads.snapshot(),
            writes: self.writes.snapshot(),
        }
    }
}

/// All that was counted, at one moment.
#[derive(Clone, Debug)]
pub struct MetricsSnapshot {
    /// Of all stores together.
    pub total: ClientCounters,
    /// By member number: counts, and how long answers took.
    pub stores: Vec<(StoreCounters, Latency)>,
    /// How long reads took.
    pub reads: Latency,
    /// How long writes of a batch took.
    pub writes: Latency,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_is_in_a_bucket_that_ends_a_little_above_it() {
        for nanos in (0..5_000_u64).chain((3..36).map(|power| (1 << power) + 1)) {
            let end = upper(bucket(nanos));
            assert!(end > nanos.max(4), "{nanos} in a bucket that ends at {end}");
            assert!(end <= nanos.max(4) * 5 / 4 + 1, "{nanos}: {end}");
        }
    }

    #[test]
    fn quantiles_are_those_of_what_was_recorded() {
        let histogram = Histogram::default();
        assert_eq!(histogram.snapshot().quantile(500_000), None);
        for _ in 0..99 {
            histogram.record(Duration::from_micros(100));
        }
        histogram.record(Duration::from_millis(50));
        let latency = histogram.snapshot();
        assert_eq!(latency.count(), 100);
        let median = latency.quantile(500_000).unwrap();
        assert!(median >= Duration::from_micros(100) && median < Duration::from_micros(130));
        let last = latency.quantile(1_000_000).unwrap();
        assert!(last >= Duration::from_millis(50) && last < Duration::from_millis(63));
        assert_eq!(latency.buckets().count(), 2);
    }
}
