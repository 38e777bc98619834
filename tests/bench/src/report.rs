// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The figures, for programs and for people.

use std::fs;

use serde::Serialize;

/// Version of the report's JSON.
pub(crate) const SCHEMA: u32 = 1;

/// All figures of one run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Version of this structure.
    pub schema: u32,
    /// Where it ran.
    pub machine: Machine,
    /// The figures.
    pub results: Vec<Row>,
}

/// What the figures were measured on.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Model name of the processor.
    pub processor: String,
    /// Processors that this process may use.
    pub processors: usize,
    /// Bytes of memory.
    pub memory: u64,
    /// Release of the kernel.
    pub kernel: String,
}

impl Machine {
    /// Describes this machine; what it does not tell is "unknown" or 0.
    #[must_use]
    pub fn here() -> Self {
        let field = |file: &str, key: &str| {
            let text = fs::read_to_string(file).ok()?;
            let line = text.lines().find(|line| line.starts_with(key))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let unknown = || "unknown".to_owned();
        let kilobytes = field("/proc/meminfo", "MemTotal")
            .and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok());
        Self {
            processor: field("/proc/cpuinfo", "model name").unwrap_or_else(unknown),
            processors: std::thread::available_parallelism().map_or(0, Into::into),
            memory: kilobytes.unwrap_or(0) * 1024,
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")
                .map_or_else(|_| unknown(), |text| text.trim().to_owned()),
        }
    }
}

/// One comparison.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// Area of the benchmark.
    pub area: &'static str,
    /// What was measured.
    pub name: String,
    /// Unit of `ours`, `peer` and `floor`.
    pub unit: &'static str,
    /// Our median over the rounds; of a floor's own row, the floor.
    pub ours: f64,
    /// The peer's median.
    pub peer: Option<f64>,
    /// Who the peer is.
    pub peer_name: Option<String>,
    /// What this machine allows at best.
    pub floor: Option<f64>,
    /// Ours against the peer, or against the floor where there is none; larger is better. Of rates
    /// it is the median of the ratios between passes that were made by turns, which need not be the
    /// ratio of `ours` and `peer`.
    pub ratio: Option<f64>,
    /// How far `ours`, `peer` and `ratio` scatter; of rates beside a peer.
    pub spread: Option<Spread>,
    /// The ratio to reach.
    pub goal: Option<f64>,
    /// Whether it was reached.
    pub met: Option<bool>,
    /// Whether emulated latency or bandwidth touched the figure.
    pub emulated: bool,
    /// Who polled and who slept.
    pub regime: String,
}

/// First and third quartiles: half of the measured values lie between them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// Of our passes.
    pub ours: [f64; 2],
    /// Of the peer's passes.
    pub peer: [f64; 2],
    /// Of the ratios between passes that were made by turns.
    pub ratio: [f64; 2],
}

/// What the machine allows, measured in the same run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Floors {
    /// 4 KiB copies between random places of 1 GiB, a second.
    pub copies: f64,
    /// Seconds for a flag to go to the other processor and back, both spinning.
    pub flag: f64,
    /// Seconds for a wake-up by eventfd to go to the other processor and back, both sleeping.
    pub eventfd: f64,
}

impl Floors {
    /// Rows of the floors themselves.
    pub(crate) fn rows(&self, area: &'static str) -> Vec<Row> {
        let row = |name: &str, unit, value, regime: &str| Row {
            area,
            name: name.to_owned(),
            unit,
            ours: value,
            peer: None,
            peer_name: None,
            floor: Some(value),
            ratio: None,
            spread: None,
            goal: None,
            met: None,
            emulated: false,
            regime: regime.to_owned(),
        };
        vec![
            row(
                "floor: random 4 KiB memcpy over 1 GiB",
                "pages/s",
                self.copies,
                "one thread",
            ),
            row(
                "floor: shared-memory flag there and back",
                "us",
                self.flag * 1e6,
                "both spin",
            ),
            row(
                "floor: eventfd there and back",
                "us",
                self.eventfd * 1e6,
                "both sleep",
            ),
        ]
    }
}

/// The middle of `values`, which must not be empty.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len().is_multiple_of(2) {
        f64::midpoint(sorted[middle - 1], sorted[middle])
    } else {
        sorted[middle]
    }
}

/// The first and the third quartile of `values`, which must not be empty; between two values, in
/// proportion.
pub(crate) fn quartiles(values: &[f64]) -> [f64; 2] {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    [1, 3].map(|quarter| {
        let (at, rest) = (
            (sorted.len() - 1) * quarter / 4,
            (sorted.len() - 1) * quarter % 4,
        );
        let next = sorted[(at + 1).min(sorted.len() - 1)];
        #[expect(clippy::cast_precision_loss, reason = "below 4")]
        let part = rest as f64 / 4.0;
        (next - sorted[at]).mul_add(part, sorted[at])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_between_the_two_middles() {
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median(&[4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < 1e-9);
    }

    #[test]
    fn half_of_the_values_lie_between_the_quartiles() {
        assert_eq!(quartiles(&[5.0, 1.0, 4.0, 2.0, 3.0]), [2.0, 4.0]);
        assert_eq!(quartiles(&[1.0, 3.0]), [1.5, 2.5]);
        assert_eq!(quartiles(&[7.0]), [7.0, 7.0]);
    }

    #[test]
    fn the_json_has_the_published_fields() {
        let floors = Floors {
            copies: 1.0,
            flag: 1.0,
            eventfd: 1.0,
        };
        let report = Report {
            schema: SCHEMA,
            machine: Machine::here(),
            results: floors.rows("device"),
        };
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["schema"], 1);
        for field in [
            "area",
            "name",
            "unit",
            "ours",
            "peer",
            "peer_name",
            "floor",
            "ratio",
            "spread",
            "goal",
            "met",
            "emulated",
            "regime",
        ] {
            assert!(
                json["results"][0].get(field).is_some(),
                "{field} is missing"
            );
        }
    }
}
