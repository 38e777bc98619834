// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The directory: which guest's pool each pool slot is, for when the engine's map is gone.
//!
//! An entry has two twins. A change writes the twin that is the older or the worse, makes it durable,
//! and then the other one: at any moment the newest state that anybody could have seen is whole in
//! one of them, and at rest it is in both.
//!
//! ```text
//! 0         8    12         16     17    18      19        20            24       28
//! sequence  CRC  pool slot  state  kind  layout  name len  guest serial  pool id  pool serial
//! 32     36     40     56    120
//! pages  grant  epoch  name  0
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use crc_fast::{CrcAlgorithm, Digest};

use super::header::SlotHeader;
use super::layout::{DIRECTORY_AT, ENTRY_BYTES, Geometry};
use super::medium::Medium;
use crate::handle::{Epoch, PoolId};
use crate::pool::{Layout, PoolKind, PoolSpec};
use crate::records::GUEST_NAME_MAX;

/// A pool of a guest, with what there is to know of both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolEntry {
    /// The guest's name, of at most 64 bytes.
    pub guest: String,
    /// Epochs that the guest has had.
    pub guest_serial: u32,
    /// The guest's boot.
    pub epoch: Epoch,
    /// The guest's grant, in pages.
    pub grant_pages: u32,
    /// The pool, as its guest numbers it.
    pub pool: PoolId,
    /// Which of the pools that this slot has had.
    pub pool_serial: u32,
    /// What the pool promises, and what its pages are named by.
    pub spec: PoolSpec,
}

type Twin = [u8; ENTRY_BYTES];

const LIVE: u8 = 1;
const DROPPED: u8 = 2;

/// What a twin says: its sequence, the serial of the pool, and the pool unless it was dropped.
type Said = (u64, u32, Option<PoolEntry>);

/// What is known of one pool slot.
#[derive(Clone, Debug, Default)]
struct Known {
    /// Sequence of each twin; nothing for a bad or unwritten one.
    sequences: [Option<u64>; 2],
    entry: Option<PoolEntry>,
    /// The highest serial that a pool of this slot has had, as far as is known.
    serial: Option<u32>,
    /// The highest sequence that was ever tried.
    last: u64,
}

/// The directory in memory, and how it is changed in the file.
#[derive(Debug, Default)]
pub(super) struct Directory {
    known: BTreeMap<u32, Known>,
    damaged: BTreeSet<u32>,
}

impl Directory {
    /// Reads all of it. Also returns the slots whose twins differ: see [`Directory::repair`].
    pub(super) fn read(
        medium: &dyn Medium,
        geometry: Geometry,
        id: &[u8; 16],
    ) -> io::Result<(Self, Vec<u32>)> {
        const CHUNK: usize = 512;
        let mut directory = Self::default();
        let mut one_sided = Vec::new();
        let pairs = geometry.pool_slots as usize;
        let mut bytes = vec![[[0; ENTRY_BYTES]; 2]; pairs.min(CHUNK)];
        let mut first = 0_u32;
        while let Some(data) = medium.next_data(geometry.entry_at(first, 0)) {
            // Most of it has never been written.
            let skipped = data.saturating_sub(DIRECTORY_AT) / (2 * ENTRY_BYTES as u64);
            first = first.max(u32::try_from(skipped).unwrap_or(u32::MAX));
            if first >= geometry.pool_slots {
                break;
            }
            let count = bytes.len().min((geometry.pool_slots - first) as usize);
            let chunk = bytes.get_mut(..count).unwrap_or_default();
            let at = geometry.entry_at(first, 0);
            medium.load(at, chunk.as_flattened_mut().as_flattened_mut())?;
            for (pool_slot, twins) in (first..).zip(chunk.iter()) {
                if *twins != [[0; ENTRY_BYTES]; 2] && directory.know(pool_slot, twins, id) {
                    one_sided.push(pool_slot);
                }
            }
            first += u32::try_from(count).unwrap_or(u32::MAX);
        }
        Ok((directory, one_sided))
    }

    /// Takes in what the file says of one slot. Returns whether the twins differ.
    fn know(&mut self, pool_slot: u32, twins: &[Twin; 2], id: &[u8; 16]) -> bool {
        let [first, second] = [0, 1].map(|twin: usize| parse(&twins[twin], pool_slot, id));
        let sequences = [&first, &second].map(|said| said.as_ref().map(|(sequence, ..)| *sequence));
        let differ = sequences[0] != sequences[1];
        let newest = match (first, second) {
            (Some(first), Some(second)) if first.0 >= second.0 => Some(first),
            (first, second) => second.or(first),
        };
        let Some((last, serial, entry)) = newest else {
            // At rest there are two twins. With one alone, the slot's first pool was being made.
            if !twins.contains(&[0; ENTRY_BYTES]) {
                self.damaged.insert(pool_slot);
            }
            return false;
        };
        self.known.insert(
            pool_slot,
            Known {
                sequences,
                entry,
                serial: Some(serial),
                last,
            },
        );
        differ
    }

    /// Makes the two twins of a slot the same again.
    pub(super) fn repair(
        &mut self,
        medium: &dyn Medium,
        geometry: Geometry,
        id: &[u8; 16],
        pool_slot: u32,
    ) -> io::Result<()> {
        let entry = self
            .known
            .get(&pool_slot)
            .and_then(|known| known.entry.clone());
        self.change(medium, geometry, id, pool_slot, entry.as_ref())
    }

    /// Enters a pool, or drops the one that is there; durable on return.
    pub(super) fn change(
        &mut self,
        medium: &dyn Medium,
        geometry: Geometry,
        id: &[u8; 16],
        pool_slot: u32,
        entry: Option<&PoolEntry>,
    ) -> io::Result<()> {
        let mut known = self.known.get(&pool_slot).cloned().unwrap_or_default();
        let sequence = known.last + 1;
        known.last = sequence;
        known.serial = known
            .serial
            .max(entry.as_ref().map(|entry| entry.pool_serial));
        let twin = bytes(entry, &known, pool_slot, id);
        // The newest good one must stay until the other is better.
        let order = if known.sequences[0] > known.sequences[1] {
            [1, 0]
        } else {
            [0, 1]
        };
        for side in order {
            let at = geometry.entry_at(pool_slot, side);
            let since = medium.mark();
            // Whatever becomes of the store, what this twin said is no longer to be relied upon.
            known.sequences[side] = None;
            self.known.insert(pool_slot, known.clone());
            medium.store(at, &twin)?;
            medium.flush(at, ENTRY_BYTES as u64)?;
            medium.fence(since)?;
            known.sequences[side] = Some(sequence);
            known.entry = entry.cloned();
            self.known.insert(pool_slot, known.clone());
        }
        self.damaged.remove(&pool_slot);
        Ok(())
    }

    /// Whether the page's pool is in the directory.
    pub(super) fn has_pool_of(&self, header: &SlotHeader) -> bool {
        let entry = (self.known.get(&header.pool_slot)).and_then(|known| known.entry.as_ref());
        entry.is_some_and(|entry| entry.pool_serial == header.pool_serial)
    }

    /// The serial that a pool must exceed, if it cannot be put into this slot.
    pub(super) fn is_too_old(&self, pool_slot: u32, serial: u32) -> Option<u32> {
        let known = self.known.get(&pool_slot)?;
        let is_told_anew = known
            .entry
            .as_ref()
            .is_some_and(|entry| entry.pool_serial == serial);
        known
            .serial
            .filter(|newest| serial <= *newest && !is_told_anew)
    }

    /// A page of such a pool was seen.
    pub(super) fn note_serial(&mut self, pool_slot: u32, serial: u32) {
        let known = self.known.entry(pool_slot).or_default();
        known.serial = known.serial.max(Some(serial));
    }

    /// The highest serial that a pool of this slot has had.
    pub(super) fn serial(&self, pool_slot: u32) -> Option<u32> {
        self.known.get(&pool_slot)?.serial
    }

    /// The pools, by slot.
    pub(super) fn pools(&self) -> impl Iterator<Item = (u32, &PoolEntry)> {
        let known = self.known.iter();
        known.filter_map(|(slot, known)| Some((*slot, known.entry.as_ref()?)))
    }

    /// Slots of which nothing is known but that there was something.
    pub(super) fn damaged(&self) -> impl Iterator<Item = u32> {
        self.damaged.iter().copied()
    }
}

fn bytes(entry: Option<&PoolEntry>, known: &Known, pool_slot: u32, id: &[u8; 16]) -> Twin {
    let mut twin = [0; ENTRY_BYTES];
    let serial = entry.map(|entry| entry.pool_serial).or(known.serial);
    let serial = serial.unwrap_or(0);
    twin[..8].copy_from_slice(&known.last.to_le_bytes());
    twin[12..16].copy_from_slice(&pool_slot.to_le_bytes());
    twin[16] = DROPPED;
    twin[28..32].copy_from_slice(&serial.to_le_bytes());
    if let Some(entry) = entry {
        let pages = match entry.spec.layout {
            Layout::Dense { pages } => pages,
            Layout::Sparse => 0,
        };
        twin[16] = LIVE;
        twin[17] = u8::from(entry.spec.kind == PoolKind::Ephemeral);
        twin[18] = u8::from(entry.spec.layout == Layout::Sparse);
        twin[19] = u8::try_from(entry.guest.len()).unwrap_or(u8::MAX);
        twin[20..24].copy_from_slice(&entry.guest_serial.to_le_bytes());
        twin[24..28].copy_from_slice(&entry.pool.0.to_le_bytes());
        twin[32..36].copy_from_slice(&pages.to_le_bytes());
        twin[36..40].copy_from_slice(&entry.grant_pages.to_le_bytes());
        twin[40..56].copy_from_slice(&entry.epoch.0);
        for (to, from) in twin[56..56 + GUEST_NAME_MAX]
            .iter_mut()
            .zip(entry.guest.bytes())
        {
            *to = from;
        }
    }
    let crc = sum(&twin, id);
    twin[8..12].copy_from_slice(&crc.to_le_bytes());
    twin
}

fn parse(twin: &Twin, pool_slot: u32, id: &[u8; 16]) -> Option<Said> {
    let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|byte| twin[at + byte]));
    let long = |at: usize| u64::from_le_bytes([0, 1, 2, 3, 4, 5, 6, 7].map(|byte| twin[at + byte]));
    if word(8) != sum(twin, id) || word(12) != pool_slot || long(0) == 0 {
        return None;
    }
    if twin[16] != LIVE {
        return (twin[16] == DROPPED).then_some((long(0), word(28), None));
    }
    let mut epoch = Epoch([0; 16]);
    epoch.0.copy_from_slice(&twin[40..56]);
    let name = twin[56..56 + GUEST_NAME_MAX].get(..usize::from(twin[19]))?;
    let entry = PoolEntry {
        guest: String::from_utf8(name.to_vec()).ok()?,
        guest_serial: word(20),
        epoch,
        grant_pages: word(36),
        pool: PoolId(word(24)),
        pool_serial: word(28),
        spec: PoolSpec {
            kind: match twin[17] {
                0 => PoolKind::Persistent,
                _ => PoolKind::Ephemeral,
            },
            layout: match twin[18] {
                0 => Layout::Dense { pages: word(32) },
                _ => Layout::Sparse,
            },
        },
    };
    Some((long(0), word(28), Some(entry)))
}

fn sum(twin: &Twin, id: &[u8; 16]) -> u32 {
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    digest.update(id);
    digest.update(&twin[..8]);
    digest.update(&twin[12..]);
    // The upper half of a 32-bit CRC is zero.
    u32::try_from(digest.finalize()).unwrap_or(u32::MAX)
}
