// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The requests of one ring that were taken and are not used yet.
//!
//! The vhost-user crate has no such table. It is what stopping a ring waits for: GET_VRING_BASE
//! answers an index, and every request before it must have been used.

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
    heads: VecDeque<u16>,
    generation: u64,
}

/// Which life of the ring a request belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Generation(u64);

impl Default for Inflight {
    fn default() -> Self {
        Self {
            table: Mutex::new(Table {
                heads: VecDeque::with_capacity(TAKE_MAX),
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

    /// Removes all requests, which have been put back into the ring. Returns how many.
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
    /// given up, and will not be used. Returns the heads given up. The ring must not be ready.
    pub fn drain(&self, deadline: Duration) -> Vec<u16> {
        let mut table = self.table.lock();
        self.draining.store(true, Ordering::Relaxed);
        self.empty
            .wait_while_for(&mut table, |table| !table.heads.is_empty(), deadline);
        self.draining.store(false, Ordering::Relaxed);
        if !table.heads.is_empty() {
            table.generation += 1;
        }
        table.heads.drain(..).collect()
    }

    fn wake(&self, table: &Table) {
        if self.draining() && table.heads.is_empty() {
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
        assert!(inflight.drain(Duration::ZERO).is_empty());
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
        assert!(waiter.join().unwrap().is_empty());
        assert_eq!(inflight.finish(generation, 0, || 7), Some(7));
    }

    #[test]
    fn what_misses_the_deadline_is_never_used() {
        let inflight = Inflight::default();
        let generation = inflight.take([3, 5].into_iter());
        assert_eq!(inflight.drain(Duration::ZERO), [3, 5]);
        // The worker comes late; the ring's next life is not touched.
        let next = inflight.take([7].into_iter());
        assert_eq!(inflight.finish(generation, 1, || 7), None);
        assert_eq!(inflight.put_back(generation), 0);
        assert_eq!(inflight.put_back(next), 1);
    }
}
