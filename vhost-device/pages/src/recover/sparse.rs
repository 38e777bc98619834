// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Sparse pools: their index was on the heap, and is made anew from the frame table.

use std::sync::atomic::Ordering;

use super::{FoundPool, Scan};
use crate::frames::{FrameNo, Frames, FreeOwners, OwnerNo};
use crate::handle::{PageIndex, Ticket};
use crate::index::{Adopted, Change, Entry, Index, Stored};
use crate::slot_table::SlotState;

/// Puts every frame that a sparse pool has into its index. Returns the owner records that are free
/// then.
pub(super) fn read(frames: &Frames, pools: &mut [FoundPool], scan: &mut Scan<'_>) -> FreeOwners {
    let mapping = frames.mapping();
    let slots = mapping.layout().counts.slots();
    let mut places = vec![None; slots as usize];
    for (at, pool) in pools.iter().enumerate() {
        if !pool.index.is_dense() {
            places[pool.slot as usize] = Some(at);
        }
    }
    let entries = &mapping.entries()[..scan.used.len()];
    for (frame, entry) in (0..).map(FrameNo).zip(entries) {
        if !entry.is_indexed() || scan.used[frame.0 as usize] {
            continue;
        }
        let owner = OwnerNo(entry.owner.load(Ordering::Relaxed));
        // Disowned, or put into a dense pool and not yet, or no longer, named by a word there.
        if owner == OwnerNo::NOBODY || owner.0 < slots {
            continue;
        }
        let Some(record) = mapping.owners().get(owner.0 as usize) else {
            scan.damaged += 1;
            continue;
        };
        let slot = record.pool.load(Ordering::Relaxed);
        // A pool that has ended takes its pages along.
        let Some(place) = places.get(slot as usize).copied().flatten() else {
            continue;
        };
        let FoundPool {
            index: Index::Sparse(sparse),
            ephemeral,
            ..
        } = &pools[place]
        else {
            continue;
        };
        if entry.is_ephemeral() != *ephemeral {
            scan.damaged += 1;
            continue;
        }
        let index = PageIndex(entry.index.load(Ordering::Relaxed));
        match sparse.adopt(frames, (record.object(), index), frame, owner) {
            Adopted::Alone => {}
            Adopted::InPlaceOf(older) => scan.used[older.0 as usize] = false,
            Adopted::Older => continue,
        }
        scan.used[frame.0 as usize] = true;
    }
    adopt_slots(frames, pools, &places, scan);
    for page in scan.journals.pages() {
        let Some(place) = places[page.pool as usize] else {
            continue;
        };
        let mut there = false;
        let take = |old: Entry| {
            there = old.taken() == page.entry && old.is_page();
            if there { Change::Take } else { Change::Keep }
        };
        (pools[place].index).update(frames, page.object, page.index, false, take);
        if there {
            scan.journals.confirm(&page);
        }
    }
    let mut owners = vec![false; mapping.owners().len() - slots as usize];
    for pool in pools {
        let FoundPool {
            index: Index::Sparse(sparse),
            counts,
            ..
        } = pool
        else {
            continue;
        };
        sparse.visit(&mut |_, _, entry| {
            if let Entry::Stored(stored) = entry {
                let ticket = mapping.slots(stored.tier).ticket(stored.slot);
                counts.add(entry, Ticket::new(ticket));
            }
            let Some(frame) = entry.frame() else {
                return;
            };
            let entry_of = mapping.entry(frame);
            let owner = entry_of.owner.load(Ordering::Relaxed) - slots;
            owners[owner as usize] = true;
            if entry.is_page() {
                counts.add(entry, Ticket::new(entry_of.ticket()));
            }
        });
    }
    FreeOwners::new(slots, &owners)
}

/// Puts the pages that lower tiers have of sparse pools into their indices, by the slots' headers. A
/// page that is in a frame as well is the frame's, unless that one is older.
fn adopt_slots(
    frames: &Frames,
    pools: &[FoundPool],
    places: &[Option<usize>],
    scan: &mut Scan<'_>,
) {
    let mapping = frames.mapping();
    for tier in scan.lower.iter().flatten() {
        let table = mapping.slots(tier.lower);
        for slot in 0..mapping.tiers()[tier.lower.tier() as usize].high() {
            if table.state(slot) != SlotState::Sparse {
                continue;
            }
            let Ok(Some(header)) = tier.store.header(slot) else {
                scan.damaged += 1;
                continue;
            };
            let place = places.get(header.pool_slot as usize).copied().flatten();
            let record = mapping.pools().get(header.pool_slot as usize);
            let lives = record.is_some_and(|record| record.serial() == header.pool_serial);
            let (Some(place), true) = (place, lives) else {
                continue;
            };
            let ticket = table.ticket(slot);
            let newer = |old: Entry| match old {
                Entry::Frame(frame) | Entry::TakenFrame(frame) => {
                    mapping.entry(frame).ticket() >= ticket
                }
                Entry::Stored(other) => mapping.slots(other.tier).ticket(other.slot) >= ticket,
                _ => false,
            };
            let stored = Stored {
                tier: tier.lower,
                slot,
                checksum: header.checksum,
            };
            let mut adopted = false;
            let adopt = |old: Entry| {
                if newer(old) {
                    return Change::Keep;
                }
                adopted = true;
                Change::Stored(stored)
            };
            let (object, index) = (header.object, header.index);
            let old = (pools[place].index).update(frames, object, index, true, adopt);
            if adopted {
                scan.slots.claim(frames, stored, SlotState::Sparse);
                match old {
                    Some(Entry::Frame(older)) => scan.used[older.0 as usize] = false,
                    Some(Entry::Stored(older)) => scan.slots.disclaim(older),
                    _ => {}
                }
            }
        }
    }
}
