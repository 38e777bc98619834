// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The engine's invariants, as code.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::engine::Engine;
use crate::frames::{EPHEMERAL, FrameNo, OwnerNo};
use crate::guest::Guest;
use crate::handle::{ObjectId, PageIndex};
use crate::journal::TAKE_PAGES_MAX;
use crate::pool::{POOLS_MAX, Pool};
use crate::records::State;
use crate::shared::Shared;
use crate::stats::PoolStats;
use crate::sys::INDEXED;

/// Where a frame was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Met {
    Never,
    Free,
    Used,
    /// Named by a journal: in no index entry, or in one that says that it is taken.
    Taken,
}

impl Engine {
    /// Checks every invariant of frames, index and counts; for tests and debugging. No worker may be
    /// inside a call meanwhile.
    ///
    /// - A frame is in one index entry, in one journal, in one list of free frames, or in one worker's
    ///   hand. A taken page is in a journal.
    /// - The frame table says of a used frame where it is used, and nothing of a free one.
    /// - The map's records say of guests and pools what they are, and of nothing else.
    /// - The counts of pools, guests and engine are what is counted here.
    /// - No guest holds more than its grant, but for pages that were put back; the grants do not
    ///   exceed the frames.
    ///
    /// # Panics
    /// If one does not hold, with a description.
    pub fn self_check(&self) {
        let shared = &*self.shared;
        let mapping = shared.frames.mapping();
        let frames = mapping.layout().counts.all_frames();
        let mut met = vec![Met::Never; frames as usize];
        let in_hand = shared.free.visit(|frame| {
            let met = &mut met[frame as usize];
            assert_eq!(*met, Met::Never, "frame {frame} is free twice");
            *met = Met::Free;
        });
        check_journals(shared, &mut met);
        let (mut owners, mut ephemeral, mut granted) = (0, 0, 0);
        let guests = self.all_guests();
        check_records(shared, &guests);
        for guest in guests {
            let name = guest.name();
            let (mut persistent_pages, mut ephemeral_pages) = (0, 0);
            for pool in guest.pools() {
                let counted = check_pool(shared, &pool, &mut met, &mut owners);
                let stats = pool.stats();
                let said = (stats.pages, stats.same_filled, stats.frames);
                let found = (counted.pages, counted.same_filled, counted.frames);
                assert_eq!(said, found, "counts of pool {:?} of {name}", pool.id());
                if pool.is_ephemeral() {
                    ephemeral_pages += counted.pages;
                    ephemeral += counted.frames;
                } else {
                    persistent_pages += counted.pages;
                }
            }
            let stats = guest.stats();
            assert_eq!(stats.persistent_pages, persistent_pages, "pages of {name}");
            assert_eq!(
                stats.ephemeral_pages, ephemeral_pages,
                "cached pages of {name}"
            );
            let put_back = u64::from(shared.workers_max) * u64::from(TAKE_PAGES_MAX);
            assert!(
                persistent_pages <= stats.grant_pages + put_back,
                "grant of {name}"
            );
            granted += stats.grant_pages;
        }
        let stats = self.stats();
        assert_eq!(stats.granted_pages, granted, "sum of the grants");
        assert!(granted <= stats.frames, "grants exceed the frames");
        assert_eq!(stats.frames_ephemeral, ephemeral, "ephemeral frames");
        assert_eq!(
            shared.frames.owners_used().0,
            owners,
            "owner records in use"
        );
        let lost = met.iter().filter(|met| **met == Met::Never).count() as u64;
        assert_eq!(lost, in_hand, "frames that are nowhere, but in a hand");
        let idle = |met: &Met| matches!(met, Met::Never | Met::Free);
        for (number, _) in (0..frames).zip(&met).filter(|(_, met)| idle(met)) {
            let state = mapping.entry(FrameNo(number)).state.load(Ordering::Relaxed);
            assert_eq!(state & INDEXED, 0, "frame {number} is used by nothing");
        }
    }
}

/// Checks the entries of a pool and counts its pages, frames and owner records.
fn check_pool(shared: &Shared, pool: &Pool, met: &mut [Met], owners: &mut u64) -> PoolStats {
    let mut counted = PoolStats::default();
    let mut records = std::collections::BTreeSet::new();
    pool.index
        .visit(&shared.frames, &mut |object, index, entry| {
            counted.pages += u64::from(entry.is_page());
            let Some(frame) = entry.frame() else {
                counted.same_filled += u64::from(entry.is_page());
                return;
            };
            let place = &mut met[frame.0 as usize];
            if entry.is_page() {
                counted.frames += 1;
                assert_eq!(*place, Met::Never, "frame {} is met twice", frame.0);
                *place = Met::Used;
            } else {
                assert_eq!(*place, Met::Taken, "frame {} is taken by nobody", frame.0);
            }
            records.insert(check_frame(shared, pool, object, index, frame));
        });
    // A dense pool has the record of its slot, a sparse one one for each part with a frame.
    if pool.index.is_dense() {
        let other = records.iter().find(|owner| **owner != pool.slot());
        assert_eq!(other, None, "owner record of dense pool {:?}", pool.id());
    } else {
        *owners += records.len() as u64;
    }
    counted
}

/// Checks what the journals name.
fn check_journals(shared: &Shared, met: &mut [Met]) {
    let mapping = shared.frames.mapping();
    for (number, journal) in mapping.journals().iter().enumerate() {
        for at in 0..journal.count() {
            let page = journal.get(at);
            let page = page.unwrap_or_else(|| panic!("line {at} of journal {number}"));
            let Some(frame) = page.entry.frame() else {
                continue;
            };
            let place = &mut met[frame.0 as usize];
            assert_eq!(*place, Met::Never, "frame {} is taken twice", frame.0);
            *place = Met::Taken;
            let indexed = mapping.entry(frame).is_indexed();
            assert!(indexed, "taken frame {} can be used again", frame.0);
        }
    }
}

/// Checks the records of guests and pools.
fn check_records(shared: &Shared, guests: &[Arc<Guest>]) {
    let mapping = shared.frames.mapping();
    let live = |state| state == State::Live;
    for (slot, record) in (0..).zip(mapping.guests()) {
        let guest = guests.iter().find(|guest| guest.account.slot == slot);
        assert_eq!(live(record.state()), guest.is_some(), "guest record {slot}");
        let pools = guest.map_or_else(Vec::new, |guest| guest.pools());
        let first = slot * tmem_abi::POOLS_MAX;
        for (at, record) in (first..).zip(&mapping.pools()[first as usize..][..POOLS_MAX]) {
            let pool = pools.iter().find(|pool| pool.slot() == at);
            assert_eq!(live(record.state()), pool.is_some(), "pool record {at}");
            if let Some(pool) = pool {
                let said = (record.id(), record.spec(), record.serial());
                let is = (pool.id(), pool.spec(), pool.serial());
                assert_eq!(said, is, "pool record {at}");
            }
        }
        if let Some(guest) = guest {
            let said = (record.name(), record.grant(), record.epoch());
            let is = (
                Some(guest.name().into()),
                guest.grant_pages(),
                guest.epoch(),
            );
            assert_eq!(said, is, "guest record {slot}");
        }
    }
}

/// Checks what the frame table says of a frame. Returns its owner record's number.
fn check_frame(
    shared: &Shared,
    pool: &Pool,
    object: ObjectId,
    index: PageIndex,
    frame: FrameNo,
) -> u32 {
    let entry = shared.frames.mapping().entry(frame);
    let state = entry.state.load(Ordering::Relaxed);
    let frame = frame.0;
    assert_ne!(state & INDEXED, 0, "frame {frame} is in the index unawares");
    assert_eq!(
        shared.frames.mapping().pins(FrameNo(frame)),
        0,
        "frame {frame} is pinned"
    );
    assert_eq!(
        state & EPHEMERAL != 0,
        pool.is_ephemeral(),
        "frame {frame}'s kind"
    );
    assert_eq!(
        entry.index.load(Ordering::Relaxed),
        index.0,
        "frame {frame}'s index"
    );
    let owner = entry.owner.load(Ordering::Relaxed);
    let record = shared.frames.owner(OwnerNo(owner));
    assert_eq!(record.object(), object, "frame {frame}'s object");
    assert_eq!(
        record.pool.load(Ordering::Relaxed),
        pool.slot(),
        "frame {frame}'s pool"
    );
    assert_eq!(
        record.guest.load(Ordering::Relaxed),
        pool.account.slot,
        "frame {frame}'s guest"
    );
    owner
}
