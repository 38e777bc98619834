// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How a file grows and shrinks, and which of its slots are known to be empty.
//!
//! A file grows at its end: room first, then the superblock that counts it. What a crash leaves in
//! between is cut off when the file is opened. It shrinks the other way round. Headers of slots that
//! go may stay in the last segment, so they are emptied first, and not by the log alone: when the slots
//! come back, there is nothing in them.
//!
//! A slot must be empty, durably, before it is written. For those that this process has emptied or
//! found empty a bit says so, and the write costs nothing more; others are emptied by the write.

use std::sync::atomic::{AtomicU64, Ordering};

use super::layout::Superblock;
use super::{SLOTS_MAX, SlotError, SlotFile, Superblocks, error};

impl SlotFile {
    /// Changes the number of slots. Those that go must be empty, or have pages of dropped pools, and
    /// nobody may use them meanwhile.
    ///
    /// # Errors
    /// [`SlotError::Full`] if there is no room for more, [`SlotError::NotEmpty`] if a page would be
    /// lost: in both cases nothing has changed. Otherwise what the system said.
    pub fn resize(&self, slots: u32) -> Result<(), SlotError> {
        if !(1..=SLOTS_MAX).contains(&slots) {
            return Err(SlotError::BadSlots { slots });
        }
        let mut superblocks = self.superblocks.lock();
        let now = self.slots();
        if slots > now {
            self.grow(&mut superblocks, now, slots)
        } else if slots < now {
            self.shrink(&mut superblocks, now, slots)
        } else {
            Ok(())
        }
    }

    fn grow(&self, superblocks: &mut Superblocks, now: u32, slots: u32) -> Result<(), SlotError> {
        let (from, to) = (self.geometry.length(now), self.geometry.length(slots));
        self.medium.grow(from, to).map_err(|source| {
            if error::no_room(&source) {
                let path = self.path.clone();
                SlotError::Full {
                    path,
                    slots,
                    source,
                }
            } else {
                self.failed("lengthen", source)
            }
        })?;
        let next = Superblock {
            slots,
            ..superblocks.current
        };
        let written = superblocks.write(&*self.medium, next);
        written.map_err(|source| self.failed("write the superblock of", source))?;
        self.resize_empty(slots);
        // What was cut off was emptied before, and the rest is new.
        for slot in now..slots {
            self.set_empty(slot, true);
        }
        self.slots.store(slots, Ordering::Release);
        Ok(())
    }

    fn shrink(&self, superblocks: &mut Superblocks, now: u32, slots: u32) -> Result<(), SlotError> {
        let mut rest = Vec::new();
        for slot in (slots..now).filter(|slot| !self.is_known_empty(*slot)) {
            match self.header(slot) {
                Ok(Some(header)) if self.directory.lock().has_pool_of(&header) => {
                    return Err(SlotError::NotEmpty { slot });
                }
                // There is nothing in it that could be had.
                Ok(_) | Err(_) => rest.push(slot),
            }
        }
        rest.extend(self.log.slots_from(slots));
        let emptied = self.empty_headers(&rest);
        let emptied = emptied.inspect_err(|_| self.note_failure());
        emptied.map_err(|source| self.failed("empty slots of", source))?;
        self.log.forget_from(slots);
        let next = Superblock {
            slots,
            ..superblocks.current
        };
        let written = superblocks.write(&*self.medium, next);
        written.map_err(|source| self.failed("write the superblock of", source))?;
        self.slots.store(slots, Ordering::Release);
        self.resize_empty(slots);
        let cut = self.medium.shrink(self.geometry.length(slots));
        cut.map_err(|source| self.failed("shorten", source))
    }

    pub(super) fn is_known_empty(&self, slot: u32) -> bool {
        let empty = self.empty.read();
        let word = empty.get(slot as usize / 64);
        word.is_some_and(|word| word.load(Ordering::Relaxed) & 1 << (slot % 64) != 0)
    }

    pub(super) fn set_empty(&self, slot: u32, is_empty: bool) {
        if let Some(word) = self.empty.read().get(slot as usize / 64) {
            if is_empty {
                word.fetch_or(1 << (slot % 64), Ordering::Relaxed);
            } else {
                word.fetch_and(!(1 << (slot % 64)), Ordering::Relaxed);
            }
        }
    }

    /// A slot's header was read, and is empty.
    pub(super) fn learn_empty(&self, slot: u32) {
        if !self.in_doubt.load(Ordering::Relaxed) {
            self.set_empty(slot, true);
        }
    }

    /// Room for so many slots, of which new ones are not known to be empty.
    pub(super) fn resize_empty(&self, slots: u32) {
        let mut empty = self.empty.write();
        empty.resize_with((slots as usize).div_ceil(64), AtomicU64::default);
        if let Some(last) = empty.last()
            && !slots.is_multiple_of(64)
        {
            last.fetch_and((1 << (slots % 64)) - 1, Ordering::Relaxed);
        }
    }
}
