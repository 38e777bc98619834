// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The index of a dense pool: a two-level table, like a page table.
//!
//! A leaf holds the words of 512 neighbouring pages. Its words lie in the map, in the region of the
//! pool's slot, where the next process finds them; a leaf that no put has reached is a hole there,
//! and stays one. What only a living process needs is on the heap: whether a leaf was reached, and
//! 8 locks of one byte for it, one for 64 words. A lock bit in each word would be finer and no
//! larger, but its waiters could only spin, and an exclusive get copies 4 KiB under the lock. Gets
//! that leave the page take no lock: they read the word, pin the frame, and read the word again.
//!
//! The region goes to another pool once this one is closed and cleared; so whoever may still have
//! the old pool in hand looks whether it is closed, under the lock or after reading a word.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::windows::Windows;
use super::{Change, Entry, Found, Slots};
use crate::frames::{FrameNo, Frames, OwnerNo};
use crate::handle::{ObjectId, PageIndex, Ticket};
use crate::kept::Kept64;
use crate::layout::LEAF_BYTES;
use crate::sys::{OwnedFrame, prefetch};

/// Words in a leaf.
pub(crate) const LEAF_WORDS: usize = 512;
/// Words that share a lock.
const STRIPE_WORDS: usize = 64;

/// What the heap knows of a leaf.
#[derive(Debug, Default)]
#[repr(align(16))]
struct Marker {
    stripes: [Mutex<()>; LEAF_WORDS / STRIPE_WORDS],
    /// A put has reached the leaf, so it takes memory.
    made: AtomicBool,
}

/// The words of a leaf, and its marker.
#[derive(Clone, Copy)]
struct Leaf<'a> {
    marker: &'a Marker,
    words: &'a [Kept64; LEAF_WORDS],
}

/// The index of a dense pool.
#[derive(Debug)]
pub(crate) struct Dense {
    pages: u32,
    owner: OwnerNo,
    /// The first leaf of the pool's region.
    first: usize,
    markers: Box<[Marker]>,
    leaves_made: AtomicUsize,
    windows: Windows,
    /// Held while words are gathered, and while they are given back.
    gathering: Mutex<()>,
    /// Blocks of the map before its first leaf.
    phase: usize,
    /// Held to make a leaf and to close the index, so that no leaf appears behind a close.
    grow: Mutex<()>,
    closed: AtomicBool,
}

impl Dense {
    /// The index of a pool in a slot whose region is empty, or, after [`Dense::mark_made`], of what
    /// is in it.
    pub(crate) fn new(pages: u32, slots: Slots, frames: &Frames) -> Self {
        let owner = OwnerNo(slots.pool);
        frames.set_owner(owner, slots.guest, slots.pool, ObjectId::ZERO);
        let leaves = (pages as usize).div_ceil(LEAF_WORDS);
        let layout = frames.mapping().layout();
        let first = slots.pool as usize * layout.region_leaves;
        let phase = layout.leaf_at(0) / LEAF_BYTES;
        Self {
            pages,
            owner,
            first,
            markers: (0..leaves).map(|_| Marker::default()).collect(),
            leaves_made: AtomicUsize::new(0),
            windows: Windows::new(phase + first..phase + first + leaves),
            gathering: Mutex::new(()),
            phase,
            grow: Mutex::new(()),
            closed: AtomicBool::new(false),
        }
    }

    /// The leaves of the map that are this pool's.
    pub(crate) fn leaves(&self) -> Range<usize> {
        self.first..self.first + self.markers.len()
    }

    /// Notes that a leaf, by its number in the map, is in memory.
    pub(crate) fn mark_made(&self, leaf: usize) {
        let marker = &self.markers[leaf - self.first];
        if !marker.made.swap(true, Ordering::Relaxed) {
            self.leaves_made.fetch_add(1, Ordering::Relaxed);
            self.windows.note(self.phase + leaf);
        }
    }

    /// Asks for a huge page for words that have none and could have one, if there are such. Returns
    /// whether it was given.
    pub(crate) fn gather(&self, frames: &Frames) -> Option<bool> {
        let window = self.windows.next_full()?;
        // A closed pool's words go out of memory, and are not to come back.
        let _gathering = self.gathering.lock();
        if self.is_closed() {
            return None;
        }
        let given = frames.mapping().gather_window(window).is_ok();
        if given {
            self.windows.set_gathered(window);
        }
        Some(given)
    }

    #[inline]
    pub(crate) fn holds(&self, index: PageIndex) -> bool {
        index.0 < self.pages
    }

    /// The leaf of this number in the pool, if a put has reached it.
    #[inline]
    fn leaf<'a>(&'a self, frames: &'a Frames, leaf: usize) -> Option<Leaf<'a>> {
        let marker = self.markers.get(leaf)?;
        // The words are zero until a put finds the mark, or sets it; nothing is published by it.
        marker.made.load(Ordering::Relaxed).then(|| Leaf {
            marker,
            words: &frames.mapping().leaf(self.first + leaf).0,
        })
    }

    /// The leaf of a page, if there is one, and the page's place in it.
    #[inline]
    fn leaf_of<'a>(&'a self, frames: &'a Frames, index: PageIndex) -> (Option<Leaf<'a>>, usize) {
        let index = index.0 as usize;
        (self.leaf(frames, index / LEAF_WORDS), index % LEAF_WORDS)
    }

    #[cold]
    fn make_leaf<'a>(&'a self, frames: &'a Frames, index: PageIndex) -> Option<Leaf<'a>> {
        let _grow = self.grow.lock();
        if self.is_closed() {
            return None;
        }
        let leaf = index.0 as usize / LEAF_WORDS;
        self.mark_made(self.first + leaf);
        self.leaf(frames, leaf)
    }

    #[inline]
    pub(crate) fn update(
        &self,
        frames: &Frames,
        index: PageIndex,
        grow: bool,
        decide: impl FnOnce(Entry) -> Change,
    ) -> Option<Entry> {
        let (leaf, at) = self.leaf_of(frames, index);
        let leaf = match leaf {
            Some(leaf) => leaf,
            None if grow => self.make_leaf(frames, index)?,
            None => return Some(Entry::Empty),
        };
        let _stripe = leaf.marker.stripes[at / STRIPE_WORDS].lock();
        // Whoever closes the index takes this lock after, and empties what is written before.
        if self.is_closed() {
            return None;
        }
        let word = &leaf.words[at];
        let old = Entry::from_word(word.load(Ordering::Relaxed));
        let new = match decide(old) {
            Change::Keep => return Some(old),
            Change::Clear => Entry::Empty,
            Change::Take => old.taken(),
            Change::PutBack => old.put_back(),
            Change::Same { value, ticket } => Entry::Same { value, ticket },
            Change::Stored(stored) => Entry::Stored(stored),
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
        let (Some(leaf), at) = self.leaf_of(frames, index) else {
            return Found::Missing;
        };
        let word = &leaf.words[at];
        loop {
            let now = word.load(Ordering::Acquire);
            // Not closed after the word was read: then it was not yet another pool's.
            let found = match Entry::from_word(now) {
                _ if self.is_closed() => return Found::Missing,
                Entry::Empty | Entry::TakenFrame(_) | Entry::TakenSame { .. } => {
                    return Found::Missing;
                }
                Entry::Same { value, ticket } => return Found::Same { value, ticket },
                Entry::Damaged => return Found::Damaged,
                Entry::Stored(stored) => return Found::Stored(stored),
                Entry::Frame(frame) => frame,
            };
            frames.mapping().prefetch(found);
            // The frame may have gone, or hold another page by now; then the word has changed. Once
            // it is pinned it cannot come back to this word, so an unchanged word vouches for it.
            let Some(pin) = frames.mapping().pin(found) else {
                continue;
            };
            if word.load(Ordering::Acquire) == now && !self.is_closed() {
                return Found::Frame(pin);
            }
            strays.extend(pin.unpin());
        }
    }

    pub(crate) fn peek(&self, frames: &Frames, index: PageIndex) -> Entry {
        let (Some(leaf), at) = self.leaf_of(frames, index) else {
            return Entry::Empty;
        };
        let now = Entry::from_word(leaf.words[at].load(Ordering::Acquire));
        if self.is_closed() { Entry::Empty } else { now }
    }

    /// Has the processor fetch what leads to a page, and its word.
    #[inline]
    pub(crate) fn prefetch(&self, frames: &Frames, index: PageIndex) {
        let (leaf, at) = (index.0 as usize / LEAF_WORDS, index.0 as usize % LEAF_WORDS);
        if let Some(marker) = self.markers.get(leaf) {
            prefetch(marker);
            prefetch(&frames.mapping().leaf(self.first + leaf).0[at]);
        }
    }

    pub(crate) fn replace(
        &self,
        frames: &Frames,
        index: PageIndex,
        frame: FrameNo,
        new: Entry,
        settle: impl FnOnce() -> bool,
    ) -> bool {
        let (Some(leaf), at) = self.leaf_of(frames, index) else {
            return false;
        };
        let Some(_stripe) = leaf.marker.stripes[at / STRIPE_WORDS].try_lock() else {
            return false;
        };
        let word = &leaf.words[at];
        let page = Entry::Frame(frame).to_word();
        let found = !self.is_closed() && word.load(Ordering::Relaxed) == page && settle();
        if found {
            word.store(new.to_word(), Ordering::Release);
        }
        found
    }

    /// Empties the entries `first ..= last` that `keep` does not keep; of a closed pool only if
    /// `closing`, by the one who closed it.
    pub(crate) fn clear_range(
        &self,
        frames: &Frames,
        (first, last): (u32, u32),
        closing: bool,
        keep: &mut dyn FnMut(Entry) -> bool,
        removed: &mut dyn FnMut(Entry),
    ) {
        let last = last.min(self.pages - 1) as usize;
        let mut at = first as usize;
        while at <= last {
            let leaf_end = (at / LEAF_WORDS + 1) * LEAF_WORDS;
            let Some(leaf) = self.leaf(frames, at / LEAF_WORDS) else {
                at = leaf_end;
                continue;
            };
            let stripe_end = (at / STRIPE_WORDS + 1) * STRIPE_WORDS;
            let end = stripe_end.min(last + 1);
            let base = leaf_end - LEAF_WORDS;
            let _stripe = leaf.marker.stripes[(at - base) / STRIPE_WORDS].lock();
            if self.is_closed() && !closing {
                return;
            }
            for word in &leaf.words[at - base..end - base] {
                let entry = Entry::from_word(word.load(Ordering::Relaxed));
                if entry != Entry::Empty && !keep(entry) {
                    word.store(Entry::EMPTY_WORD, Ordering::Release);
                    removed(entry);
                }
            }
            at = end;
        }
    }

    /// Notes pages from an index on, until there are `most`; where to go on is returned.
    pub(crate) fn list(
        &self,
        frames: &Frames,
        from: PageIndex,
        most: usize,
        found: &mut Vec<(PageIndex, Ticket)>,
    ) -> Option<PageIndex> {
        let mut at = from.0 as usize;
        while at < self.pages as usize {
            let first = at - at % LEAF_WORDS;
            let Some(leaf) = self.leaf(frames, at / LEAF_WORDS) else {
                at = first + LEAF_WORDS;
                continue;
            };
            let stripe = (at - first) / STRIPE_WORDS;
            let end = (first + (stripe + 1) * STRIPE_WORDS).min(self.pages as usize);
            let _stripe = leaf.marker.stripes[stripe].lock();
            for (word, index) in leaf.words[at - first..end - first].iter().zip(at..) {
                let Some(ticket) = Entry::from_word(word.load(Ordering::Relaxed)).ticket(frames)
                else {
                    continue;
                };
                // Indices are below a 32-bit number of pages.
                let index = PageIndex(u32::try_from(index).ok()?);
                if found.len() >= most {
                    return Some(index);
                }
                found.push((index, ticket));
            }
            at = end;
        }
        None
    }

    pub(crate) fn close(&self) {
        let _grow = self.grow.lock();
        self.closed.store(true, Ordering::Release);
    }

    #[inline]
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Gives the leaves' memory back. They are all zeroes, so the next pool can have them even if
    /// the file system keeps the memory.
    pub(crate) fn release(&self, frames: &Frames) {
        if self.leaves_made.load(Ordering::Relaxed) > 0 {
            let _gathering = self.gathering.lock();
            let _kept = frames.mapping().punch_leaves(self.leaves());
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&*self.markers) + self.leaves_made.load(Ordering::Relaxed) * LEAF_BYTES
    }

    pub(crate) fn visit(&self, frames: &Frames, seen: &mut dyn FnMut(ObjectId, PageIndex, Entry)) {
        for (leaf, base) in (0..self.markers.len()).zip((0..).step_by(LEAF_WORDS)) {
            let Some(leaf) = self.leaf(frames, leaf) else {
                continue;
            };
            for (at, word) in leaf.words.iter().enumerate() {
                let _stripe = leaf.marker.stripes[at / STRIPE_WORDS].lock();
                let entry = Entry::from_word(word.load(Ordering::Relaxed));
                if let (true, Ok(index)) = (entry != Entry::Empty, u32::try_from(base + at)) {
                    seen(ObjectId::ZERO, PageIndex(index), entry);
                }
            }
        }
    }
}

/// The generation of a page that takes the place of `old`.
#[inline]
pub(super) fn next_generation(frames: &Frames, old: Entry) -> u32 {
    old.frame().map_or(0, |frame| {
        let before = &frames.mapping().entry(frame).generation;
        before.load(Ordering::Relaxed).wrapping_add(1)
    })
}
