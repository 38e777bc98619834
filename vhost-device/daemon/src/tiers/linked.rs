// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A tier's store as the engine sees it here: the store itself, behind its link, with a watch beside it.
//!
//! | who | reads | writes |
//! | --- | --- | --- |
//! | a queue worker | at once: the worker keeps the answer back until the link would have brought it | wait for the link, not long |
//! | the mover | wait for the link | wait for the link |
//!
//! What goes on is told from thread to store and back by variables of the thread, for the engine
//! between the two knows of none of it: bits that the link flips, and the time that a store took.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use tmem_pages::link::{Direction, Faults, Route, prompt_timers};
use tmem_pages::slots::{PoolEntry, ScanReport, SlotError, SlotHeader};
use tmem_pages::{PAGE_SIZE, PageBytes, SlotStore, SlotWrite, Tier};

use super::paths::{LOWER, Paths, lower};
use crate::limits::LINK_PUT_WAIT;

thread_local! {
    /// This thread waits for links, for as long as they take.
    static PATIENT: Cell<bool> = const { Cell::new(false) };
    /// Bits to flip in the next reads.
    static STRIKES: Cell<[Option<Faults>; 2]> = const { Cell::new([None; 2]) };
    /// A read was hit since this was asked.
    static STRUCK: Cell<bool> = const { Cell::new(false) };
    /// What reads took, by tier, in ns.
    static SPENT: Cell<[u64; LOWER]> = const { Cell::new([0; LOWER]) };
}

/// Makes this thread wait for links.
pub(crate) fn be_patient() {
    PATIENT.set(true);
    prompt_timers();
}

/// Flips bits in what this thread reads next, at most once each.
pub(crate) fn strike(faults: [Option<Faults>; 2]) {
    STRIKES.set(faults);
}

/// Whether a read of this thread was hit since the last time this was asked.
pub(crate) fn was_struck() -> bool {
    STRUCK.replace(false)
}

/// What this thread's reads took since the last time this was asked, by lower tier.
pub(crate) fn take_spent() -> [u64; LOWER] {
    SPENT.replace([0; LOWER])
}

/// See the module's head.
#[derive(Debug)]
pub(crate) struct LinkedStore {
    inner: Arc<dyn SlotStore>,
    tier: Tier,
    paths: Arc<Paths>,
    /// The way of pages of which it is not known whose they are.
    way: Option<Mutex<Route>>,
}

impl LinkedStore {
    /// `inner` behind the links of `tier`.
    pub(crate) fn new(inner: Arc<dyn SlotStore>, tier: Tier, paths: &Arc<Paths>) -> Self {
        Self {
            inner,
            tier,
            way: paths.route(tier, "").map(Mutex::new),
            paths: Arc::clone(paths),
        }
    }

    /// Waits until `pages` have passed the link. A page that is hit on its way is sent again, as often
    /// as that happens, by whoever misses its acknowledgement.
    fn pass(&self, direction: Direction, pages: usize) {
        if !self.paths.is_on() {
            return;
        }
        let Some(way) = &self.way else { return };
        let bytes = (pages * PAGE_SIZE) as u64;
        let now = self.paths.now();
        let reserve = |from| way.lock().pair().reserve(direction, from, bytes);
        let mut transfer = reserve(now);
        if transfer.faults.corrupt.is_some() {
            transfer = reserve(transfer.due);
        }
        if transfer.due <= now {
            return;
        }
        let done = if PATIENT.get() {
            self.paths.wait(transfer.due, &|_| self.paths.is_ending())
        } else {
            let most = now.saturating_add(u64::try_from(LINK_PUT_WAIT.as_nanos()).unwrap_or(0));
            self.paths.wait(transfer.due, &|now| now >= most)
        };
        if done >= transfer.due {
            let mut way = way.lock();
            way.pair()
                .link(direction)
                .completed(transfer.due, now, done);
        }
    }
}

impl SlotStore for LinkedStore {
    fn id(&self) -> [u8; 16] {
        self.inner.id()
    }

    fn slots(&self) -> u32 {
        self.inner.slots()
    }

    fn write(&self, batch: &[SlotWrite<'_>]) -> Result<(), SlotError> {
        self.inner.write(batch)?;
        self.pass(Direction::Out, batch.len());
        Ok(())
    }

    fn read(&self, slot: u32, checksum: u32, page: &mut PageBytes) -> Result<(), SlotError> {
        let start = Instant::now();
        self.inner.read(slot, checksum, page)?;
        let ns = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let mut spent = SPENT.get();
        if let Some(spent) = lower(self.tier).and_then(|tier| spent.get_mut(tier)) {
            *spent = spent.saturating_add(ns);
        }
        SPENT.set(spent);
        let [strike, next] = STRIKES.get();
        if let Some(faults) = strike.filter(|faults| faults.corrupt.is_some()) {
            STRIKES.set([next, None]);
            STRUCK.set(true);
            faults.damage(page);
        }
        if PATIENT.get() {
            self.pass(Direction::In, 1);
        }
        Ok(())
    }

    fn will_read(&self, slots: &[(u32, u32)]) {
        self.inner.will_read(slots);
    }

    fn is_far(&self) -> bool {
        self.inner.is_far()
    }

    fn tidy(&self) -> bool {
        self.inner.tidy()
    }

    fn wants_to_forget(&self) -> bool {
        self.inner.wants_to_forget()
    }

    fn keeps_copies(&self) -> bool {
        self.inner.keeps_copies()
    }

    fn header(&self, slot: u32) -> Result<Option<SlotHeader>, SlotError> {
        self.inner.header(slot)
    }

    fn invalidate(&self, slots: &[u32]) -> Result<(), SlotError> {
        self.inner.invalidate(slots)
    }

    fn outlives_the_map(&self) -> bool {
        self.inner.outlives_the_map()
    }

    fn resize(&self, slots: u32) -> Result<(), SlotError> {
        self.inner.resize(slots)
    }

    fn put_pool(&self, pool_slot: u32, entry: &PoolEntry) -> Result<(), SlotError> {
        self.inner.put_pool(pool_slot, entry)
    }

    fn drop_pool(&self, pool_slot: u32) -> Result<(), SlotError> {
        self.inner.drop_pool(pool_slot)
    }

    fn last_serial(&self, pool_slot: u32) -> Option<u32> {
        self.inner.last_serial(pool_slot)
    }

    fn pools(&self) -> Vec<(u32, PoolEntry)> {
        self.inner.pools()
    }

    fn scan(&self, found: &mut dyn FnMut(u32, SlotHeader)) -> Result<ScanReport, SlotError> {
        self.inner.scan(found)
    }

    fn mode(&self) -> &'static str {
        self.inner.mode()
    }
}
