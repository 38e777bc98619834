// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How long programs in a guest stood still after something happened on the host.
//!
//! A probe in the guest notes its slow steps by the guest's clock, a test notes the host's instants.
//! The two clocks run alike, so one difference puts them beside each other.

use crate::bench::{QUICK, number};
use crate::guest::Guest;
use anyhow::{Context, Result};
use std::time::{Duration, Instant};

/// Questions for the guest's clock; the quickest answer is the most exact.
const QUESTIONS: usize = 8;
const SLOW: &str = "TMEM-SLOW ";

/// A step of the probe's that took long, in µs of the guest's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slow {
    /// When it ended.
    pub end_us: u64,
    /// How long it took.
    pub took_us: u64,
}

impl Slow {
    /// The slow steps among the lines that a probe printed.
    ///
    /// # Errors
    /// If a line is not what the probe prints.
    pub fn all_of(lines: &[String]) -> Result<Vec<Self>> {
        lines
            .iter()
            .filter_map(|line| line.strip_prefix(SLOW))
            .map(|line| {
                let (end, took) = line.split_once(' ').context("A slow step without a time")?;
                Ok(Self {
                    end_us: end.parse()?,
                    took_us: took.parse()?,
                })
            })
            .collect()
    }
}

/// The guest's clock, as far as the host can tell.
#[derive(Clone, Copy, Debug)]
pub struct GuestClock {
    at: Instant,
    /// What the guest's clock showed at `at`.
    shown_us: u64,
    /// What both may be apart.
    exact_to: Duration,
}

impl GuestClock {
    /// Asks the guest for its time.
    ///
    /// # Errors
    /// If it does not tell.
    pub fn of(guest: &mut Guest) -> Result<Self> {
        let mut best: Option<Self> = None;
        for _ in 0..QUESTIONS {
            let asked = Instant::now();
            let output = guest.run("tmem-workload clock", QUICK)?.ok()?;
            let took = asked.elapsed();
            let clock = Self {
                at: asked + took / 2,
                shown_us: number(&output.result()?, "now_us")?,
                exact_to: took / 2,
            };
            if best.is_none_or(|best| clock.exact_to < best.exact_to) {
                best = Some(clock);
            }
        }
        best.context("The guest was not asked for its time")
    }

    /// What it shows at `instant`, in µs.
    #[must_use]
    pub fn shows_at(&self, instant: Instant) -> u64 {
        let us = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        match instant.checked_duration_since(self.at) {
            Some(later) => self.shown_us.saturating_add(us(later)),
            None => self.shown_us.saturating_sub(us(self.at - instant)),
        }
    }

    /// How wrong it may be, in µs.
    #[must_use]
    pub fn exact_to_us(&self) -> u64 {
        u64::try_from(self.exact_to.as_micros()).unwrap_or(u64::MAX)
    }
}

/// For each of `events`, the longest slow step that ended after it and before the next one, in µs;
/// 0 where there was none. `events` and `until` are times of the guest's clock, in their order.
#[must_use]
pub fn stalls(slow: &[Slow], events: &[u64], until_us: u64) -> Vec<u64> {
    let ends = events.iter().skip(1).copied().chain([until_us]);
    events
        .iter()
        .zip(ends)
        .map(|(&start, end)| {
            let within = |step: &&Slow| start < step.end_us && step.end_us <= end;
            let times = slow.iter().filter(within).map(|step| step.took_us);
            times.max().unwrap_or(0)
        })
        .collect()
}

/// The median and the largest of `values`; 0 of none.
#[must_use]
pub fn median_and_max(values: &[u64]) -> (u64, u64) {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let median = sorted.get(sorted.len() / 2).copied().unwrap_or(0);
    (median, sorted.last().copied().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slow(end_us: u64, took_us: u64) -> Slow {
        Slow { end_us, took_us }
    }

    #[test]
    fn each_event_has_the_longest_step_that_ended_after_it() {
        let steps = [
            slow(5, 900),
            slow(15, 3),
            slow(19, 7),
            slow(31, 8),
            slow(99, 50),
        ];
        assert_eq!(stalls(&steps, &[10, 20, 30], 40), [7, 0, 8]);
        assert!(stalls(&steps, &[], 40).is_empty());
    }

    #[test]
    fn lines_of_the_probe_are_read_and_others_left_out() {
        let lines = ["TMEM-SLOW 17 5", "noise", "TMEM-SLOW 20 6"].map(str::to_owned);
        let read = Slow::all_of(&lines).expect("well formed");
        assert_eq!(read, [slow(17, 5), slow(20, 6)]);
        assert!(Slow::all_of(&["TMEM-SLOW 17".to_owned()]).is_err());
    }

    #[test]
    fn the_clock_is_read_for_times_before_and_after_it_was_asked() {
        let at = Instant::now() + Duration::from_secs(1);
        let clock = GuestClock {
            at,
            shown_us: 5_000,
            exact_to: Duration::ZERO,
        };
        assert_eq!(clock.shows_at(at + Duration::from_millis(2)), 7_000);
        assert_eq!(clock.shows_at(at - Duration::from_millis(2)), 3_000);
    }

    #[test]
    fn median_is_the_middle_of_the_sorted_values() {
        assert_eq!(median_and_max(&[5, 1, 9]), (5, 9));
        assert_eq!(median_and_max(&[]), (0, 0));
    }
}
