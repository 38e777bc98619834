// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the data path knows of the stores: a snapshot that never changes, replaced as a whole.
//!
//! A write asks it for places. Two stores that may take the page are drawn, and the one with the
//! larger share of free pages gets it (the power of two choices): nearly as even as asking for the
//! emptiest, without every client's writes running to the same store. A read asks for the order in
//! which to try those that have the page.

use std::fmt;
use std::sync::Arc;

use super::config::{COPIES_MAX, MEMBERS_MAX};
use super::event::{Kind, MemberNo};
use super::random::Random;

/// Where a member stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Known, but its copies are not compared with the table yet: neither read nor written.
    Joining,
    /// Read and written.
    Up,
    /// Something went wrong a moment ago: read last, not written.
    Suspect,
    /// Silent for too long: its copies count as gone until they are reconciled.
    Dead,
    /// Read, not written; its pages move away.
    Draining,
    /// No page names it.
    Drained,
    /// Given up: its copies are struck off, and then it is forgotten.
    Removed,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Joining => "joining",
            Self::Up => "up",
            Self::Suspect => "suspect",
            Self::Dead => "dead",
            Self::Draining => "draining",
            Self::Drained => "drained",
            Self::Removed => "removed",
        })
    }
}

/// A member in a [`View`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberView {
    /// Its name.
    pub name: Arc<str>,
    /// Where it is.
    pub address: Arc<str>,
    /// A store or a file.
    pub kind: Kind,
    /// Where it stands.
    pub state: State,
    /// Pages that this client may keep there in all, by capacity, quota and weight.
    pub limit_pages: u64,
    /// Of these, free.
    pub free_pages: u64,
    /// Which trust its copies have: another number each time that they had to be reconciled.
    pub trust: u64,
    /// It and all others of its failure domain.
    pub(crate) domain: u64,
}

/// The snapshot.
#[derive(Clone, Debug)]
pub struct View {
    version: u64,
    copies: u8,
    members: [Option<MemberView>; MEMBERS_MAX],
    good: u64,
    steady: u64,
    open: u64,
    disks: u64,
}

impl View {
    pub(crate) fn new(version: u64, copies: u8, members: Vec<(MemberNo, MemberView)>) -> Self {
        let mut view = Self {
            version,
            copies,
            members: [const { None }; MEMBERS_MAX],
            good: 0,
            steady: 0,
            open: 0,
            disks: 0,
        };
        for (number, member) in members {
            let bit = number.bit();
            let drained = matches!(member.state, State::Draining | State::Drained);
            if member.state == State::Up || drained {
                view.steady |= bit;
            }
            if member.state == State::Up && member.free_pages > 0 {
                view.open |= bit;
            }
            if member.kind == Kind::Disk {
                view.disks |= bit;
            }
            view.good |= view.steady & bit;
            if member.state == State::Suspect {
                view.good |= bit;
            }
            if let Some(place) = view.members.get_mut(number.index()) {
                *place = Some(member);
            }
        }
        view
    }

    /// Grows with each snapshot.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Copies that a page is to have.
    pub fn copies(&self) -> u8 {
        self.copies
    }

    /// Members whose copies count: reconciled, and not dead.
    pub fn good(&self) -> u64 {
        self.good
    }

    /// Members that take new pages.
    pub fn open(&self) -> u64 {
        self.open
    }

    /// What is known of a member.
    pub fn member(&self, number: MemberNo) -> Option<&MemberView> {
        self.members.get(number.index())?.as_ref()
    }

    /// All members.
    pub fn members(&self) -> impl Iterator<Item = (MemberNo, &MemberView)> {
        (0..)
            .zip(&self.members)
            .filter_map(|(number, member)| Some((MemberNo::new(number)?, member.as_ref()?)))
    }

    /// Which trust a member's copies have now; None if they count for nothing.
    pub fn trust(&self, number: MemberNo) -> Option<u64> {
        let member = self.member(number)?;
        (self.good & number.bit() != 0).then_some(member.trust)
    }

    /// Places for `copies` more copies of a page that `holders` have already. None of them is in
    /// `avoid`, in the failure domain of a holder, or in that of another place.
    pub fn place(&self, copies: u8, holders: u64, avoid: u64, random: &mut Random) -> Placement {
        let mut placement = Placement {
            members: [None; COPIES_MAX as usize],
            len: 0,
            wanted: copies.min(COPIES_MAX),
        };
        let mut open = self.open & !avoid & !holders;
        for holder in MemberNo::all_in(holders) {
            open &= !self.domain(holder);
        }
        if holders & self.disks != 0 {
            open &= !self.disks;
        }
        while placement.len < placement.wanted {
            // A page that only a disk has is slow to read: the first copy goes elsewhere if it can.
            let first = holders == 0 && placement.len == 0;
            let near = open & !self.disks;
            let Some(chosen) = self.draw(if first && near != 0 { near } else { open }, random)
            else {
                break;
            };
            open &= !self.domain(chosen);
            if self.disks & chosen.bit() != 0 {
                open &= !self.disks;
            }
            if let Some(place) = placement.members.get_mut(usize::from(placement.len)) {
                *place = Some(chosen);
            }
            placement.len += 1;
        }
        placement
    }

    /// The order in which to ask the members of `mask` for a page: stores that are well in any
    /// order, then the disk, then those under suspicion. Others are not asked.
    pub fn order(&self, mask: u64, random: &mut Random) -> Order {
        let good = mask & self.good;
        Order {
            stages: [
                good & self.steady & !self.disks,
                good & self.disks,
                good & !self.steady & !self.disks,
            ],
            random: Random::new(random.next()),
        }
    }

    /// The member and those that are expected to die with it.
    pub(crate) fn domain(&self, number: MemberNo) -> u64 {
        self.member(number).map_or(0, |member| member.domain) | number.bit()
    }

    fn draw(&self, open: u64, random: &mut Random) -> Option<MemberNo> {
        let first = MemberNo::new(random.bit_of(open)?)?;
        let Some(second) = random.bit_of(open & !first.bit()).and_then(MemberNo::new) else {
            return Some(first);
        };
        Some(if self.freer(second, first) {
            second
        } else {
            first
        })
    }

    /// The first has a larger share of its pages free than the second.
    fn freer(&self, one: MemberNo, other: MemberNo) -> bool {
        let (Some(one), Some(other)) = (self.member(one), self.member(other)) else {
            return false;
        };
        // One share is larger than the other: multiplied crosswise, so that nothing is divided.
        let left = u128::from(one.free_pages) * u128::from(other.limit_pages);
        let right = u128::from(other.free_pages) * u128::from(one.limit_pages);
        left > right
    }
}

/// Where copies are to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    members: [Option<MemberNo>; COPIES_MAX as usize],
    len: u8,
    wanted: u8,
}

impl Placement {
    /// The places, the best for reading first.
    pub fn members(&self) -> impl Iterator<Item = MemberNo> {
        self.members.into_iter().flatten()
    }

    /// The places as a mask.
    pub fn mask(&self) -> u64 {
        self.members().fold(0, |mask, member| mask | member.bit())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        usize::from(self.len)
    }

    /// There is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// There are fewer than were asked for.
    pub fn is_short(&self) -> bool {
        self.len < self.wanted
    }
}

/// Members in the order in which to ask them.
#[derive(Clone, Debug)]
pub struct Order {
    stages: [u64; 3],
    random: Random,
}

impl Iterator for Order {
    type Item = MemberNo;

    fn next(&mut self) -> Option<MemberNo> {
        for stage in &mut self.stages {
            if let Some(bit) = self.random.bit_of(*stage) {
                let member = MemberNo::new(bit)?;
                *stage &= !member.bit();
                return Some(member);
            }
        }
        None
    }
}
