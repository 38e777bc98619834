// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Gets.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Worker;
use super::answers::{GetMode, GetResult, PageMark};
use crate::checksum;
use crate::frames::Frames;
use crate::handle::{ObjectId, PAGE_SIZE, PageBytes, PageIndex, PageSink, Ticket};
use crate::index::{Change, Entry, Found, Stored};
use crate::pool::Pool;
use crate::sys::Pin;
use crate::tier::{Fetched, From, LOWER, Lower, Tier};

impl Worker {
    /// Delivers a page.
    ///
    /// The checksum is verified over the frame before the sink is called. [`GetMode::Copy`] holds no
    /// lock meanwhile: a put or a flush of the same page goes on beside it.
    pub fn get(
        &mut self,
        pool: &Pool,
        object: ObjectId,
        index: PageIndex,
        mode: GetMode,
        sink: &mut impl PageSink,
    ) -> GetResult {
        self.check(pool);
        if !pool.index.holds(object, index) {
            return GetResult::BadIndex;
        }
        let result = match mode {
            GetMode::Copy => self.get_copy(pool, object, index, sink).0,
            GetMode::Exclusive => self.get_exclusive(pool, object, index, sink),
        };
        self.count_get(pool, result);
        result
    }

    /// As [`get`](Self::get), [copying](GetMode::Copy); with what tells the put that the page is from.
    pub fn get_marked(
        &mut self,
        pool: &Pool,
        object: ObjectId,
        index: PageIndex,
        sink: &mut impl PageSink,
    ) -> (GetResult, Option<PageMark>) {
        self.check(pool);
        if !pool.index.holds(object, index) {
            return (GetResult::BadIndex, None);
        }
        let (result, mark) = self.get_copy(pool, object, index, sink);
        self.count_get(pool, result);
        (result, mark.filter(|_| result.is_hit()))
    }

    /// The tier that a page is in now, if it is anywhere but in the index. A page that is about to
    /// leave DRAM is there.
    #[must_use]
    pub fn tier_of(&self, pool: &Pool, object: ObjectId, index: PageIndex) -> Option<Tier> {
        self.check(pool);
        match pool.index.peek(&self.shared.frames, object, index) {
            Entry::Frame(_) => Some(Tier::Dram),
            Entry::Stored(stored) => Some(stored.tier.tier()),
            Entry::Empty
            | Entry::Same { .. }
            | Entry::Damaged
            | Entry::TakenFrame(_)
            | Entry::TakenSame { .. } => None,
        }
    }

    /// Tells the stores that these pages of an object will be got next, by this thread, so that the
    /// way to those that are far is gone once. Returns how many such pages there are.
    pub fn will_get(
        &mut self,
        pool: &Pool,
        object: ObjectId,
        indices: impl IntoIterator<Item = PageIndex>,
    ) -> usize {
        self.check(pool);
        if !self.shared.is_tiered() {
            return 0;
        }
        let mut slots: [Vec<(u32, u32)>; LOWER] = Default::default();
        for index in indices {
            if !pool.index.holds(object, index) {
                continue;
            }
            if let Entry::Stored(stored) = pool.index.peek(&self.shared.frames, object, index) {
                slots[stored.tier.number()].push((stored.slot, stored.checksum));
            }
        }
        for lower in Lower::ALL {
            let slots = &slots[lower.number()];
            if let Some(tier) = self.shared.lower(lower)
                && !slots.is_empty()
            {
                tier.store.will_read(slots);
            }
        }
        slots.iter().map(Vec::len).sum()
    }

    /// Counts a get.
    #[inline]
    pub(super) fn count_get(&self, pool: &Pool, result: GetResult) {
        let stripe = pool.counters.stripe(self.number);
        match result {
            GetResult::Hit => stripe.add_gets(1),
            GetResult::HitSameFilled => {
                stripe.add_gets(1);
                stripe.add_hits_same(1);
            }
            GetResult::Miss => stripe.add_misses(1),
            GetResult::Corrupt => stripe.add_corrupt(1),
            GetResult::BadIndex | GetResult::Fault => {}
        }
    }

    fn get_copy(
        &mut self,
        pool: &Pool,
        object: ObjectId,
        index: PageIndex,
        sink: &mut impl PageSink,
    ) -> (GetResult, Option<PageMark>) {
        let mut mark = None;
        let mut is = |ticket, checksum| {
            mark = Ticket::new(ticket).map(|ticket| PageMark { ticket, checksum });
        };
        let result = loop {
            let frames = &self.shared.frames;
            let found = pool.index.find(frames, object, index, &mut self.freed);
            break match found {
                Found::Missing => GetResult::Miss,
                Found::Same { value, ticket } => {
                    is(ticket, checksum::of_same(value));
                    deliver_same(value, sink)
                }
                Found::Damaged => GetResult::Corrupt,
                Found::Frame(pin) => {
                    let entry = pin.entry();
                    is(entry.ticket(), entry.checksum.load(Ordering::Relaxed));
                    let result = deliver(&pin, sink);
                    self.hit(pool, &pin);
                    self.freed.extend(pin.unpin());
                    result
                }
                Found::Stored(stored) => {
                    let place = (object, index);
                    let shared = &self.shared;
                    // Right if the word is the same after the page was read.
                    let slots = frames.mapping().slots(stored.tier);
                    is(slots.ticket(stored.slot), stored.checksum);
                    match shared.fetch(pool, place, stored, &mut self.scratch) {
                        Fetched::Moved => continue,
                        Fetched::Damaged => GetResult::Corrupt,
                        Fetched::Page => self.deliver_fetched(pool, place, stored, sink),
                    }
                }
            };
        };
        self.give_back();
        (result, mark)
    }

    /// Notes that a page in a frame was got.
    #[inline]
    fn hit(&self, pool: &Pool, pin: &Pin<'_>) {
        if pool.is_ephemeral() {
            pin.entry().touch();
        } else if self.shared.is_tiered() {
            if pin.entry().is_copied() {
                pin.entry().touch();
                pool.counters.stripe(self.number).add_hits_victim(1);
            }
            // Of a victim its policy knows nothing, and hears nothing.
            let hits = pool.account.hits();
            self.shared.track_hit(self.number, hits, pin.frame());
        }
    }

    /// Delivers the page that was fetched, and brings it back to DRAM if there is room.
    fn deliver_fetched(
        &mut self,
        pool: &Pool,
        place: (ObjectId, PageIndex),
        stored: Stored,
        sink: &mut impl PageSink,
    ) -> GetResult {
        sink.expect_page();
        if sink.write_from(&self.scratch).is_err() {
            return GetResult::Fault;
        }
        let stripe = pool.counters.stripe(self.number);
        stripe.add_hit_stored(stored.tier);
        match self.shared.wants_back(pool, place, stored) {
            None => {}
            Some(From::Free) => self.promote_fetched(pool, place, stored),
            Some(From::Victim) => {
                let released = self.shared.release_one(&pool.account, self.number, true);
                if let Some(frame) = released {
                    self.hold(frame);
                    self.promote_fetched(pool, place, stored);
                }
            }
        }
        GetResult::Hit
    }

    /// Puts the page that was fetched into a frame, if there is one.
    fn promote_fetched(&mut self, pool: &Pool, place: (ObjectId, PageIndex), stored: Stored) {
        let shared = Arc::clone(&self.shared);
        let hand = self.hand.take();
        let Some(mut frame) = hand.or_else(|| shared.free.take(self.number)) else {
            return;
        };
        *shared.frames.owned_page(&mut frame) = *self.scratch;
        if let Some(frame) = shared.promote(pool, place, stored, self.number, frame) {
            self.hold(frame);
        }
        let in_hand = u32::from(self.hand.is_some());
        shared.free.note_in_hand(self.number, in_hand);
    }

    /// Brings a page that is below DRAM up, so that it can be got under its lock. False if it cannot
    /// be read.
    pub(super) fn bring_up(&mut self, pool: &Pool, object: ObjectId, index: PageIndex) -> bool {
        if !self.shared.is_tiered() {
            return true;
        }
        let shared = Arc::clone(&self.shared);
        let place = (object, index);
        while let Entry::Stored(stored) = pool.index.peek(&shared.frames, object, index) {
            match shared.fetch(pool, place, stored, &mut self.scratch) {
                Fetched::Moved => {}
                Fetched::Damaged => return false,
                Fetched::Page => {
                    let stripe = pool.counters.stripe(self.number);
                    stripe.add_hit_stored(stored.tier);
                    if self.hand.is_none() {
                        self.hand = shared.find_frame(self.number);
                    }
                    if self.hand.is_none() {
                        return false;
                    }
                    self.promote_fetched(pool, place, stored);
                }
            }
        }
        true
    }

    fn get_exclusive(
        &mut self,
        pool: &Pool,
        object: ObjectId,
        index: PageIndex,
        sink: &mut impl PageSink,
    ) -> GetResult {
        loop {
            if !self.bring_up(pool, object, index) {
                return GetResult::Corrupt;
            }
            let frames = &self.shared.frames;
            let mut result = None;
            let old = pool.index.update(frames, object, index, false, |old| {
                result = deliver_entry(frames, old, sink);
                if result.is_some_and(GetResult::is_hit) {
                    pool.leave(old);
                    Change::Clear
                } else {
                    Change::Keep
                }
            });
            // Nothing was asked of a closed index; a page may have gone down again.
            let result = match (result, &old) {
                (Some(result), _) => result,
                (None, Some(Entry::Stored(_))) => continue,
                (None, _) => GetResult::Miss,
            };
            if result.is_hit() {
                self.remove(pool, old.unwrap_or(Entry::Empty));
            }
            return result;
        }
    }
}

/// Delivers what an index entry says, with its lock held; not a page that has to come up first.
#[inline]
pub(super) fn deliver_entry(
    frames: &Frames,
    entry: Entry,
    sink: &mut impl PageSink,
) -> Option<GetResult> {
    Some(match entry {
        Entry::Empty | Entry::TakenFrame(_) | Entry::TakenSame { .. } => GetResult::Miss,
        Entry::Same { value, .. } => deliver_same(value, sink),
        Entry::Damaged => GetResult::Corrupt,
        Entry::Stored(_) => return None,
        // The index has the frame as long as its lock is held.
        Entry::Frame(frame) => frames.mapping().pin(frame).map_or(GetResult::Miss, |pin| {
            let result = deliver(&pin, sink);
            let last = pin.unpin();
            debug_assert!(last.is_none());
            result
        }),
    })
}

/// Delivers a framed page whose bytes are what was put.
#[inline]
fn deliver(pin: &Pin<'_>, sink: &mut impl PageSink) -> GetResult {
    sink.expect_page();
    let stored = pin.entry().checksum.load(Ordering::Relaxed);
    if checksum::of(pin.page()) != stored {
        return GetResult::Corrupt;
    }
    match sink.write_from(pin.page()) {
        Ok(()) => GetResult::Hit,
        Err(_) => GetResult::Fault,
    }
}

fn deliver_same(value: u8, sink: &mut impl PageSink) -> GetResult {
    let page: PageBytes = [value; PAGE_SIZE];
    match sink.write_from(&page) {
        Ok(()) => GetResult::HitSameFilled,
        Err(_) => GetResult::Fault,
    }
}
