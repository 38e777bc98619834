// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Copies: pages that have one in a lower tier, and are in their frame still.
//!
//! ```text
//!                     ┌──────── got, when its turn comes ────────┐
//!                     ▼                                          │
//! promoted ──▶ kept, and the policy's ──the policy's choice──▶ victim ──its turn──▶ gone from DRAM
//!                     │                                          ▲
//!                     └─ too many: copy given up, if it was got  │
//!                        since; a victim, if not ────────────────┤
//! demoted, which is written first ───────────────────────────────┘
//! ```
//! A get of such a page is served from the frame. Whoever takes the frame from the index by another way
//! (a put, a flush) cancels the copy, so that its slot never outlives its page. A page that was promoted
//! keeps its copy where it is dear to write or to forget: as long as nothing changes it, it leaves again
//! for nothing.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, MutexGuard};

use crate::account::Account;
use crate::frames::{FrameNo, OwnerNo, REFERENCED};
use crate::handle::{PageIndex, Ticket};
use crate::index::{Entry, Stored};
use crate::pool::Pool;
use crate::replacement::Event;
use crate::shared::Shared;
use crate::sys::{COPIED, INDEXED, OwnedFrame};
use crate::tier::copies::{Copied, Copies, Likeness};
use crate::tier::{Lower, LowerTier};

/// Pages of a guest that are in a frame and have a copy below.
#[derive(Debug, Default)]
pub(crate) struct Victims {
    copies: Mutex<Copies>,
    /// Numbers of both kinds, for those who must not wait: the lock is held while slots are forgotten.
    victims: AtomicU64,
    kept: AtomicU64,
}

impl Victims {
    /// Pages that are about to go.
    pub(crate) fn len(&self) -> u64 {
        self.victims.load(Ordering::Relaxed)
    }

    /// Pages that have a copy and are not about to go.
    pub(crate) fn kept(&self) -> u64 {
        self.kept.load(Ordering::Relaxed)
    }

    /// Bytes of their memory.
    pub(crate) fn bytes(&self) -> usize {
        self.lock().bytes()
    }

    /// The page in this frame is about to go.
    pub(crate) fn leaves(&self, frame: FrameNo) -> bool {
        self.lock().get(frame.0).is_some_and(|copied| copied.leaves)
    }

    /// The frames, and the slots of their copies.
    pub(crate) fn all(&self) -> Vec<(u32, Stored)> {
        let stored = |(frame, copied): (u32, Copied)| (frame, copied.stored);
        self.lock().all().map(stored).collect()
    }

    fn lock(&self) -> Locked<'_> {
        Locked {
            copies: self.copies.lock(),
            of: self,
        }
    }
}

/// A guest's copies, whose numbers are told when they are let go.
struct Locked<'a> {
    copies: MutexGuard<'a, Copies>,
    of: &'a Victims,
}

impl Deref for Locked<'_> {
    type Target = Copies;

    fn deref(&self) -> &Copies {
        &self.copies
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut Copies {
        &mut self.copies
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        self.of
            .victims
            .store(self.copies.victims(), Ordering::Relaxed);
        self.of.kept.store(self.copies.kept(), Ordering::Relaxed);
    }
}

/// What became of the oldest victim.
#[derive(Debug)]
pub(crate) enum Released {
    /// It has left DRAM, and this is its frame.
    Frame(OwnedFrame),
    /// It has left DRAM; its frame follows when its reader is done.
    Later,
    /// It stays, because it was got, or somebody is busy with it.
    Stays,
    /// There is none.
    Nothing,
}

impl Shared {
    /// Notes the copy of a page, if that is still in its frame, which is pinned. Otherwise the slot is free
    /// again.
    pub(crate) fn add_copy(&self, account: &Account, frame: FrameNo, copied: Copied) -> bool {
        let state = &self.frames.mapping().entry(frame).state;
        let mut copies = account.victims.lock();
        // Whoever takes the frame from the index from here on sees the mark, and waits for the lock.
        let before = state.fetch_or(COPIED, Ordering::AcqRel);
        let same = before & (Ticket::LIMIT - 1) == copied.ticket;
        let is_there = before & INDEXED != 0 && same;
        let unneeded = if is_there {
            // A page that was in this frame before, and whose end is not told yet.
            copies.add(frame.0, copied)
        } else {
            state.fetch_and(!COPIED, Ordering::AcqRel);
            Some(copied)
        };
        if let Some(copied) = unneeded {
            self.free_slots(&[copied.stored]);
        }
        is_there
    }

    /// Makes a page that its policy has chosen a victim, if it has a copy. Says whether it is one now and
    /// was none; nothing, if it has to be written first.
    pub(crate) fn leave_with_copy(&self, account: &Account, frame: FrameNo) -> Option<bool> {
        let entry = self.frames.mapping().entry(frame);
        if !entry.is_copied() {
            return None;
        }
        let mut copies = account.victims.lock();
        let copied = copies.get(frame.0)?;
        if self.likeness(frame) != copied.likeness() {
            return None;
        }
        if !copied.leaves {
            // From here on a get saves the page.
            entry.state.fetch_and(!REFERENCED, Ordering::Relaxed);
            let leaves = true;
            copies.add(frame.0, Copied { leaves, ..copied });
        }
        Some(!copied.leaves)
    }

    /// Has one guest keep no more copies than `most`: of the oldest, those that were got since give their
    /// copy up, the others are victims. Goes on for `pages` at most; returns how many.
    pub(crate) fn keep_fewer(
        &self,
        account: &Account,
        worker: u16,
        most: u64,
        pages: usize,
    ) -> usize {
        let (mut events, mut given_up) = (Vec::new(), Vec::new());
        {
            let mut copies = account.victims.lock();
            while copies.kept() > most
                && events.len() + given_up.len() < pages
                && let Some((frame, copied)) = copies.pop_kept()
            {
                let state = &self.frames.mapping().entry(frame).state;
                if state.load(Ordering::Relaxed) & REFERENCED == 0 {
                    let leaves = true;
                    copies.add(frame.0, Copied { leaves, ..copied });
                    events.push(Event::Leaves(frame));
                } else {
                    given_up.push((frame, copied));
                }
            }
            self.give_up(account, &given_up);
        }
        let done = events.len() + given_up.len();
        events
            .into_iter()
            .for_each(|event| self.track(worker, event));
        done
    }

    /// Gives up copies that pages keep in a tier which has no free slot, at most `most`. Says whether
    /// there were some.
    pub(crate) fn give_copies_up(&self, tier: &LowerTier, most: usize) -> bool {
        let mut done = 0;
        for account in self.accounts() {
            let mut copies = account.victims.lock();
            let (mut given_up, mut others) = (Vec::new(), Vec::new());
            while done < most
                && let Some((frame, copied)) = copies.pop_kept()
            {
                if copied.stored.tier == tier.lower {
                    given_up.push((frame, copied));
                    done += 1;
                } else {
                    others.push((frame, copied));
                }
            }
            self.give_up(&account, &given_up);
            for (frame, copied) in others {
                copies.add(frame.0, copied);
            }
        }
        done > 0
    }

    /// Forgets copies that were taken out; the pages stay in DRAM. Called with the lock held, and the marks go
    /// last, so that whoever puts over one of these pages meanwhile waits until its slot is free.
    fn give_up(&self, account: &Account, copies: &[(FrameNo, Copied)]) {
        let slots: Vec<Stored> = copies.iter().map(|(_, copied)| copied.stored).collect();
        self.free_slots(&slots);
        for (frame, copied) in copies {
            self.unmark(account, *frame, copied);
        }
    }

    /// What tells the page in a frame from others that come and go there.
    pub(crate) fn likeness(&self, frame: FrameNo) -> Likeness {
        let entry = self.frames.mapping().entry(frame);
        Likeness {
            ticket: entry.ticket(),
            checksum: entry.checksum.load(Ordering::Relaxed),
        }
    }

    /// Forgets the copy of a page that has left the index by another way, and was like this. Returns once
    /// its slot is free, or noted to be forgotten when the worker's request ends. The frame may be another
    /// page's by now, and that one have a copy too.
    pub(crate) fn cancel_copy(
        &self,
        account: &Account,
        worker: u16,
        frame: FrameNo,
        page: Likeness,
    ) {
        let mut copies = account.victims.lock();
        if (copies.get(frame.0)).is_some_and(|copied| copied.likeness() == page)
            && let Some(copied) = copies.remove(frame.0)
        {
            self.free_slots_for(worker, &[copied.stored]);
        }
    }

    /// Lets go of the copies that `unwanted` names; the pages stay in DRAM. Returns whether
    /// there were some.
    pub(crate) fn cancel_copies(
        &self,
        account: &Account,
        worker: u16,
        unwanted: &dyn Fn(Stored) -> bool,
    ) -> bool {
        let mut copies = account.victims.lock();
        let chosen: Vec<(FrameNo, Copied)> = (copies.all())
            .filter(|(_, copied)| unwanted(copied.stored))
            .map(|(frame, copied)| (FrameNo(frame), copied))
            .collect();
        for (frame, _) in &chosen {
            copies.remove(frame.0);
        }
        self.give_up(account, &chosen);
        drop(copies);
        for (frame, _) in chosen.iter().filter(|(_, copied)| copied.leaves) {
            self.track(worker, Event::Insert(account.slot, *frame));
        }
        !chosen.is_empty()
    }

    /// Takes the mark of a copy away, and that it was got, if the frame has that page still. Called with
    /// the guest's victims locked, so that no other page of the guest gets the mark meanwhile; one that
    /// loses it here is tracked again like any other.
    fn unmark(&self, account: &Account, frame: FrameNo, copied: &Copied) {
        let entry = self.frames.mapping().entry(frame);
        let owner = OwnerNo(entry.owner.load(Ordering::Relaxed));
        let own = owner != OwnerNo::NOBODY
            && self.frames.owner(owner).guest.load(Ordering::Relaxed) == account.slot;
        if own && self.likeness(frame) == copied.likeness() {
            entry
                .state
                .fetch_and(!(COPIED | REFERENCED), Ordering::AcqRel);
        }
    }

    /// Lets the oldest victim of a guest go, unless it was got since and `mercy` counts.
    pub(crate) fn release_victim(&self, account: &Account, worker: u16, mercy: bool) -> Released {
        let mut copies = account.victims.lock();
        let Some((frame, copied)) = copies.pop_victim() else {
            return Released::Nothing;
        };
        let entry = self.frames.mapping().entry(frame);
        let saved = mercy && entry.state.load(Ordering::Relaxed) & REFERENCED != 0;
        if saved && self.keeps_slot(copied.stored) {
            // To give the copy up costs more than to keep it.
            entry.state.fetch_and(!REFERENCED, Ordering::Relaxed);
            let leaves = false;
            copies.add(frame.0, Copied { leaves, ..copied });
            drop(copies);
            self.track(worker, Event::Insert(account.slot, frame));
            self.track_hit(worker, account.hits(), frame);
            return Released::Stays;
        }
        // A frame that has left a sparse pool does not say any more what was in it.
        let page = self.page_hash(frame);
        let gone = if saved {
            None
        } else {
            self.swing(frame, &copied)
        };
        if gone.is_none() {
            self.give_up(account, &[(frame, copied)]);
        }
        drop(copies);
        let Some(pool) = gone else {
            self.track(worker, Event::Insert(account.slot, frame));
            return Released::Stays;
        };
        self.track(worker, Event::Left(frame, page));
        let tier = copied.stored.tier;
        let stripe = pool.counters.stripe(worker);
        stripe.stored_in(tier);
        stripe.add_demoted(1);
        self.leave_dram(&pool.account, 1);
        let (owned, _) = self.frames.mapping().retire(frame);
        owned.map_or(Released::Later, Released::Frame)
    }

    /// Changes the index word of a victim to name its slot. Returns its pool.
    fn swing(&self, frame: FrameNo, copied: &Copied) -> Option<std::sync::Arc<Pool>> {
        let mapping = self.frames.mapping();
        let entry = mapping.entry(frame);
        let index = PageIndex(entry.index.load(Ordering::Relaxed));
        let owner = OwnerNo(entry.owner.load(Ordering::Relaxed));
        if owner == OwnerNo::NOBODY {
            return None;
        }
        let owner = self.frames.owner(owner);
        let pool = self.pool(owner.pool.load(Ordering::Relaxed))?;
        let stored = copied.stored;
        let settle = || {
            // The word names this frame, so the frame is the page's, if it is the page that was copied.
            let same = entry.ticket() == copied.ticket
                && entry.checksum.load(Ordering::Relaxed) == stored.checksum
                && entry.state.load(Ordering::Relaxed) & COPIED != 0;
            if same {
                let slots = mapping.slots(stored.tier);
                slots.settle(stored.slot, copied.ticket, pool.index.is_dense());
            }
            same
        };
        let object = owner.object();
        let new = Entry::Stored(stored);
        (pool.index)
            .replace(&self.frames, (object, index), frame, new, settle)
            .then_some(pool)
    }

    /// Frees slots that no index word names.
    pub(crate) fn free_slots(&self, slots: &[Stored]) {
        for lower in Lower::ALL {
            let Some(tier) = self.lower(lower) else {
                continue;
            };
            let own: Vec<u32> = (slots.iter())
                .filter(|stored| stored.tier == lower)
                .map(|stored| stored.slot)
                .collect();
            if own.is_empty() {
                continue;
            }
            // One that cannot be forgotten is not used again: it would come back as what it was.
            if tier.store.wants_to_forget() && tier.store.invalidate(&own).is_err() {
                tier.counts.write_errors.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            let table = self.frames.mapping().slots(lower);
            own.iter().for_each(|slot| table.free(*slot));
            tier.used.fetch_sub(own.len() as u64, Ordering::Relaxed);
        }
    }
}
