// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The arena: frames, the table that says what each holds, and the owners they belong to.
//!
//! All of it lies in one shared-memory file, so that whoever opens the file finds every page:
//!
//! ```text
//! offset      bytes           what
//! 0           4096            header: magic "TMEMFRMS", version, counts and offsets (little-endian)
//! owners_at   32 × owners     owner records: guest and pool slot, object id
//! table_at    24 × frames     frame table: owner, index, ticket and state, checksum, generation
//! frames_at   4096 × frames   the pages; aligned to 2 MiB
//! ```
//! A frame holds a page if [`INDEXED`](crate::sys::INDEXED) is set in its state. Which guest and
//! pool a slot stands for is for the engine's user to remember: they are few and seldom change.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use parking_lot::Mutex;
use rustix::fs::{FlockOperation, MemfdFlags, flock, fstatfs, ftruncate, memfd_create};

use crate::handle::{ObjectId, PAGE_SIZE, PageBytes, PageIndex, Ticket};
use crate::sys::{Mapping, OwnedFrame};

/// Bytes of the file's header.
pub(crate) const HEADER_BYTES: usize = 4096;
/// Version of the file's layout.
const LAYOUT_VERSION: u32 = 1;
/// The frames begin at a multiple of this, so that huge pages fit.
const HUGE_BYTES: usize = 2 << 20;
/// What `statfs` calls hugetlbfs.
const HUGETLBFS_MAGIC: u64 = 0x9584_58f6;

/// Bit of [`FrameEntry::state`]: the page may be evicted. The ticket is in the bits below.
pub(crate) const EPHEMERAL: u64 = 1 << 52;
/// Bit of [`FrameEntry::state`]: the page was got since the clock's hand last passed.
pub(crate) const REFERENCED: u64 = 1 << 53;
const _: () = assert!(Ticket::LIMIT == EPHEMERAL);

/// A frame's number in its arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameNo(pub(crate) u32);

/// An owner record's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OwnerNo(pub(crate) u32);

/// What one frame holds. Written by the frame's owner before it publishes the frame; only the state
/// changes after that.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct FrameEntry {
    /// The owner record of the page's object.
    pub(crate) owner: AtomicU32,
    /// The page's index in its object.
    pub(crate) index: AtomicU32,
    /// Ticket (52 bits), [`EPHEMERAL`], [`REFERENCED`], and what `sys.rs` counts above.
    pub(crate) state: AtomicU64,
    /// CRC-32/ISCSI of the bytes.
    pub(crate) checksum: AtomicU32,
    /// Of two frames that hold the same page, the one with the higher generation is the newer: a put
    /// over a framed page writes the old frame's generation plus one, before it gives that one up.
    pub(crate) generation: AtomicU32,
}

impl FrameEntry {
    /// The ticket of the page.
    #[inline]
    pub(crate) fn ticket(&self) -> u64 {
        self.state.load(Ordering::Relaxed) & (Ticket::LIMIT - 1)
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
    pub(crate) guest: AtomicU32,
    /// The pool's slot.
    pub(crate) pool: AtomicU32,
    /// The object.
    object: [AtomicU64; 3],
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

/// Where things are in the file; offsets and sizes in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ArenaLayout {
    pub(crate) owners: u32,
    pub(crate) frames: u32,
    pub(crate) owners_at: usize,
    pub(crate) table_at: usize,
    pub(crate) frames_at: usize,
    pub(crate) bytes: usize,
}

impl ArenaLayout {
    /// Lays out a file whose length is a multiple of `block` bytes.
    pub(crate) fn new(frames: u32, owners: u32, block: usize) -> Self {
        let owners_at = HEADER_BYTES;
        let table_at = owners_at + owners as usize * size_of::<OwnerRecord>();
        let table_end = table_at + frames as usize * size_of::<FrameEntry>();
        let frames_at = table_end.next_multiple_of(HUGE_BYTES);
        let bytes = (frames_at + frames as usize * PAGE_SIZE).next_multiple_of(block);
        Self {
            owners,
            frames,
            owners_at,
            table_at,
            frames_at,
            bytes,
        }
    }

    fn header(&self) -> [u8; HEADER_BYTES] {
        let mut header = [0; HEADER_BYTES];
        header[..8].copy_from_slice(b"TMEMFRMS");
        header[8..12].copy_from_slice(&LAYOUT_VERSION.to_le_bytes());
        header[12..16].copy_from_slice(&self.owners.to_le_bytes());
        header[16..20].copy_from_slice(&self.frames.to_le_bytes());
        for (at, offset) in [
            (24, self.owners_at),
            (32, self.table_at),
            (40, self.frames_at),
            (48, self.bytes),
        ] {
            header[at..at + 8].copy_from_slice(&(offset as u64).to_le_bytes());
        }
        header
    }
}

/// A page that is in a frame already, and not yet in the index.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) frame: OwnedFrame,
    pub(crate) ticket: Ticket,
    pub(crate) checksum: u32,
    pub(crate) ephemeral: bool,
}

/// Owner records that are not in use.
#[derive(Debug, Default)]
struct FreeOwners {
    /// Records from here on were never used.
    fresh: u32,
    /// Records below `fresh` that are free.
    returned: Vec<u32>,
}

/// The arena.
#[derive(Debug)]
pub(crate) struct Frames {
    mapping: Mapping,
    free_owners: Mutex<FreeOwners>,
}

impl Frames {
    /// Maps an arena in anonymous shared memory, or in the file at `path`, which is emptied first.
    pub(crate) fn new(
        path: Option<&Path>,
        frames: u32,
        owners: u32,
    ) -> io::Result<(Self, Vec<OwnedFrame>)> {
        let file: OwnedFd = match path {
            None => memfd_create("tmem-frames", MemfdFlags::CLOEXEC)?,
            Some(path) => {
                let file = OpenOptions::new()
                    .read(true)
                    .write(true)
                    .create(true)
                    .truncate(false)
                    .open(path)?;
                // Emptying a file that another engine has mapped would kill that engine.
                flock(&file, FlockOperation::NonBlockingLockExclusive)?;
                file.into()
            }
        };
        let stat = fstatfs(&file)?;
        let huge = u64::try_from(stat.f_type).is_ok_and(|kind| kind == HUGETLBFS_MAGIC);
        let block = if huge {
            usize::try_from(stat.f_bsize).map_err(io::Error::other)?
        } else {
            PAGE_SIZE
        };
        let layout = ArenaLayout::new(frames, owners, block);
        ftruncate(&file, 0)?;
        ftruncate(&file, layout.bytes as u64)?;
        // Without a reservation, the first touch of a huge page that is not there kills the process.
        let (mut mapping, owned) = Mapping::new(file, layout, huge)?;
        mapping.write_header(&layout.header());
        let free_owners = Mutex::default();
        Ok((
            Self {
                mapping,
                free_owners,
            },
            owned,
        ))
    }

    /// The mapped file.
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

    /// Makes an owner record. There is one for each dense pool, and one for each part of a sparse
    /// object that has a frame, so the records cannot run out before the frames do.
    pub(crate) fn add_owner(&self, guest: u32, pool: u32, object: ObjectId) -> OwnerNo {
        let number = {
            let mut free = self.free_owners.lock();
            free.returned.pop().unwrap_or_else(|| {
                free.fresh += 1;
                free.fresh - 1
            })
        };
        let record = &self.mapping.owners()[number as usize];
        record.guest.store(guest, Ordering::Relaxed);
        record.pool.store(pool, Ordering::Relaxed);
        for (word, value) in record.object.iter().zip(object.0) {
            word.store(value, Ordering::Relaxed);
        }
        OwnerNo(number)
    }

    /// Gives an owner record back. No frame names it any more.
    pub(crate) fn remove_owner(&self, owner: OwnerNo) {
        self.free_owners.lock().returned.push(owner.0);
    }

    /// Owner records in use, and the bytes of the list of free ones.
    pub(crate) fn owners_used(&self) -> (u64, usize) {
        let free = self.free_owners.lock();
        let returned = free.returned.len() as u64;
        (
            u64::from(free.fresh) - returned,
            free.returned.capacity() * size_of::<u32>(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout_keeps_the_parts_apart_and_aligned() {
        for (frames, owners, block) in [(1, 1, 4096), (1000, 70_000, 4096), (5, 9, 2 << 20)] {
            let layout = ArenaLayout::new(frames, owners, block);
            assert!(layout.owners_at >= HEADER_BYTES && layout.owners_at.is_multiple_of(8));
            assert!(layout.table_at >= layout.owners_at + 32 * owners as usize);
            assert!(layout.frames_at >= layout.table_at + 24 * frames as usize);
            assert!(layout.frames_at.is_multiple_of(HUGE_BYTES));
            assert!(layout.bytes >= layout.frames_at + PAGE_SIZE * frames as usize);
            assert!(layout.bytes.is_multiple_of(block));
        }
    }

    #[test]
    fn file_begins_with_its_header() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("frames");
        let (frames, owned) = Frames::new(Some(&path), 3, 5).unwrap();
        assert_eq!(owned.len(), 3);
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(bytes.len(), frames.mapping().layout().bytes);
        assert_eq!(&bytes[..8], b"TMEMFRMS");
        assert_eq!(bytes[8..12], 1_u32.to_le_bytes());
        assert_eq!(bytes[16..20], 3_u32.to_le_bytes());
    }

    #[test]
    fn file_in_use_by_another_engine_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("frames");
        let (_frames, _owned) = Frames::new(Some(&path), 3, 5).unwrap();
        assert!(Frames::new(Some(&path), 3, 5).is_err());
    }

    #[test]
    fn owner_records_are_used_again() {
        let (frames, _owned) = Frames::new(None, 2, 4).unwrap();
        let a = frames.add_owner(1, 2, ObjectId([3, 4, 5]));
        let b = frames.add_owner(1, 2, ObjectId([6, 7, 8]));
        assert_ne!(a, b);
        assert_eq!(frames.owner(a).object(), ObjectId([3, 4, 5]));
        frames.remove_owner(a);
        assert_eq!(frames.owners_used().0, 1);
        assert_eq!(frames.add_owner(0, 0, ObjectId::ZERO), a);
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
        let (frames, mut owned) = Frames::new(None, 2, 1).unwrap();
        let mut frame = owned.pop().unwrap();
        frames.owned_page(&mut frame).fill(7);
        let number = frames.publish(prepared(frame), OwnerNo(0), PageIndex(0), 0);
        let mapping = frames.mapping();
        assert_eq!(mapping.entry(number).ticket(), Ticket::MAX.get());
        let one = mapping.pin(number).unwrap();
        let two = mapping.pin(number).unwrap();
        assert!(mapping.retire(number).is_none());
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
        let (frames, mut owned) = Frames::new(None, 1, 1).unwrap();
        let number = frames.publish(prepared(owned.pop().unwrap()), OwnerNo(0), PageIndex(0), 0);
        let first = frames.mapping().retire(number);
        assert!(first.is_some());
        let _second = frames.mapping().retire(number);
    }
}
