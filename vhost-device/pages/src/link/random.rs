// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Seeded numbers without state: the n-th number of a stream is a function of seed, stream and n.
//!
//! So a jitter or a fault depends on how many transfers went before, never on what else was drawn.
//! The function is SplitMix64's, whose n-th output is a hash of a counter anyway.

/// 2^64 divided by the golden ratio, odd.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// A stream of numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stream(u64);

impl Stream {
    /// The stream `number` of `seed`. Streams of one seed have nothing to do with each other.
    pub(crate) const fn new(seed: u64, number: u64) -> Self {
        Self(hash(seed ^ hash(number.wrapping_add(STEP))))
    }

    /// A stream of this stream.
    pub(crate) const fn branch(self, number: u64) -> Self {
        Self::new(self.0, number)
    }

    /// The number at `n`: all 64 bits are as good as random.
    pub(crate) const fn at(self, n: u64) -> u64 {
        hash(self.0.wrapping_add(n.wrapping_add(1).wrapping_mul(STEP)))
    }

    /// The number at `n`, brought below `limit`, which must not be 0.
    pub(crate) fn below(self, n: u64, limit: u64) -> u64 {
        scale(self.at(n), limit).0
    }
}

/// `random` of 2^64, of `limit`: the whole part, and the fraction in 2^64ths.
pub(crate) fn scale(random: u64, limit: u64) -> (u64, u64) {
    let product = u128::from(random) * u128::from(limit);
    let low = u64::try_from(product & u128::from(u64::MAX)).unwrap_or(u64::MAX);
    let high = u64::try_from(product >> 64).unwrap_or(u64::MAX);
    (high, low)
}

const fn hash(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_place_has_the_same_number_and_others_have_others() {
        let stream = Stream::new(7, 1);
        assert_eq!(stream.at(3), Stream::new(7, 1).at(3));
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..4 {
            for number in 0..4 {
                for n in 0..1000 {
                    seen.insert(Stream::new(seed, number).at(n));
                }
            }
        }
        assert_eq!(seen.len(), 16_000);
    }

    #[test]
    fn numbers_below_a_limit_are_spread_evenly() {
        let stream = Stream::new(1, 0);
        let mut counts = [0_u32; 10];
        for n in 0..100_000 {
            counts[usize::try_from(stream.below(n, 10)).unwrap()] += 1;
        }
        for count in counts {
            assert!((9_600..10_400).contains(&count), "{counts:?}");
        }
        assert_eq!(scale(u64::MAX, 10).0, 9);
        assert_eq!(scale(1 << 63, 3), (1, 1 << 63));
    }
}
