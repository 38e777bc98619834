// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Rows: two sides that were measured by turns, a figure with a limit, a figure alone.

use hdrhistogram::Histogram;

use crate::Row;
use crate::report::{Spread, median, quartiles};

/// The name of an area, which all of its rows have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Area(pub(crate) &'static str);

/// One comparison, of passes that were made by turns.
#[derive(Clone, Debug)]
pub(crate) struct Compared<'a> {
    pub(crate) area: Area,
    pub(crate) name: String,
    pub(crate) unit: &'static str,
    pub(crate) ours: &'a [f64],
    /// The peer or, without a name, the floor.
    pub(crate) other: &'a [f64],
    pub(crate) peer: Option<String>,
    /// Less is better, as of times.
    pub(crate) less: bool,
    pub(crate) goal: Option<f64>,
    pub(crate) regime: String,
}

impl Compared<'_> {
    pub(crate) fn row(self) -> Row {
        let pairs = self.ours.iter().zip(self.other);
        let ratios: Vec<f64> = pairs
            .map(|(ours, other)| {
                if self.less {
                    other / ours
                } else {
                    ours / other
                }
            })
            .collect();
        let ratio = median(&ratios);
        let is_peer = self.peer.is_some();
        let other = median(self.other);
        Row {
            area: self.area.0,
            name: self.name,
            unit: self.unit,
            ours: median(self.ours),
            peer: is_peer.then_some(other),
            peer_name: self.peer,
            floor: (!is_peer).then_some(other),
            ratio: Some(ratio),
            spread: Some(Spread {
                ours: quartiles(self.ours),
                peer: quartiles(self.other),
                ratio: quartiles(&ratios),
            }),
            goal: self.goal,
            met: self.goal.map(|goal| ratio >= goal),
            emulated: false,
            regime: self.regime,
        }
    }
}

impl Area {
    /// A figure that is held to a limit: it must not be more.
    pub(crate) fn limited(
        self,
        name: impl Into<String>,
        unit: &'static str,
        ours: f64,
        limit: f64,
        regime: impl Into<String>,
    ) -> Row {
        let ratio = limit / ours;
        Row {
            floor: Some(limit),
            ratio: Some(ratio),
            goal: Some(1.0),
            met: Some(ratio >= 1.0),
            ..self.note(name, unit, ours, regime)
        }
    }

    /// A figure without anything to compare it with, or why there is none.
    pub(crate) fn note(
        self,
        name: impl Into<String>,
        unit: &'static str,
        ours: f64,
        regime: impl Into<String>,
    ) -> Row {
        Row {
            area: self.0,
            name: name.into(),
            unit,
            ours,
            peer: None,
            peer_name: None,
            floor: None,
            ratio: None,
            spread: None,
            goal: None,
            met: None,
            emulated: false,
            regime: regime.into(),
        }
    }
}

/// For nanoseconds: one that grew as it went would take longer than what it measures, and one that does
/// not grow must know its end.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_max(60_000_000_000, 3).expect("3 digits are allowed")
}

/// A quantile of nanoseconds, in microseconds.
pub(crate) fn microseconds(times: &Histogram<u64>, quantile: f64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52 nanoseconds")]
    let nanoseconds = times.value_at_quantile(quantile) as f64;
    nanoseconds / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    const AREA: Area = Area("tests");

    #[test]
    fn more_than_the_limit_misses_the_goal() {
        assert_eq!(AREA.limited("n", "u", 50.0, 48.0, "").met, Some(false));
        assert_eq!(AREA.limited("n", "u", 48.0, 48.0, "").met, Some(true));
        assert_eq!(AREA.note("n", "u", 0.0, "skipped").met, None);
    }

    #[test]
    fn twice_the_peer_is_a_ratio_of_two() {
        let compared = Compared {
            area: AREA,
            name: "n".into(),
            unit: "u",
            ours: &[2.0, 4.0],
            other: &[1.0, 2.0],
            peer: Some("p".into()),
            less: false,
            goal: Some(2.0),
            regime: String::new(),
        };
        let row = compared.clone().row();
        assert_eq!(
            (row.ratio, row.met, row.floor),
            (Some(2.0), Some(true), None)
        );
        let row = Compared {
            less: true,
            peer: None,
            ..compared
        }
        .row();
        assert_eq!((row.ratio, row.met), (Some(0.5), Some(false)));
        assert_eq!((row.floor, row.peer), (Some(1.5), None));
    }

    #[test]
    fn quantiles_are_in_microseconds() {
        let mut times = histogram();
        for nanoseconds in [1000, 2000, 3_000_000_000] {
            times.saturating_record(nanoseconds);
        }
        assert!((microseconds(&times, 0.5) - 2.0).abs() < 0.01);
        assert!((microseconds(&times, 1.0) / 3e6 - 1.0).abs() < 0.01);
    }
}
