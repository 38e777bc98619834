// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How long to look for an answer before sleeping, and when an answer is late.

use std::time::Duration;

use crate::settings::Hedge;

/// Looking for an answer is given up soon where it was in vain, but never quite.
const SPIN_LEAST_PART: u32 = 16;
/// A read is late when it takes this many times what all but one in a hundred take.
const HEDGE_TIMES: u32 = 3;
/// No read is late before: waking a sleeper takes a good part of it.
const HEDGE_LEAST: Duration = Duration::from_micros(300);
/// What is taken for the 99th percentile before anything was measured.
const FIRST_P99: Duration = Duration::from_millis(1);
/// So many answers bring the estimate near to where it belongs, in longer steps.
const YOUNG: u32 = 1000;
/// Of how many parts a step down is one, of a young estimate and of any other.
const STEPS: [u32; 2] = [100, 990];

/// How long to look.
#[derive(Debug)]
pub(super) struct Spin {
    most: Duration,
    now: Duration,
}

impl Spin {
    pub(super) fn new(most: Duration) -> Self {
        Self { most, now: most }
    }

    pub(super) fn budget(&self) -> Duration {
        self.now
    }

    /// The answer came while looking, or it did not.
    pub(super) fn learn(&mut self, found: bool) {
        self.now = if found {
            self.now.saturating_mul(2).min(self.most)
        } else {
            (self.now / 2).max(self.most / SPIN_LEAST_PART)
        };
    }
}

/// The time that all but one answer in a hundred of one store stay within, as a running estimate: each
/// answer above moves it up by a tenth, and each below down by a 99th of that.
#[derive(Debug)]
pub(crate) struct Late {
    hedge: Hedge,
    most: Duration,
    p99: Duration,
    answers: u32,
}

impl Late {
    pub(crate) fn new(hedge: Hedge, request_timeout: Duration) -> Self {
        Self {
            hedge,
            most: request_timeout / 2,
            p99: FIRST_P99,
            answers: 0,
        }
    }

    /// When a second store is to be asked; never, if none is.
    pub(crate) fn after(&self) -> Option<Duration> {
        match self.hedge {
            Hedge::Off => None,
            Hedge::After(time) => Some(time),
            Hedge::Auto => Some((self.p99 * HEDGE_TIMES).clamp(HEDGE_LEAST, self.most)),
        }
    }

    pub(crate) fn learn(&mut self, took: Duration) {
        if took > self.p99 {
            self.p99 = (self.p99 + self.p99 / 10).min(self.most);
        } else {
            let [young, old] = STEPS;
            let parts = if self.answers < YOUNG { young } else { old };
            self.p99 = (self.p99 - self.p99 / parts).max(Duration::from_micros(1));
        }
        self.answers = self.answers.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looking_in_vain_shrinks_and_finding_grows_again() {
        let mut spin = Spin::new(Duration::from_micros(64));
        (0..20).for_each(|_| spin.learn(false));
        assert_eq!(spin.budget(), Duration::from_micros(4));
        (0..20).for_each(|_| spin.learn(true));
        assert_eq!(spin.budget(), Duration::from_micros(64));
        let mut off = Spin::new(Duration::ZERO);
        off.learn(true);
        assert!(off.budget().is_zero());
    }

    #[test]
    fn a_few_hundred_answers_tell_when_one_is_late() {
        let mut late = Late::new(Hedge::Auto, Duration::from_secs(1));
        assert_eq!(late.after(), Some(FIRST_P99 * HEDGE_TIMES));
        (0..300).for_each(|_| late.learn(Duration::from_micros(50)));
        assert_eq!(late.after(), Some(HEDGE_LEAST));
    }

    #[test]
    fn late_is_beyond_what_nearly_all_answers_take() {
        let mut late = Late::new(Hedge::Auto, Duration::from_secs(1));
        for n in 0..20_000_u32 {
            let slow = n % 200 == 0;
            late.learn(Duration::from_micros(if slow { 9000 } else { 150 }));
        }
        let after = late.after().unwrap();
        assert!(
            after >= HEDGE_LEAST && after < Duration::from_micros(1500),
            "{after:?}"
        );
        assert_eq!(Late::new(Hedge::Off, Duration::from_secs(1)).after(), None);
        let fixed = Late::new(
            Hedge::After(Duration::from_millis(7)),
            Duration::from_secs(1),
        );
        assert_eq!(fixed.after(), Some(Duration::from_millis(7)));
    }
}
