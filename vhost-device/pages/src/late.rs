// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Slots whose pages are forgotten once for a whole request.
//!
//! To forget a page for good, a file that outlives the host needs a fence, and one fence serves any
//! number of pages. So what a request puts over, takes or flushes is noted here, and forgotten before the
//! request is answered: by its own worker, or by another one that ends a request at that time.
//!
//! ```text
//! begin_request ── put, take, flush: slots are noted ── end_request: forgotten, one fence ── answer
//! ```
//! Until then such a slot is in use, though no index word names it; a kill leaves it so, and the next
//! process forgets it before it serves anybody. A reboot of the host may bring the old page back, of a
//! request that was never answered.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::index::Stored;
use crate::shared::Shared;

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Late {
    /// By worker: it has a request under way.
    open: Box<[AtomicBool]>,
    slots: Mutex<Vec<Stored>>,
    /// Slots that are noted, or being forgotten.
    pending: AtomicUsize,
    /// Held while slots are forgotten: who waits for it finds that its own are.
    settling: Mutex<()>,
}

impl Late {
    pub(crate) fn new(workers: u16) -> Self {
        Self {
            open: (0..workers).map(|_| AtomicBool::new(false)).collect(),
            slots: Mutex::default(),
            pending: AtomicUsize::new(0),
            settling: Mutex::default(),
        }
    }

    fn is_open(&self, worker: u16) -> bool {
        let open = self.open.get(usize::from(worker));
        open.is_some_and(|open| open.load(Ordering::Relaxed))
    }
}

impl Shared {
    /// What this worker forgets from here on is forgotten when its request ends.
    pub(crate) fn begin_request(&self, worker: u16) {
        if let Some(open) = self.late.open.get(usize::from(worker)) {
            open.store(true, Ordering::Relaxed);
        }
    }

    /// Returns when all that this worker was to forget is forgotten.
    pub(crate) fn end_request(&self, worker: u16) {
        if let Some(open) = self.late.open.get(usize::from(worker)) {
            open.store(false, Ordering::Relaxed);
        }
        self.settle_late();
    }

    /// Forgets what is noted. True if there was something.
    pub(crate) fn settle_late(&self) -> bool {
        if self.late.pending.load(Ordering::Acquire) == 0 {
            return false;
        }
        let _settling = self.late.settling.lock();
        let slots = std::mem::take(&mut *self.late.slots.lock());
        self.free_slots(&slots);
        self.late.pending.fetch_sub(slots.len(), Ordering::AcqRel);
        true
    }

    /// Frees slots that no index word names, for a worker: at once, or where that takes long and a
    /// request is under way, at its end.
    pub(crate) fn free_slots_for(&self, worker: u16, slots: &[Stored]) {
        if slots.is_empty() {
            return;
        }
        if !self.late.is_open(worker) {
            return self.free_slots(slots);
        }
        let (slow, quick): (Vec<Stored>, Vec<Stored>) =
            slots.iter().partition(|stored| self.keeps_slot(**stored));
        if !quick.is_empty() {
            self.free_slots(&quick);
        }
        if !slow.is_empty() {
            self.late.pending.fetch_add(slow.len(), Ordering::AcqRel);
            self.late.slots.lock().extend(slow);
        }
    }
}
