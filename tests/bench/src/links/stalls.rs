// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The floor of lateness: what interrupts, the host and its other guests take from a thread that does
//! nothing but read the clock.
//!
//! A due time that falls at random is met late by what is left of the gap it falls in. So of the
//! time, and of random due times, the part `sum(max(0, gap - x)) / time` is late by more than `x`.

use std::time::Duration;

use tmem_pages::link::{Clock, SystemClock};

use super::run::{SETTLE, preemptions};

/// Gaps shorter than this are the reading of the clock itself, in nanoseconds.
const GAP: u64 = 200;

/// Gaps between readings of the clock.
#[derive(Clone, Debug, Default)]
pub(super) struct Stalls {
    gaps: Vec<u64>,
    time: u64,
}

impl Stalls {
    /// Reads the clock in passes like those of the cells, and keeps those in which the thread kept
    /// its processor.
    pub(super) fn measure(passes: usize, time: Duration) -> Self {
        let mut all = Self::default();
        let (mut kept, mut tried) = (0, 0);
        while tried < 2 * passes && kept < passes {
            std::thread::sleep(SETTLE);
            let before = preemptions();
            let one = Self::pass(time);
            tried += 1;
            if preemptions() == before {
                kept += 1;
                all.gaps.extend(one.gaps);
                all.time += one.time;
            }
        }
        all
    }

    fn pass(time: Duration) -> Self {
        let mut gaps = Vec::with_capacity(1024);
        let length = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let begin = SystemClock.now();
        let mut last = begin;
        while last - begin < length {
            let now = SystemClock.now();
            if now - last > GAP {
                gaps.push(now - last);
            }
            last = now;
        }
        Self {
            gaps,
            time: last - begin,
        }
    }

    /// What the given part of random due times is not late by, in nanoseconds.
    #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
    pub(super) fn quantile(&self, part: f64) -> f64 {
        let mut gaps = self.gaps.clone();
        gaps.sort_unstable();
        let mut allowed = (1.0 - part) * self.time as f64;
        // From the longest gap down: the sum of what all longer ones have beyond this one.
        let mut beyond = 0.0;
        let mut longer = 0.0;
        let mut level = gaps.last().copied().unwrap_or(0) as f64;
        for gap in gaps.into_iter().rev() {
            let gap = gap as f64;
            let more = (level - gap) * longer;
            if beyond + more > allowed {
                break;
            }
            beyond += more;
            level = gap;
            longer += 1.0;
        }
        allowed -= beyond;
        (level - allowed / f64::max(longer, 1.0)).max(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lateness_is_what_is_left_of_the_gaps() {
        let stalls = Stalls {
            gaps: vec![30_000, 10_000],
            time: 1_000_000,
        };
        // 1 % of the time, 10 us: the longest gap has that beyond 20 us.
        assert!((stalls.quantile(0.99) - 20_000.0).abs() < 1e-3);
        // 3 %: 25 us of the longest and 5 us of the other are beyond 5 us.
        assert!((stalls.quantile(0.97) - 5_000.0).abs() < 1e-3);
        assert!(stalls.quantile(0.5) < 1e-3);
        assert!(Stalls::default().quantile(0.99) < 1e-3);
    }
}
