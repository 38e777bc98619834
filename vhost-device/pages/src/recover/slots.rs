// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Slots of the tiers below DRAM: which of them hold a page, after a kill, and after the host's end.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use crate::error::EngineError;
use crate::frames::Frames;
use crate::handle::PageIndex;
use crate::index::{Entry, LEAF_WORDS, Stored};
use crate::pool::Layout;
use crate::records::State;
use crate::slot_table::SlotState;
use crate::slots::SlotHeader;
use crate::sys::Mapping;
use crate::tier::{LOWER, LowerTier};

/// Which slots are named by a page.
pub(super) struct Slotted([Vec<bool>; LOWER]);

impl Slotted {
    pub(super) fn new(frames: &Frames, lower: &[Option<LowerTier>; LOWER]) -> Self {
        let named = |tier: &LowerTier| {
            let high = frames.mapping().tiers()[tier.lower.tier() as usize].high();
            vec![false; high as usize]
        };
        Self(
            lower
                .each_ref()
                .map(|tier| tier.as_ref().map_or_else(Vec::new, named)),
        )
    }

    /// Notes that a page names a slot, if no other does and the slot is used for such pages.
    pub(super) fn claim(&mut self, frames: &Frames, stored: Stored, state: SlotState) -> bool {
        let Some(named) = self.0[stored.tier.number()].get_mut(stored.slot as usize) else {
            return false;
        };
        let fits = frames.mapping().slots(stored.tier).state(stored.slot) == state;
        let claimed = fits && !*named;
        *named |= claimed;
        claimed
    }

    /// The page that named a slot was older than another.
    pub(super) fn disclaim(&mut self, stored: Stored) {
        if let Some(named) = self.0[stored.tier.number()].get_mut(stored.slot as usize) {
            *named = false;
        }
    }

    /// Frees the slots that no page names, and counts the others.
    pub(super) fn settle(&self, frames: &Frames, lower: &[Option<LowerTier>; LOWER]) {
        for tier in lower.iter().flatten() {
            let table = frames.mapping().slots(tier.lower);
            let mut unnamed = Vec::new();
            let mut used = 0;
            for (slot, named) in (0..).zip(&self.0[tier.lower.number()]) {
                match table.state(slot) {
                    _ if *named => used += 1,
                    SlotState::Free => {}
                    SlotState::Reserved | SlotState::Dense | SlotState::Sparse => {
                        unnamed.push(slot);
                    }
                }
            }
            // A slot whose header is gone must not count as a page's, should this be cut short.
            unnamed.iter().for_each(|slot| table.leave(*slot));
            // What must not come back after the host's end is forgotten before its slot is used again.
            let forgotten = !tier.store.wants_to_forget()
                || unnamed
                    .chunks(4096)
                    .all(|slots| tier.store.invalidate(slots).is_ok());
            if forgotten {
                unnamed.iter().for_each(|slot| table.free(*slot));
            } else {
                used += unnamed.len() as u64;
            }
            tier.used.store(used, Ordering::Relaxed);
        }
    }
}

/// Writes into an empty map what a store knows of guests, pools and pages. Recovery then finds it as if
/// a process had left it. Says how many slots held a page, or may have, that nobody can tell any more.
pub(crate) fn import(mapping: &Mapping, tier: &LowerTier) -> Result<u64, EngineError> {
    let mut pools = BTreeMap::new();
    for (slot, entry) in tier.store.pools() {
        let guest = slot / tmem_abi::POOLS_MAX;
        let (Some(record), Some(pool)) = (
            mapping.guests().get(guest as usize),
            mapping.pools().get(slot as usize),
        ) else {
            continue;
        };
        if record.state() != State::Live {
            record.begin(&entry.guest, entry.grant_pages);
            record.begin_epoch(entry.epoch);
        }
        let same = record.name().as_deref() == Some(entry.guest.as_str())
            && record.epoch() == Some(entry.epoch);
        if same {
            pool.begin_again(entry.pool, entry.spec, record.serial(), entry.pool_serial);
            pools.insert(slot, entry.spec.layout);
        }
    }
    let mut found = |slot: u32, header: SlotHeader| {
        if let Some(layout) = pools.get(&header.pool_slot) {
            adopt(mapping, tier, *layout, slot, &header);
        }
    };
    let scanned = tier.store.scan(&mut found);
    let scanned = scanned.map_err(|source| EngineError::Store {
        tier: tier.lower.tier(),
        source,
    })?;
    Ok((scanned.damaged.len() + scanned.unreadable.len()) as u64 + scanned.unread)
}

/// Notes where a page is.
fn adopt(mapping: &Mapping, tier: &LowerTier, layout: Layout, slot: u32, header: &SlotHeader) {
    let table = mapping.slots(tier.lower);
    let ticket = header.ticket.get();
    let Layout::Dense { pages } = layout else {
        table.settle(slot, ticket, false);
        return;
    };
    let PageIndex(index) = header.index;
    if index >= pages {
        return;
    }
    let leaf =
        header.pool_slot as usize * mapping.layout().region_leaves + index as usize / LEAF_WORDS;
    let word = &mapping.leaf(leaf).0[index as usize % LEAF_WORDS];
    let stored = Stored {
        tier: tier.lower,
        slot,
        checksum: header.checksum,
    };
    let older = match Entry::read_word(word.load(Ordering::Relaxed)) {
        Some(Entry::Stored(other)) => table.ticket(other.slot) < ticket,
        _ => true,
    };
    if older {
        table.settle(slot, ticket, true);
        word.store(Entry::Stored(stored).to_word(), Ordering::Release);
    }
}
