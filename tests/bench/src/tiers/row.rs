// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Rows of this area.

use crate::Row;
use crate::report::{Spread, median, quartiles};

/// One comparison, of passes that were made by turns.
#[derive(Clone, Debug)]
pub(super) struct Compared<'a> {
    pub(super) name: String,
    pub(super) unit: &'static str,
    pub(super) ours: &'a [f64],
    /// The peer or, without a name, the floor.
    pub(super) other: &'a [f64],
    pub(super) peer: Option<String>,
    /// Less is better, as of times.
    pub(super) less: bool,
    pub(super) goal: Option<f64>,
    pub(super) regime: String,
}

impl Compared<'_> {
    pub(super) fn row(self) -> Row {
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
        let other = median(self.other);
        let is_peer = self.peer.is_some();
        Row {
            area: AREA,
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

/// The area's name.
pub(super) const AREA: &str = "tiers";

/// A figure that is held to a limit: it must not be more.
pub(super) fn limited(
    name: impl Into<String>,
    unit: &'static str,
    ours: f64,
    limit: f64,
    regime: impl Into<String>,
) -> Row {
    let ratio = limit / ours;
    Row {
        area: AREA,
        name: name.into(),
        unit,
        ours,
        peer: None,
        peer_name: None,
        floor: Some(limit),
        ratio: Some(ratio),
        spread: None,
        goal: Some(1.0),
        met: Some(ratio >= 1.0),
        emulated: false,
        regime: regime.into(),
    }
}

/// A figure without anything to compare it with, or why there is none.
pub(super) fn note(
    name: impl Into<String>,
    unit: &'static str,
    ours: f64,
    regime: impl Into<String>,
) -> Row {
    Row {
        floor: None,
        ratio: None,
        goal: None,
        met: None,
        ..limited(name, unit, ours, ours, regime)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_the_time_is_a_ratio_of_two_and_half_the_rate_of_a_half() {
        let compared = Compared {
            name: "n".into(),
            unit: "u",
            ours: &[1.0, 2.0, 3.0],
            other: &[2.0, 4.0, 6.0],
            peer: None,
            less: true,
            goal: Some(2.5),
            regime: String::new(),
        };
        let time = compared.clone().row();
        assert_eq!((time.ratio, time.met), (Some(2.0), Some(false)));
        assert_eq!((time.floor, time.peer), (Some(4.0), None));
        let rate = Compared {
            less: false,
            peer: Some("p".into()),
            goal: Some(0.5),
            ..compared
        };
        let rate = rate.row();
        assert_eq!((rate.ratio, rate.met), (Some(0.5), Some(true)));
        assert_eq!((rate.floor, rate.peer), (None, Some(4.0)));
    }

    #[test]
    fn more_than_the_limit_misses_the_goal() {
        assert_eq!(limited("n", "u", 50.0, 48.0, "").met, Some(false));
        assert_eq!(limited("n", "u", 48.0, 48.0, "").met, Some(true));
        assert_eq!(note("n", "u", 0.0, "skipped").met, None);
    }
}
