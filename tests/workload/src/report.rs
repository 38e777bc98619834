// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a workload did: named counts, and how much of what it read was wrong.

use std::fmt::Write;

/// Counts of one run; `mismatches` decides the exit code.
#[derive(Default)]
pub(crate) struct Report {
    /// Pages or values whose bytes were not the ones written.
    pub(crate) mismatches: u64,
    counts: Vec<(&'static str, u64)>,
}

impl Report {
    /// Adds a named count.
    pub(crate) fn count(&mut self, name: &'static str, value: u64) {
        self.counts.push((name, value));
    }

    /// Whether everything that was read was right.
    pub(crate) const fn is_clean(&self) -> bool {
        self.mismatches == 0
    }

    /// The counts as one JSON object. Names are identifiers, so nothing needs escaping.
    pub(crate) fn json(&self, workload: &str) -> String {
        let mut text = format!(
            "{{\"workload\": \"{workload}\", \"mismatches\": {}",
            self.mismatches
        );
        for (name, value) in &self.counts {
            // Writing into a String cannot fail.
            let _ = write!(text, ", \"{name}\": {value}");
        }
        text.push('}');
        text
    }
}

/// Whole milliseconds since `start`.
pub(crate) fn elapsed_ms(start: std::time::Instant) -> u64 {
    u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_holds_every_count() {
        let mut report = Report::default();
        report.count("pages", 5);
        report.count("fill_ms", 9);
        assert_eq!(
            report.json("pages"),
            r#"{"workload": "pages", "mismatches": 0, "pages": 5, "fill_ms": 9}"#
        );
        assert!(report.is_clean());
        report.mismatches = 1;
        assert!(!report.is_clean());
    }
}
