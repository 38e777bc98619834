// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The text in which the daemon and the store tell Prometheus what they count.
//!
//! A program declares its families in one table with [`metrics!`], so that no name is used without being
//! described, and fills them with a [`Text`]. What the values are is its own matter; what the format
//! reserves is escaped here.
//!
//! ```
//! tmem_metrics::metrics! {
//!     /// Every metric that there is.
//!     const METRICS;
//!     UP Gauge "demo_up" "1: it works.";
//!     SEEN Counter "demo_seen_total" "What was seen, by kind.";
//! }
//! let mut text = tmem_metrics::Text::default();
//! text.family(UP, [([], 1)]);
//! text.family(SEEN, [([("kind", "a \"b\"")], 7)]);
//! assert!(text.as_str().ends_with("demo_seen_total{kind=\"a \\\"b\\\"\"} 7\n"));
//! assert_eq!(METRICS.len(), 2);
//! ```
#![forbid(unsafe_code)]

use std::fmt::{self, Write};

/// A metric family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// `tmem_`, noun, unit, and `_total` for a counter.
    pub name: &'static str,
    /// How to read its values.
    pub kind: MetricKind,
    /// What it counts, by which labels.
    pub help: &'static str,
}

/// Prometheus' types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Cumulative buckets, a sum and a count.
    Histogram,
}

impl fmt::Display for MetricKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        })
    }
}

/// Declares each metric as a constant, and one with all of them.
#[macro_export]
macro_rules! metrics {
    ($( #[$attribute:meta] )* $visibility:vis const $all:ident; $( $constant:ident $kind:ident $name:literal $help:literal; )*) => {
        $( const $constant: $crate::Metric = $crate::Metric {
            name: $name,
            kind: $crate::MetricKind::$kind,
            help: $help,
        }; )*
        $( #[$attribute] )*
        $visibility const $all: &[$crate::Metric] = &[ $( $constant, )* ];
    };
}

/// The text so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Text(String);

impl Text {
    /// Writes a family's head and its samples. A family without samples still has its head, so that
    /// the text always shows every name.
    pub fn family<'a, const N: usize>(
        &mut self,
        metric: Metric,
        samples: impl IntoIterator<Item = ([(&'a str, &'a str); N], impl fmt::Display)>,
    ) {
        self.head(metric);
        for (labels, value) in samples {
            self.sample(metric.name, "", &labels, value);
        }
    }

    /// Writes a family's head.
    pub fn head(&mut self, metric: Metric) {
        let Metric { name, kind, help } = metric;
        self.write(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }

    /// Writes a histogram below its family's head: counts below each bound, in seconds, then that of all
    /// with their sum.
    pub fn histogram<'a>(
        &mut self,
        metric: Metric,
        labels: &[(&str, &str)],
        below: impl IntoIterator<Item = (&'a str, u64)>,
        (count, sum): (u64, Seconds),
    ) {
        let all = std::iter::once(("+Inf", count));
        for (bound, below) in below.into_iter().chain(all) {
            let with_bound = [labels, &[("le", bound)]].concat();
            self.sample(metric.name, "_bucket", &with_bound, below);
        }
        self.sample(metric.name, "_sum", labels, sum);
        self.sample(metric.name, "_count", labels, count);
    }

    /// Writes one value, of a family or of what belongs to it by a suffix.
    pub fn sample(
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

    /// What was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What was written, to be sent.
    #[must_use]
    pub fn into_string(self) -> String {
        self.0
    }

    fn write(&mut self, arguments: fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        let _ = self.0.write_fmt(arguments);
    }
}

/// A time, written in seconds without loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seconds {
    ns: u64,
}

impl Seconds {
    /// So many nanoseconds.
    #[must_use]
    pub const fn of_ns(ns: u64) -> Self {
        Self { ns }
    }

    /// So many milliseconds.
    #[must_use]
    pub const fn of_ms(ms: u64) -> Self {
        Self {
            ns: ms.saturating_mul(1_000_000),
        }
    }
}

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.ns / 1_000_000_000, self.ns % 1_000_000_000);
        write!(f, "{whole}.{rest:09}")
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

#[cfg(test)]
mod tests {
    use super::*;

    metrics! {
        const METRICS;
        TIMES Histogram "t_seconds" "Times.";
        NAMES Gauge "t_names" "Names.";
    }

    #[test]
    fn a_family_without_samples_has_its_head() {
        let mut text = Text::default();
        text.family(NAMES, [([("name", ""); 1], 0); 0]);
        assert_eq!(
            text.as_str(),
            "# HELP t_names Names.\n# TYPE t_names gauge\n"
        );
        assert_eq!(METRICS, [TIMES, NAMES]);
    }

    #[test]
    fn what_the_format_reserves_is_escaped() {
        let mut text = Text::default();
        text.sample("n", "", &[("a", "\\\"\n"), ("b", "é")], 1);
        assert_eq!(text.as_str(), "n{a=\"\\\\\\\"\\n\",b=\"é\"} 1\n");
    }

    #[test]
    fn a_histogram_ends_with_all_and_its_sum() {
        let mut text = Text::default();
        let sum = Seconds::of_ns(1_500_000_001);
        text.histogram(TIMES, &[("k", "get")], [("0.1", 2), ("1", 3)], (4, sum));
        let lines: Vec<_> = text.as_str().lines().collect();
        assert_eq!(lines[0], "t_seconds_bucket{k=\"get\",le=\"0.1\"} 2");
        assert_eq!(lines[2], "t_seconds_bucket{k=\"get\",le=\"+Inf\"} 4");
        assert_eq!(lines[3], "t_seconds_sum{k=\"get\"} 1.500000001");
        assert_eq!(lines[4], "t_seconds_count{k=\"get\"} 4");
        assert_eq!(Seconds::of_ms(2).to_string(), "0.002000000");
    }
}
