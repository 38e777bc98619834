// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How far long work has come, how fast it goes, and when it will be done.

use std::time::Duration;

use super::config::PAGE_BYTES;

/// What is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Task {
    /// Copies that are missing.
    Repair,
    /// Pages that leave a store.
    Drain,
    /// Pages that move to emptier stores.
    Rebalance,
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Progress {
    /// What.
    pub task: Task,
    /// Pages done.
    pub done: u64,
    /// Pages in all, as far as is known.
    pub total: u64,
    /// How fast pages were copied lately.
    pub bytes_per_second: u64,
    /// At that pace; None while nothing moves.
    pub seconds_left: Option<u64>,
}

impl Progress {
    pub(crate) fn new(task: Task, done: u64, total: u64, bytes_per_second: u64) -> Self {
        let left = total.saturating_sub(done);
        let bytes = left.saturating_mul(PAGE_BYTES);
        Self {
            task,
            done: done.min(total),
            total,
            bytes_per_second,
            seconds_left: match (left, bytes_per_second) {
                (0, _) => Some(0),
                (_, 0) => None,
                (_, rate) => Some(bytes.div_ceil(rate)),
            },
        }
    }
}

/// Bytes per second over the last second or two.
#[derive(Clone, Debug)]
pub(crate) struct Meter {
    began: Duration,
    bytes: u64,
    rate: u64,
}

const WINDOW: Duration = Duration::from_secs(1);

impl Meter {
    pub(crate) fn new(now: Duration) -> Self {
        Self {
            began: now,
            bytes: 0,
            rate: 0,
        }
    }

    pub(crate) fn add(&mut self, bytes: u64, now: Duration) {
        self.roll(now);
        self.bytes += bytes;
    }

    fn roll(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.began);
        if passed >= WINDOW {
            self.rate = per_second(self.bytes, passed);
            self.bytes = 0;
            self.began = now;
        }
    }

    /// The pace of the last whole window, or of this one while it is the first.
    pub(crate) fn rate(&self, now: Duration) -> u64 {
        let passed = now.saturating_sub(self.began);
        if passed >= WINDOW || self.rate == 0 {
            return per_second(self.bytes, passed.max(WINDOW / 10));
        }
        self.rate
    }
}

fn per_second(bytes: u64, passed: Duration) -> u64 {
    let nanos = passed.as_nanos().max(1);
    u64::try_from(u128::from(bytes) * 1_000_000_000 / nanos).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_follows_from_the_pace() {
        let progress = Progress::new(Task::Repair, 50, 150, 4096 * 10);
        assert_eq!(progress.seconds_left, Some(10));
        assert_eq!(Progress::new(Task::Repair, 0, 5, 0).seconds_left, None);
        assert_eq!(Progress::new(Task::Drain, 9, 5, 0).done, 5);
    }

    #[test]
    fn the_pace_is_that_of_the_last_second() {
        let mut meter = Meter::new(Duration::ZERO);
        for tenth in 1..=20 {
            meter.add(100, Duration::from_millis(tenth * 100));
        }
        let rate = meter.rate(Duration::from_secs(2));
        assert!((900..=1100).contains(&rate), "{rate}");
        assert_eq!(meter.rate(Duration::from_secs(60)), 1);
    }
}
