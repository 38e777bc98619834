// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Exclusive gets whose pages are gone only once the caller says that they arrived.

use super::Worker;
use super::answers::GetResult;
use super::get::deliver_entry;
use crate::handle::{ObjectId, PageIndex, PageSink};
use crate::index::{Change, Entry};
use crate::journal::{Journal, TAKE_PAGES_MAX, TakenPage};
use crate::limbo::End;
use crate::pool::Pool;
use crate::shared::Removed;

/// A request whose pages are being taken.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taking {
    ring: u32,
    position: u16,
    /// Pages taken so far.
    taken: u32,
}

impl Worker {
    /// Begins an exclusive get of up to [`TAKE_PAGES_MAX`] pages of one guest. `ring` and
    /// `position` are what [`Guest::unresolved`](crate::Guest::unresolved) says if this process dies
    /// before the end: the guest's ring, and the request's place in it.
    ///
    /// # Panics
    /// If the last one has no end yet.
    pub fn begin_taking(&mut self, ring: u32, position: u16) {
        assert!(self.taking.is_none(), "the last taking has no end");
        self.taking = Some(Taking {
            ring,
            position,
            taken: 0,
        });
    }

    /// Delivers a page, and takes it: from now on others miss it, and a put of it goes on as if it
    /// were not there. It leaves the guest's account at once. What is delivered stays in its frame,
    /// and in a journal that outlives this process, until [`Worker::commit_taken`] forgets it or
    /// [`Worker::abort_taken`] puts it back.
    ///
    /// # Panics
    /// If none began, or it has [`TAKE_PAGES_MAX`] pages.
    pub fn take(
        &mut self,
        pool: &Pool,
        object: ObjectId,
        index: PageIndex,
        sink: &mut impl PageSink,
    ) -> GetResult {
        self.check(pool);
        let taking = self.taking.as_ref().expect("a taking has begun");
        assert!(taking.taken < TAKE_PAGES_MAX, "a taking has too many pages");
        if !pool.index.holds(object, index) {
            return GetResult::BadIndex;
        }
        let result = loop {
            if !self.bring_up(pool, object, index) {
                break GetResult::Corrupt;
            }
            if let Some(result) = self.try_take(pool, object, index, sink) {
                break result;
            }
        };
        self.count_get(pool, result);
        result
    }

    /// Takes a page that is not below DRAM; nothing if it is.
    fn try_take(
        &mut self,
        pool: &Pool,
        object: ObjectId,
        index: PageIndex,
        sink: &mut impl PageSink,
    ) -> Option<GetResult> {
        let taking = self.taking.as_mut().expect("a taking has begun");
        let frames = &self.shared.frames;
        let journal = &frames.mapping().journals()[self.journal as usize];
        let mut result = None;
        let old = pool.index.update(frames, object, index, false, |old| {
            result = deliver_entry(frames, old, sink);
            if !result.is_some_and(GetResult::is_hit) {
                return Change::Keep;
            }
            if taking.taken == 0 {
                journal.begin(taking.ring, taking.position);
            }
            let page = TakenPage {
                pool: pool.slot(),
                serial: pool.serial(),
                object,
                index,
                entry: old.taken(),
            };
            journal.push(taking.taken, &page);
            taking.taken += 1;
            pool.leave(old);
            Change::Take
        });
        if result.is_some_and(GetResult::is_hit) {
            let mut removed = Removed::default();
            removed.count(old.unwrap_or(Entry::Empty));
            removed.settle(&self.shared, pool, self.number);
        }
        match old {
            Some(Entry::Stored(_)) => None,
            _ => Some(result.unwrap_or(GetResult::Miss)),
        }
    }

    /// The pages taken have arrived: they are forgotten.
    pub fn commit_taken(&mut self) {
        self.end_taking(End::Forget);
    }

    /// The pages taken have not arrived: they are put back, but those of which something newer came
    /// meanwhile, or whose pool is gone.
    pub fn abort_taken(&mut self) {
        self.end_taking(End::PutBack);
    }

    fn end_taking(&mut self, end: End) {
        let taken = self.taking.take().map_or(0, |taking| taking.taken);
        if taken > 0 {
            let shared = &*self.shared;
            let journal: &Journal = &shared.frames.mapping().journals()[self.journal as usize];
            shared.begin_request(self.number);
            shared.end_journal(journal, end, self.number, &mut self.freed);
            shared.end_request(self.number);
            self.give_back();
        }
    }
}
