// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Huge pages for the words of a dense index.
//!
//! The words of a large pool are read at random, one to a page, and with pages of 4 KiB nearly every
//! read misses the processor's translation buffer. The kernel can gather 2 MiB of a shared mapping
//! into one huge page. It is asked to where that takes no memory: once every leaf of such a window
//! has been reached, so that it has no hole. The mover asks, since it takes milliseconds.

use std::ops::Range;
use std::sync::atomic::{AtomicU16, Ordering};

/// Leaves in a window of 2 MiB.
const WINDOW_LEAVES: usize = 512;
/// The window needs no look any more: it is gathered.
const GATHERED: u16 = u16::MAX;

/// The windows that lie wholly in a pool's region, and how much of each is in memory.
#[derive(Debug)]
pub(super) struct Windows {
    /// Number of the first window, counted from the map's begin.
    first: usize,
    /// Leaves of each window that were reached.
    made: Box<[AtomicU16]>,
}

impl Windows {
    /// For the leaves `blocks`, which are numbered from the map's begin on, in 4 KiB.
    pub(super) fn new(blocks: Range<usize>) -> Self {
        let first = blocks.start.div_ceil(WINDOW_LEAVES);
        let end = blocks.end / WINDOW_LEAVES;
        Self {
            first,
            made: (first..end).map(|_| AtomicU16::new(0)).collect(),
        }
    }

    /// A leaf was reached for the first time.
    pub(super) fn note(&self, block: usize) {
        let window = (block / WINDOW_LEAVES).checked_sub(self.first);
        if let Some(made) = window.and_then(|window| self.made.get(window)) {
            made.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A window without a hole that is not gathered yet, by its number.
    pub(super) fn next_full(&self) -> Option<usize> {
        let is_full = |made: &AtomicU16| usize::from(made.load(Ordering::Relaxed)) == WINDOW_LEAVES;
        let mut windows = (self.first..).zip(&*self.made);
        windows
            .find(|(_, made)| is_full(made))
            .map(|(window, _)| window)
    }

    /// The window is gathered.
    pub(super) fn set_gathered(&self, window: usize) {
        if let Some(made) = self.made.get(window.wrapping_sub(self.first)) {
            made.store(GATHERED, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_full_with_its_last_leaf_and_then_gathered_once() {
        let windows = Windows::new(500..2100);
        // Windows 1, 2 and 3 lie inside; 0 and 4 in part.
        for block in (500..2100).filter(|block| *block != 1600) {
            windows.note(block);
        }
        assert_eq!(windows.next_full(), Some(1));
        windows.set_gathered(1);
        assert_eq!(windows.next_full(), Some(2));
        windows.set_gathered(2);
        assert_eq!(windows.next_full(), None);
        windows.note(1600);
        assert_eq!(windows.next_full(), Some(3));
        windows.set_gathered(3);
        assert_eq!(windows.next_full(), None);
    }

    #[test]
    fn a_region_smaller_than_a_window_has_none() {
        let windows = Windows::new(512..1023);
        (512..1023).for_each(|block| windows.note(block));
        assert_eq!(windows.next_full(), None);
    }
}
