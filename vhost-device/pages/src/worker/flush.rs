// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Flushes. They always work: frozen, full, or in a pool that is gone.

use super::Worker;
use super::answers::FlushResult;
use crate::frames::Frames;
use crate::handle::{ObjectId, PageIndex, Ticket};
use crate::index::{Change, Entry};
use crate::pool::Pool;
use crate::shared::Removed;

impl Worker {
    /// Forgets one page, unless it is newer than `ticket`.
    pub fn flush_page(
        &mut self,
        pool: &Pool,
        object: ObjectId,
        index: PageIndex,
        ticket: Ticket,
    ) -> FlushResult {
        if !pool.index.holds(object, index) {
            return FlushResult::BadIndex;
        }
        let stripe = self.stripe(pool);
        stripe.saw(ticket);
        let frames = &self.shared.frames;
        let mut newer = false;
        let old = pool.index.update(frames, object, index, false, |old| {
            newer = old.is_newer(ticket, frames);
            if newer {
                return Change::Keep;
            }
            pool.leave(old);
            Change::Clear
        });
        match old {
            _ if newer => {
                stripe.add_stale(1);
                FlushResult::Stale
            }
            Some(old) if old.is_page() => {
                stripe.add_flushes(1);
                self.remove(pool, old);
                FlushResult::Flushed
            }
            Some(_) | None => FlushResult::Absent,
        }
    }

    /// Forgets the pages `first .. first + count` that are no newer than `ticket`; indices outside
    /// the pool are skipped. Returns the pages that were there and are gone.
    pub fn flush_range(
        &mut self,
        pool: &Pool,
        object: ObjectId,
        first: PageIndex,
        count: u32,
        ticket: Ticket,
    ) -> u64 {
        let Some(more) = count.checked_sub(1) else {
            return 0;
        };
        let last = first.0.saturating_add(more);
        self.flush_many(pool, ticket, |keep, removed, frames| {
            (pool.index).clear_range(frames, object, (first.0, last), keep, removed);
        })
    }

    /// Forgets all pages of an object that are no newer than `ticket`. Returns the pages that were
    /// there and are gone.
    pub fn flush_object(&mut self, pool: &Pool, object: ObjectId, ticket: Ticket) -> u64 {
        self.flush_many(pool, ticket, |keep, removed, frames| {
            (pool.index).clear_range(frames, object, (0, u32::MAX), keep, removed);
        })
    }

    /// Forgets all pages of a pool that are no newer than `ticket`. Returns the pages that were there
    /// and are gone.
    pub fn flush_pool(&mut self, pool: &Pool, ticket: Ticket) -> u64 {
        self.flush_many(pool, ticket, |keep, removed, frames| {
            pool.index.clear_all(frames, false, keep, removed);
        })
    }

    fn flush_many(
        &mut self,
        pool: &Pool,
        ticket: Ticket,
        clear: impl FnOnce(&mut dyn FnMut(Entry) -> bool, &mut dyn FnMut(Entry), &Frames),
    ) -> u64 {
        let stripe = self.stripe(pool);
        stripe.saw(ticket);
        let shared = &*self.shared;
        let (mut removed, mut stale) = (Removed::default(), 0);
        let mut keep = |entry: Entry| {
            let newer = entry.is_newer(ticket, &shared.frames);
            stale += u64::from(newer);
            newer
        };
        let mut remove = |entry: Entry| {
            pool.leave(entry);
            removed.take_many(shared, &pool.account, self.number, entry, &mut self.freed);
        };
        clear(&mut keep, &mut remove, &shared.frames);
        shared.free.give_all(&mut self.freed);
        removed.settle(shared, pool, self.number);
        stripe.add_stale(stale);
        stripe.add_flushes(removed.pages());
        removed.pages()
    }
}
