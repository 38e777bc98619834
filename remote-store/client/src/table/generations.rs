// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Numbers of writes: each higher than all before, over restarts too.
//!
//! A high-water mark is kept in strides, so that a write stores nothing for it most times; a restart
//! goes on at the mark and skips what was left of the stride.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use thiserror::Error;
use tmem_pages::Ticket;

/// Generations for one store of the mark. Of 2^52 there are enough for four billion restarts.
const STRIDE: u64 = 1 << 20;

/// All generations have been used.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("all generations of writes are used up")]
pub struct NoGeneration;

#[derive(Debug)]
pub(super) struct Generations {
    next: AtomicU64,
    /// Below this they may be given out.
    marked: AtomicU64,
    marking: Mutex<()>,
}

impl Generations {
    /// Goes on at what was marked.
    pub(super) fn new(marked: u64) -> Result<Self, NoGeneration> {
        // 0 is older than all.
        let next = marked.max(1);
        if next >= Ticket::LIMIT - STRIDE {
            return Err(NoGeneration);
        }
        Ok(Self {
            next: AtomicU64::new(next),
            marked: AtomicU64::new(marked),
            marking: Mutex::new(()),
        })
    }

    pub(super) fn take(&self, count: u32, mark: impl Fn(u64)) -> Result<u64, NoGeneration> {
        let count = u64::from(count);
        let first = self.next.fetch_add(count, Ordering::AcqRel);
        let end = first.saturating_add(count);
        if end >= Ticket::LIMIT {
            return Err(NoGeneration);
        }
        if end > self.marked.load(Ordering::Acquire) {
            let _one_at_a_time = self.marking.lock();
            if end > self.marked.load(Ordering::Acquire) {
                let marked = end + STRIDE;
                mark(marked);
                self.marked.store(marked, Ordering::Release);
            }
        }
        Ok(first)
    }

    pub(super) fn last(&self) -> u64 {
        self.next.load(Ordering::Acquire).saturating_sub(1)
    }
}
