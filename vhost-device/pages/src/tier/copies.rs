// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which pages in frames have a copy in a lower tier, and which of them are the next to go.
//!
//! Two queues and a map. A copy that is cancelled leaves its place in its queue behind, which its turn
//! tells from the place of a later one; such places are swept out when they are a quarter of the others.

use std::collections::{HashMap, VecDeque};

use foldhash::fast::RandomState;

use crate::frames::FrameNo;
use crate::index::Stored;
use crate::tier::Lower;

/// Frames in the order of their turns. What is not the copy's turn is cancelled.
type Turns = VecDeque<(u32, u32)>;

/// The copies of one guest's pages in frames.
#[derive(Debug, Default)]
pub(super) struct Copies {
    /// Victims, the oldest first.
    order: Turns,
    /// The others, the oldest first.
    kept: Turns,
    /// By frame.
    by_frame: HashMap<u32, Packed, RandomState>,
    /// Victims among them.
    victims: u64,
    /// The last turn that was given.
    turn: u32,
}

/// Where a page's copy is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Copied {
    pub(crate) ticket: u64,
    pub(crate) stored: Stored,
    /// The page is a victim: not its policy's any more, and among the next to go.
    pub(crate) leaves: bool,
}

/// The same in 24 bytes, and its turn.
#[derive(Debug)]
struct Packed {
    ticket: [u32; 2],
    slot: u32,
    checksum: u32,
    turn: u32,
    tier: Lower,
    leaves: bool,
}

impl Packed {
    fn new(turn: u32, copied: &Copied) -> Self {
        let Stored {
            tier,
            slot,
            checksum,
        } = copied.stored;
        let low = u32::try_from(copied.ticket & u64::from(u32::MAX)).unwrap_or(0);
        let high = u32::try_from(copied.ticket >> 32).unwrap_or(0);
        Self {
            ticket: [low, high],
            slot,
            checksum,
            turn,
            tier,
            leaves: copied.leaves,
        }
    }

    fn copied(&self) -> Copied {
        let [low, high] = self.ticket.map(u64::from);
        Copied {
            ticket: high << 32 | low,
            stored: Stored {
                tier: self.tier,
                slot: self.slot,
                checksum: self.checksum,
            },
            leaves: self.leaves,
        }
    }
}

/// What tells the page in a frame from others that come and go there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Likeness {
    pub(super) ticket: u64,
    pub(super) checksum: u32,
}

impl Copied {
    pub(super) fn likeness(&self) -> Likeness {
        Likeness {
            ticket: self.ticket,
            checksum: self.stored.checksum,
        }
    }
}

impl Copies {
    /// Adds a copy; the one that was there before, of an earlier page in this frame, is not needed.
    pub(super) fn add(&mut self, frame: u32, copied: Copied) -> Option<Copied> {
        self.turn = self.turn.wrapping_add(1);
        if copied.leaves {
            self.victims += 1;
            self.order.push_back((frame, self.turn));
        } else {
            self.kept.push_back((frame, self.turn));
        }
        let before = self
            .by_frame
            .insert(frame, Packed::new(self.turn, &copied))?;
        self.victims -= u64::from(before.leaves);
        Some(before.copied())
    }

    /// The copy of the page in this frame.
    pub(super) fn get(&self, frame: u32) -> Option<Copied> {
        self.by_frame.get(&frame).map(Packed::copied)
    }

    /// Forgets the copy of the page in this frame.
    pub(super) fn remove(&mut self, frame: u32) -> Option<Copied> {
        let copied = self.by_frame.remove(&frame)?.copied();
        self.victims -= u64::from(copied.leaves);
        self.sweep();
        Some(copied)
    }

    /// Gives places of cancelled copies up, and memory that is not needed any more, when they are many.
    fn sweep(&mut self) {
        let count = self.by_frame.len();
        let most = count / 4 * 5 + 64;
        if self.order.len() + self.kept.len() > most {
            for turns in [&mut self.order, &mut self.kept] {
                turns.retain(|turn| is_turn(&self.by_frame, *turn));
                if turns.capacity() > 2 * turns.len() + 64 {
                    turns.shrink_to(turns.len() / 4 * 5);
                }
            }
        }
        if self.by_frame.capacity() > 2 * count + 64 {
            self.by_frame.shrink_to(most);
        }
    }

    /// Pages that are about to go.
    pub(super) fn victims(&self) -> u64 {
        self.victims
    }

    /// Pages that have a copy and are not about to go.
    pub(super) fn kept(&self) -> u64 {
        self.by_frame.len() as u64 - self.victims
    }

    /// All copies, with their frames.
    pub(super) fn all(&self) -> impl Iterator<Item = (u32, Copied)> {
        let copies = self.by_frame.iter();
        copies.map(|(frame, packed)| (*frame, packed.copied()))
    }

    /// Bytes of memory.
    pub(super) fn bytes(&self) -> usize {
        let turns = self.order.capacity() + self.kept.capacity();
        // A byte beside each place, of which one in eight stays empty.
        let places = self.by_frame.capacity() / 7 * 8;
        turns * size_of::<(u32, u32)>() + places * (size_of::<(u32, Packed)>() + 1)
    }

    /// Takes the oldest victim out.
    pub(super) fn pop_victim(&mut self) -> Option<(FrameNo, Copied)> {
        let frame = pop(&mut self.order, &self.by_frame)?;
        self.remove(frame).map(|copied| (FrameNo(frame), copied))
    }

    /// Takes the oldest page out that keeps its copy and is no victim.
    pub(super) fn pop_kept(&mut self) -> Option<(FrameNo, Copied)> {
        let frame = pop(&mut self.kept, &self.by_frame)?;
        self.remove(frame).map(|copied| (FrameNo(frame), copied))
    }
}

/// The first of `turns` that counts.
fn pop(turns: &mut Turns, copies: &HashMap<u32, Packed, RandomState>) -> Option<u32> {
    loop {
        let turn = turns.pop_front()?;
        if is_turn(copies, turn) {
            return Some(turn.0);
        }
    }
}

fn is_turn(copies: &HashMap<u32, Packed, RandomState>, (frame, turn): (u32, u32)) -> bool {
    copies.get(&frame).is_some_and(|packed| packed.turn == turn)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::mix;

    fn copied(slot: u32, leaves: bool) -> Copied {
        Copied {
            ticket: u64::from(slot) << 20 | 7,
            stored: Stored {
                tier: Lower::ALL[slot as usize % Lower::ALL.len()],
                slot,
                checksum: !slot,
            },
            leaves,
        }
    }

    fn same(one: Option<Copied>, other: Option<Copied>) -> bool {
        let all = |of: Copied| (of.ticket, of.stored, of.leaves);
        one.map(all) == other.map(all)
    }

    #[test]
    fn copies_come_in_the_order_in_which_they_were_added_whatever_is_cancelled() {
        let mut copies = Copies::default();
        // In that order, with few frames, so that they are used again and again.
        let mut model: VecDeque<(u32, Copied)> = VecDeque::new();
        let mut seen = [0_u32; 4];
        for step in 0..100_000_u32 {
            let random = mix(u64::from(step));
            let frame = u32::try_from(random >> 32).unwrap() % 200;
            let at = model.iter().position(|known| known.0 == frame);
            match random % 10 {
                0..5 => {
                    let new = copied(step, random & 64 != 0);
                    let before = at.and_then(|at| model.remove(at));
                    model.push_back((frame, new));
                    assert!(same(copies.add(frame, new), before.map(|of| of.1)));
                    seen[0] += 1;
                }
                5..8 => {
                    let gone = at.and_then(|at| model.remove(at)).map(|of| of.1);
                    seen[1] += u32::from(gone.is_some());
                    assert!(same(copies.remove(frame), gone));
                }
                which => {
                    let leaves = which == 8;
                    let first = model.iter().position(|known| known.1.leaves == leaves);
                    let first = first.and_then(|at| model.remove(at));
                    let popped = if leaves {
                        copies.pop_victim()
                    } else {
                        copies.pop_kept()
                    };
                    assert_eq!(popped.map(|of| of.0.0), first.map(|of| of.0));
                    assert!(same(popped.map(|of| of.1), first.map(|of| of.1)));
                    seen[usize::from(leaves) + 2] += u32::from(popped.is_some());
                }
            }
            let victims = model.iter().filter(|known| known.1.leaves).count() as u64;
            assert_eq!(copies.victims(), victims);
            assert_eq!(copies.kept(), model.len() as u64 - victims);
            assert_eq!(copies.all().count(), model.len());
            let places = copies.order.len() + copies.kept.len();
            assert!(places <= model.len() / 4 * 5 + 70, "{places} places");
        }
        assert!(seen.iter().all(|times| *times > 1000), "{seen:?}");
    }
}
