// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A pool: the pages that a guest keeps under one id, and what it was promised for them.

use std::sync::Arc;

use thiserror::Error;

use crate::account::Account;
use crate::counters::Counters;
use crate::handle::PoolId;
use crate::index::{Entry, Index, IndexCounts, LEAF_WORDS};
use crate::shared::{Removed, Shared};
use crate::stats::PoolStats;

/// The most pools a guest may have at one time.
pub const POOLS_MAX: usize = tmem_abi::POOLS_MAX as usize;

/// A guest's dense pools may have this many pages together, whatever the engine's size: 64 GiB.
const DENSE_PAGES_FLOOR: u64 = 1 << 24;
/// In a larger engine they may have this many for each of its frames. Leaves of the index stay once
/// they are made, so this bounds what they can take: 64 bytes a frame, for a guest that tries.
const DENSE_PAGES_PER_FRAME: u64 = 8;
const _: () = assert!(DENSE_PAGES_FLOOR.is_multiple_of(LEAF_WORDS as u64));

/// The most pages that a guest's dense pools may have together.
pub(crate) fn dense_pages_max(frames: u32) -> u64 {
    (u64::from(frames) * DENSE_PAGES_PER_FRAME).max(DENSE_PAGES_FLOOR)
}

/// What a pool promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PoolKind {
    /// A page that was stored is there until it is flushed. Counts against the grant.
    Persistent,
    /// A page may vanish at any time; what a get returns is never stale.
    Ephemeral,
}

/// What a pool's pages are named by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Layout {
    /// Object 0 alone, with indices below `pages`: a swap area.
    Dense {
        /// Indices are below this; at least 1.
        pages: u32,
    },
    /// Any object, any index: files.
    Sparse,
}

/// The properties of a pool; they never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PoolSpec {
    /// What the pool promises.
    pub kind: PoolKind,
    /// What its pages are named by.
    pub layout: Layout,
}

/// Why a pool cannot be made.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum PoolError {
    /// A pool with this id and other properties exists.
    #[error(
        "Cannot create pool {id}: it is there as {existing:?}; destroy it first, or ask for the same"
    )]
    Exists {
        /// The pool's id.
        id: u32,
        /// What it is.
        existing: PoolSpec,
    },
    /// The guest has [`POOLS_MAX`] pools.
    #[error(
        "Cannot create pool {id}: the guest has {POOLS_MAX} pools, which is the most; destroy one first"
    )]
    TooMany {
        /// The pool's id.
        id: u32,
    },
    /// A dense pool of no pages, or of so many that its index could exhaust the host.
    #[error(
        "Cannot create pool {id} of {pages} pages: this guest's dense pools can have 1 to {pages_max} more"
    )]
    BadSize {
        /// The pool's id.
        id: u32,
        /// Pages asked for.
        pages: u32,
        /// Pages that the guest's dense pools may still add.
        pages_max: u64,
    },
    /// The guest has been detached.
    #[error("Cannot create pool {id}: its guest is detached; attach the guest again")]
    Detached {
        /// The pool's id.
        id: u32,
    },
}

/// A pool of pages. Reached through its guest; after it is destroyed, who still holds it finds it
/// empty, and puts are refused.
#[derive(Debug)]
pub struct Pool {
    id: PoolId,
    spec: PoolSpec,
    slot: u32,
    serial: u32,
    pub(crate) index: Index,
    pub(crate) counters: Counters,
    pub(crate) account: Arc<Account>,
    pub(crate) shared: Arc<Shared>,
}

impl Pool {
    /// The pool of a live record, with an index that holds what `counts` says.
    pub(crate) fn new(
        slot: u32,
        index: Index,
        counts: &IndexCounts,
        account: &Arc<Account>,
        shared: &Arc<Shared>,
    ) -> Self {
        let record = &shared.frames.mapping().pools()[slot as usize];
        let counters = Counters::new(shared.workers_max);
        let found = counters.stripe(shared.workers_max);
        found.pages_in(counts.pages, counts.same_filled);
        found.stored_found(counts.stored);
        found.saw(counts.ticket_high);
        Self {
            id: record.id(),
            spec: record.spec(),
            slot,
            serial: record.serial(),
            index,
            counters,
            account: Arc::clone(account),
            shared: Arc::clone(shared),
        }
    }

    /// Which of the pools that its slot has had.
    pub(crate) fn serial(&self) -> u32 {
        self.serial
    }

    /// The pool's id.
    #[must_use]
    pub fn id(&self) -> PoolId {
        self.id
    }

    /// The pool's properties.
    #[must_use]
    pub fn spec(&self) -> PoolSpec {
        self.spec
    }

    /// The pool has been destroyed.
    #[must_use]
    pub fn is_destroyed(&self) -> bool {
        self.index.is_closed()
    }

    /// Counts.
    #[must_use]
    pub fn stats(&self) -> PoolStats {
        self.counters.sum()
    }

    /// The slot: the number of its record in the map.
    pub(crate) fn slot(&self) -> u32 {
        self.slot
    }

    #[inline]
    pub(crate) fn is_ephemeral(&self) -> bool {
        self.spec.kind == PoolKind::Ephemeral
    }

    /// Takes a page that is about to leave the index off the guest's account. Called under the lock of
    /// its entry: a put of the same page that comes next finds the grant as if it came alone.
    #[inline]
    pub(crate) fn leave(&self, entry: Entry) {
        if !self.is_ephemeral() && entry.is_page() {
            self.account.leave_persistent();
        }
    }

    /// Counts a page that was taken and is put back, whether or not the grant has room for it: a put
    /// may have come in between, and the page was promised as well. Called under the lock of its
    /// entry.
    pub(crate) fn come_back(&self, entry: Entry) {
        match entry {
            _ if !self.is_ephemeral() => self.account.add_persistent(1),
            Entry::Frame(_) => {
                self.account.add_ephemeral(1, 0);
                self.shared.add_ephemeral(1);
            }
            _ => self.account.add_ephemeral(0, 1),
        }
        if entry.frame().is_some() {
            self.shared.enter_dram(&self.account, 1);
        }
    }

    /// A page of one repeated byte takes an index entry alone. Not where the index of a page that
    /// must not be lost is on the heap: there it takes a frame, whose table entry outlives the
    /// process.
    #[inline]
    pub(crate) fn takes_same_filled(&self) -> bool {
        self.index.is_dense() || self.is_ephemeral()
    }

    /// Takes no more puts, flushes everything, and gives all frames back. Returns the pages flushed;
    /// 0 the second time.
    pub(crate) fn destroy(&self) -> u64 {
        let shared = &*self.shared;
        let record = &shared.frames.mapping().pools()[self.slot as usize];
        // Called with the guest's control state locked, so nobody else ends this pool, nor has its
        // record before it is cleared.
        if self.index.is_closed() {
            return 0;
        }
        record.end();
        self.index.close();
        let nobody = shared.workers_max;
        let _nobody = shared.nobody.lock();
        let mut removed = Removed::default();
        let mut freed = Vec::new();
        self.index
            .clear_all(&shared.frames, true, &mut |_| false, &mut |entry| {
                self.leave(entry);
                removed.take_many(shared, &self.account, nobody, entry, &mut freed);
            });
        self.index.release(&shared.frames);
        shared.free.give_all(&mut freed);
        removed.settle(shared, self, nobody);
        shared.forget_pool(self.slot);
        self.counters.stripe(nobody).add_flushes(removed.pages());
        record.clear();
        removed.pages()
    }

    /// Bytes of the index.
    pub(crate) fn index_bytes(&self) -> usize {
        self.index.bytes()
    }

    /// Bytes of the pool but its index.
    pub(crate) fn own_bytes(&self) -> usize {
        size_of::<Self>() + self.counters.bytes()
    }
}
