// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Sparse pools: their index was on the heap, and is made anew from the frame table.

use std::sync::atomic::Ordering;

use super::{FoundPool, Scan};
use crate::frames::{FrameNo, Frames, FreeOwners, OwnerNo};
use crate::handle::{PageIndex, Ticket};
use crate::index::{Adopted, Change, Entry, Index};

/// Puts every frame that a sparse pool has into its index. Returns the owner records that are free
/// then.
pub(super) fn read(frames: &Frames, pools: &mut [FoundPool], scan: &mut Scan) -> FreeOwners {
    let mapping = frames.mapping();
    let slots = mapping.layout().counts.slots();
    let mut places = vec![None; slots as usize];
    for (at, pool) in pools.iter().enumerate() {
        if !pool.index.is_dense() {
            places[pool.slot as usize] = Some(at);
        }
    }
    for (frame, entry) in (0..).map(FrameNo).zip(mapping.entries()) {
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
            let Some(frame) = entry.frame() else {
                return;
            };
            let entry_of = mapping.entry(frame);
            let owner = entry_of.owner.load(Ordering::Relaxed) - slots;
            owners[owner as usize] = true;
            if entry.is_page() {
                counts.add(true, Ticket::new(entry_of.ticket()));
            }
        });
    }
    FreeOwners::new(slots, &owners)
}
