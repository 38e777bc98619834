// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What waits to be completed, by due time: the small heap that a polling thread keeps.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// Things that are due at some time. Of two that are due at the same time the first pushed is first.
#[derive(Debug)]
pub struct Pending<T> {
    heap: BinaryHeap<Entry<T>>,
    pushed: u64,
}

#[derive(Debug)]
struct Entry<T> {
    due: u64,
    number: u64,
    item: T,
}

impl<T> Entry<T> {
    /// The greatest is popped: the one that is due first.
    fn key(&self) -> std::cmp::Reverse<(u64, u64)> {
        std::cmp::Reverse((self.due, self.number))
    }
}

impl<T> PartialEq for Entry<T> {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl<T> Eq for Entry<T> {}

impl<T> PartialOrd for Entry<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Entry<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

impl<T> Default for Pending<T> {
    fn default() -> Self {
        Self::with_capacity(0)
    }
}

impl<T> Pending<T> {
    /// Room for `capacity` things before it has to grow.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        Self {
            heap: BinaryHeap::with_capacity(capacity),
            pushed: 0,
        }
    }

    /// Adds `item`, to be had from `due` on.
    pub fn push(&mut self, due: u64, item: T) {
        let number = self.pushed;
        self.pushed += 1;
        self.heap.push(Entry { due, number, item });
    }

    /// When the first is due.
    #[must_use]
    pub fn next_due(&self) -> Option<u64> {
        self.heap.peek().map(|entry| entry.due)
    }

    /// Takes the first with its due time, if that has come.
    pub fn pop_due(&mut self, now: u64) -> Option<(u64, T)> {
        if self.next_due()? > now {
            return None;
        }
        self.heap.pop().map(|entry| (entry.due, entry.item))
    }

    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn things_come_by_due_time_and_equal_ones_in_their_order() {
        let mut pending = Pending::default();
        for (due, item) in [(5, 'c'), (3, 'a'), (5, 'd'), (4, 'b'), (5, 'e')] {
            pending.push(due, item);
        }
        assert_eq!((pending.len(), pending.next_due()), (5, Some(3)));
        assert_eq!(pending.pop_due(2), None);
        let mut order = String::new();
        while let Some((due, item)) = pending.pop_due(5) {
            assert!(due <= 5);
            order.push(item);
        }
        assert_eq!(order, "abcde");
        assert!(pending.is_empty());
    }
}
