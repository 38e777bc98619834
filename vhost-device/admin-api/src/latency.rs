// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Latency distributions: buckets, and the quantiles that follow from them.

use serde::{Deserialize, Serialize};

/// How long something took, as a distribution. Quantiles are upper bounds: the edge of the bucket
/// that holds the observation, or the maximum where that is lower.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Histogram {
    /// Observations.
    pub count: u64,
    /// Sum of all observations, for means and rates.
    pub sum_ns: u64,
    /// Median.
    pub p50_ns: u64,
    /// 9 of 10 took no longer.
    pub p90_ns: u64,
    /// 99 of 100 took no longer.
    pub p99_ns: u64,
    /// 999 of 1000 took no longer.
    pub p999_ns: u64,
    /// The longest.
    pub max_ns: u64,
    /// Buckets with observations in them, by rising edge.
    pub buckets: Vec<Bucket>,
}

/// Observations above the edge of the bucket before, up to and including this one's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bucket {
    /// Edge.
    pub upper_ns: u64,
    /// Observations in this bucket alone.
    pub count: u64,
}

impl Histogram {
    /// Builds the answer from counted buckets, in order of rising edge; empty ones are dropped.
    /// `sum_ns` and `max_ns` are over the same observations.
    #[must_use]
    pub fn from_buckets(
        buckets: impl IntoIterator<Item = Bucket>,
        sum_ns: u64,
        max_ns: u64,
    ) -> Self {
        let buckets: Vec<Bucket> = buckets.into_iter().filter(|b| b.count != 0).collect();
        debug_assert!(buckets.is_sorted_by_key(|b| b.upper_ns));
        let count = buckets.iter().map(|b| b.count).sum();
        let quantile = |per_mille| quantile(&buckets, count, per_mille).min(max_ns);
        Self {
            count,
            sum_ns,
            p50_ns: quantile(500),
            p90_ns: quantile(900),
            p99_ns: quantile(990),
            p999_ns: quantile(999),
            max_ns,
            buckets,
        }
    }

    /// What happened since `before`, an earlier answer about the same thing. The maximum of an
    /// interval is not known: it is the edge of the highest bucket that grew, at most `max_ns`.
    ///
    /// If `before` has more observations than `self` in any bucket the daemon was restarted in
    /// between, and all of `self` is returned.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let earlier = |upper_ns| {
            before
                .buckets
                .iter()
                .find(|b| b.upper_ns == upper_ns)
                .map_or(0, |b| b.count)
        };
        let restarted = before.buckets.iter().any(|b| {
            self.buckets
                .iter()
                .find(|now| now.upper_ns == b.upper_ns)
                .map_or(0, |now| now.count)
                < b.count
        });
        if restarted || self.sum_ns < before.sum_ns {
            return self.clone();
        }
        let grown: Vec<Bucket> = self
            .buckets
            .iter()
            .map(|b| Bucket {
                upper_ns: b.upper_ns,
                count: b.count - earlier(b.upper_ns),
            })
            .filter(|b| b.count != 0)
            .collect();
        let max_ns = grown.last().map_or(0, |b| b.upper_ns.min(self.max_ns));
        Self::from_buckets(grown, self.sum_ns - before.sum_ns, max_ns)
    }
}

/// Edge of the bucket that holds the observation of rank `per_mille`/1000.
fn quantile(buckets: &[Bucket], count: u64, per_mille: u64) -> u64 {
    // Split so that a large count does not overflow: rank = ceil(count × per_mille / 1000).
    let rank = count / 1000 * per_mille + (count % 1000 * per_mille).div_ceil(1000);
    let mut seen = 0;
    for bucket in buckets {
        seen += bucket.count;
        if seen >= rank {
            return bucket.upper_ns;
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use super::{Bucket, Histogram};

    fn bucket(upper_ns: u64, count: u64) -> Bucket {
        Bucket { upper_ns, count }
    }

    #[test]
    fn quantiles_are_edges_of_the_bucket_that_holds_them() {
        let h = Histogram::from_buckets(
            [
                bucket(100, 500),
                bucket(200, 400),
                bucket(400, 90),
                bucket(800, 9),
                bucket(1600, 1),
            ],
            123_456,
            1500,
        );
        assert_eq!(h.count, 1000);
        assert_eq!(
            (h.p50_ns, h.p90_ns, h.p99_ns, h.p999_ns),
            (100, 200, 400, 800)
        );
        assert_eq!(h.max_ns, 1500);
    }

    #[test]
    fn no_quantile_is_above_the_maximum() {
        let h = Histogram::from_buckets([bucket(1000, 3)], 900, 400);
        assert_eq!((h.p50_ns, h.p999_ns, h.max_ns), (400, 400, 400));
    }

    #[test]
    fn one_observation_is_every_quantile() {
        let h = Histogram::from_buckets([bucket(64, 0), bucket(128, 1)], 100, 128);
        assert_eq!(
            (h.p50_ns, h.p90_ns, h.p99_ns, h.p999_ns),
            (128, 128, 128, 128)
        );
        assert_eq!(h.buckets.len(), 1, "empty buckets are not sent");
    }

    #[test]
    fn nothing_observed_is_all_zero() {
        assert_eq!(Histogram::from_buckets([], 0, 0), Histogram::default());
    }

    #[test]
    fn a_huge_count_does_not_overflow() {
        let h = Histogram::from_buckets([bucket(10, u64::MAX / 2), bucket(20, 1)], 0, 20);
        assert_eq!((h.p50_ns, h.p999_ns), (10, 10));
    }

    #[test]
    fn an_interval_holds_only_what_is_new() {
        let before = Histogram::from_buckets([bucket(100, 5), bucket(800, 1)], 1000, 700);
        let now =
            Histogram::from_buckets([bucket(100, 5), bucket(200, 4), bucket(800, 1)], 1600, 700);
        let delta = now.since(&before);
        assert_eq!((delta.count, delta.sum_ns), (4, 600));
        assert_eq!((delta.p50_ns, delta.max_ns), (200, 200));
    }

    #[test]
    fn after_a_restart_all_is_new() {
        let before = Histogram::from_buckets([bucket(100, 50)], 5000, 100);
        let now = Histogram::from_buckets([bucket(100, 2)], 150, 90);
        assert_eq!(now.since(&before), now);
    }
}
