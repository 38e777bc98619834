// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The engine's invariants, as code.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::engine::Engine;
use crate::frames::{EPHEMERAL, FrameNo, OwnerNo};
use crate::guest::Guest;
use crate::handle::{ObjectId, PageIndex};
use crate::index::Entry;
use crate::journal::TAKE_PAGES_MAX;
use crate::pool::{POOLS_MAX, Pool};
use crate::records::State;
use crate::shared::Shared;
use crate::slot_table::SlotState;
use crate::stats::PoolStats;
use crate::sys::INDEXED;
use crate::tier::Lower;

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
    ///   exceed what the tiers hold, unless that is allowed.
    /// - A slot of a lower tier is named by one index entry, by one copy, or free.
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
        shared.visit_withheld(|frame| {
            let met = &mut met[frame as usize];
            assert_eq!(*met, Met::Never, "frame {frame} is out of use and in use");
            *met = Met::Free;
        });
        check_journals(shared, &mut met);
        let mut slots = Slots::new();
        let mut dram = 0;
        let (mut owners, mut ephemeral, mut granted) = (0, 0, 0);
        let guests = self.all_guests();
        check_records(shared, &guests);
        for guest in guests {
            let name = guest.name();
            let (mut persistent_pages, mut ephemeral_pages, mut frames_held) = (0, 0, 0);
            for pool in guest.pools() {
                let counted = check_pool(shared, &pool, &mut met, &mut slots, &mut owners);
                let stats = pool.stats();
                let of = |stats: &PoolStats| {
                    let PoolStats {
                        pages,
                        same_filled,
                        frames,
                        pm,
                        remote,
                        ..
                    } = *stats;
                    (pages, same_filled, frames, pm, remote)
                };
                let (said, found) = (of(&stats), of(&counted));
                frames_held += counted.frames;
                assert_eq!(said, found, "counts of pool {:?} of {name}", pool.id());
                if pool.is_ephemeral() {
                    ephemeral_pages += counted.pages;
                    ephemeral += counted.frames;
                } else {
                    persistent_pages += counted.pages;
                }
            }
            check_victims(shared, &guest, &met, &mut slots);
            assert_eq!(guest.dram_pages(), frames_held, "frames of {name}");
            dram += frames_held;
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
        assert_eq!(shared.dram_used(), dram, "frames in use");
        let kept = granted <= shared.room() || shared.may_overcommit();
        assert!(kept, "grants exceed the tiers");
        check_slots(shared, &slots);
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
fn check_pool(
    shared: &Shared,
    pool: &Pool,
    met: &mut [Met],
    slots: &mut Slots,
    owners: &mut u64,
) -> PoolStats {
    let mut counted = PoolStats::default();
    let mut records = std::collections::BTreeSet::new();
    pool.index
        .visit(&shared.frames, &mut |object, index, entry| {
            counted.pages += u64::from(entry.is_page());
            if let Entry::Stored(stored) = entry {
                let new = slots.insert((stored.tier.number(), stored.slot), true);
                assert_eq!(new, None, "slot {stored:?} is named twice");
                let table = shared.frames.mapping().slots(stored.tier);
                let state = if pool.index.is_dense() {
                    SlotState::Dense
                } else {
                    SlotState::Sparse
                };
                assert_eq!(table.state(stored.slot), state, "slot {stored:?}");
                match stored.tier {
                    Lower::Pm => counted.pm += 1,
                    Lower::Remote => counted.remote += 1,
                }
                return;
            }
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

/// Slots that are in use, by tier and number: whether an index entry names it.
type Slots = BTreeMap<(usize, u32), bool>;

/// Checks a guest's copies: each is of a page in a frame, with a slot of its own.
fn check_victims(shared: &Shared, guest: &Guest, met: &[Met], slots: &mut Slots) {
    for (frame, stored) in guest.account.victims.all() {
        let place = met[frame as usize];
        let held = matches!(place, Met::Used | Met::Taken);
        assert!(held, "copied {frame} of {} is no page", guest.name());
        let entry = shared.frames.mapping().entry(FrameNo(frame));
        assert!(entry.is_copied(), "copied {frame} is not marked");
        let new = slots.insert((stored.tier.number(), stored.slot), false);
        assert_eq!(new, None, "slot {stored:?} is used twice");
    }
}

/// Checks that the slot tables say what was found.
fn check_slots(shared: &Shared, slots: &Slots) {
    for tier in shared.lower.iter().flatten() {
        let number = tier.lower.number();
        let own = slots.range((number, 0)..=(number, u32::MAX));
        let used = tier.used.load(Ordering::Relaxed);
        assert_eq!(
            own.clone().count() as u64,
            used,
            "slots of {:?}",
            tier.lower
        );
        let table = shared.frames.mapping().slots(tier.lower);
        let taken = (0..tier.store.slots()).filter(|slot| table.state(*slot) != SlotState::Free);
        let own: Vec<u32> = own.map(|((_, slot), _)| *slot).collect();
        assert_eq!(taken.collect::<Vec<_>>(), own, "slots of {:?}", tier.lower);
    }
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
