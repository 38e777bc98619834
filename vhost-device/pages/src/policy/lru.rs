// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Least recently used: the page that was not hit for the longest time leaves first.
//!
//! The best of the simple ones where what was used lately is used again; a loop that is a little
//! larger than memory never hits, and one scan pushes everything else out. Every hit moves a page in
//! the list, so hits must be told, and in their order.

use super::{Hits, List, Nodes, Place, Policy, PolicyKind};

/// In the registry.
pub(super) const KIND: PolicyKind = PolicyKind {
    name: "lru",
    about: "the page that was not hit for the longest time leaves first",
    make: |_| Box::new(Lru::default()),
};

#[derive(Debug, Default)]
struct Lru {
    /// Least recently used first.
    queue: List,
}

impl Policy for Lru {
    fn hits(&self) -> Hits {
        Hits::Ordered
    }

    fn insert(&mut self, nodes: &mut Nodes, frame: u32, _page: Option<u64>) {
        nodes.push_back(&mut self.queue, Place::First, frame);
    }

    fn touch(&mut self, nodes: &mut Nodes, frame: u32) {
        nodes.unlink(&mut self.queue, frame);
        nodes.push_back(&mut self.queue, Place::First, frame);
    }

    fn remove(&mut self, nodes: &mut Nodes, frame: u32) {
        nodes.unlink(&mut self.queue, frame);
    }

    fn victim(&mut self, nodes: &mut Nodes) -> Option<u32> {
        nodes.pop_front(&mut self.queue)
    }
}
