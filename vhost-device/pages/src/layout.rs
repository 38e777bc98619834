// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Where things are in the engine's two files, and the header that says so.
//!
//! ```text
//! map                 bytes             what
//! 0                   4096              header: magic, version, counts, checksum (little-endian)
//! guests_at           128 × guests      guest records
//! pools_at            32 × slots        pool records, 64 a guest
//! owners_at           32 × owners       owner records: of each pool slot, then of parts of sparse objects
//! table_at            24 × frames       frame table
//! journals_at         12352 × journals  exclusive gets under way
//! limits_at           32 × guests       limits and policies of guests
//! tiers_at            64 × 3            sizes of the tiers, and whose files they are
//! slots_at            7 × 2^28, twice   slot tables of the PM tier and the remote tier: mostly holes
//! leaves_at           4096 × leaves     dense index words: a region for each pool slot, mostly a hole
//!
//! frames
//! 0                   4096 × frames     the pages, and nothing else: may be on hugetlbfs
//! ```
//! Each pool slot has a region of leaves of its own, as large as a guest's dense pools may be
//! together, so that no order in which pools come and go can leave one without room. A file's
//! untouched parts take neither memory nor disk; what it takes is address space.

use std::os::fd::BorrowedFd;

use rustix::fs::{SeekFrom, fstat, seek};
use rustix::io::{Errno, pread, pwrite};

use crate::checksum;
use crate::engine::{EngineConfig, FRAMES_MAX, GUESTS_MAX, WORKERS_MAX};
use crate::error::EngineError;
use crate::frames::{FrameEntry, OwnerRecord};
use crate::handle::PAGE_SIZE;
use crate::index::LEAF_WORDS;
use crate::journal::{Journal, TAKE_PAGES_MAX};
use crate::pool::{POOLS_MAX, dense_pages_max};
use crate::records::{GuestRecord, LimitsRecord, PoolRecord, TierRecord};
use crate::shared::FLUSH_BULK;
use crate::slot_table::{SLOT_BYTES, SLOTS_MAX};
use crate::tier::{LOWER, TIERS};

/// Bytes of the map's header.
const HEADER_BYTES: usize = PAGE_SIZE;
const MAGIC: [u8; 8] = *b"TMEMPMAP";
/// Version of both files. A map of another one is refused.
pub(crate) const LAYOUT_VERSION: u32 = 2;
/// Bytes of a leaf of the dense index.
pub(crate) const LEAF_BYTES: usize = LEAF_WORDS * size_of::<u64>();
/// Parts of the map begin at a multiple of this.
const ALIGN: usize = 64;

/// Frames beyond the configured ones, for each worker: one in hand, one that a put replaced, one
/// that a get holds after it left the index, one to be found, those that a flush collects, and
/// those of an exclusive get under way, or of one that a dead process left. A page leaves its
/// guest's account before its frame is free, so these are promised once more.
pub(crate) const RESERVE_PER_WORKER: u32 = 4 + FLUSH_BULK + TAKE_PAGES_MAX;

/// The counts that a map is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Frames that can be promised.
    pub(crate) frames: u32,
    pub(crate) workers: u16,
    pub(crate) guests: u16,
}

impl Counts {
    /// The counts of a configuration.
    pub(crate) fn new(config: &EngineConfig) -> Result<Self, EngineError> {
        let EngineConfig {
            frames,
            workers_max,
            guests_max,
        } = *config;
        if !(1..=FRAMES_MAX).contains(&frames) {
            return Err(EngineError::BadFrames { frames });
        }
        if !(1..=WORKERS_MAX).contains(&workers_max) {
            return Err(EngineError::BadWorkers { workers_max });
        }
        if guests_max == 0 || usize::from(guests_max) > GUESTS_MAX {
            return Err(EngineError::BadGuests { guests_max });
        }
        Ok(Self {
            frames,
            workers: workers_max,
            guests: guests_max,
        })
    }

    /// Whether a map made for `made` serves these counts.
    pub(crate) fn compare(&self, made: &Self) -> Result<(), EngineError> {
        let own = [
            ("frames", self.frames, made.frames),
            ("workers", self.workers.into(), made.workers.into()),
            ("guests", self.guests.into(), made.guests.into()),
        ];
        for (what, asked_for, made_for) in own {
            if asked_for != made_for {
                return Err(EngineError::OtherCounts {
                    what,
                    made_for,
                    asked_for,
                });
            }
        }
        Ok(())
    }

    /// Frames with the reserve.
    pub(crate) fn all_frames(&self) -> u32 {
        self.frames + u32::from(self.workers) * RESERVE_PER_WORKER
    }

    /// Pool slots: at least one for each pool that there can be.
    pub(crate) fn slots(&self) -> u32 {
        u32::from(self.guests) * tmem_abi::POOLS_MAX
    }
}

/// Where the parts of the map are, in bytes, and how long both files are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MapLayout {
    pub(crate) counts: Counts,
    pub(crate) owners: u32,
    pub(crate) journals: u32,
    /// Leaves of one pool slot.
    pub(crate) region_leaves: usize,
    pub(crate) guests_at: usize,
    pub(crate) pools_at: usize,
    pub(crate) owners_at: usize,
    pub(crate) table_at: usize,
    pub(crate) journals_at: usize,
    pub(crate) limits_at: usize,
    pub(crate) tiers_at: usize,
    /// Of each lower tier.
    pub(crate) slots_at: [usize; LOWER],
    pub(crate) leaves_at: usize,
    pub(crate) bytes: usize,
}

impl MapLayout {
    /// Lays out a map for these counts; nothing if its length cannot be expressed.
    pub(crate) fn new(counts: Counts) -> Option<Self> {
        let slots = counts.slots();
        // A part of a sparse object has a record while it has a frame, and for a moment longer
        // while a worker flushes it.
        let owners = slots + counts.all_frames() + u32::from(counts.workers) + 1;
        // One for each worker, and as many that a dead process left.
        let journals = 2 * u32::from(counts.workers);
        let pages_max = dense_pages_max(counts.frames).min(u64::from(u32::MAX));
        let region_leaves = usize::try_from(pages_max).ok()?.div_ceil(LEAF_WORDS);
        let mut end = HEADER_BYTES;
        let mut part = |count: usize, size: usize| {
            let at = end.next_multiple_of(ALIGN);
            end = at.checked_add(count.checked_mul(size)?)?;
            Some(at)
        };
        let guests_at = part(usize::from(counts.guests), size_of::<GuestRecord>())?;
        let pools_at = part(slots as usize, size_of::<PoolRecord>())?;
        let owners_at = part(owners as usize, size_of::<OwnerRecord>())?;
        let table_at = part(counts.all_frames() as usize, size_of::<FrameEntry>())?;
        let journals_at = part(journals as usize, size_of::<Journal>())?;
        let limits_at = part(usize::from(counts.guests), size_of::<LimitsRecord>())?;
        let tiers_at = part(TIERS, size_of::<TierRecord>())?;
        let mut slots_at = [0; LOWER];
        for at in &mut slots_at {
            *at = part(SLOTS_MAX as usize, SLOT_BYTES)?;
        }
        let leaves_at = end.next_multiple_of(LEAF_BYTES);
        let leaves = region_leaves.checked_mul(slots as usize)?;
        let bytes = leaves.checked_mul(LEAF_BYTES)?.checked_add(leaves_at)?;
        Some(Self {
            counts,
            owners,
            journals,
            region_leaves,
            guests_at,
            pools_at,
            owners_at,
            table_at,
            journals_at,
            limits_at,
            tiers_at,
            slots_at,
            leaves_at,
            bytes,
        })
    }

    /// Bytes of the frames' file, whose length is a multiple of `block`.
    pub(crate) fn frames_bytes(&self, block: usize) -> usize {
        (self.counts.all_frames() as usize * PAGE_SIZE).next_multiple_of(block)
    }

    /// Where a leaf of the dense index is in the map.
    pub(crate) fn leaf_at(&self, leaf: usize) -> usize {
        self.leaves_at + leaf * LEAF_BYTES
    }

    /// Writes the header. Until then the file counts as empty, so this comes last.
    pub(crate) fn write_header(&self, map: BorrowedFd<'_>) -> rustix::io::Result<()> {
        let mut header = [0; HEADER_BYTES];
        header[..8].copy_from_slice(&MAGIC);
        header[8..12].copy_from_slice(&LAYOUT_VERSION.to_le_bytes());
        header[12..16].copy_from_slice(&self.counts.frames.to_le_bytes());
        header[16..18].copy_from_slice(&self.counts.workers.to_le_bytes());
        header[18..20].copy_from_slice(&self.counts.guests.to_le_bytes());
        for (at, number) in [
            (24, self.guests_at),
            (32, self.pools_at),
            (40, self.owners_at),
            (48, self.table_at),
            (56, self.journals_at),
            (64, self.leaves_at),
            (72, self.region_leaves),
            (80, self.bytes),
            (88, self.limits_at),
            (96, self.tiers_at),
            (104, self.slots_at[0]),
            (112, self.slots_at[1]),
        ] {
            header[at..at + 8].copy_from_slice(&(number as u64).to_le_bytes());
        }
        let sum = checksum::of(&header);
        header[SUM_AT..].copy_from_slice(&sum.to_le_bytes());
        let written = pwrite(map, &header, 0)?;
        if written == HEADER_BYTES {
            Ok(())
        } else {
            Err(Errno::NOSPC)
        }
    }
}

/// The header's last word is its checksum, computed with zero in its place.
const SUM_AT: usize = HEADER_BYTES - 4;

/// What a map is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Nothing: new, or left before its header was written.
    Empty,
    /// A map of this version.
    Map(MapLayout),
}

/// Reads the header and changes nothing.
pub(crate) fn read_header(map: BorrowedFd<'_>) -> Result<Found, EngineError> {
    let unreadable = |source: Errno| EngineError::Unreadable {
        source: source.into(),
    };
    let length = fstat(map).map_err(unreadable)?.st_size;
    let hole = |errno| matches!(errno, Errno::NXIO);
    if length == 0 || seek(map, SeekFrom::Data(0)).is_err_and(hole) {
        return Ok(Found::Empty);
    }
    let mut header = [0; HEADER_BYTES];
    let read = pread(map, &mut header[..], 0).map_err(unreadable)?;
    if read < HEADER_BYTES || header[..8] != MAGIC {
        return Err(EngineError::NotOurs);
    }
    let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|byte| header[at + byte]));
    let version = word(8);
    if version != LAYOUT_VERSION {
        return Err(EngineError::Version { version });
    }
    let sum = word(SUM_AT);
    let (frames, pair) = (word(12), word(16));
    header[SUM_AT..].fill(0);
    let damaged = |what| Err(EngineError::Damaged { what });
    if checksum::of(&header) != sum {
        return damaged("its header fails its checksum");
    }
    let [workers_low, workers_high, guests_low, guests_high] = pair.to_le_bytes();
    let config = EngineConfig {
        frames,
        workers_max: u16::from_le_bytes([workers_low, workers_high]),
        guests_max: u16::from_le_bytes([guests_low, guests_high]),
    };
    let layout = Counts::new(&config).ok().and_then(MapLayout::new);
    let Some(layout) = layout else {
        return damaged("its header has impossible counts");
    };
    if u64::try_from(length).ok() != Some(layout.bytes as u64) {
        return damaged("its length is not what its header says");
    }
    Ok(Found::Map(layout))
}

// Every slot of a guest is reached by a pool record's number.
const _: () = assert!(GUESTS_MAX * POOLS_MAX <= u32::MAX as usize);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_the_map_are_apart_and_aligned() {
        for (frames, workers, guests) in [(1, 1, 1), (1000, 8, 3), (1 << 22, 250, 64)] {
            let counts = Counts {
                frames,
                workers,
                guests,
            };
            let layout = MapLayout::new(counts).unwrap();
            let parts = [
                (layout.guests_at, 128 * usize::from(guests)),
                (layout.pools_at, 32 * counts.slots() as usize),
                (layout.owners_at, 32 * layout.owners as usize),
                (layout.table_at, 24 * counts.all_frames() as usize),
                (layout.journals_at, 12352 * layout.journals as usize),
                (layout.limits_at, 32 * usize::from(guests)),
                (layout.tiers_at, 64 * TIERS),
                (layout.slots_at[0], SLOT_BYTES * SLOTS_MAX as usize),
                (layout.slots_at[1], SLOT_BYTES * SLOTS_MAX as usize),
                (
                    layout.leaves_at,
                    layout.region_leaves * LEAF_BYTES * counts.slots() as usize,
                ),
            ];
            let mut end = HEADER_BYTES;
            for (at, bytes) in parts {
                assert!(at >= end && at.is_multiple_of(ALIGN));
                end = at + bytes;
            }
            assert_eq!(end, layout.bytes);
            assert!(layout.leaves_at.is_multiple_of(LEAF_BYTES));
        }
    }

    #[test]
    fn largest_engine_has_a_layout() {
        let counts = Counts {
            frames: FRAMES_MAX,
            workers: WORKERS_MAX,
            guests: 16,
        };
        assert!(MapLayout::new(counts).is_some());
    }
}
