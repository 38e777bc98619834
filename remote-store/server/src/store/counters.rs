// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What is counted of a namespace beside what the engine counts of its pools. Each shard has its own
//! stripe, which it alone writes; whoever reads sums them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Bucket n holds times below 2^n × 250 ns; the last one all others.
pub(crate) const BUCKETS: usize = 20;
/// The bound of the first bucket.
const FIRST_NS: u128 = 250;

/// What is asked for, as far as the time that it takes is told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Put,
    Get,
    Flush,
    Other,
}

/// Number of [`Kind`]s.
pub(crate) const KINDS: usize = 4;

impl Kind {
    /// All of them.
    pub(crate) const ALL: [Self; KINDS] = [Self::Put, Self::Get, Self::Flush, Self::Other];

    /// The name in the metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Get => "get",
            Self::Flush => "flush",
            Self::Other => "other",
        }
    }
}

/// Requests of one batch, by kind.
pub(crate) type Asked = [u32; KINDS];

/// One shard's counts of one namespace.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Stripe {
    requests: [AtomicU64; KINDS],
    nanoseconds: [AtomicU64; KINDS],
    buckets: [[AtomicU64; BUCKETS]; KINDS],
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    bad_checksums: AtomicU64,
    over_quota: AtomicU64,
    full: AtomicU64,
}

/// Adds to a counter that only the caller writes.
#[inline]
fn add(count: &AtomicU64, n: u64) {
    count.store(
        count.load(Ordering::Relaxed).wrapping_add(n),
        Ordering::Relaxed,
    );
}

impl Stripe {
    /// Counts a batch of requests, each of which took `time` from its arrival to its answer.
    pub(crate) fn batch(&self, asked: &Asked, time: Duration) {
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let bucket = bucket(time);
        for (kind, &count) in asked.iter().enumerate() {
            if count > 0 {
                let count = u64::from(count);
                add(&self.requests[kind], count);
                add(&self.nanoseconds[kind], nanoseconds.saturating_mul(count));
                add(&self.buckets[kind][bucket], count);
            }
        }
    }

    /// Counts what came and what went.
    pub(crate) fn bytes(&self, bytes_in: usize, bytes_out: usize) {
        add(&self.bytes_in, bytes_in as u64);
        add(&self.bytes_out, bytes_out as u64);
    }

    /// A page did not fit the checksum that came with it.
    pub(crate) fn bad_checksum(&self) {
        add(&self.bad_checksums, 1);
    }

    /// A page was refused because of the quota.
    pub(crate) fn refused_by_quota(&self) {
        add(&self.over_quota, 1);
    }

    /// A page was refused because the store is full.
    pub(crate) fn refused_full(&self) {
        add(&self.full, 1);
    }
}

/// The bucket of a time.
fn bucket(time: Duration) -> usize {
    let steps = time.as_nanos() / FIRST_NS;
    let bits = u128::BITS - steps.leading_zeros();
    usize::try_from(bits).unwrap_or(BUCKETS).min(BUCKETS - 1)
}

/// The upper bound of a bucket, in seconds; nothing for the last one.
pub(crate) fn bucket_bound(bucket: usize) -> Option<f64> {
    let nanoseconds = u32::try_from(FIRST_NS << bucket).ok()?;
    (bucket + 1 < BUCKETS).then(|| f64::from(nanoseconds) / 1e9)
}

/// Sums over all shards.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub(crate) requests: [u64; KINDS],
    pub(crate) nanoseconds: [u64; KINDS],
    pub(crate) buckets: [[u64; BUCKETS]; KINDS],
    /// Bytes that came.
    pub bytes_in: u64,
    /// Bytes that went.
    pub bytes_out: u64,
    /// Pages that did not fit the checksum that came with them.
    pub bad_checksums: u64,
    /// Pages that were refused because of the quota.
    pub over_quota: u64,
    /// Pages that were refused because the store was full.
    pub full: u64,
}

impl Totals {
    /// Requests of all kinds.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.requests.iter().sum()
    }
}

/// The sum of all stripes.
pub(crate) fn sum(stripes: &[Stripe]) -> Totals {
    let mut totals = Totals::default();
    for stripe in stripes {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        for kind in 0..KINDS {
            totals.requests[kind] += load(&stripe.requests[kind]);
            totals.nanoseconds[kind] += load(&stripe.nanoseconds[kind]);
            for (sum, count) in totals.buckets[kind].iter_mut().zip(&stripe.buckets[kind]) {
                *sum += load(count);
            }
        }
        totals.bytes_in += load(&stripe.bytes_in);
        totals.bytes_out += load(&stripe.bytes_out);
        totals.bad_checksums += load(&stripe.bad_checksums);
        totals.over_quota += load(&stripe.over_quota);
        totals.full += load(&stripe.full);
    }
    totals
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_counted_in_the_bucket_whose_bound_is_above_it() {
        for ns in [0, 249, 250, 251, 1_000, 5_000, 60_000_000, 10_000_000_000] {
            let time = Duration::from_nanos(ns);
            let bucket = bucket(time);
            assert!(bucket_bound(bucket).is_none_or(|bound| time.as_secs_f64() < bound));
            let below = bucket.checked_sub(1).and_then(bucket_bound);
            assert!(below.is_none_or(|bound| time.as_secs_f64() >= bound));
        }
        assert_eq!(bucket_bound(BUCKETS - 1), None);
    }

    #[test]
    fn shards_are_summed() {
        let stripes = [Stripe::default(), Stripe::default()];
        stripes[0].batch(&[2, 0, 0, 0], Duration::from_micros(1));
        stripes[1].batch(&[1, 3, 0, 0], Duration::from_micros(2));
        stripes[1].bytes(10, 20);
        let totals = sum(&stripes);
        assert_eq!(totals.requests, [3, 3, 0, 0]);
        assert_eq!(totals.requests(), 6);
        assert_eq!(totals.nanoseconds[..2], [4_000, 6_000]);
        assert_eq!((totals.bytes_in, totals.bytes_out), (10, 20));
    }
}
