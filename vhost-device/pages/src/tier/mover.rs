// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The mover: what keeps frames free, guests within their caps, and tiers that are to be emptied
//! empty. It works in small steps, and a thread of the caller's makes them.
//!
//! ```text
//! free frames   0 ─────── low ─────── high ───────── 2 × high ────────▶
//!               │ evict ephemeral    │ victims ready  │ nothing to do │ bring pages back, when idle
//!               │ pages, release     │ for what comes │               │
//!               │ victims            │ (demote)       │               │
//! ```
//! Who must give: the guest that has most frames above its floor for its weight.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::account::Account;
use crate::handle::{ObjectId, PAGE_SIZE, PageBytes, PageIndex};
use crate::index::{Change, Entry, Stored};
use crate::pool::Pool;
use crate::shared::{Evicted, Shared};
use crate::slots::SlotHeader;
use crate::tier::demote::header_flags;
use crate::tier::gather::Gather;
use crate::tier::promote::{Fetched, kept_max};
use crate::tier::victims::Released;
use crate::tier::{Lower, LowerTier};
use crate::worker::Worker;

/// Frames freed, or pages moved, in one step.
const STEP_PAGES: usize = 64;
/// Pages demoted in one step: a megabyte, so that a store's call is spread over many.
const DEMOTE_PAGES: usize = 256;
/// Pages of lower tiers that are listed at a time.
const LIST_PAGES: usize = 4096;

/// Whether there is more to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Something was done; there may be more.
    Busy,
    /// Nothing is to be done now.
    Idle,
}

impl Step {
    fn of(busy: bool) -> Self {
        if busy { Self::Busy } else { Self::Idle }
    }
}

/// Moves pages between tiers, in the background.
pub struct Mover {
    shared: Arc<Shared>,
    /// Its number, and what it holds between steps.
    _own: Worker,
    worker: u16,
    adopted: bool,
    /// Pages that are to move up or across.
    listed: Vec<(Arc<Pool>, ObjectId, PageIndex, Stored)>,
    /// Pages of the list that have moved.
    moved: usize,
    page: Box<PageBytes>,
    gather: Gather,
    /// Copies are being given up.
    keeps_fewer: bool,
}

impl std::fmt::Debug for Mover {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mover").finish_non_exhaustive()
    }
}

impl Mover {
    pub(crate) fn new(shared: &Arc<Shared>, own: Worker) -> Self {
        Self {
            shared: Arc::clone(shared),
            worker: own.number(),
            _own: own,
            adopted: false,
            listed: Vec::new(),
            moved: 0,
            page: Box::new([0; PAGE_SIZE]),
            gather: Gather::default(),
            keeps_fewer: false,
        }
    }

    /// Does a little of what is to be done. When nobody puts or gets, `idle`, pages are brought back
    /// to frames that would stay empty.
    pub fn step(&mut self, idle: bool) -> Step {
        let shared = Arc::clone(&self.shared);
        shared.mover_is_awake();
        if !shared.is_tiered() {
            return Step::of(self.gather.step(&shared, idle));
        }
        if !self.adopted {
            self.adopted = true;
            shared.adopt_frames();
        }
        let mut busy = shared.withhold_frames() > 0;
        busy |= self.relieve(&shared);
        busy |= self.hold_to_caps(&shared);
        busy |= self.keep_fewer_copies(&shared);
        busy |= self.empty_tiers(&shared);
        if !busy && idle {
            busy = self.bring_back(&shared);
        }
        if !busy {
            busy = (shared.lower.iter().flatten()).any(|tier| tier.store.tidy());
        }
        Step::of(busy || self.gather.step(&shared, idle))
    }

    /// Keeps frames free, and victims ready.
    fn relieve(&mut self, shared: &Shared) -> bool {
        let marks = shared.watermarks();
        let accounts = shared.accounts();
        shared.set_fair_excess(&accounts);
        let mut done = 0;
        let is_over = || shared.dram_used() > shared.dram_limit();
        if is_over() || shared.dram_free() < marks.low {
            while done < STEP_PAGES && (is_over() || shared.dram_free() < marks.high) {
                let released = match shared.evict(self.worker, None) {
                    Evicted::Nothing => self.release_any(shared, &accounts),
                    evicted => {
                        if let Evicted::Frame(frame) = evicted {
                            shared.free.give(self.worker, frame);
                        }
                        true
                    }
                };
                if !released {
                    break;
                }
                done += 1;
            }
        }
        let victims: u64 = accounts.iter().map(|of| of.victims.len()).sum();
        let ready = (shared.dram_limit() + victims).saturating_sub(shared.dram_used());
        if ready < 2 * marks.high {
            done += self.demote_somebody(shared, &accounts);
        }
        done > 0
    }

    /// Releases a victim of whoever has most above its share.
    fn release_any(&self, shared: &Shared, accounts: &[Arc<Account>]) -> bool {
        let with_victims = accounts.iter().filter(|account| account.victims.len() > 0);
        let Some(account) = with_victims.max_by_key(|account| account.excess()) else {
            return false;
        };
        self.release(shared, account, true)
    }

    /// Releases a guest's oldest victim that may go.
    fn release(&self, shared: &Shared, account: &Account, mercy: bool) -> bool {
        loop {
            match shared.release_victim(account, self.worker, mercy) {
                Released::Frame(frame) => shared.free.give(self.worker, frame),
                Released::Later => {}
                Released::Stays => continue,
                Released::Nothing => return false,
            }
            return true;
        }
    }

    /// Demotes pages of whoever has most above its share, or of the next one if that has none that
    /// can go.
    fn demote_somebody(&mut self, shared: &Shared, accounts: &[Arc<Account>]) -> usize {
        let mut by_excess: Vec<_> = (accounts.iter())
            .map(|account| (account.excess_without_victims(), account))
            .filter(|(excess, _)| *excess > 0)
            .collect();
        by_excess.sort_by_key(|(excess, _)| std::cmp::Reverse(*excess));
        for (_, account) in by_excess {
            // Not so many that its share is missed by much, nor its floor at all.
            let most = account.above_floor().min(shared.watermarks().high.max(8));
            let most = usize::try_from(most).map_or(DEMOTE_PAGES, |most| most.min(DEMOTE_PAGES));
            let demoted = shared.demote(account, self.worker, most);
            if demoted > 0 {
                return demoted;
            }
        }
        0
    }

    /// Keeps guests below their caps, with some victims ready so that a put at the cap waits for no
    /// store.
    fn hold_to_caps(&mut self, shared: &Shared) -> bool {
        let mut busy = false;
        for account in shared.accounts() {
            let Some(cap) = account.cap() else {
                continue;
            };
            let slack = (cap / 16).clamp(1, STEP_PAGES as u64 * 4);
            let mut done = 0;
            while account.dram() > cap && done < STEP_PAGES {
                let released = match shared.evict_of(&account, self.worker) {
                    Evicted::Nothing => self.release(shared, &account, false),
                    evicted => {
                        if let Evicted::Frame(frame) = evicted {
                            shared.free.give(self.worker, frame);
                        }
                        true
                    }
                };
                if !released {
                    break;
                }
                done += 1;
            }
            let short = slack.saturating_sub(account.victims.len());
            let over = account
                .dram()
                .saturating_sub(cap)
                .saturating_sub(account.victims.len());
            let wanted = usize::try_from(short + over).unwrap_or(DEMOTE_PAGES);
            let wanted = wanted.min(DEMOTE_PAGES);
            if account.dram() + slack > cap && wanted > 0 {
                done += shared.demote(&account, self.worker, wanted);
            }
            busy |= done > 0;
        }
        busy
    }

    /// Keeps guests from keeping too many copies of what came up. Once it has begun it goes on a little
    /// further, so that it is not called for each one.
    fn keep_fewer_copies(&mut self, shared: &Shared) -> bool {
        let mut done = 0;
        for account in shared.accounts() {
            let max = kept_max(&account);
            let most = if self.keeps_fewer { max - max / 8 } else { max };
            done += shared.keep_fewer(&account, self.worker, most, DEMOTE_PAGES);
        }
        self.keeps_fewer = done > 0;
        self.keeps_fewer
    }

    /// Moves pages out of tiers that are to be emptied, and out of slots beyond a tier's end.
    fn empty_tiers(&mut self, shared: &Shared) -> bool {
        let leaving = |stored: Stored| {
            shared.lower(stored.tier).is_some_and(|tier| {
                tier.draining.load(Ordering::Relaxed)
                    || stored.slot >= tier.limit.load(Ordering::Relaxed)
            })
        };
        let needed = |tier: &LowerTier| {
            let limit = tier.limit.load(Ordering::Relaxed);
            tier.draining.load(Ordering::Relaxed) || limit < tier.store.slots()
        };
        if !shared.lower.iter().flatten().any(needed) {
            return false;
        }
        self.listed.retain(|(.., stored)| leaving(*stored));
        if self.listed.is_empty() {
            self.list(shared, leaving);
        }
        let mut left = false;
        for account in shared.accounts() {
            left |= shared.cancel_copies(&account, self.worker, &leaving);
        }
        if self.listed.is_empty() {
            return left | shared.cut_emptied_tiers();
        }
        let mut moved = 0;
        for _ in 0..STEP_PAGES {
            let Some((pool, object, index, stored)) = self.listed.pop() else {
                break;
            };
            let place = (object, index);
            let done = self.across(shared, &pool, place, stored) || {
                // No room below. A victim's frame can be had for nothing, and then there is room above.
                if shared.dram_free() == 0 {
                    self.release_any(shared, &shared.accounts());
                }
                shared.dram_free() > 0 && self.promote(shared, &pool, place, stored)
            };
            moved += usize::from(done);
        }
        self.note_moved(moved)
    }

    /// Brings pages back to frames that nobody needs.
    fn bring_back(&mut self, shared: &Shared) -> bool {
        let room = |shared: &Shared| shared.dram_free() > 3 * shared.watermarks().high;
        if !room(shared) {
            return false;
        }
        if self.listed.is_empty() {
            let stay =
                |lower| (shared.lower(lower)).is_none_or(|tier| tier.store.outlives_the_map());
            // The farthest first.
            for lower in Lower::ALL.into_iter().rev().filter(|lower| !stay(*lower)) {
                self.list(shared, |stored| stored.tier == lower);
                if !self.listed.is_empty() {
                    break;
                }
            }
        }
        let mut moved = 0;
        for _ in 0..STEP_PAGES {
            if !room(shared) {
                break;
            }
            let Some((pool, object, index, stored)) = self.listed.pop() else {
                break;
            };
            if pool.account.has_dram_room() {
                moved += usize::from(self.promote(shared, &pool, (object, index), stored));
            }
        }
        self.note_moved(moved)
    }

    /// Counts pages of the list that were moved. Returns whether it is worth to go on at once: not if
    /// none of a whole list could be moved.
    fn note_moved(&mut self, moved: usize) -> bool {
        self.moved += moved;
        let goes_on = self.moved > 0 || !self.listed.is_empty();
        if self.listed.is_empty() {
            self.moved = 0;
        }
        goes_on
    }

    /// Lists some pages of lower tiers that `wanted` wants.
    fn list(&mut self, shared: &Shared, wanted: impl Fn(Stored) -> bool) {
        let listed = &mut self.listed;
        for pool in shared.all_pools() {
            if listed.len() >= LIST_PAGES {
                return;
            }
            pool.index
                .visit(&shared.frames, &mut |object, index, entry| {
                    if let Entry::Stored(stored) = entry
                        && wanted(stored)
                        && listed.len() < LIST_PAGES
                    {
                        listed.push((Arc::clone(&pool), object, index, stored));
                    }
                });
        }
    }

    /// Brings one page back.
    fn promote(
        &mut self,
        shared: &Shared,
        pool: &Pool,
        place: (ObjectId, PageIndex),
        stored: Stored,
    ) -> bool {
        if shared.fetch(pool, place, stored, &mut self.page) != Fetched::Page {
            return false;
        }
        let Some(mut frame) = shared.free.take(self.worker) else {
            return false;
        };
        *shared.frames.owned_page(&mut frame) = *self.page;
        let left = shared.promote(pool, place, stored, self.worker, frame);
        let promoted = left.is_none();
        if let Some(frame) = left {
            shared.free.give(self.worker, frame);
        }
        promoted
    }

    /// Moves one page to another lower tier.
    fn across(
        &mut self,
        shared: &Shared,
        pool: &Pool,
        (object, index): (ObjectId, PageIndex),
        stored: Stored,
    ) -> bool {
        if shared.fetch(pool, (object, index), stored, &mut self.page) != Fetched::Page {
            return false;
        }
        let Some((tier, slots)) = shared.reserve_slots(1) else {
            return false;
        };
        let Some(slot) = slots.first().copied() else {
            return false;
        };
        let new = Stored {
            tier: tier.lower,
            slot,
            ..stored
        };
        let mapping = shared.frames.mapping();
        let ticket = mapping.slots(stored.tier).ticket(stored.slot);
        let known = !tier.store.outlives_the_map() || shared.note_pool(tier, pool);
        let ticket_of = crate::handle::Ticket::new(ticket).filter(|_| known);
        let header = ticket_of.map(|ticket| SlotHeader {
            pool_slot: pool.slot(),
            pool_serial: pool.serial(),
            object,
            index,
            ticket,
            checksum: stored.checksum,
            flags: header_flags(pool),
        });
        let written = header.is_some_and(|header| {
            let written = tier.store.write(&[(slot, &header, &self.page)]);
            tier.note_written(&written);
            written.is_ok()
        });
        let mut moved = false;
        let change = |old: Entry| {
            // The slot may have been another page's when its ticket was read.
            let same = || mapping.slots(stored.tier).ticket(stored.slot) == ticket;
            if !written || old != Entry::Stored(stored) || !same() {
                return Change::Keep;
            }
            moved = true;
            mapping
                .slots(new.tier)
                .settle(new.slot, ticket, pool.index.is_dense());
            Change::Stored(new)
        };
        (pool.index).update(&shared.frames, object, index, false, change);
        if !moved {
            shared.free_slots(&[new]);
            return false;
        }
        let stripe = pool.counters.stripe(self.worker);
        stripe.stored_out(stored.tier);
        stripe.stored_in(new.tier);
        shared.free_slots(&[stored]);
        true
    }
}
