// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What each sector of a checked disk holds, and what it may hold: the version that a write gave it, and the
//! oldest version that a reader may still meet.
//!
//! A sector's words follow from its place, its version and the seed, so that a sector that
//! comes back in another's place, torn, or of another version is seen. Each word but the first two tells its
//! version, so that what a torn sector is made of is seen as well.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

pub(crate) const SECTOR: usize = 512;
pub(crate) const SECTORS_PER_BLOCK: u64 = 8;
const WORDS: usize = SECTOR / 8;

/// What [`mix`] multiplies by; both are odd.
const FACTORS: [u64; 2] = [0xbf58_476d_1ce4_e5b9, 0x94d0_49bb_1331_11eb];
/// From one word to the next.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

const fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(FACTORS[0]);
    let value = (value ^ (value >> 27)).wrapping_mul(FACTORS[1]);
    value ^ (value >> 31)
}

/// What was mixed.
const fn unmix(value: u64) -> u64 {
    let value = unshift(value, 31).wrapping_mul(inverse(FACTORS[1]));
    let value = unshift(value, 27).wrapping_mul(inverse(FACTORS[0]));
    unshift(value, 30)
}

/// What became `value` when it was combined with itself shifted by `bits`, at least 22 of them.
const fn unshift(value: u64, bits: u32) -> u64 {
    value
        ^ (value >> bits)
        ^ (if 2 * bits < 64 {
            value >> (2 * bits)
        } else {
            0
        })
}

/// The number that gives 1 with an odd one, by Newton's method: each step doubles the bits that are right.
const fn inverse(odd: u64) -> u64 {
    let mut inverse = odd;
    let mut bits = 3;
    while bits < 64 {
        inverse = inverse.wrapping_mul(2_u64.wrapping_sub(odd.wrapping_mul(inverse)));
        bits *= 2;
    }
    inverse
}

/// The word `nth` of `sector` in `version`.
const fn word(nth: usize, seed: u64, sector: u64, version: u64) -> u64 {
    match nth {
        0 => version,
        1 => sector,
        _ => {
            let first = mix(seed ^ mix(sector) ^ mix(version).rotate_left(32));
            first.wrapping_add(STEP.wrapping_mul(nth as u64 - 1))
        }
    }
}

/// The version in which the word `nth` of `sector` is this, if it is one that tells.
const fn version_of(nth: usize, seed: u64, sector: u64, word: u64) -> Option<u64> {
    match nth {
        // Half of one version's number and half of another's is a third.
        0 | 1 => None,
        _ => {
            let first = word.wrapping_sub(STEP.wrapping_mul(nth as u64 - 1));
            let version = unmix(first) ^ seed ^ mix(sector);
            Some(unmix(version.rotate_right(32)))
        }
    }
}

/// Writes what `sector` holds in `version`.
pub(crate) fn fill(into: &mut [u8], seed: u64, sector: u64, version: u64) {
    for (nth, bytes) in into.chunks_exact_mut(8).enumerate() {
        bytes.copy_from_slice(&word(nth, seed, sector, version).to_le_bytes());
    }
}

/// What a sector turned out to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// This version, all of it.
    Version(u64),
    /// Nothing but zeroes.
    Zeroes,
    /// Parts of this version and of newer ones up to the second, and perhaps zeroes.
    Torn {
        oldest: u64,
        newest: u64,
        zeroes: bool,
    },
    /// Anything else.
    Garbage,
}

/// Recognises a sector. Versions above `newest` there are not; `likely` ones are those that a word may be a
/// mixture of, where no other word tells.
pub(crate) fn look(bytes: &[u8], seed: u64, sector: u64, newest: u64, likely: &[u64]) -> Content {
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
        torn(bytes, seed, sector, newest, likely).unwrap_or(Content::Garbage)
    }
}

/// What a sector is made of, if it is made of versions and zeroes alone. Where one ends and another begins, a
/// word may be of several.
fn torn(bytes: &[u8], seed: u64, sector: u64, newest: u64, likely: &[u64]) -> Option<Content> {
    let words: Vec<u64> = (bytes.chunks_exact(8))
        .map(|bytes| bytes.try_into().map_or(0, u64::from_le_bytes))
        .collect();
    let told = |nth: usize, word: u64| {
        let version = version_of(nth, seed, sector, word).filter(|_| word != 0);
        version.filter(|version| (1..=newest).contains(version))
    };
    let versions: BTreeSet<u64> = (words.iter().enumerate())
        .filter_map(|(nth, word)| told(nth, *word))
        .collect();
    let mut zeroes = false;
    for (nth, found) in words.iter().enumerate() {
        if told(nth, *found).is_some() {
            continue;
        }
        let all = versions
            .iter()
            .chain(likely)
            .filter(|version| **version > 0);
        let mut parts: Vec<u64> = all
            .map(|version| word(nth, seed, sector, *version))
            .collect();
        if !is_of(*found, &parts) {
            parts.push(0);
            zeroes = true;
            if !is_of(*found, &parts) {
                return None;
            }
        }
    }
    // Where nothing tells but the ends of words, it is zeroes that must be allowed.
    let any = likely.iter().max().filter(|version| **version > 0);
    Some(Content::Torn {
        oldest: *versions.first().or(any)?,
        newest: *versions.last().or(any)?,
        zeroes,
    })
}

/// Whether each byte of a word is that of one of these. Where bytes are copied one by one, by two processors at a
/// time, one may pass the other several times within a word.
fn is_of(found: u64, parts: &[u64]) -> bool {
    let is_byte = |at: usize| {
        let mut bytes = parts.iter().map(|part| part.to_le_bytes()[at]);
        bytes.any(|byte| byte == found.to_le_bytes()[at])
    };
    (0..8).all(is_byte)
}

/// A sector's words, for whoever wants to know what else it is.
pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    let words = bytes.chunks(8).map(|word| {
        let digits = word.iter().rev().map(|byte| format!("{byte:02x}"));
        digits.collect::<String>()
    });
    words.collect::<Vec<_>>().join(" ")
}

/// What is known of each sector.
pub(crate) struct Ledger {
    /// The newest version whose write was acknowledged, or that was read.
    floors: Vec<AtomicU64>,
    /// The newest version whose write began.
    begun: Vec<AtomicU64>,
    /// The newest version that zeroed or discarded the sector, from its start on.
    zeroed: Vec<AtomicU64>,
    versions: AtomicU64,
}

impl Ledger {
    pub(crate) fn new(sectors: u64) -> Self {
        let zeroes = || (0..sectors).map(|_| AtomicU64::new(0)).collect();
        Self {
            floors: zeroes(),
            begun: zeroes(),
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

    /// The newest version there is.
    pub(crate) fn newest(&self) -> u64 {
        self.versions.load(Ordering::SeqCst)
    }

    /// What a read that begins now must not be older than.
    pub(crate) fn floor(&self, sector: u64) -> u64 {
        Self::at(&self.floors, sector).load(Ordering::SeqCst)
    }

    /// A write of `version` begins.
    pub(crate) fn begin(&self, sector: u64, version: u64) {
        Self::at(&self.begun, sector).fetch_max(version, Ordering::SeqCst);
    }

    /// The newest version whose write has begun.
    pub(crate) fn begun(&self, sector: u64) -> u64 {
        Self::at(&self.begun, sector).load(Ordering::SeqCst)
    }

    /// A write of `version` was acknowledged, or a read has returned it.
    pub(crate) fn raise(&self, sector: u64, version: u64) {
        Self::at(&self.floors, sector).fetch_max(version, Ordering::SeqCst);
    }

    /// Zeroes may be read from now on, as version `version`.
    pub(crate) fn zeroing(&self, sector: u64, version: u64) {
        Self::at(&self.zeroed, sector).fetch_max(version, Ordering::SeqCst);
    }

    /// Whether a read that began when the sector's floor was `floor` may return `content`. Only where reads
    /// go through the page cache, which lets them pass a write half-way, may a sector be `torn`.
    pub(crate) fn allows(&self, sector: u64, floor: u64, content: Content, torn: bool) -> bool {
        match content {
            Content::Version(version) => {
                let known = version <= self.newest();
                if known && version >= floor {
                    self.raise(sector, version);
                }
                known && version >= floor
            }
            // Before the first write everything is zero.
            Content::Zeroes => self.allows_zeroes(sector, floor),
            Content::Torn {
                oldest,
                newest,
                zeroes,
            } => {
                torn && oldest >= floor
                    && newest <= self.newest()
                    && (!zeroes || self.allows_zeroes(sector, floor))
            }
            Content::Garbage => false,
        }
    }

    fn allows_zeroes(&self, sector: u64, floor: u64) -> bool {
        Self::at(&self.zeroed, sector).load(Ordering::SeqCst) >= floor
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: u64 = 0x1_0102;

    #[test]
    fn sector_is_recognised_in_its_place_and_version_alone() {
        let mut bytes = [0; SECTOR];
        fill(&mut bytes, 7, 100, 3);
        assert_eq!(look(&bytes, 7, 100, MOST, &[]), Content::Version(3));
        assert_eq!(look(&bytes, 7, 101, MOST, &[]), Content::Garbage);
        assert_eq!(look(&bytes, 8, 100, MOST, &[]), Content::Garbage);
        bytes[SECTOR - 1] ^= 1;
        assert_eq!(look(&bytes, 7, 100, MOST, &[]), Content::Garbage);
        assert_eq!(look(&[0; SECTOR], 7, 100, MOST, &[]), Content::Zeroes);
    }

    #[test]
    fn older_versions_than_the_floor_are_refused() {
        let ledger = Ledger::new(4);
        let (one, two) = (ledger.next_version(), ledger.next_version());
        ledger.raise(1, one);
        assert!(ledger.allows(1, ledger.floor(1), Content::Version(one), false));
        // A newer one may be read before it is acknowledged; then it is the floor.
        assert!(ledger.allows(1, ledger.floor(1), Content::Version(two), false));
        assert!(!ledger.allows(1, ledger.floor(1), Content::Version(one), false));
        assert!(!ledger.allows(1, ledger.floor(1), Content::Version(two + 1), false));
        assert!(!ledger.allows(1, ledger.floor(1), Content::Garbage, false));
    }

    #[test]
    fn zeroes_are_allowed_where_something_zeroes() {
        let ledger = Ledger::new(4);
        assert!(ledger.allows(0, 0, Content::Zeroes, false));
        ledger.raise(0, ledger.next_version());
        assert!(!ledger.allows(0, ledger.floor(0), Content::Zeroes, false));
        ledger.zeroing(0, ledger.next_version());
        assert!(ledger.allows(0, ledger.floor(0), Content::Zeroes, false));
        ledger.raise(0, ledger.next_version());
        assert!(!ledger.allows(0, ledger.floor(0), Content::Zeroes, false));
    }

    #[test]
    fn words_tell_their_version() {
        for version in [1, 2, 77, u64::MAX] {
            assert_eq!(unmix(mix(version)), version);
            for nth in [2, 3, WORDS - 1] {
                let word = word(nth, 7, 100, version);
                assert_eq!(version_of(nth, 7, 100, word), Some(version), "word {nth}");
            }
        }
    }

    #[test]
    fn torn_sector_is_seen_wherever_it_is_torn() {
        // Half of one number and half of the other is a third, which may be beyond the newest.
        const OLD: u64 = 0x1_00f0;
        let torn = |oldest, newest, zeroes| Content::Torn {
            oldest,
            newest,
            zeroes,
        };
        let [mut old, mut new] = [[0; SECTOR]; 2];
        fill(&mut old, 7, 100, OLD);
        fill(&mut new, 7, 100, MOST);
        for at in 1..SECTOR {
            let mut bytes = new;
            bytes[at..].copy_from_slice(&old[at..]);
            let content = look(&bytes, 7, 100, MOST, &[OLD, MOST]);
            match at {
                // All of the words that tell are of one version.
                ..24 => assert_eq!(content, torn(OLD, OLD, false), "torn at {at}"),
                505.. => assert_eq!(content, torn(MOST, MOST, false), "torn at {at}"),
                _ => assert_eq!(content, torn(OLD, MOST, false), "torn at {at}"),
            }
            // Without any hint the middle tells enough.
            if (24..504).contains(&at) {
                assert_eq!(look(&bytes, 7, 100, MOST, &[]), content, "torn at {at}");
            }
            bytes[300] ^= 1;
            assert_eq!(look(&bytes, 7, 100, MOST, &[OLD, MOST]), Content::Garbage);
        }
        // Of a version that there is not.
        let mut bytes = new;
        bytes[256..].copy_from_slice(&old[256..]);
        assert_eq!(look(&bytes, 7, 100, OLD, &[OLD]), Content::Garbage);
        // Zeroes on the one side, or on the other.
        for at in 1..SECTOR {
            for (mut bytes, zeroes) in [(new, at..SECTOR), (new, 0..at)] {
                bytes[zeroes].fill(0);
                let content = look(&bytes, 7, 100, MOST, &[0, MOST]);
                let is_zero = matches!(
                    content,
                    Content::Torn {
                        oldest: MOST,
                        newest: MOST,
                        zeroes: true
                    }
                );
                // The upper bytes of the version's number are zero anyway.
                let is_whole = content == Content::Version(MOST);
                let is_empty = content == Content::Zeroes;
                assert!(
                    is_zero || is_whole || is_empty,
                    "zeroes at {at}: {content:?}"
                );
                assert!(is_zero || at < 8, "zeroes at {at}: {content:?}");
            }
        }
    }

    #[test]
    fn sector_that_a_read_and_a_write_ran_through_side_by_side_is_torn() {
        let [mut old, mut new] = [[0; SECTOR]; 2];
        fill(&mut old, 7, 100, 34_606);
        fill(&mut new, 7, 100, 34_981);
        let mut bytes = new;
        bytes[465] = old[465];
        bytes[473..].copy_from_slice(&old[473..]);
        let content = look(&bytes, 7, 100, MOST, &[]);
        let oldest_newest = |content| match content {
            Content::Torn {
                oldest,
                newest,
                zeroes: false,
            } => (oldest, newest),
            other => panic!("{other:?}"),
        };
        assert_eq!(oldest_newest(content), (34_606, 34_981));
    }

    #[test]
    fn torn_sector_is_allowed_if_no_part_is_too_old() {
        let ledger = Ledger::new(4);
        let versions = [(); 3].map(|()| ledger.next_version());
        ledger.raise(1, versions[1]);
        let torn = |oldest: usize, newest: usize, zeroes| Content::Torn {
            oldest: versions[oldest],
            newest: versions[newest],
            zeroes,
        };
        let allows = |content, may| ledger.allows(1, ledger.floor(1), content, may);
        assert!(allows(torn(1, 2, false), true));
        assert!(!allows(torn(1, 2, false), false));
        assert!(!allows(torn(0, 2, false), true));
        assert!(!allows(torn(1, 2, true), true));
        ledger.zeroing(1, versions[2]);
        assert!(allows(torn(1, 2, true), true));
    }
}
