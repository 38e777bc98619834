// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Pages below DRAM: how they are read, and how they come back.
//!
//! Nothing holds a slot while it is read. Instead the index word is read again after: if it is the same,
//! the slot was that page's all the time, for a slot is freed only after its word has changed.

use std::sync::atomic::Ordering;

use crate::account::Account;
use crate::checksum;
use crate::frames::{FrameNo, Prepared};
use crate::handle::{ObjectId, PageBytes, PageIndex, Ticket};
use crate::index::{Change, Entry, Stored};
use crate::policy::mix;
use crate::pool::Pool;
use crate::replacement::Event;
use crate::shared::Shared;
use crate::sys::OwnedFrame;
use crate::tier::copies::Copied;

/// Pages of a guest that keep a slot below after their promotion are at most one in so many of its pages
/// in DRAM.
const KEPT_SHARE: u64 = 16;

/// Where the frame of a page that is promoted comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum From {
    /// The free frames.
    Free,
    /// The guest's oldest victim, which goes in its place.
    Victim,
}

/// What a read of a slot brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fetched {
    /// The page.
    Page,
    /// The page has moved meanwhile: look again.
    Moved,
    /// The page is there, and cannot be read, or is not what was written.
    Damaged,
}

/// Pages of a guest that may keep their slot below.
pub(super) fn kept_max(account: &Account) -> u64 {
    account.dram() / KEPT_SHARE
}

/// A hash of what a page is called.
fn name_hash(pool: &Pool, ObjectId(object): ObjectId, PageIndex(index): PageIndex) -> u64 {
    let name = object
        .into_iter()
        .chain([u64::from(pool.slot()), u64::from(index)]);
    name.fold(0, |hash, part| mix(hash ^ part))
}

impl Shared {
    /// Reads the page that an index word says is in a slot.
    pub(crate) fn fetch(
        &self,
        pool: &Pool,
        (object, index): (ObjectId, PageIndex),
        stored: Stored,
        page: &mut PageBytes,
    ) -> Fetched {
        // Words name tiers that are there: an engine without them does not open such a map.
        let Some(tier) = self.lower(stored.tier) else {
            return Fetched::Damaged;
        };
        let read = tier.store.read(stored.slot, stored.checksum, page);
        let whole = read.is_ok() && checksum::of(page) == stored.checksum;
        if pool.index.peek(&self.frames, object, index) != Entry::Stored(stored) {
            return Fetched::Moved;
        }
        if whole {
            tier.counts.reads.fetch_add(1, Ordering::Relaxed);
            return Fetched::Page;
        }
        tier.counts.read_errors.fetch_add(1, Ordering::Relaxed);
        if let Err(error) = read {
            tier.note_error(&error);
        }
        Fetched::Damaged
    }

    /// Whether a page that was got should come back to DRAM, and if so, from where its frame is.
    pub(crate) fn wants_back(
        &self,
        pool: &Pool,
        (object, index): (ObjectId, PageIndex),
        stored: Stored,
    ) -> Option<From> {
        let account = &pool.account;
        let victims = account.victims.len();
        // The mover is behind.
        if self.keeps_slot(stored) && account.victims.kept() > 2 * kept_max(account) {
            return None;
        }
        let free = self.dram_free();
        let full = free <= 2 * self.watermarks().high || !account.has_dram_room();
        let is_owed = self.is_owed_dram(account);
        if full && !is_owed && !self.door.knows(name_hash(pool, object, index)) {
            return None;
        }
        let room = free > self.watermarks().low || (free > 0 && is_owed);
        if room && account.has_dram_room() {
            Some(From::Free)
        } else {
            (victims > 0).then_some(From::Victim)
        }
    }

    /// A page that is promoted keeps its slot: to empty it for good, or to write the page once more, takes
    /// too long.
    pub(crate) fn keeps_slot(&self, stored: Stored) -> bool {
        self.lower(stored.tier)
            .is_none_or(|tier| tier.store.keeps_copies())
    }

    /// Puts a page that was read into a frame, if the page is still there; the frame comes back if not.
    /// Its slot is free then, or kept as a victim's.
    pub(crate) fn promote(
        &self,
        pool: &Pool,
        (object, index): (ObjectId, PageIndex),
        stored: Stored,
        worker: u16,
        frame: OwnedFrame,
    ) -> Option<OwnedFrame> {
        let table = self.frames.mapping().slots(stored.tier);
        let number = frame.number();
        let mut ticket = 0;
        let mut frame = Some(frame);
        let come_back = |old: Entry| {
            if old != Entry::Stored(stored) {
                return Change::Keep;
            }
            // Only now: the slot may have been another page's since the page was read.
            ticket = table.ticket(stored.slot);
            let ticket = Ticket::new(ticket).unwrap_or(Ticket::MIN);
            (frame.take()).map_or(Change::Keep, |frame| {
                Change::Frame(Prepared {
                    frame,
                    ticket,
                    checksum: stored.checksum,
                    ephemeral: false,
                })
            })
        };
        (pool.index).update(&self.frames, object, index, false, come_back);
        if frame.is_none() {
            let stripe = pool.counters.stripe(worker);
            stripe.stored_out(stored.tier);
            stripe.add_promoted(1);
            self.enter_dram(&pool.account, 1);
            self.keep_or_free(pool, stored, worker, number, ticket);
            if let Some(tier) = self.lower(stored.tier) {
                tier.counts.promoted.fetch_add(1, Ordering::Relaxed);
            }
        }
        frame
    }

    /// Frees the slot of a page that was promoted, or keeps it as the page's copy.
    fn keep_or_free(&self, pool: &Pool, stored: Stored, worker: u16, frame: FrameNo, ticket: u64) {
        let account = &pool.account;
        if !self.keeps_slot(stored) {
            self.free_slots(&[stored]);
            self.track(worker, Event::Insert(account.slot, frame));
            return;
        }
        let copied = Copied {
            ticket,
            stored,
            leaves: false,
        };
        match self.frames.mapping().pin(frame) {
            Some(pin) => {
                if self.add_copy(account, frame, copied) {
                    self.track(worker, Event::Insert(account.slot, frame));
                }
                if let Some(frame) = pin.unpin() {
                    self.free.give(worker, frame);
                }
                if account.victims.kept() > kept_max(account) {
                    self.wake_mover();
                }
            }
            // Something newer is there by now.
            None => self.free_slots(&[stored]),
        }
    }
}
