// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! All guests' policies, and the victims that could not leave.
//!
//! A victim that is put back is none of its policy's business: it waits in a list of its guest, and
//! comes again from the guest's next round of [`ROUND`] victims on. In a round victims come by turns,
//! one that was put back, one of the policy's choice, as long as there are both: so pages that cannot
//! leave for a long time, however many, delay the others by half at most. A hit on one that waits
//! gives it back to its policy, as a new page that was hit.

use super::links::{GUESTS_MAX, List, Nodes, Place};
use super::{DEFAULT, Hits, Policy, PolicyKind, UnknownPolicy, kind};

/// Victims of a guest until those that were put back come again.
pub const ROUND: u32 = 64;

/// A guest's policy and its victims that were put back.
#[derive(Debug)]
struct Guest {
    name: &'static str,
    policy: Box<dyn Policy>,
    /// Those that were put back: one list collects, the other comes by turns with the policy's.
    returned: [List; 2],
    /// Which of them collects.
    collects: u8,
    /// Victims taken in this round.
    taken: u32,
    len: u32,
}

impl Guest {
    fn new(kind: &PolicyKind, seed: u64) -> Self {
        Self {
            name: kind.name,
            policy: (kind.make)(seed),
            returned: [List::new(), List::new()],
            collects: 0,
            taken: 0,
            len: 0,
        }
    }

    /// A list of those that were put back.
    fn returned(&mut self, which: u8) -> &mut List {
        &mut self.returned[usize::from(which & 1)]
    }

    fn victim(&mut self, nodes: &mut Nodes) -> Option<u32> {
        if self.taken >= ROUND {
            self.taken = 0;
            self.collect_anew();
        }
        let first = self.taken.is_multiple_of(2);
        self.taken += 1;
        if first {
            self.take_returned(nodes)
                .or_else(|| self.policy.victim(nodes))
                .or_else(|| self.take_collected(nodes))
        } else {
            (self.policy.victim(nodes))
                .or_else(|| self.take_returned(nodes))
                .or_else(|| self.take_collected(nodes))
        }
    }

    /// Those that were collected come from now on, if all before them did.
    fn collect_anew(&mut self) {
        if self.returned(self.collects ^ 1).is_empty() {
            self.collects ^= 1;
        }
    }

    fn take_returned(&mut self, nodes: &mut Nodes) -> Option<u32> {
        let comes = self.collects ^ 1;
        nodes.pop_front(self.returned(comes))
    }

    /// Nothing else is left: the round ends early.
    fn take_collected(&mut self, nodes: &mut Nodes) -> Option<u32> {
        self.taken = 1;
        self.collect_anew();
        self.take_returned(nodes)
    }

    /// Takes out a member, wherever it is.
    fn detach(&mut self, nodes: &mut Nodes, frame: u32) {
        if nodes.place(frame) == Place::Returned {
            let which = nodes.returned_in(frame);
            nodes.unlink(self.returned(which), frame);
        } else {
            self.policy.remove(nodes, frame);
        }
        nodes.forget(frame);
        self.len -= 1;
    }
}

/// The nodes of all frames, and each guest's policy. Frames from [`FRAME_LIMIT`](super::FRAME_LIMIT)
/// and guests from [`GUESTS_MAX`] on do not exist: what is told of them is ignored.
#[derive(Debug, Default)]
pub struct Replacement {
    nodes: Nodes,
    guests: Vec<Option<Box<Guest>>>,
}

impl Replacement {
    /// Without guests.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn guest(&self, guest: u32) -> Option<&Guest> {
        self.guests.get(guest as usize)?.as_deref()
    }

    fn guest_mut(&mut self, guest: u16) -> Option<&mut Guest> {
        self.guests.get_mut(usize::from(guest))?.as_deref_mut()
    }

    /// A guest's place, made if needed.
    fn slot(guests: &mut Vec<Option<Box<Guest>>>, guest: u32) -> Option<&mut Option<Box<Guest>>> {
        if guest >= GUESTS_MAX {
            return None;
        }
        let at = guest as usize;
        if at >= guests.len() {
            guests.resize_with(at + 1, || None);
        }
        guests.get_mut(at)
    }

    /// Gives a guest the policy `name`. Its members move over, next victim first, and are new pages
    /// there; victims that were put back wait on. If it has this policy already, nothing changes,
    /// not even the seed.
    ///
    /// # Errors
    /// [`UnknownPolicy`]; the guest keeps what it has.
    pub fn set(&mut self, guest: u32, name: &str, seed: u64) -> Result<(), UnknownPolicy> {
        let kind = kind(name)?;
        let Some(slot) = Self::slot(&mut self.guests, guest) else {
            return Ok(());
        };
        match slot {
            None => *slot = Some(Box::new(Guest::new(kind, seed))),
            Some(guest) if guest.name == kind.name => {}
            Some(guest) => {
                let mut policy = (kind.make)(seed);
                while let Some(frame) = guest.policy.victim(&mut self.nodes) {
                    policy.insert(&mut self.nodes, frame, None);
                }
                guest.policy = policy;
                guest.name = kind.name;
            }
        }
        Ok(())
    }

    /// The name of a guest's policy.
    #[must_use]
    pub fn name(&self, guest: u32) -> &'static str {
        self.guest(guest).map_or(DEFAULT.name, |guest| guest.name)
    }

    /// What [`touch`](Self::touch) must be told of a guest's hits.
    #[must_use]
    pub fn hits(&self, guest: u32) -> Hits {
        self.guest(guest)
            .map_or(Hits::Any, |guest| guest.policy.hits())
    }

    /// Takes all of a guest's members out, and forgets its policy.
    pub fn drop_guest(&mut self, guest: u32) {
        let slot = self.guests.get_mut(guest as usize);
        let Some(mut guest) = slot.and_then(Option::take) else {
            return;
        };
        while let Some(frame) = guest.victim(&mut self.nodes) {
            self.nodes.forget(frame);
        }
    }

    /// A page of `guest` came, or was replaced, in `frame`. `page` is a hash of its name, the same
    /// whenever that page comes. A frame that is linked anywhere is taken out there first.
    pub fn insert(&mut self, guest: u32, frame: u32, page: u64) {
        self.admit(guest, frame, page, None);
    }

    /// As [`insert`](Self::insert), of a page that was in the frame `before` until now, which is to be
    /// removed after this.
    pub fn renew(&mut self, guest: u32, frame: u32, page: u64, before: u32) {
        let is_member = before != frame
            && self.guest_of(before) == Some(guest)
            && self.nodes.place(before) != Place::Returned;
        self.admit(guest, frame, page, is_member.then_some(before));
    }

    fn admit(&mut self, guest: u32, frame: u32, page: u64, before: Option<u32>) {
        self.remove(frame);
        let Some(slot) = Self::slot(&mut self.guests, guest) else {
            return;
        };
        let seed = u64::from(guest);
        let of = slot.get_or_insert_with(|| Box::new(Guest::new(&DEFAULT, seed)));
        // Below the limit: it has a slot.
        let Ok(guest) = u16::try_from(guest) else {
            return;
        };
        if self.nodes.claim(frame, guest) {
            match before {
                Some(before) => of.policy.renew(&mut self.nodes, frame, page, before),
                None => of.policy.insert(&mut self.nodes, frame, Some(page)),
            }
            of.len += 1;
        }
    }

    /// The page in `frame` was hit. Ignored if the frame is linked nowhere.
    pub fn touch(&mut self, frame: u32) {
        let Some(number) = self.nodes.guest(frame) else {
            return;
        };
        let Some(Some(guest)) = self.guests.get_mut(usize::from(number)) else {
            return;
        };
        let nodes = &mut self.nodes;
        if nodes.place(frame) == Place::Returned {
            if guest.policy.hits() == Hits::None {
                return;
            }
            let which = nodes.returned_in(frame);
            nodes.unlink(guest.returned(which), frame);
            guest.policy.insert(nodes, frame, None);
        }
        guest.policy.touch(nodes, frame);
    }

    /// The page in `frame` is gone, or is to leave no more. A victim that is on its way is forgotten;
    /// otherwise ignored if the frame is linked nowhere.
    pub fn remove(&mut self, frame: u32) {
        match self.nodes.guest(frame) {
            Some(number) => {
                if let Some(Some(guest)) = self.guests.get_mut(usize::from(number)) {
                    guest.detach(&mut self.nodes, frame);
                }
            }
            None => self.nodes.forget(frame),
        }
    }

    /// Takes out the page of a guest that leaves next. It is on its way until the engine says that it
    /// [`left`](Self::left) or [puts it back](Self::put_back).
    pub fn victim(&mut self, guest: u32) -> Option<u32> {
        let guest = self.guests.get_mut(guest as usize)?.as_deref_mut()?;
        let frame = guest.victim(&mut self.nodes)?;
        guest.len -= 1;
        Some(frame)
    }

    /// A victim could not leave now. It comes again from the guest's next round of [`ROUND`] victims
    /// on, or once nothing else is left: who puts everything back that it gets must count its tries.
    /// Ignored if the frame has been inserted anew since.
    pub fn put_back(&mut self, guest: u32, frame: u32) {
        if self.nodes.guest(frame).is_some() {
            return;
        }
        let Some(Some(slot)) = Self::slot(&mut self.guests, guest) else {
            return;
        };
        let Ok(guest) = u16::try_from(guest) else {
            return;
        };
        let from = (self.nodes.victim_of(frame)).map_or(Place::First, |(_, from)| from);
        if self.nodes.claim(frame, guest) {
            let which = slot.collects;
            let list = slot.returned(which);
            self.nodes.push_returned(list, which, frame, from);
            slot.len += 1;
        }
    }

    /// A victim has left its frame; `page` is the hash with which it was inserted. To be said before
    /// the frame can be inserted again. Ignored if the frame is no victim on its way.
    pub fn left(&mut self, frame: u32, page: u64) {
        if let Some((guest, from)) = self.nodes.victim_of(frame) {
            self.nodes.forget(frame);
            if let Some(guest) = self.guest_mut(guest) {
                guest.policy.left(page, from);
            }
        }
    }

    /// Members of a guest, those that were put back among them.
    #[must_use]
    pub fn len(&self, guest: u32) -> u32 {
        self.guest(guest).map_or(0, |guest| guest.len)
    }

    /// Whose member the page in `frame` is.
    #[must_use]
    pub fn guest_of(&self, frame: u32) -> Option<u32> {
        self.nodes.guest(frame).map(u32::from)
    }

    /// Gives back the memory of nodes that are not in use: for when there are fewer frames than
    /// before. Looks at every node.
    pub fn trim(&mut self) {
        self.nodes.trim();
    }

    /// Bytes of memory that all of this takes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let guests = self.guests.iter().flatten();
        let policies: usize = guests
            .map(|guest| size_of::<Guest>() + guest.policy.bytes())
            .sum();
        let slots = self.guests.capacity() * size_of::<Option<Box<Guest>>>();
        self.nodes.bytes() + policies + slots
    }
}
