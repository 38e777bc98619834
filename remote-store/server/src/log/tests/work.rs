// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Seeds, random numbers, and the pages that tests write.

use tmem_remote_protocol::{PAGE_SIZE, PageBytes};

/// A small random number generator (SplitMix64): the same seed gives the same numbers everywhere.
#[derive(Clone, Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64, salt: u64) -> Self {
        let mut random = Self(seed ^ salt.wrapping_mul(0xd6e8_feb8_6659_fd93));
        random.next();
        random
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let number = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        number ^ (number >> 31)
    }

    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub(super) fn below_u32(&mut self, limit: u32) -> u32 {
        u32::try_from(self.below(u64::from(limit))).unwrap()
    }

    /// True once in `n` times.
    pub(super) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// The seed of this run: `TMEM_SEED`, or a new one. Printed with the command that runs it again.
pub(super) fn seed(test: &str) -> u64 {
    let seed = std::env::var("TMEM_SEED").map_or_else(
        |_| {
            use std::hash::{BuildHasher, RandomState};
            RandomState::new().hash_one(test)
        },
        |seed| seed.parse().expect("TMEM_SEED is a number"),
    );
    println!("replay: TMEM_SEED={seed} cargo test -p remote-store {test} -- --nocapture");
    seed
}

/// A page's contents, as one number. One in four is one byte repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Content(pub(super) u64);

impl Content {
    pub(super) fn bytes(self) -> PageBytes {
        if self.0.is_multiple_of(4) {
            return [self.0.to_le_bytes()[0]; PAGE_SIZE];
        }
        let mut bytes = [0; PAGE_SIZE];
        for (nth, word) in (0_u64..).zip(bytes.as_chunks_mut::<8>().0) {
            *word = (self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ nth).to_le_bytes();
        }
        bytes
    }
}
