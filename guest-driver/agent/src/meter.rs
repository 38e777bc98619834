// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which part of the kernel's stall times is told.
//!
//! The host divides what came between two of its statistics by the second or so between them. If
//! nobody looked at the kernel's figures for half a minute, their little stalls would come out as one
//! great one. So a stretch in which nobody looked counts for no more than the trigger needs to fire:
//! that much has just happened, and the rest was below notice.

use crate::psi::Stalls;
use std::time::Duration;

/// Adds up what is news.
#[derive(Debug)]
pub(crate) struct Meter {
    stall_us: u64,
    /// Looks that are no further apart than this miss nothing.
    close: Duration,
    last: Option<(Duration, Stalls)>,
    told: Stalls,
}

impl Meter {
    /// A meter beside a trigger of so much stall in such a window.
    pub(crate) fn new(stall: Duration, window: Duration) -> Self {
        Self {
            stall_us: u64::try_from(stall.as_micros()).unwrap_or(u64::MAX),
            close: window * 2 + Duration::from_millis(500),
            last: None,
            told: Stalls::default(),
        }
    }

    /// What is to be told at `now`, by the kernel's figures. It never falls.
    pub(crate) fn take(&mut self, now: Duration, stalls: Stalls) -> Stalls {
        let Some((before, last)) = self.last.replace((now, stalls)) else {
            return self.told;
        };
        let most = if now.saturating_sub(before) <= self.close {
            u64::MAX
        } else {
            self.stall_us
        };
        let news = |last: u64, now: u64| now.saturating_sub(last).min(most);
        self.told.some_us = self
            .told
            .some_us
            .saturating_add(news(last.some_us, stalls.some_us));
        self.told.full_us = self
            .told
            .full_us
            .saturating_add(news(last.full_us, stalls.full_us));
        self.told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meter() -> Meter {
        Meter::new(Duration::from_millis(50), Duration::from_secs(1))
    }

    fn stalls(some_us: u64, full_us: u64) -> Stalls {
        Stalls { some_us, full_us }
    }

    #[test]
    fn what_was_before_its_start_is_not_told() {
        let mut meter = meter();
        assert_eq!(
            meter.take(Duration::ZERO, stalls(9_000_000, 1)),
            stalls(0, 0)
        );
    }

    #[test]
    fn every_stall_is_told_while_it_looks_often() {
        let mut meter = meter();
        meter.take(Duration::ZERO, stalls(100, 10));
        assert_eq!(
            meter.take(Duration::from_secs(1), stalls(900_100, 500_010)),
            stalls(900_000, 500_000)
        );
        assert_eq!(
            meter.take(Duration::from_secs(2), stalls(1_900_100, 500_010)),
            stalls(1_900_000, 500_000)
        );
    }

    #[test]
    fn a_long_stretch_counts_for_no_more_than_the_trigger() {
        let mut meter = meter();
        meter.take(Duration::ZERO, stalls(0, 0));
        let told = meter.take(Duration::from_secs(30), stalls(1_200_000, 20_000));
        assert_eq!(told, stalls(50_000, 20_000));
    }

    #[test]
    fn what_is_told_never_falls() {
        let mut meter = meter();
        meter.take(Duration::ZERO, stalls(700, 700));
        let before = meter.take(Duration::from_secs(1), stalls(900, 800));
        assert_eq!(meter.take(Duration::from_secs(2), stalls(5, 5)), before);
    }
}
