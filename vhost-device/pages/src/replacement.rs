// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What workers tell the replacement policies, and what these answer.
//!
//! One lock guards all policies, so workers collect what happened and apply it in bulk: when a buffer
//! is full, and whenever a victim is looked for. What an event says may be outdated by then, for the
//! frame may be another page's; the frame table has the truth, and an event that disagrees is dropped.
//! Only persistent pages are tracked, and only where there is a tier to demote them to: ephemeral ones
//! go by the clock in `shared.rs`, before any of these.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::sync::atomic::Ordering;

use parking_lot::Mutex;

use crate::frames::{EPHEMERAL, FrameNo, OwnerNo};
use crate::policy::{Hits, Replacement, UnknownPolicy};
use crate::shared::Shared;
use crate::stats::Aligned;
use crate::sys::INDEXED;

/// Events that a worker collects.
const EVENTS: usize = 64;

/// Something that a policy hears of.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Event {
    /// A page of this guest is in this frame.
    Insert(u32, FrameNo),
    /// The same, and the page was in the other frame until now.
    Renew(u32, FrameNo, FrameNo),
    /// The page in this frame was got.
    Touch(FrameNo),
    /// The page in this frame is a victim, without its policy's doing.
    Leaves(FrameNo),
    /// The page in this frame is gone.
    Remove(FrameNo),
    /// The victim in this frame has left DRAM; the hash of what it is called.
    Left(FrameNo, u64),
}

/// The policies of all guests, and what they have not heard yet.
#[derive(Debug)]
pub(crate) struct Policies {
    replacement: Mutex<Replacement>,
    /// One for each worker, and one for the mover and nobody.
    events: Box<[Aligned<Mutex<Vec<Event>>>]>,
}

impl Policies {
    pub(crate) fn new(workers: u16) -> Self {
        Self {
            replacement: Mutex::new(Replacement::new()),
            events: (0..=workers).map(|_| Aligned::default()).collect(),
        }
    }

    /// Bytes of the policies' memory.
    pub(crate) fn bytes(&self) -> usize {
        self.replacement.lock().bytes()
    }
}

impl Shared {
    /// Notes what happened, if there is somebody to hear it.
    #[inline]
    pub(crate) fn track(&self, worker: u16, event: Event) {
        if !self.is_tiered() {
            return;
        }
        let mut events = self.policies.events[usize::from(worker)].0.lock();
        events.push(event);
        // What has left must be heard before the frame is another page's.
        if events.len() >= EVENTS || matches!(event, Event::Left(..)) {
            let mut replacement = self.policies.replacement.lock();
            self.apply(&mut replacement, &mut events);
        }
    }

    /// Notes a hit, if the guest's policy wants to know.
    #[inline]
    pub(crate) fn track_hit(&self, worker: u16, hits: Hits, frame: FrameNo) {
        if hits != Hits::None {
            self.track(worker, Event::Touch(frame));
        }
    }

    fn apply(&self, replacement: &mut Replacement, events: &mut Vec<Event>) {
        for event in events.drain(..) {
            match event {
                Event::Insert(guest, frame) => {
                    if let Some(page) = self.page_of(guest, frame) {
                        replacement.insert(guest, frame.0, page);
                    }
                }
                Event::Renew(guest, frame, before) => {
                    if let Some(page) = self.page_of(guest, frame) {
                        replacement.renew(guest, frame.0, page, before.0);
                    }
                }
                Event::Touch(frame) => replacement.touch(frame.0),
                Event::Leaves(frame) => {
                    if self.is_leaving(frame) {
                        replacement.remove(frame.0);
                    }
                }
                Event::Remove(frame) => {
                    let state = self
                        .frames
                        .mapping()
                        .entry(frame)
                        .state
                        .load(Ordering::Relaxed);
                    if state & INDEXED == 0 {
                        replacement.remove(frame.0);
                    }
                }
                Event::Left(frame, page) => replacement.left(frame.0, page),
            }
        }
    }

    /// The hash of the page in a frame, if a policy of this guest has to know it.
    fn page_of(&self, guest: u32, frame: FrameNo) -> Option<u64> {
        let entry = self.frames.mapping().entry(frame);
        let state = entry.state.load(Ordering::Relaxed);
        let known = state & (INDEXED | EPHEMERAL) == INDEXED;
        (known && self.guest_of(frame) == Some(guest) && !self.is_leaving(frame))
            .then(|| self.page_hash(frame))
    }

    /// The guest whose page is in a frame.
    fn guest_of(&self, frame: FrameNo) -> Option<u32> {
        let entry = self.frames.mapping().entry(frame);
        let owner = OwnerNo(entry.owner.load(Ordering::Relaxed));
        (owner != OwnerNo::NOBODY).then(|| self.frames.owner(owner).guest.load(Ordering::Relaxed))
    }

    /// The page in a frame is a victim. Called with the policies locked: nobody who has a guest's victims
    /// locked waits for them.
    fn is_leaving(&self, frame: FrameNo) -> bool {
        if !self.frames.mapping().entry(frame).is_copied() {
            return false;
        }
        let guest = self.guest_of(frame);
        let account = guest.and_then(|guest| self.account(guest));
        account.is_some_and(|account| account.victims.leaves(frame))
    }

    /// The hash of what the page in a frame is called.
    pub(crate) fn page_hash(&self, frame: FrameNo) -> u64 {
        let entry = self.frames.mapping().entry(frame);
        let index = entry.index.load(Ordering::Relaxed);
        let owner = OwnerNo(entry.owner.load(Ordering::Relaxed));
        if owner == OwnerNo::NOBODY {
            return 0;
        }
        let owner = self.frames.owner(owner);
        // The same in every run: a policy with a seed must choose the same victims.
        let keys = BuildHasherDefault::<DefaultHasher>::default();
        keys.hash_one((owner.pool.load(Ordering::Relaxed), owner.object(), index))
    }

    /// Tells the policies all that happened. Called before a victim is looked for.
    fn tell_all(&self, replacement: &mut Replacement) {
        for events in &self.policies.events {
            // Whoever holds this lock and waits for the policies' tells them itself.
            if let Some(mut events) = events.0.try_lock() {
                self.apply(replacement, &mut events);
            }
        }
    }

    /// The next pages of a guest to leave DRAM, at most `most`.
    pub(crate) fn choose_victims(&self, guest: u32, most: usize) -> Vec<FrameNo> {
        let mut replacement = self.policies.replacement.lock();
        self.tell_all(&mut replacement);
        let chosen = std::iter::from_fn(|| replacement.victim(guest));
        chosen.take(most).map(FrameNo).collect()
    }

    /// Chosen pages that cannot leave now.
    pub(crate) fn put_back_victims(&self, guest: u32, frames: impl Iterator<Item = FrameNo>) {
        let mut replacement = self.policies.replacement.lock();
        for frame in frames {
            if self.page_of(guest, frame).is_some() {
                replacement.put_back(guest, frame.0);
            }
        }
    }

    /// Changes a guest's policy.
    pub(crate) fn set_policy(
        &self,
        guest: u32,
        name: &str,
        seed: u64,
    ) -> Result<Hits, UnknownPolicy> {
        let mut replacement = self.policies.replacement.lock();
        self.tell_all(&mut replacement);
        replacement.set(guest, name, seed)?;
        Ok(replacement.hits(guest))
    }

    /// What a guest's policy wants to hear of hits.
    pub(crate) fn policy_hits(&self, guest: u32) -> Hits {
        self.policies.replacement.lock().hits(guest)
    }

    /// The name of a guest's policy, and the pages that it has.
    pub(crate) fn policy(&self, guest: u32) -> (&'static str, u32) {
        let mut replacement = self.policies.replacement.lock();
        self.tell_all(&mut replacement);
        (replacement.name(guest), replacement.len(guest))
    }

    /// A guest is gone, and its frames are free.
    pub(crate) fn drop_policy(&self, guest: u32) {
        let mut replacement = self.policies.replacement.lock();
        self.tell_all(&mut replacement);
        replacement.drop_guest(guest);
    }

    /// Makes known what is in the frame table: the policies' own knowledge went with a process.
    pub(crate) fn adopt_frames(&self) {
        let entries = self.frames.mapping().entries();
        let numbers = (0..).map(FrameNo);
        let mut replacement = self.policies.replacement.lock();
        self.tell_all(&mut replacement);
        for (frame, entry) in numbers.zip(entries) {
            let state = entry.state.load(Ordering::Relaxed);
            let owner = OwnerNo(entry.owner.load(Ordering::Relaxed));
            if state & INDEXED == 0 || owner == OwnerNo::NOBODY {
                continue;
            }
            let guest = self.frames.owner(owner).guest.load(Ordering::Relaxed);
            if replacement.guest_of(frame.0).is_none()
                && let Some(page) = self.page_of(guest, frame)
            {
                replacement.insert(guest, frame.0, page);
            }
        }
    }
}
