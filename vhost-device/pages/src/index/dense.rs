// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The index of a dense pool: a two-level table, like a page table.
//!
//! A leaf holds the words of 512 neighbouring pages and 8 locks of one byte, one for 64 words. A
//! lock bit in each word would be finer and no larger, but its waiters could only spin, and an
//! exclusive get copies 4 KiB under the lock. Gets that leave the page take no lock: they read the
//! word, pin the frame, and read the word again.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::{Change, Entry, Found, Slots};
use crate::frames::{FrameNo, Frames, OwnerNo};
use crate::handle::{ObjectId, PageIndex};
use crate::sys::OwnedFrame;

/// Words in a leaf.
pub(crate) const LEAF_WORDS: usize = 512;
/// Words that share a lock.
const STRIPE_WORDS: usize = 64;

/// The words of 512 pages.
#[derive(Debug)]
struct Leaf {
    words: [AtomicU64; LEAF_WORDS],
    stripes: [Mutex<()>; LEAF_WORDS / STRIPE_WORDS],
}

impl Leaf {
    fn new() -> Box<Self> {
        Box::new(Self {
            words: [const { AtomicU64::new(Entry::EMPTY_WORD) }; LEAF_WORDS],
            stripes: [const { Mutex::new(()) }; LEAF_WORDS / STRIPE_WORDS],
        })
    }
}

/// The index of a dense pool.
#[derive(Debug)]
pub(crate) struct Dense {
    pages: u32,
    owner: OwnerNo,
    leaves: Box<[OnceLock<Box<Leaf>>]>,
    leaves_made: AtomicUsize,
    /// Held to make a leaf and to close the index, so that no leaf appears behind a close.
    grow: Mutex<()>,
    closed: AtomicBool,
}

impl Dense {
    pub(crate) fn new(pages: u32, slots: Slots, frames: &Frames) -> Self {
        let leaves = (pages as usize).div_ceil(LEAF_WORDS);
        Self {
            pages,
            owner: frames.add_owner(slots.guest, slots.pool, ObjectId::ZERO),
            leaves: (0..leaves).map(|_| OnceLock::new()).collect(),
            leaves_made: AtomicUsize::new(0),
            grow: Mutex::new(()),
            closed: AtomicBool::new(false),
        }
    }

    #[inline]
    pub(crate) fn holds(&self, index: PageIndex) -> bool {
        index.0 < self.pages
    }

    /// The leaf of a page, if there is one, and the page's place in it.
    #[inline]
    fn leaf(&self, index: PageIndex) -> (Option<&Leaf>, usize) {
        let index = index.0 as usize;
        let leaf = self.leaves.get(index / LEAF_WORDS).and_then(OnceLock::get);
        (leaf.map(|leaf| &**leaf), index % LEAF_WORDS)
    }

    #[cold]
    fn make_leaf(&self, index: PageIndex) -> Option<&Leaf> {
        let _grow = self.grow.lock();
        if self.is_closed() {
            return None;
        }
        let leaf = self.leaves.get(index.0 as usize / LEAF_WORDS)?;
        Some(leaf.get_or_init(|| {
            self.leaves_made.fetch_add(1, Ordering::Relaxed);
            Leaf::new()
        }))
    }

    #[inline]
    pub(crate) fn update(
        &self,
        frames: &Frames,
        index: PageIndex,
        grow: bool,
        decide: impl FnOnce(Entry) -> Change,
    ) -> Option<Entry> {
        let (leaf, at) = self.leaf(index);
        let leaf = match leaf {
            Some(leaf) => leaf,
            None if grow => self.make_leaf(index)?,
            None => return Some(Entry::Empty),
        };
        let _stripe = leaf.stripes[at / STRIPE_WORDS].lock();
        // Whoever closes the index takes this lock after, and empties what is written before.
        if self.is_closed() {
            return None;
        }
        let word = &leaf.words[at];
        let old = Entry::from_word(word.load(Ordering::Relaxed));
        let new = match decide(old) {
            Change::Keep => return Some(old),
            Change::Clear => Entry::Empty,
            Change::Same { value, ticket } => Entry::Same { value, ticket },
            Change::Frame(page) => {
                let generation = next_generation(frames, old);
                Entry::Frame(frames.publish(page, self.owner, index, generation))
            }
        };
        word.store(new.to_word(), Ordering::Release);
        Some(old)
    }

    #[inline]
    pub(crate) fn find<'a>(
        &self,
        frames: &'a Frames,
        index: PageIndex,
        strays: &mut Vec<OwnedFrame>,
    ) -> Found<'a> {
        let (Some(leaf), at) = self.leaf(index) else {
            return Found::Missing;
        };
        let word = &leaf.words[at];
        loop {
            let now = word.load(Ordering::Acquire);
            let frame = match Entry::from_word(now) {
                Entry::Empty => return Found::Missing,
                Entry::Same { value, .. } => return Found::Same(value),
                Entry::Frame(frame) => frame,
            };
            frames.mapping().prefetch(frame);
            // The frame may have gone, or hold another page by now; then the word has changed. Once
            // it is pinned it cannot come back to this word, so an unchanged word vouches for it.
            let Some(pin) = frames.mapping().pin(frame) else {
                continue;
            };
            if word.load(Ordering::Acquire) == now {
                return Found::Frame(pin);
            }
            strays.extend(pin.unpin());
        }
    }

    pub(crate) fn evict(&self, index: PageIndex, frame: FrameNo) -> bool {
        let (Some(leaf), at) = self.leaf(index) else {
            return false;
        };
        let Some(_stripe) = leaf.stripes[at / STRIPE_WORDS].try_lock() else {
            return false;
        };
        let word = &leaf.words[at];
        let found = word.load(Ordering::Relaxed) == Entry::Frame(frame).to_word();
        if found {
            word.store(Entry::EMPTY_WORD, Ordering::Release);
        }
        found
    }

    pub(crate) fn clear_range(
        &self,
        first: u32,
        last: u32,
        keep: &mut dyn FnMut(Entry) -> bool,
        removed: &mut dyn FnMut(Entry),
    ) {
        let last = last.min(self.pages - 1) as usize;
        let mut at = first as usize;
        while at <= last {
            let leaf_end = (at / LEAF_WORDS + 1) * LEAF_WORDS;
            let Some(leaf) = self.leaves[at / LEAF_WORDS].get() else {
                at = leaf_end;
                continue;
            };
            let stripe_end = (at / STRIPE_WORDS + 1) * STRIPE_WORDS;
            let end = stripe_end.min(last + 1);
            let base = leaf_end - LEAF_WORDS;
            let _stripe = leaf.stripes[(at - base) / STRIPE_WORDS].lock();
            for word in &leaf.words[at - base..end - base] {
                let entry = Entry::from_word(word.load(Ordering::Relaxed));
                if !entry.is_empty() && !keep(entry) {
                    word.store(Entry::EMPTY_WORD, Ordering::Release);
                    removed(entry);
                }
            }
            at = end;
        }
    }

    pub(crate) fn close(&self) -> bool {
        let _grow = self.grow.lock();
        !self.closed.swap(true, Ordering::Relaxed)
    }

    #[inline]
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    pub(crate) fn release(&self, frames: &Frames) {
        frames.remove_owner(self.owner);
    }

    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&*self.leaves) + self.leaves_made.load(Ordering::Relaxed) * size_of::<Leaf>()
    }

    pub(crate) fn visit(&self, seen: &mut dyn FnMut(ObjectId, PageIndex, Entry)) {
        let mut index = 0;
        for leaf in &self.leaves {
            let Some(leaf) = leaf.get() else {
                index += LEAF_WORDS;
                continue;
            };
            for (at, word) in leaf.words.iter().enumerate() {
                let _stripe = leaf.stripes[at / STRIPE_WORDS].lock();
                let entry = Entry::from_word(word.load(Ordering::Relaxed));
                if let (false, Ok(index)) = (entry.is_empty(), u32::try_from(index)) {
                    seen(ObjectId::ZERO, PageIndex(index), entry);
                }
                index += 1;
            }
        }
    }
}

/// The generation of a page that takes the place of `old`.
#[inline]
pub(super) fn next_generation(frames: &Frames, old: Entry) -> u32 {
    match old {
        Entry::Frame(frame) => {
            let before = &frames.mapping().entry(frame).generation;
            before.load(Ordering::Relaxed).wrapping_add(1)
        }
        Entry::Empty | Entry::Same { .. } => 0,
    }
}
