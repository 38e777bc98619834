// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A filter on mutexes, and the random numbers of the tests.

use crate::decide::{Cell, Cells, Stripe, WORD_BLOCKS};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Words of a filter, some of which share a stripe.
pub(crate) struct Filter {
    words: Vec<AtomicU64>,
    stripes: Vec<Mutex<Stripe>>,
}

impl Filter {
    pub(crate) fn new(blocks: u32, stripes: usize) -> Self {
        Self {
            words: (0..blocks.div_ceil(WORD_BLOCKS))
                .map(|_| AtomicU64::new(0))
                .collect(),
            stripes: (0..stripes).map(|_| Mutex::default()).collect(),
        }
    }

    /// Whether the block's bit is set.
    pub(crate) fn is_present(&self, block: u32) -> bool {
        let word = self.with(block / WORD_BLOCKS, |cell| cell.present());
        word.unwrap_or(0) >> (block % WORD_BLOCKS) & 1 == 1
    }

    /// As when the host's pool is replaced; nothing is under way at the host.
    pub(crate) fn renew(&self, trust: bool) {
        self.each(|cell| cell.renew(trust));
    }

    /// Forgets what the host holds.
    pub(crate) fn clear(&self) {
        self.each(|cell| cell.clear());
    }

    fn each(&self, mut change: impl FnMut(&mut Cell<'_>)) {
        for word in 0u32.. {
            if self.with(word, &mut change).is_none() {
                return;
            }
        }
    }
}

impl Cells for Filter {
    fn with<R>(&self, word: u32, each: impl FnOnce(&mut Cell<'_>) -> R) -> Option<R> {
        let at = word as usize;
        let bits = self.words.get(at)?;
        let stripe = &self.stripes[at % self.stripes.len()];
        let mut stripe = stripe.lock().unwrap_or_else(PoisonError::into_inner);
        let mut present = bits.load(Ordering::Relaxed);
        let result = each(&mut Cell {
            stripe: &mut stripe,
            present: &mut present,
        });
        bits.store(present, Ordering::Relaxed);
        Some(result)
    }
}

/// SplitMix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `bound`, which is at least 1.
    pub(crate) fn below(&mut self, bound: u32) -> u32 {
        u32::try_from(self.next() % u64::from(bound)).unwrap_or(0)
    }

    pub(crate) fn index(&mut self, length: usize) -> usize {
        self.below(u32::try_from(length).unwrap_or(u32::MAX)) as usize
    }

    /// True once in `n` times.
    pub(crate) fn one_in(&mut self, n: u32) -> bool {
        self.below(n) == 0
    }
}
