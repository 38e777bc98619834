// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The connections that are open, to wake them when there is news for all; and how often the log
//! hears of them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Waker;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Warnings about clients within [`WARN_SPAN`]; more are counted, not logged.
const WARN_MOST: u32 = 20;
/// See [`WARN_MOST`].
const WARN_SPAN: Duration = Duration::from_secs(10);

/// The connections of a store.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    wakers: Mutex<BTreeMap<u64, Waker>>,
    opened: AtomicU64,
    closed: AtomicU64,
    is_ended: AtomicBool,
    text: Mutex<Option<String>>,
    warned: Mutex<Option<(Instant, u32)>>,
    unsaid: AtomicU64,
}

impl Registry {
    /// Counts a connection; its number is for the other calls.
    pub(crate) fn open(&self) -> u64 {
        self.opened.fetch_add(1, Ordering::Relaxed)
    }

    /// Whom to wake for a connection.
    pub(crate) fn listen(&self, connection: u64, waker: &Waker) {
        self.wakers.lock().insert(connection, waker.clone());
    }

    /// A connection is no more.
    pub(crate) fn close(&self, connection: u64) {
        self.wakers.lock().remove(&connection);
        self.closed.fetch_add(1, Ordering::Relaxed);
    }

    /// Connections that were opened, and those of them that are no more.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let closed = self.closed.load(Ordering::Relaxed);
        (self.opened.load(Ordering::Relaxed).max(closed), closed)
    }

    /// Has every connection look around.
    pub(crate) fn wake_all(&self) {
        // A waker may run what it wakes.
        let wakers: Vec<Waker> = self.wakers.lock().values().cloned().collect();
        wakers.into_iter().for_each(Waker::wake);
    }

    /// The store ends.
    pub(crate) fn end(&self, text: &str) {
        *self.text.lock() = Some(text.to_owned());
        self.is_ended.store(true, Ordering::Release);
        self.wake_all();
    }

    /// The store ends, or has ended.
    #[inline]
    pub(crate) fn is_ended(&self) -> bool {
        self.is_ended.load(Ordering::Acquire)
    }

    /// What clients are told at the end.
    pub(crate) fn farewell(&self) -> Option<String> {
        self.text.lock().clone()
    }

    /// Whether the log should hear of one more client, and of how many it did not since the last.
    pub(crate) fn may_warn(&self, now: Instant) -> Option<u64> {
        let mut warned = self.warned.lock();
        let (since, count) = warned.unwrap_or((now, 0));
        if now.saturating_duration_since(since) >= WARN_SPAN {
            *warned = Some((now, 1));
        } else if count < WARN_MOST {
            *warned = Some((since, count + 1));
        } else {
            self.unsaid.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(self.unsaid.swap(0, Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_hears_of_so_many_clients_and_of_the_number_of_the_others() {
        let registry = Registry::default();
        let start = Instant::now();
        let heard = (0..100).filter(|_| registry.may_warn(start).is_some());
        assert_eq!(heard.count(), WARN_MOST as usize);
        let later = start + WARN_SPAN;
        assert_eq!(registry.may_warn(later), Some(u64::from(100 - WARN_MOST)));
        assert_eq!(registry.may_warn(later), Some(0));
    }
}
