// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Seeded randomness: one number decides a whole run, and is printed with the command that repeats it.

/// A small generator (SplitMix64): the same seed gives the same numbers on every machine.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Numbers that depend on the seed of the run and on `salt`, so that what draws them for one
    /// purpose does not shift those of another.
    #[must_use]
    pub fn new(seed: u64, salt: u64) -> Self {
        let mut random = Self(seed ^ salt.wrapping_mul(0xd6e8_feb8_6659_fd93));
        random.draw();
        random
    }

    /// The next 64 bits.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `limit`; 0 if there is none.
    pub fn below(&mut self, limit: u32) -> u32 {
        let drawn = self.draw() % u64::from(limit.max(1));
        u32::try_from(drawn).unwrap_or(0)
    }

    /// A number of `from..=to`.
    pub fn between(&mut self, from: u32, to: u32) -> u32 {
        from + self.below(to.saturating_sub(from) + 1)
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: u32) -> bool {
        self.below(n) == 0
    }

    /// One of `from`, which must not be empty.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        let len = u32::try_from(from.len()).unwrap_or(u32::MAX);
        &from[self.below(len) as usize]
    }
}

/// Spreads a number's bits over all 64.
#[must_use]
pub fn mix(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// The seed of this run: `TMEM_SEED`, or a new one. Printed with the command that runs it again.
#[must_use]
pub fn seed(test: &str) -> u64 {
    let given = std::env::var("TMEM_SEED").ok();
    let seed = given
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(fresh);
    println!("replay: TMEM_SEED={seed} cargo test -p tmem-store-tests {test} -- --nocapture");
    seed
}

/// A seed that nobody has used.
#[must_use]
pub fn fresh() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one("seed") % 1_000_000_000
}

/// A number of the environment, such as how many rounds to run.
#[must_use]
pub fn parameter(name: &str, otherwise: u32) -> u32 {
    let given = std::env::var(name).ok();
    given
        .and_then(|text| text.parse().ok())
        .unwrap_or(otherwise)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_seed_and_salt_give_the_same_numbers() {
        let draw = |seed, salt| {
            let mut random = Random::new(seed, salt);
            [random.draw(), random.draw()]
        };
        assert_eq!(draw(7, 1), draw(7, 1));
        assert_ne!(draw(7, 1), draw(7, 2));
        assert_ne!(draw(7, 1), draw(8, 1));
    }

    #[test]
    fn numbers_stay_within_their_limits() {
        let mut random = Random::new(1, 1);
        for _ in 0..1000 {
            assert!(random.below(3) < 3);
            assert!((4..=6).contains(&random.between(4, 6)));
        }
        assert_eq!(random.below(0), 0);
    }
}
