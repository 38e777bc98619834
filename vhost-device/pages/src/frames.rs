// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The frame table, which says what each frame holds, and the owner records it refers to.
//!
//! A frame holds a page if [`INDEXED`](crate::sys) is set in its state and an index entry
//! names it. For a dense pool that entry lies in the map too. For a sparse pool it does not, and
//! the table alone tells where the frame belongs: so a frame that leaves a sparse index is
//! [disowned](Frames::disown) under the lock that it leaves under.

use std::sync::atomic::Ordering;

use parking_lot::Mutex;

use crate::frame_list::FrameList;
use crate::handle::{ObjectId, PageBytes, PageIndex, Ticket};
use crate::kept::{Kept32, Kept64};
use crate::sys::{COPIED, INDEXED, Mapping, OwnedFrame};

/// Bit of [`FrameEntry::state`]: the page may be evicted. The ticket is in the bits below.
pub(crate) const EPHEMERAL: u64 = 1 << 52;
/// Bit of [`FrameEntry::state`]: the page was got since the clock's hand last passed.
pub(crate) const REFERENCED: u64 = 1 << 53;
const _: () = assert!(Ticket::LIMIT == EPHEMERAL);

/// A frame's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FrameNo(pub(crate) u32);

/// An owner record's number. A dense pool's is its slot, and those beyond the slots are of parts of
/// sparse objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OwnerNo(pub(crate) u32);

impl OwnerNo {
    /// The owner of a frame that has left a sparse pool.
    pub(crate) const NOBODY: Self = Self(u32::MAX);
}

/// What one frame holds. Written by the frame's owner before it publishes the frame; only the state
/// changes after that, and the owner of a page that leaves a sparse pool.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct FrameEntry {
    /// The owner record of the page's object.
    pub(crate) owner: Kept32,
    /// The page's index in its object.
    pub(crate) index: Kept32,
    /// Ticket (52 bits), [`EPHEMERAL`], [`REFERENCED`], and what `sys.rs` counts above.
    pub(crate) state: Kept64,
    /// CRC-32/ISCSI of the bytes.
    pub(crate) checksum: Kept32,
    /// Of two frames that hold the same page, the one with the higher generation is the newer: a put
    /// over a framed page writes the old frame's generation plus one, before it gives that one up.
    pub(crate) generation: Kept32,
}

impl FrameEntry {
    /// The ticket of the page.
    #[inline]
    pub(crate) fn ticket(&self) -> u64 {
        self.state.load(Ordering::Relaxed) & (Ticket::LIMIT - 1)
    }

    /// The index has, or had, the frame.
    pub(crate) fn is_indexed(&self) -> bool {
        self.state.load(Ordering::Relaxed) & INDEXED != 0
    }

    /// The page may be evicted.
    pub(crate) fn is_ephemeral(&self) -> bool {
        self.state.load(Ordering::Relaxed) & EPHEMERAL != 0
    }

    /// The page has a copy in a lower tier.
    #[inline]
    pub(crate) fn is_copied(&self) -> bool {
        self.state.load(Ordering::Relaxed) & COPIED != 0
    }

    /// Tells the clock that the page is in use.
    #[inline]
    pub(crate) fn touch(&self) {
        // Most gets find the bit set; a load does not take the line from other readers.
        if self.state.load(Ordering::Relaxed) & REFERENCED == 0 {
            self.state.fetch_or(REFERENCED, Ordering::Relaxed);
        }
    }
}

/// Which object of which pool of which guest some frames belong to.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct OwnerRecord {
    /// The guest's slot.
    pub(crate) guest: Kept32,
    /// The pool's slot.
    pub(crate) pool: Kept32,
    /// The object.
    object: [Kept64; 3],
}

impl OwnerRecord {
    /// The object. Torn if the record is being rewritten; who cares looks in the index after.
    pub(crate) fn object(&self) -> ObjectId {
        ObjectId(
            self.object
                .each_ref()
                .map(|word| word.load(Ordering::Relaxed)),
        )
    }
}

const _: () = assert!(size_of::<FrameEntry>() == 24 && size_of::<OwnerRecord>() == 32);

/// A page that is in a frame already, and not yet in the index.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) frame: OwnedFrame,
    pub(crate) ticket: Ticket,
    pub(crate) checksum: u32,
    pub(crate) ephemeral: bool,
}

/// Owner records that are not in use.
#[derive(Debug)]
pub(crate) struct FreeOwners {
    /// Records from here on were never used.
    fresh: u32,
    /// Records below `fresh` that are free.
    returned: Vec<u32>,
}

impl FreeOwners {
    /// All but those that `used` names, of the records from `first` on.
    pub(crate) fn new(first: u32, used: &[bool]) -> Self {
        let end = used
            .iter()
            .rposition(|used| *used)
            .map_or(0, |last| last + 1);
        let numbers = (first..).zip(&used[..end]);
        Self {
            fresh: numbers.clone().last().map_or(first, |(last, _)| last + 1),
            returned: (numbers.filter(|(_, used)| !**used))
                .map(|(number, _)| number)
                .collect(),
        }
    }
}

/// The frames and their table.
#[derive(Debug)]
pub(crate) struct Frames {
    mapping: Mapping,
    free_owners: Mutex<FreeOwners>,
}

impl Frames {
    /// The frames of a mapping, all of them in nobody's hands, with all owner records free.
    pub(crate) fn new(mapping: Mapping) -> Self {
        let owners = FreeOwners::new(mapping.layout().counts.slots(), &[]);
        Self {
            mapping,
            free_owners: Mutex::new(owners),
        }
    }

    /// Hands out the frames that `used` does not name, or all where nothing was ever used, and says
    /// how many of them were in use. The owner records that are free are `owners`.
    pub(crate) fn settle(&mut self, used: &[bool], owners: Option<FreeOwners>) -> (FrameList, u64) {
        if let Some(owners) = owners {
            *self.free_owners.get_mut() = owners;
        }
        self.mapping.settle(used)
    }

    /// The mapped files.
    #[inline]
    pub(crate) fn mapping(&self) -> &Mapping {
        &self.mapping
    }

    /// Fills the frame's entry and hands it to the index. `generation` is [`FrameEntry::generation`].
    #[inline]
    pub(crate) fn publish(
        &self,
        page: Prepared,
        owner: OwnerNo,
        index: PageIndex,
        generation: u32,
    ) -> FrameNo {
        let entry = self.mapping.entry(page.frame.number());
        entry.owner.store(owner.0, Ordering::Relaxed);
        entry.index.store(index.0, Ordering::Relaxed);
        entry.checksum.store(page.checksum, Ordering::Relaxed);
        entry.generation.store(generation, Ordering::Relaxed);
        let flags = if page.ephemeral { EPHEMERAL } else { 0 };
        self.mapping.publish(page.frame, page.ticket.get() | flags)
    }

    /// The bytes of a frame that is owned.
    #[inline]
    pub(crate) fn owned_page<'a>(&'a self, frame: &'a mut OwnedFrame) -> &'a mut PageBytes {
        self.mapping.owned_page(frame)
    }

    /// The owner record of this number.
    #[inline]
    pub(crate) fn owner(&self, owner: OwnerNo) -> &OwnerRecord {
        &self.mapping.owners()[owner.0 as usize]
    }

    /// Of two frames that hold the same page, whether `one` is the newer.
    pub(crate) fn is_newer(&self, one: FrameNo, other: FrameNo) -> bool {
        let [one, other] = [one, other].map(|frame| {
            let entry = self.mapping.entry(frame);
            (entry.ticket(), entry.generation.load(Ordering::Relaxed))
        });
        // Generations wrap; two frames of a page are one apart.
        let ahead = one.1.wrapping_sub(other.1);
        one.0 > other.0 || (one.0 == other.0 && ahead < u32::MAX / 2)
    }

    /// Says that a frame has left the index of a sparse pool, before its owner record stands for
    /// anything else. Happens under the lock of its index entry.
    #[inline]
    pub(crate) fn disown(&self, frame: FrameNo) {
        let owner = &self.mapping.entry(frame).owner;
        owner.store(OwnerNo::NOBODY.0, Ordering::Release);
    }

    /// Writes an owner record that no frame names.
    pub(crate) fn set_owner(&self, owner: OwnerNo, guest: u32, pool: u32, object: ObjectId) {
        let record = self.owner(owner);
        record.guest.store(guest, Ordering::Relaxed);
        record.pool.store(pool, Ordering::Relaxed);
        for (word, value) in record.object.iter().zip(object.0) {
            word.store(value, Ordering::Relaxed);
        }
    }

    /// Makes an owner record for a part of a sparse object. Each part that has one has a frame, so
    /// the records cannot run out before the frames do.
    pub(crate) fn add_owner(&self, guest: u32, pool: u32, object: ObjectId) -> OwnerNo {
        let owner = OwnerNo({
            let mut free = self.free_owners.lock();
            free.returned.pop().unwrap_or_else(|| {
                free.fresh += 1;
                free.fresh - 1
            })
        });
        self.set_owner(owner, guest, pool, object);
        owner
    }

    /// Gives an owner record back. No frame names it any more.
    pub(crate) fn remove_owner(&self, owner: OwnerNo) {
        self.free_owners.lock().returned.push(owner.0);
    }

    /// Owner records of parts in use, and the bytes of the list of free ones.
    pub(crate) fn owners_used(&self) -> (u64, usize) {
        let free = self.free_owners.lock();
        let first = u64::from(self.mapping.layout().counts.slots());
        let returned = free.returned.len() as u64;
        (
            u64::from(free.fresh) - first - returned,
            free.returned.capacity() * size_of::<u32>(),
        )
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::files::EngineFiles;
    use crate::handle::PAGE_SIZE;
    use crate::layout::{Counts, MapLayout};

    /// Some frames in anonymous memory, free.
    pub(crate) fn frames(frames: u32) -> (Frames, Vec<OwnedFrame>) {
        let (arena, mut owned) = all_frames(frames);
        let owned = owned.take(frames as usize);
        (arena, owned)
    }

    /// So many frames in anonymous memory and the reserve, all of them free.
    pub(crate) fn all_frames(frames: u32) -> (Frames, FrameList) {
        let counts = Counts {
            frames,
            workers: 1,
            guests: 1,
        };
        let layout = MapLayout::new(counts).unwrap();
        let files = EngineFiles::anonymous().unwrap();
        files.make(&layout).unwrap();
        let mapping = Mapping::new(files.map, files.frames, layout, None).unwrap();
        let mut arena = Frames::new(mapping);
        let (owned, _) = arena.settle(&[], None);
        (arena, owned)
    }

    #[test]
    fn owner_records_are_used_again() {
        let (frames, _owned) = frames(2);
        let a = frames.add_owner(1, 2, ObjectId([3, 4, 5]));
        let b = frames.add_owner(1, 2, ObjectId([6, 7, 8]));
        assert_ne!(a, b);
        assert_eq!(frames.owner(a).object(), ObjectId([3, 4, 5]));
        frames.remove_owner(a);
        assert_eq!(frames.owners_used().0, 1);
        assert_eq!(frames.add_owner(0, 0, ObjectId::ZERO), a);
    }

    #[test]
    fn owner_records_that_are_named_are_not_given_out() {
        let FreeOwners { fresh, returned } =
            FreeOwners::new(64, &[false, true, false, true, false]);
        assert_eq!((fresh, returned), (68, vec![64, 66]));
        assert_eq!(FreeOwners::new(64, &[false; 9]).fresh, 64);
    }

    fn prepared(frame: OwnedFrame) -> Prepared {
        Prepared {
            frame,
            ticket: Ticket::MAX,
            checksum: 1,
            ephemeral: true,
        }
    }

    #[test]
    fn frame_retired_while_pinned_goes_to_the_last_reader() {
        let (frames, mut owned) = frames(2);
        let mut frame = owned.pop().unwrap();
        frames.owned_page(&mut frame).fill(7);
        let number = frames.publish(prepared(frame), OwnerNo(0), PageIndex(0), 0);
        let mapping = frames.mapping();
        assert_eq!(mapping.entry(number).ticket(), Ticket::MAX.get());
        let one = mapping.pin(number).unwrap();
        let two = mapping.pin(number).unwrap();
        assert!(mapping.retire(number).0.is_none());
        assert!(
            mapping.pin(number).is_none(),
            "a retired frame takes no new readers"
        );
        assert!(one.unpin().is_none());
        assert_eq!(two.page(), &[7; PAGE_SIZE]);
        assert_eq!(two.unpin().map(|frame| frame.number()), Some(number));
    }

    #[test]
    #[should_panic(expected = "left the index twice")]
    fn frame_leaves_the_index_once() {
        let (frames, mut owned) = frames(1);
        let number = frames.publish(prepared(owned.pop().unwrap()), OwnerNo(0), PageIndex(0), 0);
        let first = frames.mapping().retire(number);
        assert!(first.0.is_some());
        let _second = frames.mapping().retire(number);
    }
}
