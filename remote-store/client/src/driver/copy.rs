// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One more copy of a page: for a repair, a drain, a rebalancing, or because a write left it for later.
//!
//! While a page is copied it may be written anew or invalidated. The slot's version, noted before the
//! page is read, tells: the table then stays as it is, and the copy that was made is flushed, or left to
//! a sweep if a write may still name it.

use std::rc::Rc;

use tokio::time::sleep;

use super::hands::{Copied, Hands, NoPage, NotTaken};
use crate::connect::Connector;
use crate::control::{CopyResult, MemberNo, Random};
use crate::shared::{Flush, Note};

/// What is to be copied.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) slot: u32,
    pub(super) expected: u64,
    pub(super) from: MemberNo,
    pub(super) to: MemberNo,
    pub(super) to_trust: u64,
    pub(super) drop: u64,
}

impl<C: Connector> Hands<C> {
    /// Copies one page.
    pub(super) async fn copy(&self, plan: Plan) -> CopyResult {
        let Plan { slot, from, to, .. } = plan;
        let table = &self.shared.table;
        let version = table.version(slot);
        if table.copies(slot) != Some(plan.expected) {
            return CopyResult::Changed;
        }
        let copied = match self.get_twice(from, slot).await {
            Ok(copied) => copied,
            Err(NoPage::Unreachable) => return CopyResult::SourceUnreachable,
            Err(bad) => {
                // The last copy may have been garbled on its way: it is not struck off for that.
                let last = plan.expected == from.bit() && matches!(bad, NoPage::Garbled);
                if last {
                    return CopyResult::SourceUnreachable;
                }
                let removed = table.remove(slot, from.bit(), |now| now == version);
                self.shared.metrics.store(from.index()).bad_copies.one();
                return match removed {
                    Some((_, true)) => CopyResult::SourceBad,
                    _ => CopyResult::Changed,
                };
            }
        };
        let copying = self.begin_copying(slot, to);
        let generation = copied.generation;
        let flush = |members| {
            if generation >= self.shared.settled_below() {
                // What was read is of a write under way, which may have put it there as well, and name
                // it in a moment.
                MemberNo::all_in(members).for_each(|to| self.shared.note(Note::Sweep(to)));
                return;
            }
            self.flush(&[Flush {
                slot,
                generation,
                members,
            }]);
        };
        match self.put(to, slot, &copied).await {
            Ok(()) => {}
            Err(not_taken) => {
                // What it had before is nobody's, and may not have been flushed for this copy's sake.
                drop(copying);
                flush(to.bit());
                return match not_taken {
                    NotTaken::Full => CopyResult::TargetFull,
                    NotTaken::Failed => CopyResult::TargetFailed,
                };
            }
        }
        // From here on nothing else runs in this thread.
        let trusted = || self.shared.trust(to) == plan.to_trust + 1;
        let set = table.pin((plan.expected & !plan.drop) | to.bit());
        drop(copying);
        let Ok(set) = set else {
            flush(to.bit());
            return CopyResult::TargetFailed;
        };
        if table.replace_if(slot, version, plan.expected, &set, trusted) {
            self.shared.metrics.store(to.index()).repairs.one();
            flush(plan.drop & plan.expected & !to.bit());
            return CopyResult::Done;
        }
        flush(to.bit());
        if trusted() {
            CopyResult::Changed
        } else {
            CopyResult::TargetFailed
        }
    }

    /// Bytes that are garbled on their way are asked for once more.
    async fn get_twice(&self, from: MemberNo, slot: u32) -> Result<Copied, NoPage> {
        match self.get(from, slot).await {
            Err(NoPage::Garbled) => self.get(from, slot).await,
            other => other,
        }
    }

    /// Makes the copies of a page that the host holds for its write, until there are enough or the slot
    /// holds something else.
    pub(super) async fn make_late(self: Rc<Self>, slot: u32, seed: u64) {
        if !self.begin_late(slot) {
            return;
        }
        // Written anew meanwhile, it may have another page to look after.
        while self.make_late_copies(slot, seed).await {}
        self.end_late(slot);
    }

    /// True if the slot has another page by now.
    async fn make_late_copies(&self, slot: u32, seed: u64) -> bool {
        let (shared, table) = (&self.shared, &self.shared.table);
        let mut random = Random::new(seed);
        let mut tried = 0;
        loop {
            let version = table.version(slot);
            let (Some(held), Some(mask)) = (shared.held(slot), table.copies(slot)) else {
                return false;
            };
            let view = shared.view();
            let good = mask & view.good();
            if good.count_ones() >= u32::from(shared.settings.replicas) {
                shared.let_go(slot, Some(held.generation));
                return false;
            }
            let place = view.place(1, good, tried | mask, &mut random);
            let Some(to) = place.members().next() else {
                tried = 0;
                sleep(shared.settings.advert_period).await;
                continue;
            };
            let trust = shared.trust(to);
            let copied = Copied {
                generation: held.generation,
                checksum: held.checksum,
                page: held.page,
            };
            let copying = self.begin_copying(slot, to);
            let flush = || {
                self.flush(&[Flush {
                    slot,
                    generation: held.generation,
                    members: to.bit(),
                }]);
            };
            if self.put(to, slot, &copied).await.is_err() {
                tried |= to.bit();
                drop(copying);
                flush();
                continue;
            }
            let Ok(set) = table.pin(mask | to.bit()) else {
                // Told to people by the walks: the page stays below its number of copies.
                drop(copying);
                flush();
                shared.let_go(slot, Some(held.generation));
                return false;
            };
            let same = || {
                let now = shared.held(slot);
                shared.trust(to) == trust
                    && now.is_some_and(|now| now.generation == held.generation)
            };
            if table.replace_if(slot, version, mask, &set, same) {
                shared.metrics.total.late_copies.one();
                continue;
            }
            // The slot holds something else, or has another copy: this one is nobody's.
            drop(copying);
            flush();
            let now = shared.held(slot);
            if now.is_none_or(|now| now.generation != held.generation) {
                return true;
            }
        }
    }
}
