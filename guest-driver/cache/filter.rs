// SPDX-License-Identifier: GPL-2.0
//! The filter's memory and locks: one bit a block, and a fixed set of stripes.

use super::decide::{Cell, Cells, Stripe, WORD_BLOCKS};
use crate::sync::IrqLock;
use kernel::{
    alloc::KVVec,
    prelude::*,
    static_lock_class,
    sync::atomic::{Atomic, Relaxed},
};

/// log2 of the number of stripes.
const STRIPES_SHIFT: u32 = 8;

pub(super) struct Filter {
    /// Each is read and written under its stripe's lock only.
    words: KVVec<Atomic<u64>>,
    stripes: KVec<IrqLock<Stripe>>,
}

impl Filter {
    /// A filter of `blocks` blocks of which none is present; 32 KiB for each GiB.
    pub(super) fn new(blocks: u32) -> Result<Self> {
        let count = blocks.div_ceil(WORD_BLOCKS) as usize;
        let mut words = KVVec::with_capacity(count, GFP_KERNEL)?;
        for _ in 0..count {
            words.push(Atomic::new(0), GFP_KERNEL)?;
        }
        let count = 1usize << STRIPES_SHIFT;
        let mut stripes = KVec::with_capacity(count, GFP_KERNEL)?;
        for _ in 0..count {
            let stripe = IrqLock::new(Stripe::default(), static_lock_class!());
            stripes.push(stripe, GFP_KERNEL)?;
        }
        Ok(Self { words, stripes })
    }

    /// How many blocks the host is known to hold.
    pub(super) fn present(&self) -> u64 {
        self.words.iter().fold(0, |sum: u64, word| {
            sum.wrapping_add(u64::from(word.load(Relaxed).count_ones()))
        })
    }

    /// Forgets what the host holds, at once.
    pub(super) fn clear(&self) {
        self.each(|cell| cell.clear());
    }

    /// The pool is a fresh one, in which nothing is under way; see [`Cell::renew`].
    pub(super) fn renew(&self, trust: bool) {
        self.each(|cell| cell.renew(trust));
    }

    fn each(&self, mut change: impl FnMut(&mut Cell<'_>)) {
        for word in 0..self.words.len() {
            self.with(word as u32, &mut change);
        }
    }
}

impl Cells for Filter {
    fn with<R>(&self, word: u32, each: impl FnOnce(&mut Cell<'_>) -> R) -> Option<R> {
        let bits = self.words.get(word as usize)?;
        // Neighbours get different stripes.
        let at = word.wrapping_mul(0x9e37_79b1) >> (u32::BITS - STRIPES_SHIFT);
        let mut stripe = self.stripes.get(at as usize)?.lock();
        let mut present = bits.load(Relaxed);
        let before = present;
        let result = each(&mut Cell {
            stripe: &mut stripe,
            present: &mut present,
        });
        if present != before {
            bits.store(present, Relaxed);
        }
        Some(result)
    }
}
