// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Histograms of the admin API as those of the text, whose buckets are fewer.

use tmem_admin_api::Histogram;
use tmem_metrics::{Metric, Seconds, Text};

/// Edges of the latency buckets: the edge in nanoseconds, and as it is written, in seconds.
const EDGES: &[(u64, &str)] = &[
    (500, "5e-7"),
    (1_000, "1e-6"),
    (2_000, "2e-6"),
    (5_000, "5e-6"),
    (10_000, "1e-5"),
    (20_000, "2e-5"),
    (50_000, "5e-5"),
    (100_000, "1e-4"),
    (200_000, "2e-4"),
    (500_000, "5e-4"),
    (1_000_000, "1e-3"),
    (2_000_000, "2e-3"),
    (5_000_000, "5e-3"),
    (10_000_000, "1e-2"),
    (100_000_000, "1e-1"),
    (1_000_000_000, "1"),
    (10_000_000_000, "1e1"),
];

/// Writes a family of histograms. A bucket of ours counts under the first edge that is not below its own.
pub(super) fn histograms<'a, const N: usize>(
    text: &mut Text,
    metric: Metric,
    histograms: impl IntoIterator<Item = ([(&'a str, &'a str); N], &'a Histogram)>,
) {
    text.head(metric);
    for (labels, histogram) in histograms {
        let edges = EDGES.iter().map(|&(edge, written)| {
            let below = histogram.buckets.iter().filter(|b| b.upper_ns <= edge);
            (written, below.map(|b| b.count).sum())
        });
        let all = (histogram.count, Seconds::of_ns(histogram.sum_ns));
        text.histogram(metric, &labels, edges, all);
    }
}
