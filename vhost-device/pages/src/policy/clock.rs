// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Clock, or second chance: nearly lru at the price of a bit.
//!
//! The pages stand on a dial. A hit sets a page's bit. The hand passes over pages whose bit is set,
//! clearing it, and stops at the first whose bit is clear: that page leaves. A new page is put right
//! behind the hand, where it is looked at last, with its bit clear.
//!
//! The dial is a list that is turned instead of the hand: the page under the hand is its front, and
//! to pass over a page is to move it to the back.

use super::{Hits, List, Nodes, Place, Policy, PolicyKind};

/// In the registry.
pub(super) const KIND: PolicyKind = PolicyKind {
    name: "clock",
    about: "a hand goes round and takes the first page that was not hit since it last passed",
    make: |_| Box::new(Clock::default()),
};

#[derive(Debug, Default)]
struct Clock {
    /// From the page under the hand on.
    dial: List,
}

impl Policy for Clock {
    fn hits(&self) -> Hits {
        Hits::Any
    }

    fn insert(&mut self, nodes: &mut Nodes, frame: u32, _page: Option<u64>) {
        nodes.push_back(&mut self.dial, Place::First, frame);
    }

    fn touch(&mut self, nodes: &mut Nodes, frame: u32) {
        nodes.set_count(frame, 1);
    }

    fn remove(&mut self, nodes: &mut Nodes, frame: u32) {
        nodes.unlink(&mut self.dial, frame);
    }

    /// Each page that the hand passes over was hit since: the hits pay for the way.
    fn victim(&mut self, nodes: &mut Nodes) -> Option<u32> {
        loop {
            let frame = self.dial.front()?;
            let hit = nodes.count(frame) > 0;
            nodes.unlink(&mut self.dial, frame);
            if !hit {
                return Some(frame);
            }
            nodes.push_back(&mut self.dial, Place::First, frame);
        }
    }
}
