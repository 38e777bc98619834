// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What each sector of a checked disk holds, and what it may hold: the version that a write gave it, and the
//! oldest version that a reader may still meet.
//!
//! A sector's words follow from its place, its version and the seed, so that a sector that
//! comes back in another's place, torn, or of another version is seen.

use std::sync::atomic::{AtomicU64, Ordering};

pub(crate) const SECTOR: usize = 512;
pub(crate) const SECTORS_PER_BLOCK: u64 = 8;
const WORDS: usize = SECTOR / 8;

const fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// Writes what `sector` holds in `version`.
pub(crate) fn fill(into: &mut [u8], seed: u64, sector: u64, version: u64) {
    let mut state = mix(seed ^ mix(sector) ^ mix(version).rotate_left(32));
    for (nth, word) in into.chunks_exact_mut(8).enumerate() {
        let value = match nth {
            0 => version,
            1 => sector,
            _ => {
                state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                state
            }
        };
        word.copy_from_slice(&value.to_le_bytes());
    }
}

/// What a sector turned out to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// This version, all of it.
    Version(u64),
    /// Nothing but zeroes.
    Zeroes,
    /// Anything else.
    Garbage,
}

/// Recognises a sector.
pub(crate) fn look(bytes: &[u8], seed: u64, sector: u64) -> Content {
    let mut head = [0; 8];
    head.copy_from_slice(&bytes[..8]);
    let version = u64::from_le_bytes(head);
    let mut expected = [0; WORDS * 8];
    fill(&mut expected, seed, sector, version);
    if bytes == expected {
        Content::Version(version)
    } else if bytes.iter().all(|byte| *byte == 0) {
        Content::Zeroes
    } else {
        Content::Garbage
    }
}

/// What is known of each sector.
pub(crate) struct Ledger {
    /// The newest version whose write was acknowledged, or that was read.
    floors: Vec<AtomicU64>,
    /// The newest version that zeroed or discarded the sector, from its start on.
    zeroed: Vec<AtomicU64>,
    versions: AtomicU64,
}

impl Ledger {
    pub(crate) fn new(sectors: u64) -> Self {
        let zeroes = || (0..sectors).map(|_| AtomicU64::new(0)).collect();
        Self {
            floors: zeroes(),
            zeroed: zeroes(),
            versions: AtomicU64::new(0),
        }
    }

    fn at(list: &[AtomicU64], sector: u64) -> &AtomicU64 {
        &list[usize::try_from(sector).unwrap_or(usize::MAX)]
    }

    /// A version newer than all before.
    pub(crate) fn next_version(&self) -> u64 {
        self.versions.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// What a read that begins now must not be older than.
    pub(crate) fn floor(&self, sector: u64) -> u64 {
        Self::at(&self.floors, sector).load(Ordering::SeqCst)
    }

    /// A write of `version` was acknowledged, or a read has returned it.
    pub(crate) fn raise(&self, sector: u64, version: u64) {
        Self::at(&self.floors, sector).fetch_max(version, Ordering::SeqCst);
    }

    /// Zeroes may be read from now on, as version `version`.
    pub(crate) fn zeroing(&self, sector: u64, version: u64) {
        Self::at(&self.zeroed, sector).fetch_max(version, Ordering::SeqCst);
    }

    /// Whether a read that began when the sector's floor was `floor` may return `content`.
    pub(crate) fn allows(&self, sector: u64, floor: u64, content: Content) -> bool {
        match content {
            Content::Version(version) => {
                let known = version <= self.versions.load(Ordering::SeqCst);
                if known && version >= floor {
                    self.raise(sector, version);
                }
                known && version >= floor
            }
            // Before the first write everything is zero.
            Content::Zeroes => Self::at(&self.zeroed, sector).load(Ordering::SeqCst) >= floor,
            Content::Garbage => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sector_is_recognised_in_its_place_and_version_alone() {
        let mut bytes = [0; SECTOR];
        fill(&mut bytes, 7, 100, 3);
        assert_eq!(look(&bytes, 7, 100), Content::Version(3));
        assert_eq!(look(&bytes, 7, 101), Content::Garbage);
        assert_eq!(look(&bytes, 8, 100), Content::Garbage);
        bytes[SECTOR - 1] ^= 1;
        assert_eq!(look(&bytes, 7, 100), Content::Garbage);
        assert_eq!(look(&[0; SECTOR], 7, 100), Content::Zeroes);
    }

    #[test]
    fn older_versions_than_the_floor_are_refused() {
        let ledger = Ledger::new(4);
        let (one, two) = (ledger.next_version(), ledger.next_version());
        ledger.raise(1, one);
        assert!(ledger.allows(1, ledger.floor(1), Content::Version(one)));
        // A newer one may be read before it is acknowledged; then it is the floor.
        assert!(ledger.allows(1, ledger.floor(1), Content::Version(two)));
        assert!(!ledger.allows(1, ledger.floor(1), Content::Version(one)));
        assert!(!ledger.allows(1, ledger.floor(1), Content::Version(two + 1)));
        assert!(!ledger.allows(1, ledger.floor(1), Content::Garbage));
    }

    #[test]
    fn zeroes_are_allowed_where_something_zeroes() {
        let ledger = Ledger::new(4);
        assert!(ledger.allows(0, 0, Content::Zeroes));
        ledger.raise(0, ledger.next_version());
        assert!(!ledger.allows(0, ledger.floor(0), Content::Zeroes));
        ledger.zeroing(0, ledger.next_version());
        assert!(ledger.allows(0, ledger.floor(0), Content::Zeroes));
        ledger.raise(0, ledger.next_version());
        assert!(!ledger.allows(0, ledger.floor(0), Content::Zeroes));
    }
}
