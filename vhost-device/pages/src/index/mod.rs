// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The index of a pool: from object and page index to what holds the page.
//!
//! ```text
//! Index ─┬─ Dense   directory → leaf of 512 words, 8 locks     a get takes no lock
//!        └─ Sparse  shard (lock) → object → chunk of 16 words  a get holds the lock to find the page
//! ```
//! A word changes only under its lock, so that a ticket is compared and a page replaced in one step.
//! Nobody waits for a second lock of an index while holding one: frames are fetched before, and
//! eviction, which goes from a frame to its word, only tries. The lock of the free owner records, or
//! of a list of free frames, may be taken inside.

mod dense;
mod entry;
mod sparse;

pub(crate) use dense::LEAF_WORDS;
pub(crate) use entry::Entry;

use crate::frames::{FrameNo, Frames, Prepared};
use crate::handle::{ObjectId, PageIndex};
use crate::pool::Layout;
use crate::sys::{OwnedFrame, Pin};

/// What to do with an index entry.
#[derive(Debug)]
pub(crate) enum Change {
    /// Leave it.
    Keep,
    /// Empty it.
    Clear,
    /// A page of one repeated byte.
    Same {
        /// The byte.
        value: u8,
        /// The put's ticket.
        ticket: u64,
    },
    /// A page in a frame.
    Frame(Prepared),
}

/// What a get finds.
#[derive(Debug)]
pub(crate) enum Found<'a> {
    /// No page.
    Missing,
    /// A page of one repeated byte.
    Same(u8),
    /// A page in a frame, held still.
    Frame(Pin<'a>),
}

/// Slots of the pool and its guest, as they stand in owner records.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slots {
    pub(crate) guest: u32,
    pub(crate) pool: u32,
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

    /// Empties the entry if it is `frame`, and if its lock is free.
    pub(crate) fn evict(
        &self,
        frames: &Frames,
        object: ObjectId,
        index: PageIndex,
        frame: FrameNo,
    ) -> bool {
        match self {
            Self::Dense(dense) => object == ObjectId::ZERO && dense.evict(index, frame),
            Self::Sparse(sparse) => sparse.evict(frames, object, index, frame),
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
                dense.clear_range(first, last, keep, removed);
            }
            Self::Dense(_) => {}
            Self::Sparse(sparse) => {
                sparse.clear_range(frames, object, (first, last), keep, removed);
            }
        }
    }

    /// Empties all entries that `keep` does not keep; each goes to `removed`, under its lock.
    pub(crate) fn clear_all(
        &self,
        frames: &Frames,
        keep: &mut dyn FnMut(Entry) -> bool,
        removed: &mut dyn FnMut(Entry),
    ) {
        match self {
            Self::Dense(dense) => dense.clear_range(0, u32::MAX, keep, removed),
            Self::Sparse(sparse) => sparse.clear_all(frames, keep, removed),
        }
    }

    /// Takes no changes from now on but those that empty entries. True the first time.
    pub(crate) fn close(&self) -> bool {
        each!(self, index => index.close())
    }

    /// No changes are taken.
    pub(crate) fn is_closed(&self) -> bool {
        each!(self, index => index.is_closed())
    }

    /// Gives back what the index has in the arena. It is closed and empty.
    pub(crate) fn release(&self, frames: &Frames) {
        if let Self::Dense(dense) = self {
            dense.release(frames);
        }
    }

    /// Owner records that the index has whether or not it has framed pages.
    pub(crate) fn owners_min(&self) -> u64 {
        match self {
            Self::Dense(_) => 1,
            Self::Sparse(_) => 0,
        }
    }

    /// Bytes of entries and of what leads to them.
    pub(crate) fn bytes(&self) -> usize {
        each!(self, index => index.bytes())
    }

    /// Calls `seen` for each page, under its lock.
    pub(crate) fn visit(&self, seen: &mut dyn FnMut(ObjectId, PageIndex, Entry)) {
        each!(self, index => index.visit(seen));
    }
}
