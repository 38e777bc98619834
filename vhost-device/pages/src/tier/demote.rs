// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Demotion: a guest's coldest pages are written to a lower tier, and become victims.

use std::sync::atomic::Ordering;

use crate::account::Account;
use crate::frames::{EPHEMERAL, FrameNo, OwnerNo};
use crate::handle::{Epoch, PageIndex, Ticket};
use crate::index::Stored;
use crate::pool::Pool;
use crate::shared::Shared;
use crate::slots::{PoolEntry, SlotHeader};
use crate::sys::{OwnedFrame, Pin};
use crate::tier::LowerTier;
use crate::tier::copies::Copied;

/// Pages that a put demotes at a time, which waits for it.
pub(crate) const DEMOTE_BATCH: usize = 64;

/// A page on its way.
struct Moving<'a> {
    pin: Pin<'a>,
    frame: FrameNo,
    slot: u32,
    header: SlotHeader,
}

impl Shared {
    /// There is a lower tier that takes pages.
    pub(crate) fn has_room_below(&self) -> bool {
        (self.lower.iter().flatten()).any(LowerTier::takes_pages)
    }

    /// Has the next pages of a guest, at most `most`, become victims: those without a copy are written to a
    /// lower tier first. Returns how many did.
    pub(crate) fn demote(&self, account: &Account, worker: u16, most: usize) -> usize {
        let Some((tier, mut slots)) = self.reserve_slots(most) else {
            return 0;
        };
        let chosen = self.choose_victims(account.slot, slots.len());
        let mut freed = Vec::new();
        let mut moving = Vec::with_capacity(chosen.len());
        let mut stay = Vec::new();
        let mut victims = 0;
        for frame in chosen {
            if let Some(is_new) = self.leave_with_copy(account, frame) {
                victims += usize::from(is_new);
                continue;
            }
            match self.begin_move(tier, account, frame, &mut slots, &mut freed) {
                Some(page) => moving.push(page),
                None => stay.push(frame),
            }
        }
        // None of these was written.
        slots
            .iter()
            .for_each(|slot| self.give_slot_back(tier, *slot));
        let batch: Vec<_> = (moving.iter())
            .map(|page| (page.slot, &page.header, page.pin.page()))
            .collect();
        let written_any = !batch.is_empty();
        let result = if batch.is_empty() {
            Ok(())
        } else {
            tier.store.write(&batch)
        };
        let mut written = 0;
        for page in moving {
            let copied = Copied {
                ticket: page.header.ticket.get(),
                stored: Stored {
                    tier: tier.lower,
                    slot: page.slot,
                    checksum: page.header.checksum,
                },
                leaves: true,
            };
            if result.is_ok() {
                written += usize::from(self.add_copy(account, page.frame, copied));
            } else {
                self.free_slots(&[copied.stored]);
                stay.push(page.frame);
            }
            freed.extend(page.pin.unpin());
        }
        if written_any {
            tier.note_written(&result);
        }
        self.put_back_victims(account.slot, stay.into_iter());
        for frame in freed {
            self.free.give(worker, frame);
        }
        tier.counts
            .demoted
            .fetch_add(written as u64, Ordering::Relaxed);
        victims + written
    }

    /// Pins a page of this guest and gives it one of the slots.
    fn begin_move<'a>(
        &'a self,
        tier: &LowerTier,
        account: &Account,
        frame: FrameNo,
        slots: &mut Vec<u32>,
        freed: &mut Vec<OwnedFrame>,
    ) -> Option<Moving<'a>> {
        let pin = self.frames.mapping().pin(frame)?;
        let header = self.describe(tier, account, &pin);
        let slot = header.as_ref().and_then(|_| slots.pop());
        let (Some(header), Some(slot)) = (header, slot) else {
            freed.extend(pin.unpin());
            return None;
        };
        // From here on a get saves the page.
        let state = &pin.entry().state;
        state.fetch_and(!crate::frames::REFERENCED, Ordering::Relaxed);
        Some(Moving {
            pin,
            frame,
            slot,
            header,
        })
    }

    /// What the page in a pinned frame is, if it is a persistent one of this guest.
    fn describe(&self, tier: &LowerTier, account: &Account, pin: &Pin<'_>) -> Option<SlotHeader> {
        let entry = pin.entry();
        let state = entry.state.load(Ordering::Relaxed);
        let owner = OwnerNo(entry.owner.load(Ordering::Relaxed));
        if state & EPHEMERAL != 0 || owner == OwnerNo::NOBODY {
            return None;
        }
        let owner = self.frames.owner(owner);
        if owner.guest.load(Ordering::Relaxed) != account.slot {
            return None;
        }
        let pool = self.pool(owner.pool.load(Ordering::Relaxed))?;
        if tier.store.outlives_the_map() && !self.note_pool(tier, &pool) {
            return None;
        }
        Some(SlotHeader {
            pool_slot: pool.slot(),
            pool_serial: pool.serial(),
            object: owner.object(),
            index: PageIndex(entry.index.load(Ordering::Relaxed)),
            ticket: Ticket::new(entry.ticket())?,
            checksum: entry.checksum.load(Ordering::Relaxed),
            flags: header_flags(&pool),
        })
    }

    /// Has a tier that outlives the map know a pool, before the first of its pages goes there.
    pub(crate) fn note_pool(&self, tier: &LowerTier, pool: &Pool) -> bool {
        let mut noted = tier.noted.lock();
        if noted.get(&pool.slot()) == Some(&pool.serial()) {
            return true;
        }
        let record = &self.frames.mapping().guests()[pool.account.slot as usize];
        let Some(guest) = record.name() else {
            return false;
        };
        // A guest that has named no epoch is one that will begin one, and then has no pools.
        let epoch = record.epoch().unwrap_or(Epoch([0; 16]));
        let (grant, _) = pool.account.grant_and_use();
        let entry = PoolEntry {
            guest,
            guest_serial: record.serial(),
            epoch,
            grant_pages: u32::try_from(grant).unwrap_or(u32::MAX),
            pool: pool.id(),
            pool_serial: pool.serial(),
            spec: pool.spec(),
        };
        match tier.store.put_pool(pool.slot(), &entry) {
            Ok(()) => {
                noted.insert(pool.slot(), pool.serial());
                true
            }
            Err(error) => {
                tier.note_error(&error);
                false
            }
        }
    }

    /// Takes up to `most` free slots of the nearest tier that has some; the lowest is the last.
    pub(crate) fn reserve_slots(&self, most: usize) -> Option<(&LowerTier, Vec<u32>)> {
        let tiers = self
            .lower
            .iter()
            .flatten()
            .filter(|tier| tier.takes_pages());
        tiers
            .filter(|tier| tier.is_worth_a_try())
            .map(|tier| {
                let take = || {
                    let slots = std::iter::from_fn(|| self.reserve_slot(tier));
                    slots.take(most).collect()
                };
                let mut slots: Vec<u32> = take();
                if slots.is_empty() && self.give_copies_up(tier, most) {
                    slots = take();
                }
                slots.reverse();
                (tier, slots)
            })
            .find(|(_, slots)| !slots.is_empty())
            .or_else(|| self.settle_late().then(|| self.reserve_slots(most))?)
    }

    /// Gives a slot back to which nothing was written.
    fn give_slot_back(&self, tier: &LowerTier, slot: u32) {
        self.frames.mapping().slots(tier.lower).free(slot);
        tier.used.fetch_sub(1, Ordering::Relaxed);
    }

    /// Takes a free slot.
    fn reserve_slot(&self, tier: &LowerTier) -> Option<u32> {
        let table = self.frames.mapping().slots(tier.lower);
        let limit = tier.limit.load(Ordering::Relaxed);
        let slot = table.allocate(&tier.cursor, limit)?;
        tier.used.fetch_add(1, Ordering::Relaxed);
        Some(slot)
    }
}

/// What a slot's header says of pages of this pool.
pub(crate) fn header_flags(pool: &Pool) -> u8 {
    if pool.index.is_dense() {
        0
    } else {
        SlotHeader::BY_HEADER
    }
}
