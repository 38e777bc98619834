// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A histogram of nanoseconds that many threads count into without a lock: four buckets to each
//! power of two, so a value is known to within a quarter.

use std::array;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

/// Buckets: 0 to 3 each have one, then four to each power of two up to 2^64.
const BUCKETS: usize = 252;

/// Counts of nanoseconds.
#[derive(Debug)]
pub(crate) struct Histogram {
    counts: [AtomicU64; BUCKETS],
    sum: AtomicU64,
    max: AtomicU64,
}

impl Histogram {
    pub(crate) fn new() -> Self {
        Self {
            counts: array::from_fn(|_| AtomicU64::new(0)),
            sum: AtomicU64::new(0),
            max: AtomicU64::new(0),
        }
    }

    pub(crate) fn record(&self, value: u64) {
        if let Some(count) = self.counts.get(bucket(value)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.sum.fetch_add(value, Ordering::Relaxed);
        self.max.fetch_max(value, Ordering::Relaxed);
    }

    /// The counts now. While others count, one of them may be in the sum and not in its bucket yet.
    pub(crate) fn snapshot(&self) -> HistogramStats {
        let counts = self
            .counts
            .iter()
            .map(|count| count.load(Ordering::Relaxed));
        let buckets: Vec<Bucket> = (0..)
            .zip(counts)
            .filter(|(_, count)| *count > 0)
            .map(|(number, count)| Bucket {
                up_to_ns: last_of(number),
                count,
            })
            .collect();
        HistogramStats {
            count: buckets.iter().map(|bucket| bucket.count).sum(),
            sum_ns: self.sum.load(Ordering::Relaxed),
            max_ns: self.max.load(Ordering::Relaxed),
            buckets,
        }
    }
}

/// What a histogram had counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistogramStats {
    /// How many values.
    pub count: u64,
    /// All of them together, in nanoseconds.
    pub sum_ns: u64,
    /// The largest.
    pub max_ns: u64,
    /// Buckets with values in them, smallest first.
    pub buckets: Vec<Bucket>,
}

/// One bucket of a histogram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bucket {
    /// The largest value that falls into it.
    pub up_to_ns: u64,
    /// How many did.
    pub count: u64,
}

impl HistogramStats {
    /// What `per_mille` of 1000 values did not exceed, at most a quarter too high; 0 without values.
    #[must_use]
    pub fn quantile_ns(&self, per_mille: u16) -> u64 {
        let all = u128::from(self.count);
        let rank = (all * u128::from(per_mille)).div_ceil(1000).max(1);
        let mut seen = 0;
        for bucket in &self.buckets {
            seen += u128::from(bucket.count);
            if seen >= rank {
                return bucket.up_to_ns.min(self.max_ns);
            }
        }
        self.max_ns
    }
}

fn bucket(value: u64) -> usize {
    let number = if value < 4 {
        value
    } else {
        let power = u64::from(value.ilog2());
        (power - 1) * 4 + ((value >> (power - 2)) & 3)
    };
    usize::try_from(number).unwrap_or(BUCKETS)
}

/// The largest value of a bucket.
fn last_of(bucket: u32) -> u64 {
    if bucket < 4 {
        return bucket.into();
    }
    let power = bucket / 4 + 1;
    let next = u128::from(bucket % 4 + 5) << (power - 2);
    u64::try_from(next - 1).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_its_bucket_and_within_a_quarter_of_its_end() {
        let mut last = None;
        for number in 0..252 {
            let end = last_of(number);
            assert_eq!(bucket(end), usize::try_from(number).unwrap());
            let first = last.map_or(0, |last: u64| last + 1);
            assert_eq!(bucket(first), usize::try_from(number).unwrap());
            assert!(end - first <= first / 4, "{first} to {end}");
            last = Some(end);
        }
        assert_eq!(last, Some(u64::MAX));
    }

    #[test]
    fn quantiles_are_those_of_the_values() {
        let histogram = Histogram::new();
        assert_eq!(histogram.snapshot().quantile_ns(500), 0);
        for value in 1..=1000 {
            histogram.record(value);
        }
        let stats = histogram.snapshot();
        assert_eq!(
            (stats.count, stats.sum_ns, stats.max_ns),
            (1000, 500_500, 1000)
        );
        for per_mille in [1_u16, 10, 500, 990, 999, 1000] {
            let (found, exact) = (stats.quantile_ns(per_mille), u64::from(per_mille));
            assert!(
                found >= exact && found <= exact + exact / 4,
                "{per_mille}: {found}"
            );
        }
    }
}
