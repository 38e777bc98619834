// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The requests of one ring that were taken and are not used yet.
//!
//! The vhost-user crate has no such table. It is what stopping a ring waits for: GET_VRING_BASE
//! answers an index, and every request before it must have been used. Requests are used in the order
//! in which they were taken, but for those that were deferred.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::limits::TAKE_MAX;

/// The table. Heads are taken and given back by the ring's worker, under the ring's lock; only
/// [`Inflight::drain`] is called by another thread.
#[derive(Debug)]
pub struct Inflight {
    table: Mutex<Table>,
    empty: Condvar,
    /// Changes under the table's lock; read without it before each request.
    draining: AtomicBool,
}

#[derive(Debug)]
struct Table {
    /// To be used in this order.
    heads: VecDeque<u16>,
    /// To be used in any order.
    deferred: Vec<u16>,
    generation: u64,
}

impl Table {
    fn is_empty(&self) -> bool {
        self.heads.is_empty() && self.deferred.is_empty()
    }
}

/// Which life of the ring a request belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Generation(u64);

impl Default for Inflight {
    fn default() -> Self {
        Self {
            table: Mutex::new(Table {
                heads: VecDeque::with_capacity(TAKE_MAX),
                deferred: Vec::new(),
                generation: 0,
            }),
            empty: Condvar::new(),
            draining: AtomicBool::new(false),
        }
    }
}

impl Inflight {
    /// Enters requests, in the order in which they were taken.
    pub fn take(&self, heads: impl Iterator<Item = u16>) -> Generation {
        let mut table = self.table.lock();
        table.heads.extend(heads);
        Generation(table.generation)
    }

    /// Somebody waits for the table to be empty: what has not been begun should be put back.
    #[must_use]
    pub fn draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Removes the oldest `count` requests, which `publish` puts into the used ring before anyone who
    /// waits for them is told. Nothing happens, and nothing is returned, if somebody gave up waiting
    /// for them.
    pub fn finish<T>(
        &self,
        generation: Generation,
        count: usize,
        publish: impl FnOnce() -> T,
    ) -> Option<T> {
        let mut table = self.table.lock();
        if table.generation != generation.0 {
            return None;
        }
        let published = publish();
        let count = count.min(table.heads.len());
        table.heads.drain(..count);
        self.wake(&table);
        Some(published)
    }

    /// Lets the others pass the oldest request, which has this head and which `note` notes. False, and
    /// nothing happens, if it is not the oldest, somebody gave up waiting for it, or it is not noted.
    pub fn defer(&self, generation: Generation, head: u16, note: impl FnOnce() -> bool) -> bool {
        let mut table = self.table.lock();
        if table.generation != generation.0 || table.heads.front() != Some(&head) || !note() {
            return false;
        }
        table.heads.pop_front();
        table.deferred.push(head);
        true
    }

    /// Removes a deferred request; otherwise as [`Inflight::finish`].
    pub fn finish_deferred<T>(
        &self,
        generation: Generation,
        head: u16,
        publish: impl FnOnce() -> T,
    ) -> Option<T> {
        let mut table = self.table.lock();
        let at = table.deferred.iter().position(|of| *of == head)?;
        if table.generation != generation.0 {
            return None;
        }
        let published = publish();
        table.deferred.swap_remove(at);
        self.wake(&table);
        Some(published)
    }

    /// Enters requests that a dead worker had deferred.
    pub fn adopt(&self, heads: &[u16]) -> Generation {
        let mut table = self.table.lock();
        table.deferred = heads.to_vec();
        Generation(table.generation)
    }

    /// Removes all requests but deferred ones, which have been put back into the ring. Returns how many.
    pub fn put_back(&self, generation: Generation) -> u16 {
        let mut table = self.table.lock();
        if table.generation != generation.0 {
            return 0;
        }
        let count = table.heads.len();
        table.heads.clear();
        self.wake(&table);
        // At most TAKE_MAX were taken.
        u16::try_from(count).unwrap_or(u16::MAX)
    }

    /// Waits until every request is used or put back, at most for `deadline`; what is left then is
    /// given up, and will not be used. Returns how many that are, and of them deferred ones. The ring
    /// must not be ready.
    pub fn drain(&self, deadline: Duration) -> (usize, usize) {
        let mut table = self.table.lock();
        self.draining.store(true, Ordering::Relaxed);
        self.empty
            .wait_while_for(&mut table, |table| !table.is_empty(), deadline);
        self.draining.store(false, Ordering::Relaxed);
        if !table.is_empty() {
            table.generation += 1;
        }
        let left = (table.heads.len(), table.deferred.len());
        table.heads.clear();
        table.deferred.clear();
        left
    }

    fn wake(&self, table: &Table) {
        if self.draining() && table.is_empty() {
            self.empty.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn an_empty_table_drains_at_once() {
        let inflight = Inflight::default();
        assert_eq!(inflight.drain(Duration::ZERO), (0, 0));
        assert!(!inflight.draining());
    }

    #[test]
    fn drain_waits_for_the_last_request() {
        let inflight = Arc::new(Inflight::default());
        let generation = inflight.take([3, 5].into_iter());
        let waiter = std::thread::spawn({
            let inflight = Arc::clone(&inflight);
            move || inflight.drain(Duration::from_secs(60))
        });
        while !inflight.draining() {
            std::thread::yield_now();
        }
        assert_eq!(inflight.finish(generation, 1, || 7), Some(7));
        assert_eq!(inflight.put_back(generation), 1);
        assert_eq!(waiter.join().unwrap(), (0, 0));
        assert_eq!(inflight.finish(generation, 0, || 7), Some(7));
    }

    #[test]
    fn what_misses_the_deadline_is_never_used() {
        let inflight = Inflight::default();
        let generation = inflight.take([3, 5].into_iter());
        assert_eq!(inflight.drain(Duration::ZERO), (2, 0));
        // The worker comes late; the ring's next life is not touched.
        let next = inflight.take([7].into_iter());
        assert_eq!(inflight.finish(generation, 1, || 7), None);
        assert_eq!(inflight.put_back(generation), 0);
        assert_eq!(inflight.put_back(next), 1);
    }

    #[test]
    fn a_deferred_request_lets_others_pass_and_is_waited_for() {
        let inflight = Inflight::default();
        let generation = inflight.take([3, 5, 7].into_iter());
        assert!(!inflight.defer(generation, 5, || true), "3 is the oldest");
        assert!(!inflight.defer(generation, 3, || false), "it is not noted");
        assert!(inflight.defer(generation, 3, || true));
        assert_eq!(inflight.finish(generation, 1, || 5), Some(5));
        assert_eq!(inflight.put_back(generation), 1, "the deferred one stays");
        assert_eq!(inflight.finish_deferred(generation, 7, || ()), None);
        assert_eq!(inflight.finish_deferred(generation, 3, || ()), Some(()));
        assert_eq!(inflight.finish_deferred(generation, 3, || ()), None);
        assert_eq!(inflight.drain(Duration::ZERO), (0, 0));
        let adopted = inflight.adopt(&[9]);
        assert_eq!(inflight.drain(Duration::ZERO), (0, 1));
        assert_eq!(inflight.finish_deferred(adopted, 9, || ()), None);
    }
}
