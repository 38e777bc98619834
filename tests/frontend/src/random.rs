// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Seeded randomness and page contents.

use tmem_abi::PAGE_SIZE;

/// A small generator (SplitMix64): the same seed gives the same numbers on every machine.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Starts at `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which must not be 0.
    pub fn below(&mut self, bound: u32) -> u32 {
        u32::try_from(self.next_u64() % u64::from(bound)).expect("below a u32")
    }

    /// True in `one_in` of cases.
    pub fn one_in(&mut self, one_in: u32) -> bool {
        self.below(one_in) == 0
    }
}

/// The run's seed: `TMEM_SEED`, or a fixed one. Prints it with the way to replay.
#[must_use]
pub fn seed(test: &str) -> u64 {
    let seed = std::env::var("TMEM_SEED")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(0x7e3e);
    println!(
        "{test}: seed {seed}; replay with TMEM_SEED={seed} cargo test -p tmem-frontend {test}"
    );
    seed
}

/// A page whose every byte depends on `tag`; different tags differ in every 8 bytes.
#[must_use]
pub fn page_content(tag: u64) -> [u8; PAGE_SIZE] {
    let mut page = [0; PAGE_SIZE];
    let mut random = Random::new(tag);
    for chunk in page.chunks_exact_mut(8) {
        chunk.copy_from_slice(&random.next_u64().to_le_bytes());
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_different_tags_differ() {
        assert_ne!(page_content(1), page_content(2));
        assert_eq!(page_content(7), page_content(7));
    }
}
