// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The index of a sparse pool: 32 locked shards, in each a map from object to chunks of 16 words.
//!
//! An object's pages are dealt to the shards in groups of 1024: a large file is served by all locks,
//! a small one lies in one shard. A flush of an object looks into each shard once. What an object
//! has in one shard is a *part* here; parts and chunks go when their last page does, so that what
//! a guest flushed takes no memory. Chunks of a part are a sorted vector: files are mostly read in
//! order, which appends.
//!
//! All this is on the heap; the next process builds it anew from the frame table. So whatever takes
//! a frame from the index disowns it under the same lock, and the owner record goes back only then.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::dense::next_generation;
use super::part::{CHUNK_WORDS, Part, release_owner};
use super::{Change, Entry, Found, Slots};
use crate::frames::{FrameNo, Frames, OwnerNo};
use crate::handle::{ObjectId, PageIndex};
use crate::stats::Aligned;

/// Locks of a pool.
const SHARDS: usize = 32;
/// Neighbouring pages that lie in one shard.
const GROUP_PAGES: u32 = 1024;

/// One lock's share of the index.
#[derive(Debug)]
struct Shard {
    parts: HashMap<ObjectId, Box<Part>, RandomState>,
    /// Bytes of the parts, without the map.
    part_bytes: usize,
}

impl Shard {
    /// Makes a part, if it is not there. It must be changed next, which drops it if it is empty.
    fn add_part(&mut self, object: ObjectId) {
        if !self.parts.contains_key(&object) {
            let part = Box::<Part>::default();
            self.part_bytes += part.bytes();
            self.parts.insert(object, part);
        }
    }

    /// Calls `change` on a part, and then drops what it left empty.
    fn with_part<R>(
        &mut self,
        frames: &Frames,
        object: ObjectId,
        change: impl FnOnce(&mut Part) -> R,
    ) -> Option<R> {
        let part = self.parts.get_mut(&object)?;
        let before = part.bytes();
        let result = change(part);
        self.settle(frames, object, before);
        Some(result)
    }

    /// Makes `part_bytes` right after a change, and drops the part if it is empty.
    fn settle(&mut self, frames: &Frames, object: ObjectId, before: usize) {
        let Some(part) = self.parts.get_mut(&object) else {
            return;
        };
        release_owner(frames, part);
        self.part_bytes -= before;
        if part.pages > 0 {
            self.part_bytes += part.bytes();
        } else {
            self.parts.remove(&object);
            self.shrink();
        }
    }

    fn shrink(&mut self) {
        if self.parts.capacity() > 64 && self.parts.len() < self.parts.capacity() / 8 {
            self.parts.shrink_to(self.parts.len() * 2);
        }
    }

    fn bytes(&self) -> usize {
        // The map keeps a power of two of places, of which it fills 7 in 8, a byte for each, and 16
        // bytes at the end.
        let capacity = self.parts.capacity();
        let places = match capacity {
            0 => return self.part_bytes,
            1..=3 => 4,
            4..=7 => 8,
            _ => (capacity * 8 / 7).next_power_of_two(),
        };
        self.part_bytes + places * (size_of::<(ObjectId, Box<Part>)>() + 1) + 16
    }
}

/// What became of a frame that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Adopted {
    /// It is in the index.
    Alone,
    /// It is in the index; the page in this frame was older.
    InPlaceOf(FrameNo),
    /// The page that is there is newer.
    Older,
}

/// The index of a sparse pool.
#[derive(Debug)]
pub(crate) struct Sparse {
    slots: Slots,
    /// Keyed at random, for object ids are a guest's choice.
    hasher: RandomState,
    shards: Box<[Aligned<Mutex<Shard>>]>,
    closed: AtomicBool,
}

impl Sparse {
    pub(crate) fn new(slots: Slots) -> Self {
        let hasher = RandomState::new();
        let shard = || {
            Aligned(Mutex::new(Shard {
                parts: HashMap::with_hasher(hasher.clone()),
                part_bytes: 0,
            }))
        };
        Self {
            slots,
            shards: (0..SHARDS).map(|_| shard()).collect(),
            hasher,
            closed: AtomicBool::new(false),
        }
    }

    fn first_shard(&self, object: ObjectId) -> usize {
        // Two of the bytes are plenty for 32 shards.
        let [a, b, ..] = self.hasher.hash_one(object).to_le_bytes();
        usize::from(u16::from_le_bytes([a, b]))
    }

    fn shard_of(first: usize, group: u32) -> usize {
        (first + group as usize) % SHARDS
    }

    fn shard(&self, object: ObjectId, index: PageIndex) -> &Mutex<Shard> {
        let number = Self::shard_of(self.first_shard(object), index.0 / GROUP_PAGES);
        &self.shards[number].0
    }

    pub(crate) fn update(
        &self,
        frames: &Frames,
        object: ObjectId,
        index: PageIndex,
        grow: bool,
        decide: impl FnOnce(Entry) -> Change,
    ) -> Option<Entry> {
        let mut shard = self.shard(object, index).lock();
        // Whoever closes the index takes this lock after, and empties what is written before.
        if self.is_closed() {
            return None;
        }
        if grow {
            shard.add_part(object);
        }
        let slots = self.slots;
        let old = shard.with_part(frames, object, |part| {
            let old = part.get(index);
            let new = match decide(old) {
                Change::Keep => return old,
                Change::Clear => Entry::Empty,
                Change::Take => old.taken(),
                Change::PutBack => old.put_back(),
                Change::Same { value, ticket } => Entry::Same { value, ticket },
                Change::Stored(stored) => Entry::Stored(stored),
                Change::Frame(page) => {
                    let add_owner = || frames.add_owner(slots.guest, slots.pool, object);
                    let owner = *part.owner.get_or_insert_with(add_owner);
                    let generation = next_generation(frames, old);
                    Entry::Frame(frames.publish(page, owner, index, generation))
                }
            };
            if old != new {
                part.set(frames, index, old, new);
            }
            old
        });
        Some(old.unwrap_or(Entry::Empty))
    }

    /// Puts a frame where its table entry says that it belongs, unless a newer one is there.
    pub(crate) fn adopt(
        &self,
        frames: &Frames,
        (object, index): (ObjectId, PageIndex),
        frame: FrameNo,
        owner: OwnerNo,
    ) -> Adopted {
        let mut shard = self.shard(object, index).lock();
        shard.add_part(object);
        let adopted = shard.with_part(frames, object, |part| {
            // All frames of a part name one record.
            if *part.owner.get_or_insert(owner) != owner {
                return Adopted::Older;
            }
            let old = part.get(index);
            let adopted = match old.frame() {
                Some(there) if frames.is_newer(there, frame) => return Adopted::Older,
                Some(there) => Adopted::InPlaceOf(there),
                None => Adopted::Alone,
            };
            part.set(frames, index, old, Entry::Frame(frame));
            adopted
        });
        adopted.unwrap_or(Adopted::Older)
    }

    pub(crate) fn find<'a>(
        &self,
        frames: &'a Frames,
        object: ObjectId,
        index: PageIndex,
    ) -> Found<'a> {
        let shard = self.shard(object, index).lock();
        match shard.parts.get(&object).map(|part| part.get(index)) {
            None | Some(Entry::Empty | Entry::TakenFrame(_) | Entry::TakenSame { .. }) => {
                Found::Missing
            }
            Some(Entry::Same { value, ticket }) => Found::Same { value, ticket },
            Some(Entry::Damaged) => Found::Damaged,
            Some(Entry::Stored(stored)) => Found::Stored(stored),
            // Under the lock the frame stays in the index, so it can be pinned.
            Some(Entry::Frame(frame)) => frames
                .mapping()
                .pin(frame)
                .map_or(Found::Missing, Found::Frame),
        }
    }

    pub(crate) fn peek(&self, object: ObjectId, index: PageIndex) -> Entry {
        let shard = self.shard(object, index).lock();
        let part = shard.parts.get(&object);
        part.map_or(Entry::Empty, |part| part.get(index))
    }

    pub(crate) fn replace(
        &self,
        frames: &Frames,
        (object, index): (ObjectId, PageIndex),
        frame: FrameNo,
        new: Entry,
        settle: impl FnOnce() -> bool,
    ) -> bool {
        let Some(mut shard) = self.shard(object, index).try_lock() else {
            return false;
        };
        let replaced = shard.with_part(frames, object, |part| {
            let entry = part.get(index);
            let found = entry == Entry::Frame(frame) && settle();
            if found {
                part.set(frames, index, entry, new);
            }
            found
        });
        replaced.unwrap_or(false)
    }

    pub(crate) fn strike(&self, frames: &Frames, object: ObjectId, index: PageIndex, entry: Entry) {
        let mut shard = self.shard(object, index).lock();
        shard.with_part(frames, object, |part| {
            if part.get(index) == entry {
                part.set(frames, index, entry, Entry::Empty);
            }
        });
    }

    pub(crate) fn clear_range(
        &self,
        frames: &Frames,
        object: ObjectId,
        (first, last): (u32, u32),
        keep: &mut dyn FnMut(Entry) -> bool,
        removed: &mut dyn FnMut(Entry),
    ) {
        let base = self.first_shard(object);
        let groups = first / GROUP_PAGES..=last / GROUP_PAGES;
        // After SHARDS groups every shard has been visited, and was searched for the whole range.
        for group in groups.take(SHARDS) {
            let mut shard = self.shards[Self::shard_of(base, group)].0.lock();
            shard.with_part(frames, object, |part| {
                part.clear(frames, (first, last), keep, removed);
            });
        }
    }

    pub(crate) fn clear_all(
        &self,
        frames: &Frames,
        keep: &mut dyn FnMut(Entry) -> bool,
        removed: &mut dyn FnMut(Entry),
    ) {
        for shard in &self.shards {
            let mut shard = shard.0.lock();
            let mut part_bytes = 0;
            shard.parts.retain(|_, part| {
                part.clear(frames, (0, u32::MAX), keep, removed);
                release_owner(frames, part);
                if part.pages > 0 {
                    part_bytes += part.bytes();
                }
                part.pages > 0
            });
            shard.part_bytes = part_bytes;
            shard.shrink();
        }
    }

    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    pub(crate) fn bytes(&self) -> usize {
        let shards = self.shards.iter().map(|shard| shard.0.lock().bytes());
        size_of_val(&*self.shards) + shards.sum::<usize>()
    }

    pub(crate) fn visit(&self, seen: &mut dyn FnMut(ObjectId, PageIndex, Entry)) {
        for shard in &self.shards {
            for (object, part) in &shard.0.lock().parts {
                for (number, chunk) in &part.chunks {
                    for (word, place) in chunk.iter().zip(0..CHUNK_WORDS) {
                        let index = number * CHUNK_WORDS + place;
                        let entry = Entry::from_word(*word);
                        if entry != Entry::Empty {
                            seen(*object, PageIndex(index), entry);
                        }
                    }
                }
            }
        }
    }
}
