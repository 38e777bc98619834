// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Random: any page may leave, each as likely as the other.
//!
//! Needs no word of hits, and unlike lru and clock does not fall off a cliff when a loop grows
//! beyond memory: of a loop one tenth too large most pages still hit.
//!
//! To draw the n-th of all members at once one would keep them in an array, four more bytes a frame.
//! Here they stand in groups of [`GROUP`], and the array has one entry a group: half a byte. All
//! groups are full but the last; a member that leaves a full group is replaced by one of the last
//! group. The members of a group are chained by `next`, newest first, and `previous` says which
//! group it is. So nothing takes more than [`GROUP`] steps.

use super::{Hits, Link, Nodes, Place, Policy, PolicyKind, mix};

/// In the registry.
pub(super) const KIND: PolicyKind = PolicyKind {
    name: "random",
    about: "any page may leave, each as likely as the other",
    make: |seed| Box::new(Random::new(seed)),
};

/// Members of a group.
const GROUP: u32 = 8;

#[derive(Debug)]
struct Random {
    /// The newest member of each group.
    heads: Vec<u32>,
    len: u32,
    /// State of the generator, SplitMix64.
    state: u64,
}

impl Random {
    fn new(seed: u64) -> Self {
        Self {
            heads: Vec::new(),
            len: 0,
            state: seed,
        }
    }

    /// A number below `limit`, which is not 0.
    fn below(&mut self, limit: u32) -> u32 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let scaled = (u128::from(mix(self.state)) * u128::from(limit)) >> 64;
        u32::try_from(scaled).unwrap_or(0)
    }

    /// Adds a member to a group.
    fn chain(&mut self, nodes: &mut Nodes, group: u32, frame: u32) {
        if let Some(head) = self.heads.get_mut(group as usize) {
            let link = Link {
                previous: group,
                next: *head,
            };
            nodes.set_link(frame, link);
            *head = frame;
        }
    }

    /// Takes a member out of its group.
    fn unchain(&mut self, nodes: &mut Nodes, frame: u32) {
        let Link {
            previous: group,
            next,
        } = nodes.link(frame);
        let Some(head) = self.heads.get_mut(group as usize) else {
            return;
        };
        if *head == frame {
            *head = next;
            return;
        }
        let mut at = *head;
        for _ in 1..GROUP {
            let link = nodes.link(at);
            if link.next == frame {
                nodes.set_link(at, Link { next, ..link });
                return;
            }
            at = link.next;
        }
    }
}

impl Policy for Random {
    fn hits(&self) -> Hits {
        Hits::None
    }

    fn insert(&mut self, nodes: &mut Nodes, frame: u32, _page: Option<u64>) {
        if self.len.is_multiple_of(GROUP) {
            // In small steps: doubling would cost more than it saves.
            if self.heads.len() == self.heads.capacity() {
                self.heads.reserve_exact(self.heads.len() / 8 + 8);
            }
            self.heads.push(Link::NONE.next);
        }
        self.chain(nodes, self.len / GROUP, frame);
        self.len += 1;
        nodes.set_place(frame, Place::First);
    }

    fn touch(&mut self, _nodes: &mut Nodes, _frame: u32) {}

    fn remove(&mut self, nodes: &mut Nodes, frame: u32) {
        let group = nodes.link(frame).previous;
        self.unchain(nodes, frame);
        nodes.take_out(frame);
        self.len -= 1;
        let last = self.len / GROUP;
        if group != last
            && let Some(&head) = self.heads.get(last as usize)
        {
            self.unchain(nodes, head);
            self.chain(nodes, group, head);
        }
        if self.len.is_multiple_of(GROUP) {
            self.heads.pop();
            if self.heads.capacity() > 2 * self.heads.len() + 8 {
                self.heads.shrink_to_fit();
            }
        }
    }

    fn victim(&mut self, nodes: &mut Nodes) -> Option<u32> {
        if self.len == 0 {
            return None;
        }
        let drawn = self.below(self.len);
        let mut frame = *self.heads.get((drawn / GROUP) as usize)?;
        for _ in 0..drawn % GROUP {
            frame = nodes.link(frame).next;
        }
        self.remove(nodes, frame);
        Some(frame)
    }

    fn bytes(&self) -> usize {
        self.heads.capacity() * size_of::<u32>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Victims of a thousand runs over 20 members, one in each run: none is favoured.
    #[test]
    fn every_member_is_drawn_about_as_often() {
        const MEMBERS: u32 = 20;
        const DRAWS: u32 = 40_000;
        let mut nodes = Nodes::default();
        let mut random = Random::new(7);
        for frame in 0..MEMBERS {
            assert!(nodes.claim(frame, 0));
            random.insert(&mut nodes, frame, None);
        }
        let mut drawn = [0_u32; MEMBERS as usize];
        for _ in 0..DRAWS {
            let frame = random.victim(&mut nodes).unwrap();
            drawn[frame as usize] += 1;
            random.insert(&mut nodes, frame, None);
        }
        // Each 2000 times, with a standard deviation of 44.
        assert!(
            drawn.iter().all(|times| (1780..2220).contains(times)),
            "{drawn:?}"
        );
    }
}
