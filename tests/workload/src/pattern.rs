// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a page must hold: 512 words that follow from a seed, the page's number and its version.
//!
//! No two pages, versions or seeds share their words, so a page that comes back in another's
//! place, or an older version of the right one, is seen. One page in sixteen repeats one byte
//! throughout, because such pages take a path of their own through the host; of those, one in 255
//! happens to look like another.

use std::num::NonZeroU8;

/// 64-bit words in a page.
pub(crate) const WORDS: usize = 512;
/// A page as words.
pub(crate) type Page = [u64; WORDS];

/// Pages whose number is a multiple of this are filled with a single word.
const SAME_FILLED_EVERY: u64 = 16;

/// Mixes the bits of `value`; a bijection, so distinct inputs stay distinct.
const fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// A generator of words: a counter whose values are mixed.
#[derive(Clone, Copy)]
pub(crate) struct Words(u64);

impl Words {
    /// The words of one page; `seed`, `page` and `version` all matter.
    pub(crate) const fn of_page(seed: u64, page: u64, version: u32) -> Self {
        Self(mix(
            mix(seed).wrapping_add(page) ^ ((version as u64) << 40).rotate_left(17)
        ))
    }

    /// The words that follow from `seed` alone.
    pub(crate) const fn of_seed(seed: u64) -> Self {
        Self(mix(seed))
    }

    /// The next word.
    pub(crate) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `bound`, which must not be 0. The bias is of no matter for picking pages.
    pub(crate) const fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// The word throughout a page that repeats one byte, which is never 0: the guest's kernel keeps
/// pages of zeroes to itself.
fn repeated(page: u64, mut words: Words) -> Option<u64> {
    page.is_multiple_of(SAME_FILLED_EVERY).then(|| {
        let byte = NonZeroU8::new(words.next().to_le_bytes()[0]).unwrap_or(NonZeroU8::MAX);
        u64::from_le_bytes([byte.get(); 8])
    })
}

/// Writes what page number `page` must hold in its version `version`.
pub(crate) fn fill(into: &mut Page, seed: u64, page: u64, version: u32) {
    let mut words = Words::of_page(seed, page, version);
    if let Some(word) = repeated(page, words) {
        into.fill(word);
    } else {
        for word in into {
            *word = words.next();
        }
    }
}

/// The first word that is not what it must be: its place, what it must be and what it is.
pub(crate) fn first_difference(
    found: &Page,
    seed: u64,
    page: u64,
    version: u32,
) -> Option<(usize, u64, u64)> {
    let mut words = Words::of_page(seed, page, version);
    let same = repeated(page, words);
    for (place, &word) in found.iter().enumerate() {
        let expected = same.unwrap_or_else(|| words.next());
        if word != expected {
            return Some((place, expected, word));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filled_page_is_recognised_and_no_other_is() {
        for page in [1, 15, 17, (1 << 20) + 1] {
            let mut bytes = [0; WORDS];
            fill(&mut bytes, 3, page, 2);
            assert_eq!(first_difference(&bytes, 3, page, 2), None);
            assert!(first_difference(&bytes, 3, page, 1).is_some());
            assert!(first_difference(&bytes, 3, page + 16, 2).is_some());
            assert!(first_difference(&bytes, 4, page, 2).is_some());
        }
    }

    #[test]
    fn one_page_in_sixteen_repeats_a_byte_that_is_not_zero() {
        for page in (0..16_000).step_by(16) {
            let mut words = [0; WORDS];
            fill(&mut words, 3, page, 2);
            let bytes = words[0].to_le_bytes();
            assert!(bytes[0] != 0 && bytes.iter().all(|&byte| byte == bytes[0]));
            assert!(words.iter().all(|&word| word == words[0]));
            assert_eq!(first_difference(&words, 3, page, 2), None);
        }
    }

    #[test]
    fn one_flipped_bit_in_the_last_word_is_found() {
        for page in [1, 16] {
            let mut bytes = [0; WORDS];
            fill(&mut bytes, 3, page, 0);
            bytes[WORDS - 1] ^= 1;
            let (place, expected, found) =
                first_difference(&bytes, 3, page, 0).expect("the bit was flipped");
            assert_eq!((place, expected ^ found), (WORDS - 1, 1));
        }
    }
}
