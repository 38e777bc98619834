// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Where things are in a file of slots, and the superblock that says so.
//!
//! ```text
//! bytes               what
//! 0        4096       superblock
//! 4096     4096       superblock, its twin
//! 8192     256 × 65536   pool directory: two twins of 128 bytes for each pool slot
//! …        248 × 8192 log of emptied slots: two twins of each page
//! 18 MiB   130 MiB    segment 0:  32768 headers of 64 bytes (2 MiB), 32768 pages (128 MiB)
//! 148 MiB  130 MiB    segment 1
//! …                   the last segment ends with the last slot's page
//! ```
//! Pages begin at a multiple of 2 MiB, so that a DAX mapping can use huge pages. A file grows at its
//! end: no slot ever moves. Both twins of a superblock are written one after the other, each made
//! durable before the next: a crash leaves one of them whole, and a flipped bit in one costs nothing.

use crate::checksum;
use crate::handle::{PAGE_SIZE, PageBytes};
use crate::slots::header::HEADER_BYTES;

/// Version of the file. A file of another one is refused, but for version 1: that had no log, and
/// zeroes in its place and in those of the stamps.
pub(super) const VERSION: u32 = 2;
/// Pages of the log in files of version 1, once they have one.
const FIRST_LOG_PAGES: u32 = 248;
/// The most pages of a log.
const LOG_PAGES_MAX: u32 = 1 << 16;
/// What each version begins with, followed by the version. The last four bytes of a superblock are
/// the checksum of the rest in each version.
const MAGIC: [u8; 8] = *b"TMEMSLOT";
/// Where the twins of the superblock are.
pub(super) const SUPERBLOCKS_AT: [u64; 2] = [0, PAGE_SIZE as u64];
/// Where the directory begins; a file that is not longer holds nothing.
pub(super) const DIRECTORY_AT: u64 = 2 * PAGE_SIZE as u64;
/// Bytes of one twin of a directory's entry.
pub(super) const ENTRY_BYTES: usize = 128;
const SUM_AT: usize = PAGE_SIZE - 4;
/// From here to the checksum a superblock of this version is zeroes.
const USED: usize = 72;
const HUGE: u64 = 2 << 20;

/// The sizes that the places follow from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Geometry {
    /// Slots of a segment: a multiple of [`Geometry::STEP`].
    pub(super) segment_slots: u32,
    /// Entries of the directory.
    pub(super) pool_slots: u32,
    /// Pages of the log of emptied slots.
    pub(super) log_pages: u32,
}

impl Geometry {
    /// That of files. Tests use smaller ones.
    pub(super) const STANDARD: Self = Self {
        segment_slots: 32768,
        pool_slots: super::POOL_SLOTS_MAX,
        log_pages: FIRST_LOG_PAGES,
    };
    /// Headers of this many slots fill a page.
    const STEP: u32 = 64;

    fn is_possible(self) -> bool {
        let slots = Self::STEP..=super::SLOTS_MAX;
        slots.contains(&self.segment_slots)
            && self.segment_slots.is_multiple_of(Self::STEP)
            && (1..=super::POOL_SLOTS_MAX).contains(&self.pool_slots)
            && (2..=LOG_PAGES_MAX).contains(&self.log_pages)
    }

    fn headers_bytes(self) -> u64 {
        u64::from(self.segment_slots) * HEADER_BYTES as u64
    }

    fn segment_bytes(self) -> u64 {
        self.headers_bytes() + u64::from(self.segment_slots) * PAGE_SIZE as u64
    }

    fn segments_at(self) -> u64 {
        let end = self.log_at(u64::from(self.log_pages), 0);
        end.next_multiple_of(if self.headers_bytes().is_multiple_of(HUGE) {
            HUGE
        } else {
            PAGE_SIZE as u64
        })
    }

    /// Where a twin of a page of the log is; the second one comes right after the first.
    pub(super) fn log_at(self, page: u64, twin: u64) -> u64 {
        let directory_end = DIRECTORY_AT + u64::from(self.pool_slots) * 2 * ENTRY_BYTES as u64;
        directory_end.next_multiple_of(PAGE_SIZE as u64) + (2 * page + twin) * PAGE_SIZE as u64
    }

    /// The most pages of the log whose fence has not passed.
    pub(super) fn log_under_way(self) -> u64 {
        u64::from(self.log_pages / 8).max(1)
    }

    fn segment_at(self, slot: u32) -> u64 {
        self.segments_at() + u64::from(slot / self.segment_slots) * self.segment_bytes()
    }

    /// Where a slot's header is.
    pub(super) fn header_at(self, slot: u32) -> u64 {
        self.segment_at(slot) + u64::from(slot % self.segment_slots) * HEADER_BYTES as u64
    }

    /// Where a slot's page is.
    pub(super) fn page_at(self, slot: u32) -> u64 {
        let place = u64::from(slot % self.segment_slots) * PAGE_SIZE as u64;
        self.segment_at(slot) + self.headers_bytes() + place
    }

    /// Whether headers and pages of this slot come right after those of the slot before it.
    pub(super) fn follows(self, slot: u32, before: u32) -> bool {
        before.checked_add(1) == Some(slot) && !slot.is_multiple_of(self.segment_slots)
    }

    /// Where a twin of a pool's entry is.
    pub(super) fn entry_at(self, pool_slot: u32, twin: usize) -> u64 {
        let twins = u64::from(pool_slot) * 2 + twin as u64;
        DIRECTORY_AT + twins * ENTRY_BYTES as u64
    }

    /// Length of a file with this many slots.
    pub(super) fn length(self, slots: u32) -> u64 {
        match slots.checked_sub(1) {
            Some(last) => self.page_at(last) + PAGE_SIZE as u64,
            None => self.segments_at(),
        }
    }
}

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Superblock {
    /// That it was written with.
    pub(super) version: u32,
    /// Of two twins, the higher one is the newer.
    pub(super) sequence: u64,
    /// Drawn when the file was made.
    pub(super) id: [u8; 16],
    /// Slots; none while the file is being made.
    pub(super) slots: u32,
    pub(super) geometry: Geometry,
    /// Whether what is committed survives the host.
    pub(super) outlives_host: bool,
    /// The boot under which a file that does not is written.
    pub(super) boot: [u8; 16],
}

/// What one twin of the superblock is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// All zeroes.
    Nothing,
    /// Something else.
    Foreign,
    /// Ours, but bad.
    Damaged,
    /// Of another version.
    Version(u32),
    /// Sound.
    Superblock(Superblock),
}

impl Superblock {
    pub(super) fn bytes(&self) -> PageBytes {
        let mut bytes = [0; PAGE_SIZE];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&self.version.to_le_bytes());
        bytes[12..16].copy_from_slice(&u32::from(self.outlives_host).to_le_bytes());
        bytes[16..32].copy_from_slice(&self.id);
        bytes[32..48].copy_from_slice(&self.boot);
        bytes[48..56].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[56..60].copy_from_slice(&self.slots.to_le_bytes());
        bytes[60..64].copy_from_slice(&self.geometry.segment_slots.to_le_bytes());
        bytes[64..68].copy_from_slice(&self.geometry.pool_slots.to_le_bytes());
        bytes[68..72].copy_from_slice(&self.geometry.log_pages.to_le_bytes());
        let sum = checksum::of(&bytes);
        bytes[SUM_AT..].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    pub(super) fn parse(mut bytes: PageBytes) -> Found {
        if bytes == [0; PAGE_SIZE] {
            return Found::Nothing;
        }
        // One that was torn while it was made may lack its first word.
        let is_torn = bytes[..8] == [0; 8] && bytes[USED..SUM_AT].iter().all(|byte| *byte == 0);
        if is_torn {
            return Found::Damaged;
        }
        if bytes[..8] != MAGIC {
            return Found::Foreign;
        }
        let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|byte| bytes[at + byte]));
        let (version, outlives, sum) = (word(8), word(12), word(SUM_AT));
        let (slots, segment_slots, pool_slots) = (word(56), word(60), word(64));
        let log_pages = if version == 1 {
            FIRST_LOG_PAGES
        } else {
            word(68)
        };
        bytes[SUM_AT..].fill(0);
        if checksum::of(&bytes) != sum {
            return Found::Damaged;
        }
        if !(1..=VERSION).contains(&version) {
            return Found::Version(version);
        }
        let mut sequence = [0; 8];
        sequence.copy_from_slice(&bytes[48..56]);
        let mut found = Self {
            version,
            sequence: u64::from_le_bytes(sequence),
            id: [0; 16],
            slots,
            geometry: Geometry {
                segment_slots,
                pool_slots,
                log_pages,
            },
            outlives_host: outlives != 0,
            boot: [0; 16],
        };
        found.id.copy_from_slice(&bytes[16..32]);
        found.boot.copy_from_slice(&bytes[32..48]);
        if slots > super::SLOTS_MAX || !found.geometry.is_possible() {
            return Found::Damaged;
        }
        Found::Superblock(found)
    }
}

const _: () = assert!(Geometry::STEP as usize * HEADER_BYTES == PAGE_SIZE);
const _: () = assert!(DIRECTORY_AT.is_multiple_of(ENTRY_BYTES as u64));

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Geometry = Geometry {
        segment_slots: 64,
        pool_slots: 3,
        log_pages: 2,
    };

    #[test]
    fn parts_are_apart_and_slots_never_move() {
        for geometry in [SMALL, Geometry::STANDARD] {
            let mut places = Vec::new();
            let slots = 3 * geometry.segment_slots - 5;
            for slot in (0..slots).step_by(geometry.segment_slots as usize / 16) {
                places.push((geometry.header_at(slot), HEADER_BYTES as u64));
                places.push((geometry.page_at(slot), PAGE_SIZE as u64));
                assert!(geometry.page_at(slot).is_multiple_of(PAGE_SIZE as u64));
                assert!(geometry.page_at(slot) < geometry.length(slot + 1));
            }
            for pool in 0..geometry.pool_slots {
                places.push((geometry.entry_at(pool, 0), ENTRY_BYTES as u64));
                places.push((geometry.entry_at(pool, 1), ENTRY_BYTES as u64));
            }
            for page in 0..u64::from(geometry.log_pages) {
                places.push((geometry.log_at(page, 0), PAGE_SIZE as u64));
                places.push((geometry.log_at(page, 1), PAGE_SIZE as u64));
            }
            places.sort_unstable();
            let mut end = DIRECTORY_AT;
            for (at, bytes) in places {
                assert!(at >= end);
                end = at + bytes;
            }
            assert!(end <= geometry.length(slots));
        }
    }

    #[test]
    fn pages_of_a_segment_begin_at_a_huge_page() {
        let geometry = Geometry::STANDARD;
        for segment in [0, 1, 8191] {
            let first = segment * geometry.segment_slots;
            assert!(geometry.page_at(first).is_multiple_of(HUGE));
            assert!(geometry.header_at(first).is_multiple_of(HUGE));
            assert!(segment == 0 || !geometry.follows(first, first - 1));
            assert!(geometry.follows(first + 1, first));
        }
        assert_eq!(geometry.length(0), 18 << 20);
        assert_eq!(geometry.length(32768), 148 << 20);
        let most = geometry.length(super::super::SLOTS_MAX);
        assert!(i64::try_from(most).is_ok());
    }

    #[test]
    fn any_flipped_bit_of_a_superblock_is_noticed() {
        let superblock = Superblock {
            version: VERSION,
            sequence: 3,
            id: *b"0123456789abcdef",
            slots: 77,
            geometry: SMALL,
            outlives_host: true,
            boot: [9; 16],
        };
        let bytes = superblock.bytes();
        assert_eq!(Superblock::parse(bytes), Found::Superblock(superblock));
        for at in (0..80).chain(SUM_AT..PAGE_SIZE) {
            let mut flipped = bytes;
            flipped[at] ^= 0x10;
            let expected = if at < 8 {
                Found::Foreign
            } else {
                Found::Damaged
            };
            assert_eq!(Superblock::parse(flipped), expected, "byte {at}");
        }
        assert_eq!(Superblock::parse([0; PAGE_SIZE]), Found::Nothing);
    }

    #[test]
    fn other_version_is_named() {
        let mut bytes = Superblock {
            version: VERSION,
            sequence: 3,
            id: [1; 16],
            slots: 77,
            geometry: SMALL,
            outlives_host: true,
            boot: [9; 16],
        }
        .bytes();
        bytes[8..12].copy_from_slice(&(VERSION + 1).to_le_bytes());
        bytes[SUM_AT..].fill(0);
        let sum = checksum::of(&bytes);
        bytes[SUM_AT..].copy_from_slice(&sum.to_le_bytes());
        assert_eq!(Superblock::parse(bytes), Found::Version(VERSION + 1));
    }
}
