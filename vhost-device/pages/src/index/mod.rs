// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The index of a pool: from object and page index to what holds the page.
//!
//! ```text
//! Index ─┬─ Dense   markers → leaf of 512 words, 8 locks       a get takes no lock; words in the map
//!        └─ Sparse  shard (lock) → object → chunk of 16 words  a get holds the lock to find the page
//! ```
//! A word changes only under its lock, so that a ticket is compared and a page replaced in one step.
//! Nobody waits for a second lock of an index while holding one: frames are fetched before, and
//! eviction, which goes from a frame to its word, only tries. The lock of the free owner records, or
//! of a list of free frames, may be taken inside.

mod dense;
mod entry;
mod part;
mod sparse;
mod windows;

pub(crate) use dense::LEAF_WORDS;
pub(crate) use entry::{Entry, Stored};
pub(crate) use sparse::Adopted;

use crate::frames::{FrameNo, Frames, Prepared};
use crate::handle::{ObjectId, PageIndex, Ticket};
use crate::pool::Layout;
use crate::sys::{OwnedFrame, Pin};
use crate::tier::LOWER;

/// What to do with an index entry.
#[derive(Debug)]
pub(crate) enum Change {
    /// Leave it.
    Keep,
    /// Empty it.
    Clear,
    /// The page that is there is taken.
    Take,
    /// The page that is taken is there again.
    PutBack,
    /// A page of one repeated byte.
    Same {
        /// The byte.
        value: u8,
        /// The put's ticket.
        ticket: u64,
    },
    /// A page in a slot of a lower tier.
    Stored(Stored),
    /// A page in a frame.
    Frame(Prepared),
}

/// What a get finds.
#[derive(Debug)]
pub(crate) enum Found<'a> {
    /// No page.
    Missing,
    /// A page of one repeated byte.
    Same {
        /// The byte.
        value: u8,
        /// The put's ticket.
        ticket: u64,
    },
    /// A page whose bytes cannot be told.
    Damaged,
    /// A page below DRAM.
    Stored(Stored),
    /// A page in a frame, held still.
    Frame(Pin<'a>),
}

/// Slots of the pool and its guest, as they stand in owner records.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slots {
    pub(crate) guest: u32,
    pub(crate) pool: u32,
}

/// What an index was found to hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IndexCounts {
    /// Pages, with or without a frame.
    pub(crate) pages: u64,
    /// Pages without a frame, and not below DRAM.
    pub(crate) same_filled: u64,
    /// Pages in each of the tiers below DRAM.
    pub(crate) stored: [u64; LOWER],
    /// The highest ticket of a page.
    pub(crate) ticket_high: Ticket,
}

impl IndexCounts {
    /// Counts one more page.
    pub(crate) fn add(&mut self, entry: Entry, ticket: Option<Ticket>) {
        self.pages += 1;
        match entry {
            Entry::Frame(_) => {}
            Entry::Stored(stored) => self.stored[stored.tier.number()] += 1,
            _ => self.same_filled += 1,
        }
        self.ticket_high = self.ticket_high.max(ticket.unwrap_or(Ticket::MIN));
    }
}

impl Default for IndexCounts {
    fn default() -> Self {
        Self {
            pages: 0,
            same_filled: 0,
            stored: [0; LOWER],
            ticket_high: Ticket::MIN,
        }
    }
}

/// The index of one pool.
#[derive(Debug)]
pub(crate) enum Index {
    Dense(dense::Dense),
    Sparse(sparse::Sparse),
}

/// Calls a method of whichever index it is.
macro_rules! each {
    ($self:expr, $index:ident => $call:expr) => {
        match $self {
            Index::Dense($index) => $call,
            Index::Sparse($index) => $call,
        }
    };
}

impl Index {
    /// An empty index.
    pub(crate) fn new(layout: Layout, slots: Slots, frames: &Frames) -> Self {
        match layout {
            Layout::Dense { pages } => Self::Dense(dense::Dense::new(pages, slots, frames)),
            Layout::Sparse => Self::Sparse(sparse::Sparse::new(slots)),
        }
    }

    /// Whether there can be such a page.
    #[inline]
    pub(crate) fn holds(&self, object: ObjectId, index: PageIndex) -> bool {
        match self {
            Self::Dense(dense) => object == ObjectId::ZERO && dense.holds(index),
            Self::Sparse(_) => true,
        }
    }

    /// Asks `decide` what to do with an entry, under its lock, and does it. Returns what the entry
    /// was, or nothing once the index is closed. Where there is no page and `grow` is false,
    /// `decide` may not be asked.
    #[inline]
    pub(crate) fn update(
        &self,
        frames: &Frames,
        object: ObjectId,
        index: PageIndex,
        grow: bool,
        decide: impl FnOnce(Entry) -> Change,
    ) -> Option<Entry> {
        match self {
            Self::Dense(dense) => dense.update(frames, index, grow, decide),
            Self::Sparse(sparse) => sparse.update(frames, object, index, grow, decide),
        }
    }

    /// Finds a page and holds it still. A frame that had to be let go again, and that nobody else
    /// has, goes to `strays`.
    #[inline]
    pub(crate) fn find<'a>(
        &self,
        frames: &'a Frames,
        object: ObjectId,
        index: PageIndex,
        strays: &mut Vec<OwnedFrame>,
    ) -> Found<'a> {
        match self {
            Self::Dense(dense) => dense.find(frames, index, strays),
            Self::Sparse(sparse) => sparse.find(frames, object, index),
        }
    }

    /// Empties the entry of a closed index if it is this one.
    pub(crate) fn strike(&self, frames: &Frames, object: ObjectId, index: PageIndex, entry: Entry) {
        // A dense index, once it is closed, empties its words without a look at their frames.
        if let Self::Sparse(sparse) = self {
            sparse.strike(frames, object, index, entry);
        }
    }

    /// What the entry says now.
    pub(crate) fn peek(&self, frames: &Frames, object: ObjectId, index: PageIndex) -> Entry {
        match self {
            Self::Dense(dense) => dense.peek(frames, index),
            Self::Sparse(sparse) => sparse.peek(object, index),
        }
    }

    /// Has the processor fetch a page's entry; nothing in a sparse index, whose entries are not found
    /// without a lock.
    #[inline]
    pub(crate) fn prefetch(&self, frames: &Frames, index: PageIndex) {
        if let Self::Dense(dense) = self {
            dense.prefetch(frames, index);
        }
    }

    /// The entry, if it can be read without a lock.
    #[inline]
    pub(crate) fn glance(&self, frames: &Frames, index: PageIndex) -> Entry {
        match self {
            Self::Dense(dense) => dense.peek(frames, index),
            Self::Sparse(_) => Entry::Empty,
        }
    }

    /// Changes the entry to `new` if it is `frame`, if its lock is free, and if `settle`, called with
    /// the lock held, agrees.
    pub(crate) fn replace(
        &self,
        frames: &Frames,
        (object, index): (ObjectId, PageIndex),
        frame: FrameNo,
        new: Entry,
        settle: impl FnOnce() -> bool,
    ) -> bool {
        match self {
            Self::Dense(dense) => {
                object == ObjectId::ZERO && dense.replace(frames, index, frame, new, settle)
            }
            Self::Sparse(sparse) => sparse.replace(frames, (object, index), frame, new, settle),
        }
    }

    /// Empties the entries `first ..= last` of an object that `keep` does not keep; each goes to
    /// `removed`, under its lock.
    pub(crate) fn clear_range(
        &self,
        frames: &Frames,
        object: ObjectId,
        (first, last): (u32, u32),
        keep: &mut dyn FnMut(Entry) -> bool,
        removed: &mut dyn FnMut(Entry),
    ) {
        match self {
            Self::Dense(dense) if object == ObjectId::ZERO => {
                dense.clear_range(frames, (first, last), false, keep, removed);
            }
            Self::Dense(_) => {}
            Self::Sparse(sparse) => {
                sparse.clear_range(frames, object, (first, last), keep, removed);
            }
        }
    }

    /// Empties all entries that `keep` does not keep; each goes to `removed`, under its lock. A
    /// closed index is for the one to clear who closed it, and says so by `closing`.
    pub(crate) fn clear_all(
        &self,
        frames: &Frames,
        closing: bool,
        keep: &mut dyn FnMut(Entry) -> bool,
        removed: &mut dyn FnMut(Entry),
    ) {
        match self {
            Self::Dense(dense) => {
                dense.clear_range(frames, (0, u32::MAX), closing, keep, removed);
            }
            Self::Sparse(sparse) => sparse.clear_all(frames, keep, removed),
        }
    }

    /// Takes no changes from now on but those that empty entries.
    pub(crate) fn close(&self) {
        each!(self, index => index.close());
    }

    /// No changes are taken.
    pub(crate) fn is_closed(&self) -> bool {
        each!(self, index => index.is_closed())
    }

    /// Gives back what the index has in the map. It is closed and empty.
    pub(crate) fn release(&self, frames: &Frames) {
        if let Self::Dense(dense) = self {
            dense.release(frames);
        }
    }

    /// Asks for a huge page for words of a dense index: [`dense::Dense::gather`].
    pub(crate) fn gather(&self, frames: &Frames) -> Option<bool> {
        match self {
            Self::Dense(dense) => dense.gather(frames),
            Self::Sparse(_) => None,
        }
    }

    /// The index has an owner record of its own, that of its slot.
    pub(crate) fn is_dense(&self) -> bool {
        matches!(self, Self::Dense(_))
    }

    /// Notes pages in their order; where to go on is returned. Nothing of a sparse index.
    pub(crate) fn list(
        &self,
        frames: &Frames,
        from: PageIndex,
        most: usize,
        found: &mut Vec<(PageIndex, Ticket)>,
    ) -> Option<PageIndex> {
        match self {
            Self::Dense(index) => index.list(frames, from, most, found),
            Self::Sparse(_) => None,
        }
    }

    /// Bytes of entries and of what leads to them.
    pub(crate) fn bytes(&self) -> usize {
        each!(self, index => index.bytes())
    }

    /// Calls `seen` for each entry that is not empty, under its lock.
    pub(crate) fn visit(&self, frames: &Frames, seen: &mut dyn FnMut(ObjectId, PageIndex, Entry)) {
        match self {
            Self::Dense(dense) => dense.visit(frames, seen),
            Self::Sparse(sparse) => sparse.visit(seen),
        }
    }
}
