// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A worker: the one way to put, get and flush pages. One for each thread.

use std::sync::Arc;

use thiserror::Error;

use crate::checksum;
use crate::counters::Stripe;
use crate::frames::{Frames, Prepared};
use crate::handle::{ObjectId, PAGE_SIZE, PageBytes, PageIndex, PageSink, PageSource, Ticket};
use crate::index::{Change, Entry, Found};
use crate::pool::Pool;
use crate::shared::{EVICTIONS_MAX, Evicted, Removed, Shared};
use crate::sys::{OwnedFrame, Pin};

/// Why there is no worker.
#[derive(Debug, Error, PartialEq, Eq)]
#[error(
    "Cannot add a worker: {workers_max} are at work, which is the most; make the engine with more"
)]
pub struct WorkerError {
    /// Workers that the engine was made for.
    pub workers_max: u16,
}

/// What became of a put.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PutResult {
    /// Stored in a frame.
    Stored,
    /// Stored in the index alone: the page is one byte repeated.
    SameFilled,
    /// Beyond the grant, no room for an ephemeral page, or the pool is destroyed. An older version is
    /// gone.
    RefusedFull,
    /// The guest is frozen. An older version is gone.
    RefusedFrozen,
    /// The page that is there has a newer ticket; it is as it was.
    Stale,
    /// The index is outside the pool; nothing happened.
    BadIndex,
    /// The source could not be read. A persistent page that was there is as it was.
    Fault,
}

/// What a get leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GetMode {
    /// The page stays.
    Copy,
    /// The page is forgotten once it is delivered.
    Exclusive,
}

/// What became of a get.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GetResult {
    /// Delivered from a frame.
    Hit,
    /// Delivered; the page is one byte repeated.
    HitSameFilled,
    /// No such page. The sink was not called.
    Miss,
    /// The page's bytes failed their checksum and were not delivered. The page stays, as a witness,
    /// until it is flushed or put again.
    Corrupt,
    /// The index is outside the pool. The sink was not called.
    BadIndex,
    /// The sink could not be written; the page stays.
    Fault,
}

/// What became of the flush of one page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FlushResult {
    /// A page was there and is gone.
    Flushed,
    /// No page was there.
    Absent,
    /// The page has a newer ticket; it is as it was.
    Stale,
    /// The index is outside the pool; nothing happened.
    BadIndex,
}

/// The one way to put, get and flush. Each thread has its own, with a frame in hand for the next put
/// and a bundle of free ones. When it is dropped, all of them go back.
///
/// Every call takes a pool of the engine that made the worker, and panics on one of another.
#[derive(Debug)]
pub struct Worker {
    shared: Arc<Shared>,
    number: u16,
    hand: Option<OwnedFrame>,
    /// Frames on their way back, between calls empty.
    freed: Vec<OwnedFrame>,
}

impl Worker {
    pub(crate) fn new(shared: &Arc<Shared>) -> Result<Self, WorkerError> {
        let workers_max = shared.workers_max;
        let number = (shared.idle_workers.lock().pop()).ok_or(WorkerError { workers_max })?;
        Ok(Self {
            shared: Arc::clone(shared),
            number,
            hand: None,
            freed: Vec::new(),
        })
    }

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
        let result = self.try_put(pool, object, index, ticket, source);
        let in_hand = u32::from(self.hand.is_some());
        self.shared.free.note_in_hand(self.number, in_hand);
        result
    }

    #[inline]
    fn try_put(
        &mut self,
        pool: &Pool,
        object: ObjectId,
        index: PageIndex,
        ticket: Ticket,
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
        let hand = self.hand.take();
        let Some(mut frame) = hand.or_else(|| self.shared.find_frame(self.number)) else {
            return self.refuse(&page, PutResult::RefusedFull);
        };
        let bytes = self.shared.frames.owned_page(&mut frame);
        if source.read_into(bytes).is_err() {
            self.hold(frame);
            return PutResult::Fault;
        }
        if let Some(value) = checksum::same_filled(bytes) {
            self.hold(frame);
            return self.put_same(&page, value);
        }
        let checksum = checksum::of(bytes);
        let ephemeral = pool.is_ephemeral();
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

    /// Publishes a page that is in a frame.
    fn put_frame(&mut self, at: &At<'_>, page: Prepared) -> PutResult {
        let shared = &*self.shared;
        let ephemeral = page.ephemeral;
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
                if !ephemeral && old.is_empty() && !at.pool.account.admit_persistent() {
                    return Change::Keep;
                }
                result = PutResult::Stored;
                page.take().map_or(Change::Keep, Change::Frame)
            });
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
                Entry::Empty => account.admit_persistent(),
                Entry::Frame(_) | Entry::Same { .. } => true,
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
            | PutResult::Fault => stripe.add_refused(1),
        }
        self.leave(pool, old, result);
    }

    /// The common case of a put over a framed page of a persistent pool: the old frame is the next
    /// one in hand, and no count changes.
    #[inline]
    fn replaced(&mut self, pool: &Pool, old: Entry) -> bool {
        let (Entry::Frame(frame), false) = (old, pool.is_ephemeral()) else {
            return false;
        };
        if let Some(frame) = self.shared.frames.mapping().retire(frame) {
            self.hold(frame);
        }
        true
    }

    /// Frees and counts what a put took the place of.
    fn leave(&mut self, pool: &Pool, old: Entry, result: PutResult) {
        if old.is_empty() {
            return;
        }
        let mut removed = Removed::default();
        if let Some(frame) = removed.take(&self.shared, old) {
            self.hold(frame);
        }
        let stored = matches!(result, PutResult::Stored | PutResult::SameFilled);
        if stored && !pool.is_ephemeral() {
            // The new page stands in for the old one in the guest's account.
            removed.settle_replaced(pool, self.number);
        } else {
            removed.settle(&self.shared, pool, self.number);
        }
    }

    /// Counts one more ephemeral page in a frame, if there is or can be made room.
    fn admit_ephemeral(&mut self, pool: &Pool) -> bool {
        let admitted = self.make_room(pool);
        if admitted {
            pool.account.add_ephemeral_frame();
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
        let stripe = pool.counters.stripe(self.number);
        match result {
            GetResult::Hit | GetResult::HitSameFilled => stripe.add_gets(1),
            GetResult::Miss => stripe.add_misses(1),
            GetResult::Corrupt => stripe.add_corrupt(1),
            GetResult::BadIndex | GetResult::Fault => {}
        }
        result
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
            result = match old {
                Entry::Empty => GetResult::Miss,
                Entry::Same { value, .. } => deliver_same(value, sink),
                // The index has the frame as long as its lock is held.
                Entry::Frame(frame) => frames.mapping().pin(frame).map_or(GetResult::Miss, |pin| {
                    let result = deliver(&pin, sink);
                    let last = pin.unpin();
                    debug_assert!(last.is_none());
                    result
                }),
            };
            match result {
                GetResult::Hit | GetResult::HitSameFilled => Change::Clear,
                _ => Change::Keep,
            }
        });
        if matches!(result, GetResult::Hit | GetResult::HitSameFilled) {
            self.remove(pool, old.unwrap_or(Entry::Empty));
        }
        result
    }

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
            if newer { Change::Keep } else { Change::Clear }
        });
        match old {
            _ if newer => {
                stripe.add_stale(1);
                FlushResult::Stale
            }
            None | Some(Entry::Empty) => FlushResult::Absent,
            Some(old) => {
                stripe.add_flushes(1);
                self.remove(pool, old);
                FlushResult::Flushed
            }
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
            pool.index.clear_all(frames, keep, removed);
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
        let mut remove = |entry: Entry| self.freed.extend(removed.take(shared, entry));
        clear(&mut keep, &mut remove, &shared.frames);
        shared.free.give_all(&mut self.freed);
        removed.settle(shared, pool, self.number);
        stripe.add_stale(stale);
        stripe.add_flushes(removed.pages());
        removed.pages()
    }

    /// Frees and counts an entry that is no longer in the index.
    fn remove(&mut self, pool: &Pool, old: Entry) {
        let mut removed = Removed::default();
        if let Some(frame) = removed.take(&self.shared, old) {
            self.shared.free.give(self.number, frame);
        }
        removed.settle(&self.shared, pool, self.number);
    }

    /// Keeps a frame for the next put, or gives it to the bundle.
    #[inline]
    fn hold(&mut self, frame: OwnedFrame) {
        if self.hand.is_some() {
            self.shared.free.give(self.number, frame);
        } else {
            self.hand = Some(frame);
        }
    }

    /// Frees the frames that a get was the last to let go.
    #[inline]
    fn give_back(&mut self) {
        while let Some(frame) = self.freed.pop() {
            self.shared.free.give(self.number, frame);
        }
    }

    #[inline]
    fn check(&self, pool: &Pool) {
        assert!(
            Arc::ptr_eq(&self.shared, &pool.shared),
            "a worker was given a pool of another engine"
        );
    }

    /// The counters of a pool that this worker counts in.
    #[inline]
    fn stripe<'p>(&self, pool: &'p Pool) -> &'p Stripe {
        self.check(pool);
        pool.counters.stripe(self.number)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.freed.extend(self.hand.take());
        self.shared.free.give_all(&mut self.freed);
        self.shared.free.dissolve(self.number);
        self.shared.free.note_in_hand(self.number, 0);
        self.shared.idle_workers.lock().push(self.number);
    }
}

/// The page that a put is about.
struct At<'a> {
    pool: &'a Pool,
    object: ObjectId,
    index: PageIndex,
    ticket: Ticket,
}

/// Delivers a framed page whose bytes are what was put.
#[inline]
fn deliver(pin: &Pin<'_>, sink: &mut impl PageSink) -> GetResult {
    let stored = pin
        .entry()
        .checksum
        .load(std::sync::atomic::Ordering::Relaxed);
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
