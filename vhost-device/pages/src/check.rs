// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The engine's invariants, as code.

use std::sync::atomic::Ordering;

use crate::engine::Engine;
use crate::frames::{EPHEMERAL, FrameNo, OwnerNo};
use crate::handle::{ObjectId, PageIndex};
use crate::index::Entry;
use crate::pool::Pool;
use crate::shared::Shared;
use crate::stats::PoolStats;
use crate::sys::INDEXED;

/// Where a frame was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Met {
    Never,
    Free,
    Used,
}

impl Engine {
    /// Checks every invariant of frames, index and counts; for tests and debugging. No worker may be
    /// inside a call meanwhile.
    ///
    /// - A frame is in one index entry, in one list of free frames, or in one worker's hand.
    /// - The frame table says of a used frame where it is used, and nothing of a free one.
    /// - The counts of pools, guests and engine are what is counted here.
    /// - No guest holds more than its grant; the grants do not exceed the frames.
    ///
    /// # Panics
    /// If one does not hold, with a description.
    pub fn self_check(&self) {
        let shared = &*self.shared;
        let frames = shared.frames.mapping().layout().frames;
        let mut met = vec![Met::Never; frames as usize];
        let in_hand = shared.free.visit(|frame| {
            let met = &mut met[frame as usize];
            assert_eq!(*met, Met::Never, "frame {frame} is free twice");
            *met = Met::Free;
        });
        let (mut owners, mut ephemeral, mut granted) = (0, 0, 0);
        for guest in self.guests() {
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
            assert!(persistent_pages <= stats.grant_pages, "grant of {name}");
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
        let idle = |met: &Met| *met != Met::Used;
        for (number, _) in (0..frames).zip(&met).filter(|(_, met)| idle(met)) {
            let state = shared
                .frames
                .mapping()
                .entry(FrameNo(number))
                .state
                .load(Ordering::Relaxed);
            assert_eq!(state & INDEXED, 0, "frame {number} is used by nothing");
        }
    }
}

/// Checks the entries of a pool and counts its pages, frames and owner records.
fn check_pool(shared: &Shared, pool: &Pool, met: &mut [Met], owners: &mut u64) -> PoolStats {
    let mut counted = PoolStats::default();
    let mut records = std::collections::BTreeSet::new();
    pool.index.visit(&mut |object, index, entry| {
        counted.pages += 1;
        let Entry::Frame(frame) = entry else {
            counted.same_filled += 1;
            return;
        };
        counted.frames += 1;
        let place = &mut met[frame.0 as usize];
        assert_eq!(*place, Met::Never, "frame {} is met twice", frame.0);
        *place = Met::Used;
        records.insert(check_frame(shared, pool, object, index, frame));
    });
    // A dense pool has one record always, a sparse one one for each part with a frame.
    *owners += (records.len() as u64).max(pool.index.owners_min());
    counted
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
