// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Counters of a store on Valkey.

use std::sync::atomic::{AtomicU64, Ordering};

/// One counter.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, count: usize) {
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// All counters.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) written: Counter,
    pub(super) not_written: Counter,
    pub(super) sent_again: Counter,
    pub(super) unacknowledged: Counter,
    pub(super) read: Counter,
    pub(super) lost_missing: Counter,
    pub(super) lost_older: Counter,
    pub(super) lost_damaged: Counter,
    pub(super) not_read: Counter,
    pub(super) redirected: Counter,
    pub(super) connections: Counter,
    pub(super) garbage_left: Counter,
}

/// What a store on Valkey has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ValkeyStats {
    /// Pages that were acknowledged.
    pub written: u64,
    /// Pages whose write failed: the caller still has them.
    pub not_written: u64,
    /// Pages that were sent once more, because their connection was lost before its WAIT was answered.
    pub sent_again: u64,
    /// Pages that too few replicas had in time.
    pub unacknowledged: u64,
    /// Pages that were read and right.
    pub read: u64,
    /// Pages lost: there was nothing in their place.
    pub lost_missing: u64,
    /// Pages lost: there was an earlier page of the slot, or somebody else's value.
    pub lost_older: u64,
    /// Pages lost: their bytes were not those that were written.
    pub lost_damaged: u64,
    /// Reads that no node answered in time.
    pub not_read: u64,
    /// Redirections to other nodes.
    pub redirected: u64,
    /// Connections that were made.
    pub connections: u64,
    /// Pages that were flushed and still take room in the cluster, until their slots are used again.
    pub garbage_left: u64,
}

impl Counters {
    pub(super) fn now(&self) -> ValkeyStats {
        ValkeyStats {
            written: self.written.get(),
            not_written: self.not_written.get(),
            sent_again: self.sent_again.get(),
            unacknowledged: self.unacknowledged.get(),
            read: self.read.get(),
            lost_missing: self.lost_missing.get(),
            lost_older: self.lost_older.get(),
            lost_damaged: self.lost_damaged.get(),
            not_read: self.not_read.get(),
            redirected: self.redirected.get(),
            connections: self.connections.get(),
            garbage_left: self.garbage_left.get(),
        }
    }
}

impl ValkeyStats {
    /// Pages lost, all kinds.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost_missing + self.lost_older + self.lost_damaged
    }
}
