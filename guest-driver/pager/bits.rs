// SPDX-License-Identifier: GPL-2.0
//! A set of page indices, one bit each, worked on a run at a time.

use kernel::{alloc::flags::GFP_KERNEL_ACCOUNT, prelude::*};

/// Bits of a word.
const WORD: u32 = u64::BITS;

/// A set of the indices below a bound. Indices beyond it are never members.
pub(super) struct Bits {
    words: KVVec<u64>,
}

/// The words that the run of `count` bits from `first` touches, each with a mask of its bits.
fn pieces(first: u32, count: u32) -> impl Iterator<Item = (usize, u64)> {
    let mut at = u64::from(first);
    let end = at.saturating_add(u64::from(count));
    core::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let shift = (at % u64::from(WORD)) as u32;
        let room = WORD.saturating_sub(shift);
        let take = end.saturating_sub(at).min(u64::from(room)) as u32;
        let ones = u64::MAX.checked_shr(WORD.saturating_sub(take)).unwrap_or(0);
        let piece = (
            (at / u64::from(WORD)) as usize,
            ones.checked_shl(shift).unwrap_or(0),
        );
        at = at.saturating_add(u64::from(take));
        Some(piece)
    })
}

impl Bits {
    /// No index below `bound`. The memory is the memory cgroup's of the task that runs here.
    pub(super) fn new(bound: u32) -> Result<Self> {
        let words = bound.div_ceil(WORD) as usize;
        Ok(Self {
            words: KVVec::from_elem(0, words, GFP_KERNEL_ACCOUNT)?,
        })
    }

    /// How many indices of the run are members.
    pub(super) fn count(&self, first: u32, count: u32) -> u32 {
        pieces(first, count)
            .filter_map(|(word, mask)| Some((self.words.get(word)? & mask).count_ones()))
            .fold(0, u32::saturating_add)
    }

    /// Whether any index of the run is a member.
    pub(super) fn any(&self, first: u32, count: u32) -> bool {
        pieces(first, count).any(|(word, mask)| {
            self.words
                .get(word)
                .is_some_and(|members| members & mask != 0)
        })
    }

    /// Makes all of the run members.
    pub(super) fn insert(&mut self, first: u32, count: u32) {
        for (word, mask) in pieces(first, count) {
            if let Some(members) = self.words.get_mut(word) {
                *members |= mask;
            }
        }
    }

    /// Makes none of the run a member.
    pub(super) fn remove(&mut self, first: u32, count: u32) {
        for (word, mask) in pieces(first, count) {
            if let Some(members) = self.words.get_mut(word) {
                *members &= !mask;
            }
        }
    }
}
