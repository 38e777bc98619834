// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Victims: pages that have a copy in a lower tier, and are in their frame still.
//!
//! A get of such a page is served from the frame, and saves it: when its turn comes it stays. Whoever
//! takes the frame from the index by another way (a put, a flush) cancels the victim, so that its slot
//! never outlives its page.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::Ordering;

use parking_lot::Mutex;

use crate::account::Account;
use crate::frames::{FrameNo, OwnerNo, REFERENCED};
use crate::handle::{PageIndex, Ticket};
use crate::index::{Entry, Stored};
use crate::pool::Pool;
use crate::replacement::Event;
use crate::shared::Shared;
use crate::sys::{INDEXED, OwnedFrame, VICTIM};
use crate::tier::Lower;

/// A guest's victims, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct Victims(Mutex<Queue>);

#[derive(Debug, Default)]
struct Queue {
    /// Some of these may be cancelled.
    order: VecDeque<u32>,
    copies: HashMap<u32, Copied>,
}

/// Where a victim's copy is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Copied {
    pub(crate) ticket: u64,
    pub(crate) stored: Stored,
}

/// What tells the page in a frame from others that come and go there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Likeness {
    ticket: u64,
    checksum: u32,
}

impl Copied {
    fn likeness(&self) -> Likeness {
        Likeness {
            ticket: self.ticket,
            checksum: self.stored.checksum,
        }
    }
}

impl Queue {
    fn drop_cancelled(&mut self) {
        if self.order.len() > 2 * self.copies.len() + 64 {
            self.order.retain(|frame| self.copies.contains_key(frame));
        }
    }
}

impl Victims {
    /// Their number.
    pub(crate) fn len(&self) -> u64 {
        self.0.lock().copies.len() as u64
    }

    /// The frames, and the slots of their copies.
    pub(crate) fn all(&self) -> Vec<(u32, Stored)> {
        let queue = self.0.lock();
        let copies = queue.copies.iter();
        copies
            .map(|(frame, copied)| (*frame, copied.stored))
            .collect()
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
    /// Makes a page that has been written to a slot a victim, if it is still in its frame, which is
    /// pinned. Otherwise the slot is free again.
    pub(crate) fn add_victim(&self, account: &Account, frame: FrameNo, copied: Copied) -> bool {
        let state = &self.frames.mapping().entry(frame).state;
        let mut queue = account.victims.0.lock();
        // Whoever takes the frame from the index from here on sees the mark, and waits for the lock.
        let before = state.fetch_or(VICTIM, Ordering::AcqRel);
        let same = before & (Ticket::LIMIT - 1) == copied.ticket;
        let is_there = before & INDEXED != 0 && same;
        let unneeded = if is_there {
            queue.order.push_back(frame.0);
            // A page that was in this frame before, and whose end is not told yet.
            queue.copies.insert(frame.0, copied)
        } else {
            state.fetch_and(!VICTIM, Ordering::AcqRel);
            Some(copied)
        };
        if let Some(copied) = unneeded {
            self.free_slots(&[copied.stored]);
        }
        is_there
    }

    /// What tells the page in a frame from others that come and go there.
    pub(crate) fn likeness(&self, frame: FrameNo) -> Likeness {
        let entry = self.frames.mapping().entry(frame);
        Likeness {
            ticket: entry.ticket(),
            checksum: entry.checksum.load(Ordering::Relaxed),
        }
    }

    /// Forgets a victim that has left the index by another way, and was like this. Returns once its slot
    /// is free, or noted to be forgotten when the worker's request ends. The frame may be another page's by now, and that one a victim too.
    pub(crate) fn cancel_victim(
        &self,
        account: &Account,
        worker: u16,
        frame: FrameNo,
        page: Likeness,
    ) {
        let mut queue = account.victims.0.lock();
        if (queue.copies.get(&frame.0)).is_some_and(|copied| copied.likeness() == page)
            && let Some(copied) = queue.copies.remove(&frame.0)
        {
            queue.drop_cancelled();
            self.free_slots_for(worker, &[copied.stored]);
        }
    }

    /// Lets go of the copies of victims that `unwanted` names; the pages stay in DRAM. Returns whether
    /// there were some.
    pub(crate) fn cancel_copies(
        &self,
        account: &Account,
        worker: u16,
        unwanted: &dyn Fn(Stored) -> bool,
    ) -> bool {
        let mut queue = account.victims.0.lock();
        let copies = queue.copies.iter();
        let chosen: Vec<(u32, Copied)> = copies
            .filter(|(_, copied)| unwanted(copied.stored))
            .map(|(frame, copied)| (*frame, *copied))
            .collect();
        for (frame, copied) in &chosen {
            queue.copies.remove(frame);
            self.unmark(account, FrameNo(*frame), copied);
            self.free_slots(&[copied.stored]);
        }
        queue.drop_cancelled();
        drop(queue);
        for (frame, _) in &chosen {
            self.track(worker, Event::Insert(account.slot, FrameNo(*frame)));
        }
        !chosen.is_empty()
    }

    /// Takes the mark of a victim away, and that it was got, if the frame has that page still. Called with
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
                .fetch_and(!(VICTIM | REFERENCED), Ordering::AcqRel);
        }
    }

    /// Lets the oldest victim of a guest go, unless it was got since and `mercy` counts.
    pub(crate) fn release_victim(&self, account: &Account, worker: u16, mercy: bool) -> Released {
        let mut queue = account.victims.0.lock();
        let (frame, copied) = loop {
            let Some(frame) = queue.order.pop_front() else {
                return Released::Nothing;
            };
            if let Some(copied) = queue.copies.remove(&frame) {
                break (FrameNo(frame), copied);
            }
        };
        let entry = self.frames.mapping().entry(frame);
        let saved = mercy && entry.state.load(Ordering::Relaxed) & REFERENCED != 0;
        if saved && self.keeps_slot(copied.stored) {
            // To give the copy up costs more than to keep it.
            entry.state.fetch_and(!REFERENCED, Ordering::Relaxed);
            queue.copies.insert(frame.0, copied);
            queue.order.push_back(frame.0);
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
            self.unmark(account, frame, &copied);
            // With the lock held, so that whoever cancels this victim finds its slot free.
            self.free_slots(&[copied.stored]);
        }
        drop(queue);
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
                && entry.state.load(Ordering::Relaxed) & VICTIM != 0;
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
