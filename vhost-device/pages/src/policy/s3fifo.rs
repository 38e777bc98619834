// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! S3-FIFO: three queues, the first of which sorts out what comes once and never again.
//!
//! Juncheng Yang, Yazhuo Zhang, Ziyue Qiu, Yao Yue, Rashmi Vinayak: "FIFO Queues Are All You Need for
//! Cache Eviction", SOSP 2023. New pages enter a small queue, a tenth of all. Those that were hit
//! more than once when they reach its end move to the main queue, the others leave, and their names
//! are kept in a ghost queue for a while. A page whose name is there when it comes enters the main
//! queue at once. A page that reaches the end of the main queue goes round again, once for each hit,
//! of which at most three count. A scan thus passes through the small queue and spoils nothing.
//!
//! As in the paper's algorithm 1: counts are capped at 3 and cleared when a page moves to the main
//! queue; the small queue is the one to evict from while it has at least 10 % of the pages; only
//! pages from the small queue enter the ghost.
//!
//! Other than there:
//! - The size of the cache is the number of members when a victim is asked for, since the engine
//!   decides when a guest is full, and that changes.
//! - One call evicts one page. Where the paper evicts from the main queue because a page moved there
//!   filled it, and then goes on in the small queue, the next call does that.
//! - The ghost keeps fingerprints, and as many as a byte a member allows: 62 % of the members, where
//!   the paper has as many names as the main queue has pages, 90 %. See `ghost.rs`; a test holds the
//!   hits against those of the paper's algorithm.
//! - A page enters the ghost when it has left, not when it was chosen: it may be put back.

use super::ghost::Ghost;
use super::{COUNT_MAX, Hits, List, Nodes, Place, Policy, PolicyKind};

/// In the registry.
pub(super) const KIND: PolicyKind = PolicyKind {
    name: "s3-fifo",
    about: "new pages pass through a small queue, and only those hit twice stay (SOSP '23)",
    make: |_| Box::new(S3Fifo::default()),
};

/// The small queue has one page in this many.
const SMALL_PART: u64 = 10;
/// A page that was hit more often than this moves from the small queue to the main one.
const MOVE_ABOVE: u8 = 1;
/// The place of pages in the small queue.
const SMALL: Place = Place::First;
/// The place of pages in the main queue.
const MAIN: Place = Place::Second;

// The paper's counter has two bits, as the tag has.
const _: () = assert!(COUNT_MAX == 3);

#[derive(Debug, Default)]
struct S3Fifo {
    small: List,
    main: List,
    ghost: Ghost,
}

impl S3Fifo {
    fn len(&self) -> u64 {
        u64::from(self.small.len()) + u64::from(self.main.len())
    }

    /// Whether the small queue has its share, and thus a page to spare.
    fn small_is_full(&self) -> bool {
        u64::from(self.small.len()) * SMALL_PART >= self.len()
    }
}

impl Policy for S3Fifo {
    fn hits(&self) -> Hits {
        Hits::Any
    }

    fn insert(&mut self, nodes: &mut Nodes, frame: u32, page: Option<u64>) {
        if page.is_some_and(|page| self.ghost.take(page)) {
            nodes.push_back(&mut self.main, MAIN, frame);
        } else {
            nodes.push_back(&mut self.small, SMALL, frame);
        }
    }

    /// A page that is written is as much in use as one that is read: it keeps its queue and its count.
    fn renew(&mut self, nodes: &mut Nodes, frame: u32, page: u64, before: u32) {
        let count = nodes.count(before);
        if nodes.place(before) == MAIN {
            nodes.push_back(&mut self.main, MAIN, frame);
        } else {
            self.insert(nodes, frame, Some(page));
        }
        nodes.set_count(frame, count + 1);
    }

    fn touch(&mut self, nodes: &mut Nodes, frame: u32) {
        nodes.set_count(frame, nodes.count(frame) + 1);
    }

    fn remove(&mut self, nodes: &mut Nodes, frame: u32) {
        if nodes.place(frame) == MAIN {
            nodes.unlink(&mut self.main, frame);
        } else {
            nodes.unlink(&mut self.small, frame);
        }
    }

    /// Each page that moves on or goes round was hit since it last did: the hits pay for the way.
    fn victim(&mut self, nodes: &mut Nodes) -> Option<u32> {
        while self.len() > 0 {
            if self.small_is_full() {
                let frame = self.small.front()?;
                let count = nodes.count(frame);
                nodes.unlink(&mut self.small, frame);
                if count <= MOVE_ABOVE {
                    return Some(frame);
                }
                nodes.push_back(&mut self.main, MAIN, frame);
            } else {
                let frame = self.main.front()?;
                let count = nodes.count(frame);
                nodes.unlink(&mut self.main, frame);
                if count == 0 {
                    return Some(frame);
                }
                nodes.push_back(&mut self.main, MAIN, frame);
                nodes.set_count(frame, count - 1);
            }
        }
        None
    }

    fn left(&mut self, page: u64, from: Place) {
        if from == SMALL {
            self.ghost.resize(self.len());
            self.ghost.add(page);
        }
    }

    fn bytes(&self) -> usize {
        self.ghost.bytes()
    }
}
