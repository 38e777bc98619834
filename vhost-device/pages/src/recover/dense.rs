// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Dense pools: their words lie in the map, and are the truth. A frame that a word names must agree.

use std::io;
use std::sync::atomic::Ordering;

use super::{FoundPool, Scan};
use crate::frames::Frames;
use crate::handle::{ObjectId, PageIndex, Ticket};
use crate::index::{Entry, Index, LEAF_WORDS};
use crate::journal::TakenPage;
use crate::slot_table::SlotState;

/// Reads the leaves of a pool that are in memory. Words that tell nothing become
/// [`Entry::Damaged`], and taken ones that no journal speaks of are gone.
pub(super) fn read(frames: &Frames, pool: &mut FoundPool, scan: &mut Scan<'_>) -> io::Result<()> {
    let Index::Dense(dense) = &pool.index else {
        return Ok(());
    };
    let leaves = dense.leaves();
    let reader = Reader {
        frames,
        slot: pool.slot,
        serial: frames.mapping().pools()[pool.slot as usize].serial(),
        ephemeral: pool.ephemeral,
    };
    let runs = frames.mapping().leaves_in_memory(leaves.clone())?;
    for leaf in runs.into_iter().flatten() {
        dense.mark_made(leaf);
        let first = (leaf - leaves.start) * LEAF_WORDS;
        for (at, word) in (first..).zip(&frames.mapping().leaf(leaf).0) {
            let before = word.load(Ordering::Relaxed);
            if before == Entry::EMPTY_WORD {
                continue;
            }
            let index = u32::try_from(at).map(PageIndex).ok();
            let inside = index.filter(|index| dense.holds(*index));
            // What lies beyond the pool, no put has written.
            let entry = match inside {
                Some(index) => reader.read(index, before, scan),
                None => Entry::Empty,
            };
            if entry.to_word() != before {
                word.store(entry.to_word(), Ordering::Release);
            }
            scan.damaged += u64::from(entry == Entry::Damaged || inside.is_none());
            let ticket = match entry {
                Entry::Frame(frame) => frames.mapping().entry(frame).ticket(),
                Entry::Same { ticket, .. } => ticket,
                Entry::Stored(stored) => {
                    let slots = frames.mapping().slots(stored.tier);
                    slots.ticket(stored.slot)
                }
                Entry::Damaged => 0,
                Entry::Empty | Entry::TakenFrame(_) | Entry::TakenSame { .. } => continue,
            };
            pool.counts.add(entry, Ticket::new(ticket));
        }
    }
    Ok(())
}

/// Reads the words of one pool.
struct Reader<'a> {
    frames: &'a Frames,
    slot: u32,
    serial: u32,
    ephemeral: bool,
}

impl Reader<'_> {
    /// What a word that is not empty says, as far as it is true.
    fn read(&self, index: PageIndex, word: u64, scan: &mut Scan<'_>) -> Entry {
        let entry = Entry::read_word(word).unwrap_or(Entry::Damaged);
        let taken = matches!(entry, Entry::TakenFrame(_) | Entry::TakenSame { .. });
        let page = TakenPage {
            pool: self.slot,
            serial: self.serial,
            object: ObjectId::ZERO,
            index,
            entry,
        };
        if taken && !scan.journals.name(&page) {
            return Entry::Empty;
        }
        let place = (self.slot, index);
        let claim = |frame| scan.claim(self.frames, frame, place, self.ephemeral);
        if !entry.frame().is_none_or(claim) {
            return Entry::Damaged;
        }
        if let Entry::Stored(stored) = entry
            && !scan.slots.claim(self.frames, stored, SlotState::Dense)
        {
            return Entry::Damaged;
        }
        if taken {
            scan.journals.confirm(&page);
        }
        entry
    }
}
