// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A part of a sparse pool: what one object has in one shard.

use super::Entry;
use crate::frames::{Frames, OwnerNo};
use crate::handle::PageIndex;

/// Words in a chunk.
pub(super) const CHUNK_WORDS: u32 = 16;
type Chunk = [u64; CHUNK_WORDS as usize];

/// What an object has in one shard.
#[derive(Debug, Default)]
pub(super) struct Part {
    /// Sorted by number; a chunk's number is the index of its first page by [`CHUNK_WORDS`].
    pub(super) chunks: Vec<(u32, Box<Chunk>)>,
    /// The owner record, while there are framed pages.
    pub(super) owner: Option<OwnerNo>,
    /// Entries that are not empty.
    pub(super) pages: u32,
    /// Those with a frame.
    framed: u32,
}

impl Part {
    fn place(&self, index: PageIndex) -> Result<usize, usize> {
        let number = index.0 / CHUNK_WORDS;
        self.chunks.binary_search_by_key(&number, |chunk| chunk.0)
    }

    pub(super) fn get(&self, index: PageIndex) -> Entry {
        self.place(index).map_or(Entry::Empty, |at| {
            Entry::from_word(self.chunks[at].1[(index.0 % CHUNK_WORDS) as usize])
        })
    }

    /// Counts an entry that goes and one that comes in its place.
    fn count(&mut self, old: Entry, new: Entry) {
        self.pages = self.pages + u32::from(new != Entry::Empty) - u32::from(old != Entry::Empty);
        self.framed =
            self.framed + u32::from(new.frame().is_some()) - u32::from(old.frame().is_some());
    }

    pub(super) fn set(&mut self, frames: &Frames, index: PageIndex, old: Entry, new: Entry) {
        self.count(old, new);
        disown(frames, old, new);
        let word = (index.0 % CHUNK_WORDS) as usize;
        match self.place(index) {
            Ok(at) => {
                self.chunks[at].1[word] = new.to_word();
                if new == Entry::Empty {
                    self.drop_empty(at, at + 1);
                }
            }
            Err(at) => {
                let mut chunk = Box::new([Entry::EMPTY_WORD; CHUNK_WORDS as usize]);
                chunk[word] = new.to_word();
                if self.chunks.is_empty() {
                    // Most objects are small; room for four chunks at once would cost them most.
                    self.chunks.reserve_exact(1);
                }
                self.chunks.insert(at, (index.0 / CHUNK_WORDS, chunk));
            }
        }
    }

    /// Empties the entries `first ..= last` that `keep` does not keep.
    pub(super) fn clear(
        &mut self,
        frames: &Frames,
        (first, last): (u32, u32),
        keep: &mut dyn FnMut(Entry) -> bool,
        removed: &mut dyn FnMut(Entry),
    ) {
        let from = (self.chunks).partition_point(|chunk| chunk.0 < first / CHUNK_WORDS);
        let to = (self.chunks).partition_point(|chunk| chunk.0 <= last / CHUNK_WORDS);
        for at in from..to {
            let base = self.chunks[at].0 * CHUNK_WORDS;
            for word in 0..CHUNK_WORDS {
                let slot = &mut self.chunks[at].1[word as usize];
                let entry = Entry::from_word(*slot);
                let inside = (first..=last).contains(&(base + word));
                if inside && entry != Entry::Empty && !keep(entry) {
                    *slot = Entry::EMPTY_WORD;
                    self.count(entry, Entry::Empty);
                    disown(frames, entry, Entry::Empty);
                    removed(entry);
                }
            }
        }
        self.drop_empty(from, to);
    }

    /// Drops the empty ones of the chunks `from .. to`.
    fn drop_empty(&mut self, from: usize, to: usize) {
        let mut kept = from;
        for at in from..to {
            if *self.chunks[at].1 != [Entry::EMPTY_WORD; CHUNK_WORDS as usize] {
                self.chunks.swap(kept, at);
                kept += 1;
            }
        }
        self.chunks.drain(kept..to);
        if self.chunks.len() < self.chunks.capacity() / 4 {
            self.chunks.shrink_to(self.chunks.len() * 2);
        }
    }

    pub(super) fn bytes(&self) -> usize {
        size_of::<Self>()
            + self.chunks.capacity() * size_of::<(u32, Box<Chunk>)>()
            + self.chunks.len() * size_of::<Chunk>()
    }
}

/// Disowns the frame or slot of an entry that another takes the place of.
#[inline]
fn disown(frames: &Frames, old: Entry, new: Entry) {
    if let Some(frame) = old.frame()
        && new.frame() != Some(frame)
    {
        frames.disown(frame);
    }
    if let Entry::Stored(stored) = old
        && new != old
    {
        frames.mapping().slots(stored.tier).leave(stored.slot);
    }
}

/// A part without framed pages needs no owner record. Happens under the lock that its last frame left
/// the index under, so that there are no more records than frames, and one for each flush under way.
pub(super) fn release_owner(frames: &Frames, part: &mut Part) {
    if part.framed == 0
        && let Some(owner) = part.owner.take()
    {
        frames.remove_owner(owner);
    }
}
