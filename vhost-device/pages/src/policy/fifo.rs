// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! First in, first out: the page that came first leaves first, hit or not.
//!
//! The cheapest of all: a hit costs nothing, not even a note of it. Right for a guest that writes
//! pages out and reads each back once, and as the measure of what another policy gains.

use super::{Hits, List, Nodes, Place, Policy, PolicyKind};

/// In the registry.
pub(super) const KIND: PolicyKind = PolicyKind {
    name: "fifo",
    about: "the page that came first leaves first",
    make: |_| Box::new(Fifo::default()),
};

#[derive(Debug, Default)]
struct Fifo {
    /// Oldest first.
    queue: List,
}

impl Policy for Fifo {
    fn hits(&self) -> Hits {
        Hits::None
    }

    fn insert(&mut self, nodes: &mut Nodes, frame: u32, _page: Option<u64>) {
        nodes.push_back(&mut self.queue, Place::First, frame);
    }

    fn touch(&mut self, _nodes: &mut Nodes, _frame: u32) {}

    fn remove(&mut self, nodes: &mut Nodes, frame: u32) {
        nodes.unlink(&mut self.queue, frame);
    }

    fn victim(&mut self, nodes: &mut Nodes) -> Option<u32> {
        nodes.pop_front(&mut self.queue)
    }
}
