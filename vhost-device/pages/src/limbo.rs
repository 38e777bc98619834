// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The end of exclusive gets: of those of living workers, and of those that a dead process left.

use parking_lot::Mutex;

use crate::index::{Change, Entry};
use crate::journal::{Journal, TakenPage};
use crate::shared::Shared;
use crate::sys::OwnedFrame;
use crate::worker::WorkerError;

/// What becomes of pages that were taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// They arrived.
    Forget,
    /// They did not.
    PutBack,
}

/// A request of a dead process that had taken pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unresolved {
    pub(crate) journal: u32,
    /// The guest's slot.
    pub(crate) guest: u32,
    pub(crate) ring: u32,
    pub(crate) position: u16,
}

/// Who has which journal.
#[derive(Debug)]
pub(crate) struct Limbo {
    free: Mutex<Vec<u32>>,
    unresolved: Mutex<Vec<Unresolved>>,
}

impl Limbo {
    /// All journals are free but the unresolved ones.
    pub(crate) fn new(journals: u32, unresolved: Vec<Unresolved>) -> Self {
        let armed = |journal: &u32| unresolved.iter().any(|left| left.journal == *journal);
        Self {
            free: Mutex::new((0..journals).filter(|journal| !armed(journal)).collect()),
            unresolved: Mutex::new(unresolved),
        }
    }

    /// A journal for a worker.
    pub(crate) fn take_journal(&self) -> Result<u32, WorkerError> {
        let journal = self.free.lock().pop();
        journal.ok_or_else(|| WorkerError::Unresolved {
            unresolved: self.unresolved.lock().len(),
        })
    }

    /// Gives a journal back. It has no entries.
    pub(crate) fn give_journal(&self, journal: u32) {
        self.free.lock().push(journal);
    }

    /// What a dead process left of a guest.
    pub(crate) fn unresolved(&self, guest: u32) -> Vec<Unresolved> {
        let unresolved = self.unresolved.lock();
        let own = unresolved.iter().filter(|left| left.guest == guest);
        own.copied().collect()
    }

    /// Takes a request off the list. One of two callers gets it.
    fn claim(&self, request: &Unresolved) -> bool {
        let mut unresolved = self.unresolved.lock();
        let at = unresolved.iter().position(|left| left == request);
        at.map(|at| unresolved.swap_remove(at)).is_some()
    }
}

impl Shared {
    /// Ends an unresolved request. Returns the pages it had taken.
    pub(crate) fn resolve(&self, request: &Unresolved, end: End) -> u64 {
        if !self.limbo.claim(request) {
            return 0;
        }
        let journal = &self.frames.mapping().journals()[request.journal as usize];
        let pages = u64::from(journal.count());
        let mut freed = Vec::new();
        // No worker has this number; its counters are added to under the lock of its number.
        let _nobody = self.nobody.lock();
        self.end_journal(journal, end, self.workers_max, &mut freed);
        self.free.give_all(&mut freed);
        self.limbo.give_journal(request.journal);
        pages
    }

    /// Ends a journal. Frames that are nobody's then go to `freed`; `worker` counts.
    pub(crate) fn end_journal(
        &self,
        journal: &Journal,
        end: End,
        worker: u16,
        freed: &mut Vec<OwnedFrame>,
    ) {
        let mut left = Vec::new();
        for at in (0..journal.count()).rev() {
            let Some(page) = journal.get(at) else {
                continue;
            };
            if !self.end_page(&page, end, worker) {
                let guest = page.pool / tmem_abi::POOLS_MAX;
                left.extend(page.entry.frame().map(|frame| (guest, frame)));
            }
            if end == End::PutBack {
                // The page is the index's again, so the journal must not speak of it.
                journal.truncate(at);
            }
        }
        journal.truncate(0);
        // Not before: while the journal names a frame, the frame must hold what was taken.
        for (guest, frame) in left {
            let page = self.likeness(frame);
            let (owned, was_copied) = self.frames.mapping().retire(frame);
            if was_copied && let Some(account) = self.account(guest) {
                self.cancel_copy(&account, worker, frame, page);
            }
            freed.extend(owned);
        }
    }

    /// Ends what became of one page. True if its frame is the index's again.
    fn end_page(&self, page: &TakenPage, end: End, worker: u16) -> bool {
        let pool = self.pool(page.pool);
        // Another pool's page, if the slot has another pool by now.
        let Some(pool) = pool.filter(|pool| pool.serial() == page.serial) else {
            return false;
        };
        let mut back = false;
        let change = |old: Entry| match end {
            // Something newer came, or went.
            _ if old != page.entry => Change::Keep,
            End::Forget => Change::Clear,
            End::PutBack => {
                back = true;
                pool.come_back(old.put_back());
                Change::PutBack
            }
        };
        let (object, index) = (page.object, page.index);
        let open = (pool.index).update(&self.frames, object, index, false, change);
        if open.is_none() {
            // The pool is being destroyed, which must not meet this frame once it is another's.
            (pool.index).strike(&self.frames, object, index, page.entry);
        }
        if back {
            let same = u64::from(page.entry.frame().is_none());
            pool.counters.stripe(worker).pages_in(1, same);
        }
        back
    }
}
