// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The text format: families, samples, histograms, and what has to be escaped.

use std::fmt::{self, Write};

use super::Metric;
use crate::store::{BUCKETS, Totals, bucket_bound};

/// The text so far.
#[derive(Default)]
pub(super) struct Text(pub(super) String);

impl Text {
    /// Writes a family's head and its samples. A family without samples still has its head, so that
    /// the text always shows every name.
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

    /// Writes a family's head.
    pub(super) fn head(&mut self, metric: Metric) {
        let Metric { name, kind, help } = metric;
        self.write(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }

    /// Writes the histogram of a kind of request.
    pub(super) fn histogram(
        &mut self,
        metric: Metric,
        labels: &[(&str, &str)],
        totals: &Totals,
        kind: usize,
    ) {
        let mut below = 0;
        for bucket in 0..BUCKETS {
            below += totals.buckets[kind][bucket];
            let bound = bucket_bound(bucket).map(|bound| bound.to_string());
            let bound = bound.as_deref().unwrap_or("+Inf");
            let with_bound = [labels, &[("le", bound)]].concat();
            self.sample(metric.name, "_bucket", &with_bound, below);
        }
        let ns = totals.nanoseconds[kind];
        let seconds = format!("{}.{:09}", ns / 1_000_000_000, ns % 1_000_000_000);
        self.sample(metric.name, "_sum", labels, seconds);
        self.sample(metric.name, "_count", labels, totals.requests[kind]);
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
