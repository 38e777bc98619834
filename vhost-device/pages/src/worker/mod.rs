// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A worker: the one way to put, get and flush pages. One for each thread.

mod ahead;
mod answers;
mod flush;
mod get;
mod list;
mod put;
mod take;

use std::sync::Arc;

pub use answers::{FlushResult, GetMode, GetResult, PageMark, PutResult, WorkerError};

use crate::counters::Stripe;
use crate::handle::{PAGE_SIZE, PageBytes};
use crate::index::Entry;
use crate::pool::Pool;
use crate::shared::{Removed, Shared};
use crate::sys::OwnedFrame;
use take::Taking;

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
    /// The journal that this worker alone writes.
    journal: u32,
    taking: Option<Taking>,
    /// Where a page below DRAM is read to.
    scratch: Box<PageBytes>,
}

impl Worker {
    pub(crate) fn new(shared: &Arc<Shared>) -> Result<Self, WorkerError> {
        let workers_max = shared.workers_max;
        let journal = shared.limbo.take_journal()?;
        let Some(number) = shared.idle_workers.lock().pop() else {
            shared.limbo.give_journal(journal);
            return Err(WorkerError::TooMany { workers_max });
        };
        Ok(Self {
            journal,
            taking: None,
            shared: Arc::clone(shared),
            number,
            hand: None,
            freed: Vec::new(),
            scratch: Box::new([0; PAGE_SIZE]),
        })
    }

    /// The number that this worker counts under.
    pub(crate) fn number(&self) -> u16 {
        self.number
    }

    /// Begins with a request of several puts, takes or flushes. What they forget of a tier that outlives
    /// the host is forgotten together, with [`end_request`](Self::end_request); until that has returned,
    /// a reboot of the host may bring it back.
    pub fn begin_request(&mut self) {
        self.shared.begin_request(self.number);
    }

    /// Ends a request: it can be answered after this.
    pub fn end_request(&mut self) {
        self.shared.end_request(self.number);
    }

    /// Frees and counts an entry that is no longer in the index.
    fn remove(&mut self, pool: &Pool, old: Entry) {
        let mut removed = Removed::default();
        let (shared, account) = (&self.shared, &*pool.account);
        if let Some(frame) = removed.take(shared, account, self.number, old) {
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
        if self.taking.is_some() {
            self.abort_taken();
        }
        self.shared.end_request(self.number);
        self.shared.limbo.give_journal(self.journal);
        self.freed.extend(self.hand.take());
        self.shared.free.give_all(&mut self.freed);
        self.shared.free.dissolve(self.number);
        self.shared.free.note_in_hand(self.number, 0);
        self.shared.idle_workers.lock().push(self.number);
    }
}
