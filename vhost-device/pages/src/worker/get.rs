// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Gets.

use std::sync::atomic::Ordering;

use super::Worker;
use super::answers::{GetMode, GetResult};
use crate::checksum;
use crate::frames::Frames;
use crate::handle::{ObjectId, PAGE_SIZE, PageBytes, PageIndex, PageSink};
use crate::index::{Change, Entry, Found};
use crate::pool::Pool;
use crate::sys::Pin;

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
            GetMode::Copy => self.get_copy(pool, object, index, sink),
            GetMode::Exclusive => self.get_exclusive(pool, object, index, sink),
        };
        self.count_get(pool, result);
        result
    }

    /// Counts a get.
    #[inline]
    pub(super) fn count_get(&self, pool: &Pool, result: GetResult) {
        let stripe = pool.counters.stripe(self.number);
        match result {
            GetResult::Hit | GetResult::HitSameFilled => stripe.add_gets(1),
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
    ) -> GetResult {
        let frames = &self.shared.frames;
        let found = pool.index.find(frames, object, index, &mut self.freed);
        let result = match found {
            Found::Missing => GetResult::Miss,
            Found::Same(value) => deliver_same(value, sink),
            Found::Damaged => GetResult::Corrupt,
            Found::Frame(pin) => {
                let result = deliver(&pin, sink);
                if pool.is_ephemeral() {
                    pin.entry().touch();
                }
                self.freed.extend(pin.unpin());
                result
            }
        };
        self.give_back();
        result
    }

    fn get_exclusive(
        &mut self,
        pool: &Pool,
        object: ObjectId,
        index: PageIndex,
        sink: &mut impl PageSink,
    ) -> GetResult {
        let frames = &self.shared.frames;
        let mut result = GetResult::Miss;
        let old = pool.index.update(frames, object, index, false, |old| {
            result = deliver_entry(frames, old, sink);
            if result.is_hit() {
                pool.leave(old);
                Change::Clear
            } else {
                Change::Keep
            }
        });
        if result.is_hit() {
            self.remove(pool, old.unwrap_or(Entry::Empty));
        }
        result
    }
}

/// Delivers what an index entry says, with its lock held.
#[inline]
pub(super) fn deliver_entry(frames: &Frames, entry: Entry, sink: &mut impl PageSink) -> GetResult {
    match entry {
        Entry::Empty | Entry::TakenFrame(_) | Entry::TakenSame { .. } => GetResult::Miss,
        Entry::Same { value, .. } => deliver_same(value, sink),
        Entry::Damaged => GetResult::Corrupt,
        // The index has the frame as long as its lock is held.
        Entry::Frame(frame) => frames.mapping().pin(frame).map_or(GetResult::Miss, |pin| {
            let result = deliver(&pin, sink);
            let last = pin.unpin();
            debug_assert!(last.is_none());
            result
        }),
    }
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
