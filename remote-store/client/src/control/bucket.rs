// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A token bucket without a clock: how many bytes repair may take, and when it may take more.
//!
//! In any stretch of time `t` no more than `burst + rate * t` bytes are granted. Tokens are counted
//! in billionths of a byte, so that nothing is lost by rounding however often it is asked.

use std::time::Duration;

const PARTS: u128 = 1_000_000_000;

/// The bucket.
#[derive(Clone, Debug)]
pub struct TokenBucket {
    rate: u64,
    burst: u64,
    level: u128,
    filled_at: Duration,
}

impl TokenBucket {
    /// A full bucket that gains `rate` bytes each second, up to `burst`.
    pub fn new(rate: u64, burst: u64, now: Duration) -> Self {
        Self {
            rate,
            burst,
            level: u128::from(burst) * PARTS,
            filled_at: now,
        }
    }

    /// Bytes per second.
    pub fn rate(&self) -> u64 {
        self.rate
    }

    /// From now on at another rate. What is in the bucket beyond the new burst is gone.
    pub fn set_rate(&mut self, rate: u64, burst: u64, now: Duration) {
        self.fill(now);
        self.rate = rate;
        self.burst = burst;
        self.level = self.level.min(u128::from(burst) * PARTS);
    }

    fn fill(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.filled_at).as_nanos();
        self.filled_at = self.filled_at.max(now);
        let gained = passed.saturating_mul(u128::from(self.rate));
        let full = u128::from(self.burst) * PARTS;
        self.level = self.level.saturating_add(gained).min(full);
    }

    /// Takes `bytes`, or nothing.
    pub fn take(&mut self, bytes: u64, now: Duration) -> bool {
        let granted = self.has(bytes, now);
        if granted {
            self.level -= u128::from(bytes) * PARTS;
        }
        granted
    }

    /// `bytes` could be taken now.
    pub fn has(&mut self, bytes: u64, now: Duration) -> bool {
        self.fill(now);
        self.rate > 0 && self.level >= u128::from(bytes) * PARTS
    }

    /// When `bytes` can be taken: now or later, or never.
    pub fn ready_at(&self, bytes: u64, now: Duration) -> Option<Duration> {
        if self.rate == 0 || bytes > self.burst {
            return None;
        }
        let missing = (u128::from(bytes) * PARTS).saturating_sub(self.level);
        let nanos = missing.div_ceil(u128::from(self.rate));
        let at = self.filled_at + Duration::from_nanos(u64::try_from(nanos).ok()?);
        Some(at.max(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_the_burst_the_rate_holds() {
        let mut bucket = TokenBucket::new(1000, 100, Duration::ZERO);
        assert!(bucket.take(100, Duration::ZERO));
        assert!(!bucket.take(1, Duration::ZERO));
        let ready = bucket.ready_at(10, Duration::ZERO).unwrap();
        assert_eq!(ready, Duration::from_millis(10));
        assert!(!bucket.take(10, ready - Duration::from_nanos(1)));
        assert!(bucket.take(10, ready));
    }

    #[test]
    fn a_rate_of_nothing_grants_nothing() {
        let mut bucket = TokenBucket::new(0, 100, Duration::ZERO);
        assert!(!bucket.take(1, Duration::from_secs(9)));
        assert_eq!(bucket.ready_at(1, Duration::ZERO), None);
    }

    #[test]
    fn a_clock_that_goes_back_gains_nothing() {
        let mut bucket = TokenBucket::new(1000, 10, Duration::from_secs(5));
        assert!(bucket.take(10, Duration::from_secs(5)));
        assert!(!bucket.take(1, Duration::from_secs(4)));
        assert!(!bucket.take(1, Duration::from_secs(5)));
    }

    #[test]
    fn no_stretch_of_time_gets_more_than_its_share() {
        let mut random = crate::control::Random::new(3);
        let mut bucket = TokenBucket::new(5000, 700, Duration::ZERO);
        let mut now = Duration::ZERO;
        let mut granted = Vec::new();
        for _ in 0..2000 {
            now += Duration::from_micros(random.below(30_000));
            let bytes = random.below(200) + 1;
            if bucket.take(bytes, now) {
                granted.push((now, bytes));
            }
        }
        assert!(granted.len() > 100);
        for (first, &(from, _)) in granted.iter().enumerate() {
            let mut sum = 0;
            for &(at, bytes) in &granted[first..] {
                sum += bytes;
                let micros = u64::try_from((at - from).as_micros()).unwrap();
                assert!(sum <= 700 + micros * 5000 / 1_000_000 + 1);
            }
        }
    }
}
