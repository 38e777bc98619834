// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The text format: families, samples, histograms, and what has to be escaped.

use std::fmt::{self, Write};

use tmem_admin_api::Histogram;

use super::Metric;

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

/// A time, written in seconds without loss.
pub(super) struct Seconds {
    ns: u64,
}

impl Seconds {
    pub(super) const fn of_ns(ns: u64) -> Self {
        Self { ns }
    }

    pub(super) const fn of_ms(ms: u64) -> Self {
        Self {
            ns: ms.saturating_mul(1_000_000),
        }
    }
}

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}.{:09}",
            self.ns / 1_000_000_000,
            self.ns % 1_000_000_000
        )
    }
}

#[derive(Default)]
pub(super) struct Text(pub(super) String);

impl Text {
    /// Writes a family's head and its samples. A family without samples still has its head, so
    /// that the text always shows every name.
    pub(super) fn family<'a, const N: usize>(
        &mut self,
        metric: Metric,
        samples: impl IntoIterator<Item = ([(&'a str, &'a str); N], impl fmt::Display)>,
    ) {
        self.head(metric);
        for (labels, value) in samples {
            self.sample(metric.name, "", &labels, value);
        }
    }

    /// Writes a family of histograms. A bucket of ours counts under the first edge that is not below
    /// its own.
    pub(super) fn histograms<'a, const N: usize>(
        &mut self,
        metric: Metric,
        histograms: impl IntoIterator<Item = ([(&'a str, &'a str); N], &'a Histogram)>,
    ) {
        self.head(metric);
        for (labels, histogram) in histograms {
            let with_edge = |written| {
                let mut labels = labels.to_vec();
                labels.push(("le", written));
                labels
            };
            for &(edge, written) in EDGES {
                let below = histogram.buckets.iter().filter(|b| b.upper_ns <= edge);
                let count = below.map(|b| b.count).sum::<u64>();
                self.sample(metric.name, "_bucket", &with_edge(written), count);
            }
            let all = with_edge("+Inf");
            self.sample(metric.name, "_bucket", &all, histogram.count);
            let sum = Seconds::of_ns(histogram.sum_ns);
            self.sample(metric.name, "_sum", &labels, sum);
            self.sample(metric.name, "_count", &labels, histogram.count);
        }
    }

    fn head(&mut self, Metric { name, kind, help }: Metric) {
        self.write(format_args!(
            "# HELP {name} {help}\n# TYPE {name} {}\n",
            kind.as_str()
        ));
    }

    fn sample(
        &mut self,
        name: &str,
        suffix: &str,
        labels: &[(&str, &str)],
        value: impl fmt::Display,
    ) {
        self.write(format_args!("{name}{suffix}"));
        for (at, (label, text)) in labels.iter().enumerate() {
            let opening = if at == 0 { "{" } else { "," };
            self.write(format_args!("{opening}{label}=\"{}\"", Escaped(text)));
        }
        let closing = if labels.is_empty() { "" } else { "}" };
        self.write(format_args!("{closing} {value}\n"));
    }

    fn write(&mut self, arguments: fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        let _ = self.0.write_fmt(arguments);
    }
}

/// A label's value with what the text format reserves escaped.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '\\' => f.write_str("\\\\")?,
                '"' => f.write_str("\\\"")?,
                '\n' => f.write_str("\\n")?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}
