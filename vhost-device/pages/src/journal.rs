// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Exclusive gets under way, as the map keeps them.
//!
//! A page that is taken is in nobody's hands until the used ring says that it was delivered: were
//! it gone at once, a request that is run again after a kill would miss it. So a taken page's index
//! word says "taken", which a get reads as a miss, a put or a flush overwrites, and nothing but the
//! journal's end turns into a page again. A journal lists the words that one request has taken:
//!
//! ```text
//! take:    entry n written, count = n + 1, word: page → taken
//! commit:  words: taken → empty, count = 0, frames freed
//! abort:   from the last: word: taken → page, count = n
//! ```
//! A kill between two steps leaves a count that covers every taken word. A word that is not taken
//! any more, because something newer came or because it never was, is left alone by either end.

use std::sync::atomic::Ordering;

use crate::handle::{ObjectId, PageIndex};
use crate::index::Entry;
use crate::kept::{Kept32, Kept64};

/// The most pages that a worker can take in one request.
pub const TAKE_PAGES_MAX: u32 = tmem_abi::BATCH_PAGES_MAX;

/// A page that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TakenPage {
    /// The pool's slot.
    pub(crate) pool: u32,
    /// Which of the pools that the slot has had.
    pub(crate) serial: u32,
    pub(crate) object: ObjectId,
    pub(crate) index: PageIndex,
    /// What its entry says while it is taken.
    pub(crate) entry: Entry,
}

#[derive(Debug)]
#[repr(C)]
struct Line {
    word: Kept64,
    pool: Kept32,
    serial: Kept32,
    object: [Kept64; 3],
    index: Kept32,
    _spare: Kept32,
}

/// One request's journal.
#[derive(Debug)]
#[repr(C, align(64))]
pub(crate) struct Journal {
    /// Entries that count. Nonzero: armed.
    count: Kept32,
    ring: Kept32,
    position: Kept32,
    _spare: Kept32,
    lines: [Line; TAKE_PAGES_MAX as usize],
}

const _: () = assert!(size_of::<Journal>() == 12352);

impl Journal {
    /// Entries that count.
    pub(crate) fn count(&self) -> u32 {
        self.count.load(Ordering::Acquire).min(TAKE_PAGES_MAX)
    }

    /// The request's ring and place in it.
    pub(crate) fn request(&self) -> (u32, u16) {
        let position = self.position.load(Ordering::Relaxed);
        let [low, high, ..] = position.to_le_bytes();
        (
            self.ring.load(Ordering::Relaxed),
            u16::from_le_bytes([low, high]),
        )
    }

    /// Names the request. The journal has no entries.
    pub(crate) fn begin(&self, ring: u32, position: u16) {
        self.ring.store(ring, Ordering::Relaxed);
        self.position.store(u32::from(position), Ordering::Relaxed);
    }

    /// Adds entry `at`, which is the number of those that are there.
    pub(crate) fn push(&self, at: u32, page: &TakenPage) {
        self.write(at, page);
        self.count.store(at + 1, Ordering::Release);
    }

    /// Writes entry `at`.
    pub(crate) fn write(&self, at: u32, page: &TakenPage) {
        let line = &self.lines[at as usize];
        line.word.store(page.entry.to_word(), Ordering::Relaxed);
        line.pool.store(page.pool, Ordering::Relaxed);
        line.serial.store(page.serial, Ordering::Relaxed);
        for (to, from) in line.object.iter().zip(page.object.0) {
            to.store(from, Ordering::Relaxed);
        }
        line.index.store(page.index.0, Ordering::Relaxed);
    }

    /// Entry `at`; nothing if it is damaged.
    pub(crate) fn get(&self, at: u32) -> Option<TakenPage> {
        let line = self.lines.get(at as usize)?;
        Some(TakenPage {
            pool: line.pool.load(Ordering::Relaxed),
            serial: line.serial.load(Ordering::Relaxed),
            object: ObjectId(
                line.object
                    .each_ref()
                    .map(|word| word.load(Ordering::Relaxed)),
            ),
            index: PageIndex(line.index.load(Ordering::Relaxed)),
            entry: Entry::read_word(line.word.load(Ordering::Relaxed))?,
        })
    }

    /// Drops all entries from `count` on.
    pub(crate) fn truncate(&self, count: u32) {
        self.count.store(count, Ordering::Release);
    }
}
