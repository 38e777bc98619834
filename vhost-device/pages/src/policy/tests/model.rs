// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! All guests' policies and their victims that were put back, as sets and queues.

use std::collections::{BTreeMap, VecDeque};

use super::models::{Model, model};

pub(super) struct ModelGuest {
    pub(super) name: &'static str,
    policy: Box<dyn Model>,
    /// Put back in this round.
    waits: VecDeque<u32>,
    /// Put back in an earlier round.
    comes: VecDeque<u32>,
    taken: u32,
}

/// A member's owner, and whether it waits after it was put back, having come from a small queue.
#[derive(Clone, Copy, Debug)]
struct Member {
    guest: u32,
    waits: Option<bool>,
}

#[derive(Default)]
pub(super) struct ModelReplacement {
    pub(super) guests: BTreeMap<u32, ModelGuest>,
    members: BTreeMap<u32, Member>,
    /// Victims on their way: whose, and whether from the small queue.
    leaving: BTreeMap<u32, (u32, bool)>,
}

impl ModelReplacement {
    pub(super) fn set(&mut self, guest: u32, name: &'static str, seed: u64) {
        let mut new = model(name, seed).expect("a model of every policy");
        if let Some(guest) = self.guests.get_mut(&guest) {
            if guest.name != name {
                while let Some((frame, _)) = guest.policy.victim() {
                    new.insert(frame, None);
                }
                guest.policy = new;
                guest.name = name;
            }
            return;
        }
        let new = ModelGuest {
            name,
            policy: new,
            waits: VecDeque::new(),
            comes: VecDeque::new(),
            taken: 0,
        };
        self.guests.insert(guest, new);
    }

    pub(super) fn drop_guest(&mut self, guest: u32) {
        self.guests.remove(&guest);
        self.members.retain(|_, member| member.guest != guest);
    }

    pub(super) fn insert(&mut self, guest: u32, frame: u32, page: u64) {
        self.admit(guest, frame, page, None);
    }

    pub(super) fn renew(&mut self, guest: u32, frame: u32, page: u64, before: u32) {
        let member = self.members.get(&before);
        let counts = member.is_some_and(|of| of.guest == guest && of.waits.is_none());
        let before = (counts && before != frame).then_some(before);
        self.admit(guest, frame, page, before);
    }

    fn admit(&mut self, guest: u32, frame: u32, page: u64, before: Option<u32>) {
        self.remove(frame);
        if !self.guests.contains_key(&guest) {
            self.set(guest, "s3-fifo", u64::from(guest));
        }
        let of = self.guests.get_mut(&guest).unwrap();
        match before {
            Some(before) => of.policy.renew(frame, page, before),
            None => of.policy.insert(frame, Some(page)),
        }
        self.members.insert(frame, Member { guest, waits: None });
    }

    pub(super) fn touch(&mut self, frame: u32) {
        let Some(member) = self.members.get_mut(&frame) else {
            return;
        };
        let guest = self.guests.get_mut(&member.guest).unwrap();
        if member.waits.is_some() {
            if !guest.policy.wants_hits() {
                return;
            }
            guest.forget_waiting(frame);
            guest.policy.insert(frame, None);
            member.waits = None;
        }
        guest.policy.touch(frame);
    }

    pub(super) fn remove(&mut self, frame: u32) {
        self.leaving.remove(&frame);
        if let Some(member) = self.members.remove(&frame) {
            let guest = self.guests.get_mut(&member.guest).unwrap();
            match member.waits {
                Some(_) => guest.forget_waiting(frame),
                None => guest.policy.remove(frame),
            }
        }
    }

    pub(super) fn victim(&mut self, guest: u32) -> Option<u32> {
        let of = self.guests.get_mut(&guest)?;
        let victim = of.victim();
        let (frame, small) = victim?;
        let member = self.members.remove(&frame).unwrap();
        let small = small.or(member.waits).unwrap();
        self.leaving.insert(frame, (guest, small));
        Some(frame)
    }

    pub(super) fn put_back(&mut self, guest: u32, frame: u32) {
        if self.members.contains_key(&frame) {
            return;
        }
        if let Some(of) = self.guests.get_mut(&guest) {
            let small = (self.leaving.remove(&frame)).is_none_or(|(_, small)| small);
            of.waits.push_back(frame);
            let waits = Some(small);
            self.members.insert(frame, Member { guest, waits });
        }
    }

    pub(super) fn left(&mut self, frame: u32, page: u64) {
        if let Some((guest, true)) = self.leaving.remove(&frame)
            && let Some(guest) = self.guests.get_mut(&guest)
        {
            guest.policy.left(page);
        }
    }

    pub(super) fn len(&self, guest: u32) -> usize {
        (self.members.values())
            .filter(|member| member.guest == guest)
            .count()
    }

    pub(super) fn guest_of(&self, frame: u32) -> Option<u32> {
        self.members.get(&frame).map(|member| member.guest)
    }

    pub(super) fn remembered(&self) -> u64 {
        let guests = self.guests.values();
        guests.map(|guest| guest.policy.remembered()).sum()
    }
}

impl ModelGuest {
    fn forget_waiting(&mut self, frame: u32) {
        self.waits.retain(|one| *one != frame);
        self.comes.retain(|one| *one != frame);
    }

    fn round_ends(&mut self) {
        self.taken = 0;
        if self.comes.is_empty() {
            std::mem::swap(&mut self.comes, &mut self.waits);
        }
    }

    /// The victim; of one from the policy, whether it was in the small queue.
    fn victim(&mut self) -> Option<(u32, Option<bool>)> {
        if self.taken == 64 {
            self.round_ends();
        }
        let returned_first = self.taken.is_multiple_of(2);
        let from_policy = |guest: &mut Self| {
            let (frame, small) = guest.policy.victim()?;
            Some((frame, Some(small)))
        };
        let returned = |guest: &mut Self| Some((guest.comes.pop_front()?, None));
        let mut victim = if returned_first {
            returned(self).or_else(|| from_policy(self))
        } else {
            from_policy(self).or_else(|| returned(self))
        };
        if victim.is_none() {
            self.round_ends();
            victim = returned(self);
        }
        self.taken += 1;
        victim
    }
}
