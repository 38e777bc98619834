// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Numbers that a seed decides (SplitMix64), so that a run can be had again.

use std::time::Duration;

/// A small generator: for choosing among stores, not for secrets.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The same seed gives the same numbers everywhere.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let number = self.0;
        let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        number ^ (number >> 31)
    }

    /// A number below `limit`; 0 if that is 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        // The upper half of a product is even enough where the limit is small.
        let wide = u128::from(self.next()) * u128::from(limit);
        u64::try_from(wide >> 64).unwrap_or(0)
    }

    /// One of the bits of `mask`, as its number.
    pub(crate) fn bit_of(&mut self, mask: u64) -> Option<u8> {
        let ones = u64::from(mask.count_ones());
        let mut rest = mask;
        for _ in 0..self.below(ones) {
            rest &= rest - 1;
        }
        (rest != 0).then(|| u8::try_from(rest.trailing_zeros()).unwrap_or(0))
    }

    /// A time between three quarters of `time` and five quarters of it.
    pub(crate) fn around(&mut self, time: Duration) -> Duration {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let quarter = nanos / 4;
        Duration::from_nanos((nanos - quarter).saturating_add(self.below(quarter * 2 + 1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bit_of_a_mask_is_chosen_and_no_other() {
        let mut random = Random::new(7);
        let mask = 1 | 1 << 5 | 1 << 63;
        let mut seen = 0;
        for _ in 0..200 {
            seen |= 1 << random.bit_of(mask).unwrap();
        }
        assert_eq!(seen, mask);
        assert_eq!(random.bit_of(0), None);
    }

    #[test]
    fn a_time_stays_near_its_middle() {
        let mut random = Random::new(1);
        let middle = Duration::from_millis(100);
        for _ in 0..1000 {
            let time = random.around(middle);
            assert!(time >= Duration::from_millis(75) && time <= Duration::from_millis(125));
        }
    }
}
