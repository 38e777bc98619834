// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! When to start the next worker: a pure state machine; the time is an argument.

use std::time::{Duration, Instant};

/// Workers that die this soon after they were ready are started with growing pauses.
const QUICK: Duration = Duration::from_millis(100);
/// Quick deaths in a row that are forgiven before the pauses begin: one in this many of the limit.
const FORGIVEN: u32 = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What to do about a dead worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Start the next one after this time.
    Start(Duration),
    /// Start no more: so many died in a row.
    GiveUp(u32),
}

/// Counts deaths.
#[derive(Clone, Debug)]
pub(super) struct Restarts {
    limit: u32,
    window: Duration,
    /// Deaths in a row, each within the window after its worker was ready.
    row: u32,
    quick: u32,
}

impl Restarts {
    /// Gives up after `limit` deaths in a row, each sooner than `window` after its worker was ready.
    pub(super) const fn new(limit: u32, window: Duration) -> Self {
        Self {
            limit,
            window,
            row: 0,
            quick: 0,
        }
    }

    /// A worker that was ready at `ready`, or never, died at `now`.
    pub(super) fn died(&mut self, ready: Option<Instant>, now: Instant) -> Verdict {
        let lived = ready.map(|ready| now.saturating_duration_since(ready));
        let within = |time: Duration| lived.is_none_or(|lived| lived < time);
        self.row = if within(self.window) { self.row + 1 } else { 1 };
        self.quick = if within(QUICK) { self.quick + 1 } else { 0 };
        if self.row >= self.limit {
            return Verdict::GiveUp(self.row);
        }
        let Some(beyond) = self.quick.checked_sub(self.limit / FORGIVEN + 1) else {
            return Verdict::Start(Duration::ZERO);
        };
        let pause = FIRST_PAUSE.saturating_mul(1 << beyond.min(16));
        Verdict::Start(pause.min(LONGEST_PAUSE))
    }

    /// An admin wants a new beginning.
    pub(super) const fn forgive(&mut self) {
        self.row = 0;
        self.quick = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(10);

    #[test]
    fn pauses_grow_and_then_it_is_enough() {
        let mut restarts = Restarts::new(10, WINDOW);
        let now = Instant::now();
        let verdicts: Vec<_> = (0..10).map(|_| restarts.died(None, now)).collect();
        let pauses = [0, 0, 20, 40, 80, 160, 320, 640, 1280];
        let mut wanted: Vec<_> = pauses
            .map(|ms| Verdict::Start(Duration::from_millis(ms)))
            .into();
        wanted.push(Verdict::GiveUp(10));
        assert_eq!(verdicts, wanted);
        restarts.forgive();
        assert_eq!(restarts.died(None, now), Verdict::Start(Duration::ZERO));
    }

    #[test]
    fn one_that_worked_for_a_while_is_replaced_at_once() {
        let mut restarts = Restarts::new(3, WINDOW);
        let ready = Instant::now();
        for _ in 0..100 {
            let verdict = restarts.died(Some(ready), ready + WINDOW);
            assert_eq!(verdict, Verdict::Start(Duration::ZERO));
        }
        let soon = ready + Duration::from_secs(1);
        assert_eq!(
            restarts.died(Some(ready), soon),
            Verdict::Start(Duration::ZERO)
        );
        assert_eq!(restarts.died(Some(ready), soon), Verdict::GiveUp(3));
    }

    #[test]
    fn pauses_are_bounded() {
        let mut restarts = Restarts::new(1000, WINDOW);
        let now = Instant::now();
        let verdicts = (0..999).map(|_| restarts.died(None, now));
        assert_eq!(verdicts.last(), Some(Verdict::Start(LONGEST_PAUSE)));
    }

    #[test]
    fn who_asks_for_no_limit_gets_no_pauses() {
        let mut restarts = Restarts::new(u32::MAX, WINDOW);
        let now = Instant::now();
        let mut verdicts = (0..1000).map(|_| restarts.died(None, now));
        assert!(verdicts.all(|verdict| verdict == Verdict::Start(Duration::ZERO)));
    }
}
