// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Puts.
//!
//! ```text
//! source ──copy──▶ frame in hand ──▶ one byte repeated? ──yes──▶ index entry
//!                                    │ no                        (frame stays in hand)
//!                                    ▼
//!                                checksum ──▶ lock entry, compare tickets, swap, unlock
//!                                             (the old frame is the next one in hand)
//! ```
//! Nothing of the source is read twice, so a guest that writes to its page meanwhile gets back some
//! bytes that were there, with a checksum that fits them.

use super::Worker;
use super::answers::{PageMark, PutResult};
use crate::checksum;
use crate::frames::Prepared;
use crate::handle::{ObjectId, PageIndex, PageSource, Ticket};
use crate::index::{Change, Entry};
use crate::pool::Pool;
use crate::replacement::Event;
use crate::shared::{EVICTIONS_MAX, Evicted, Removed};

/// The page that a put is about.
struct At<'a> {
    pool: &'a Pool,
    object: ObjectId,
    index: PageIndex,
    ticket: Ticket,
}

impl Worker {
    /// Stores a page, in place of the one that was there.
    ///
    /// The source is read once, into a frame that nobody else sees; what is checked, summed and
    /// published after is that frame.
    pub fn put(
        &mut self,
        pool: &Pool,
        object: ObjectId,
        index: PageIndex,
        ticket: Ticket,
        source: &impl PageSource,
    ) -> PutResult {
        self.put_checked(pool, (object, index, ticket), None, source)
    }

    /// As [`put`](Self::put), if the page that is read has this [checksum](crate::page_checksum), and
    /// [`PutResult::BadSum`] if not.
    pub fn put_summed(
        &mut self,
        pool: &Pool,
        object: ObjectId,
        index: PageIndex,
        mark: PageMark,
        source: &impl PageSource,
    ) -> PutResult {
        let PageMark { ticket, checksum } = mark;
        self.put_checked(pool, (object, index, ticket), Some(checksum), source)
    }

    #[inline]
    fn put_checked(
        &mut self,
        pool: &Pool,
        page: (ObjectId, PageIndex, Ticket),
        expected: Option<u32>,
        source: &impl PageSource,
    ) -> PutResult {
        let result = self.try_put(pool, page, expected, source);
        let in_hand = u32::from(self.hand.is_some());
        self.shared.free.note_in_hand(self.number, in_hand);
        result
    }

    #[inline]
    fn try_put(
        &mut self,
        pool: &Pool,
        (object, index, ticket): (ObjectId, PageIndex, Ticket),
        expected: Option<u32>,
        source: &impl PageSource,
    ) -> PutResult {
        if !pool.index.holds(object, index) {
            return PutResult::BadIndex;
        }
        self.stripe(pool).saw(ticket);
        let page = At {
            pool,
            object,
            index,
            ticket,
        };
        if pool.account.is_frozen() {
            return self.refuse(&page, PutResult::RefusedFrozen);
        }
        // Both waits for memory are over while the page is copied and summed.
        pool.index.prefetch(&self.shared.frames, index);
        let hand = self.hand.take();
        let Some(mut frame) = hand.or_else(|| self.shared.find_frame(self.number)) else {
            return self.refuse(&page, PutResult::RefusedFull);
        };
        let bytes = self.shared.frames.owned_page(&mut frame);
        if source.read_into(bytes).is_err() {
            self.hold(frame);
            return PutResult::Fault;
        }
        self.begin_to_replace(pool, index);
        if expected.is_some_and(|expected| checksum::of(bytes) != expected) {
            self.hold(frame);
            return PutResult::BadSum;
        }
        if let Some(value) = checksum::same_filled(bytes)
            && pool.takes_same_filled()
        {
            self.hold(frame);
            return self.put_same(&page, value);
        }
        let checksum = expected.unwrap_or_else(|| checksum::of(bytes));
        let ephemeral = pool.is_ephemeral();
        if !ephemeral && !self.has_room_despite_promises(&page) {
            self.hold(frame);
            return self.refuse(&page, PutResult::RefusedFull);
        }
        if ephemeral && !self.admit_ephemeral(pool) {
            self.hold(frame);
            return self.refuse(&page, PutResult::RefusedFull);
        }
        self.put_frame(
            &page,
            Prepared {
                frame,
                ticket,
                checksum,
                ephemeral,
            },
        )
    }

    /// Whether there is a place for a persistent page. Only where more was promised than there is, there
    /// may be none.
    fn has_room_despite_promises(&self, at: &At<'_>) -> bool {
        let shared = &self.shared;
        let in_place = || {
            let entry = (at.pool.index).peek(&shared.frames, at.object, at.index);
            matches!(entry, Entry::Frame(_))
        };
        !shared.may_overcommit() || in_place() || shared.finds_room(self.number)
    }

    /// Publishes a page that is in a frame.
    fn put_frame(&mut self, at: &At<'_>, page: Prepared) -> PutResult {
        let shared = &*self.shared;
        let ephemeral = page.ephemeral;
        let number = page.frame.number();
        let mut page = Some(page);
        let mut result = PutResult::RefusedFull;
        let old = at
            .pool
            .index
            .update(&shared.frames, at.object, at.index, true, |old| {
                if old.is_newer(at.ticket, &shared.frames) {
                    result = PutResult::Stale;
                    return Change::Keep;
                }
                if !ephemeral && !old.is_page() && !at.pool.account.admit_persistent() {
                    // A page that is taken must not come back behind this put.
                    return Change::Clear;
                }
                result = PutResult::Stored;
                page.take().map_or(Change::Keep, Change::Frame)
            });
        if page.is_none() {
            if !ephemeral {
                let guest = at.pool.account.slot;
                let tracked = match old {
                    Some(Entry::Frame(before)) => Event::Renew(guest, number, before),
                    _ => Event::Insert(guest, number),
                };
                shared.track(self.number, tracked);
            }
            if !matches!(old, Some(Entry::Frame(_))) {
                shared.enter_dram(&at.pool.account, 1);
                shared.obey(&at.pool.account, self.number);
            } else if ephemeral {
                // The old frame is counted off with its page.
                shared.enter_dram(&at.pool.account, 1);
            }
        }
        if let Some(page) = page {
            if ephemeral {
                at.pool.account.leave_ephemeral(1, 0);
                shared.leave_ephemeral(1);
            }
            self.hold(page.frame);
        }
        self.count_put(at.pool, result, old.unwrap_or(Entry::Empty));
        result
    }

    /// Publishes a page of one repeated byte.
    fn put_same(&mut self, at: &At<'_>, value: u8) -> PutResult {
        let frames = &self.shared.frames;
        let account = &*at.pool.account;
        let mut result = PutResult::RefusedFull;
        let mut update = |old: Entry| {
            if old.is_newer(at.ticket, frames) {
                result = PutResult::Stale;
                return Change::Keep;
            }
            let admitted = match old {
                _ if at.pool.is_ephemeral() => account.admit_ephemeral_same(),
                _ => old.is_page() || account.admit_persistent(),
            };
            if !admitted {
                return Change::Clear;
            }
            result = PutResult::SameFilled;
            let ticket = at.ticket.get();
            Change::Same { value, ticket }
        };
        let old = (at.pool.index).update(frames, at.object, at.index, true, &mut update);
        self.count_put(at.pool, result, old.unwrap_or(Entry::Empty));
        result
    }

    /// Refuses a put: what was there goes, unless it is newer.
    fn refuse(&mut self, at: &At<'_>, reason: PutResult) -> PutResult {
        let frames = &self.shared.frames;
        let mut result = reason;
        let clear = |old: Entry| {
            if old.is_newer(at.ticket, frames) {
                result = PutResult::Stale;
                return Change::Keep;
            }
            at.pool.leave(old);
            Change::Clear
        };
        let old = (at.pool.index).update(frames, at.object, at.index, false, clear);
        self.count_put(at.pool, result, old.unwrap_or(Entry::Empty));
        result
    }

    /// Counts a put and what it took the place of.
    fn count_put(&mut self, pool: &Pool, result: PutResult, old: Entry) {
        let stripe = pool.counters.stripe(self.number);
        match result {
            PutResult::Stored => {
                stripe.add_puts(1);
                if self.replaced(pool, old) {
                    return;
                }
                stripe.pages_in(1, 0);
            }
            PutResult::SameFilled => {
                stripe.add_puts(1);
                stripe.pages_in(1, 1);
            }
            PutResult::Stale => {
                stripe.add_stale(1);
                return;
            }
            PutResult::RefusedFull
            | PutResult::RefusedFrozen
            | PutResult::BadIndex
            | PutResult::Fault
            | PutResult::BadSum => stripe.add_refused(1),
        }
        self.leave(pool, old);
    }

    /// The common case of a put over a framed page of a persistent pool: the old frame is the next
    /// one in hand, and no count changes.
    #[inline]
    fn replaced(&mut self, pool: &Pool, old: Entry) -> bool {
        let (Entry::Frame(frame), false) = (old, pool.is_ephemeral()) else {
            return false;
        };
        if let Some(frame) = self.shared.retire(&pool.account, self.number, frame) {
            self.hold(frame);
        }
        true
    }

    /// Frees and counts what a put took the place of.
    fn leave(&mut self, pool: &Pool, old: Entry) {
        if !old.is_page() {
            return;
        }
        let mut removed = Removed::default();
        let (shared, account) = (&self.shared, &*pool.account);
        if let Some(frame) = removed.take(shared, account, self.number, old) {
            self.hold(frame);
        }
        removed.settle(&self.shared, pool, self.number);
    }

    /// Counts one more ephemeral page in a frame, if there is or can be made room.
    fn admit_ephemeral(&mut self, pool: &Pool) -> bool {
        let admitted = self.make_room(pool);
        if admitted {
            pool.account.add_ephemeral(1, 0);
        }
        admitted
    }

    /// Counts one more frame of all ephemeral pages; evicts some if need be, the guest's own first.
    fn make_room(&mut self, pool: &Pool) -> bool {
        for _ in 0..EVICTIONS_MAX {
            if self.shared.admit_ephemeral() {
                return true;
            }
            if self.shared.ephemeral().1 == 0 {
                return false;
            }
            let own = pool.account.ephemeral_frames() > 0;
            let mut evicted = Evicted::Nothing;
            if own {
                evicted = self.shared.evict(self.number, Some(pool.account.slot));
            }
            if matches!(evicted, Evicted::Nothing) {
                evicted = self.shared.evict(self.number, None);
            }
            match evicted {
                Evicted::Frame(frame) => self.hold(frame),
                Evicted::Later => {}
                Evicted::Nothing => return self.shared.admit_ephemeral(),
            }
        }
        self.shared.admit_ephemeral()
    }
}
