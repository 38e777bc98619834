// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a tier below DRAM is, to the engine: numbered slots that keep a page and its header each.

use std::fmt::Debug;

use crate::handle::PageBytes;
use crate::slots::{PoolEntry, ScanReport, SlotError, SlotFile, SlotHeader};

/// A page to write: the slot, what the page is, its bytes.
pub type SlotWrite<'a> = (u32, &'a SlotHeader, &'a PageBytes);

/// An array of slots, each of which keeps one page. The engine says which slot is free.
///
/// All methods may be called from any thread; a slot is not written, nor invalidated, by two at the
/// same time. A slot may be read while it is written: the engine notices that it has changed.
pub trait SlotStore: Debug + Send + Sync {
    /// What tells this store from every other, and from itself before it was made anew.
    fn id(&self) -> [u8; 16];

    /// Slots that there are: all numbers below.
    fn slots(&self) -> u32;

    /// Keeps pages. On return they are as safe as this store makes them.
    ///
    /// # Errors
    /// [`SlotError`]; none of them counts then.
    fn write(&self, batch: &[SlotWrite<'_>]) -> Result<(), SlotError>;

    /// Reads a slot's page. A store that has several copies takes one with this CRC-32, which the
    /// caller verifies in any case.
    ///
    /// # Errors
    /// [`SlotError`] if it cannot be read.
    fn read(&self, slot: u32, checksum: u32, page: &mut PageBytes) -> Result<(), SlotError>;

    /// This thread is about to read these slots, in this order, with the pages' CRC-32: a store to
    /// which the way is long asks for all of them now.
    fn will_read(&self, slots: &[(u32, u32)]) {
        let _ = slots;
    }

    /// Reads take so long that [`will_read`](Self::will_read) is worth its while.
    fn is_far(&self) -> bool {
        false
    }

    /// What a slot's page is, if there is one.
    ///
    /// # Errors
    /// [`SlotError`] if it cannot be read.
    fn header(&self, slot: u32) -> Result<Option<SlotHeader>, SlotError>;

    /// Forgets pages, as safely as it keeps them.
    ///
    /// # Errors
    /// [`SlotError`] if that cannot be written.
    fn invalidate(&self, slots: &[u32]) -> Result<(), SlotError>;

    /// A page that is not [invalidated](Self::invalidate) may come back after the map is lost.
    fn outlives_the_map(&self) -> bool;

    /// A slot that is free is to be [invalidated](Self::invalidate): what it holds takes room, or may come
    /// back.
    fn wants_to_forget(&self) -> bool {
        self.outlives_the_map()
    }

    /// Writing or invalidating a slot takes so long that a page that comes back to DRAM keeps its own as
    /// long as it can.
    fn keeps_copies(&self) -> bool {
        false
    }

    /// Changes the number of slots. Those beyond a lower one hold no page.
    ///
    /// # Errors
    /// [`SlotError`] if there is no room; it is as it was.
    fn resize(&self, slots: u32) -> Result<(), SlotError>;

    /// Notes which pool the pages of a pool slot belong to, before the first of them is written.
    ///
    /// # Errors
    /// [`SlotError`] if that cannot be written.
    fn put_pool(&self, pool_slot: u32, entry: &PoolEntry) -> Result<(), SlotError>;

    /// Forgets a pool, and with it its pages.
    ///
    /// # Errors
    /// [`SlotError`] if that cannot be written.
    fn drop_pool(&self, pool_slot: u32) -> Result<(), SlotError>;

    /// The highest serial that a pool of this slot has had here. A pool that is noted has a higher one.
    fn last_serial(&self, pool_slot: u32) -> Option<u32>;

    /// The pools that were noted, by pool slot.
    fn pools(&self) -> Vec<(u32, PoolEntry)>;

    /// Calls `found` for each page of a noted pool.
    ///
    /// # Errors
    /// [`SlotError`] if the store cannot be read.
    fn scan(&self, found: &mut dyn FnMut(u32, SlotHeader)) -> Result<ScanReport, SlotError>;

    /// Does some of what is never urgent. False if there is nothing of it.
    fn tidy(&self) -> bool {
        false
    }

    /// How pages are kept, for people: `dax`, `file`, `memory`, `stores`, `valkey`.
    fn mode(&self) -> &'static str;
}

impl SlotStore for SlotFile {
    fn id(&self) -> [u8; 16] {
        Self::id(self)
    }

    fn slots(&self) -> u32 {
        Self::slots(self)
    }

    fn write(&self, batch: &[SlotWrite<'_>]) -> Result<(), SlotError> {
        Self::write(self, batch)
    }

    fn read(&self, slot: u32, _checksum: u32, page: &mut PageBytes) -> Result<(), SlotError> {
        Self::read(self, slot, page)
    }

    fn will_read(&self, slots: &[(u32, u32)]) {
        // The read of a single one follows at once.
        if slots.len() > 1 {
            Self::will_read(self, slots.iter().map(|(slot, _)| *slot));
        }
    }

    fn is_far(&self) -> bool {
        Self::mode(self) == crate::slots::Mode::File
    }

    fn header(&self, slot: u32) -> Result<Option<SlotHeader>, SlotError> {
        Self::header(self, slot)
    }

    fn invalidate(&self, slots: &[u32]) -> Result<(), SlotError> {
        Self::invalidate(self, slots)
    }

    fn outlives_the_map(&self) -> bool {
        self.durability() == crate::slots::Durability::Host
    }

    fn keeps_copies(&self) -> bool {
        match Self::mode(self) {
            crate::slots::Mode::Dax => false,
            crate::slots::Mode::File => true,
            crate::slots::Mode::Memory => self.outlives_the_map(),
        }
    }

    fn resize(&self, slots: u32) -> Result<(), SlotError> {
        Self::resize(self, slots)
    }

    fn put_pool(&self, pool_slot: u32, entry: &PoolEntry) -> Result<(), SlotError> {
        Self::put_pool(self, pool_slot, entry)
    }

    fn drop_pool(&self, pool_slot: u32) -> Result<(), SlotError> {
        Self::drop_pool(self, pool_slot)
    }

    fn last_serial(&self, pool_slot: u32) -> Option<u32> {
        Self::last_serial(self, pool_slot)
    }

    fn pools(&self) -> Vec<(u32, PoolEntry)> {
        Self::pools(self)
    }

    fn scan(&self, found: &mut dyn FnMut(u32, SlotHeader)) -> Result<ScanReport, SlotError> {
        Self::scan(self, &mut |_, _| {}, found)
    }

    fn tidy(&self) -> bool {
        Self::tidy(self)
    }

    fn mode(&self) -> &'static str {
        match Self::mode(self) {
            crate::slots::Mode::Dax => "dax",
            crate::slots::Mode::File => "file",
            crate::slots::Mode::Memory => "memory",
        }
    }
}
