// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A store of slots that can be copied at any moment, as a kill of the process would leave it.

use std::collections::BTreeMap;

use parking_lot::Mutex;

use crate::slots::{PoolEntry, ScanReport, SlotError, SlotHeader};
use crate::{PAGE_SIZE, PageBytes, SlotStore, SlotWrite};

/// Slots that the store has.
pub(super) const SLOTS: u32 = 30;

#[derive(Clone, Debug, Default)]
struct Kept {
    pages: BTreeMap<u32, (SlotHeader, PageBytes)>,
    pools: BTreeMap<u32, PoolEntry>,
    serials: BTreeMap<u32, u32>,
}

/// See the module's head.
#[derive(Debug)]
pub(super) struct FakeStore {
    outlives: bool,
    kept: Mutex<Kept>,
}

impl FakeStore {
    /// An empty store; one that `outlives` the map is asked to forget what must not come back.
    pub(super) fn new(outlives: bool) -> Self {
        Self {
            outlives,
            kept: Mutex::default(),
        }
    }

    /// The store as it is now.
    pub(super) fn copy(&self) -> Self {
        Self {
            outlives: self.outlives,
            kept: Mutex::new(self.kept.lock().clone()),
        }
    }
}

impl SlotStore for FakeStore {
    fn id(&self) -> [u8; 16] {
        [7; 16]
    }

    fn slots(&self) -> u32 {
        SLOTS
    }

    fn write(&self, batch: &[SlotWrite<'_>]) -> Result<(), SlotError> {
        let mut kept = self.kept.lock();
        for (slot, header, page) in batch {
            let known = kept.pools.get(&header.pool_slot);
            let serial = known.map(|entry| entry.pool_serial);
            assert!(!self.outlives || serial == Some(header.pool_serial));
            kept.pages.insert(*slot, (**header, **page));
        }
        Ok(())
    }

    fn read(&self, slot: u32, _checksum: u32, page: &mut PageBytes) -> Result<(), SlotError> {
        let kept = self.kept.lock();
        *page = kept.pages.get(&slot).map_or([0; PAGE_SIZE], |kept| kept.1);
        Ok(())
    }

    fn header(&self, slot: u32) -> Result<Option<SlotHeader>, SlotError> {
        Ok(self.kept.lock().pages.get(&slot).map(|kept| kept.0))
    }

    fn invalidate(&self, slots: &[u32]) -> Result<(), SlotError> {
        let mut kept = self.kept.lock();
        kept.pages.retain(|slot, _| !slots.contains(slot));
        Ok(())
    }

    fn outlives_the_map(&self) -> bool {
        self.outlives
    }

    fn keeps_copies(&self) -> bool {
        self.outlives
    }

    fn resize(&self, slots: u32) -> Result<(), SlotError> {
        assert_eq!(slots, SLOTS, "these tests change no size");
        Ok(())
    }

    fn put_pool(&self, pool_slot: u32, entry: &PoolEntry) -> Result<(), SlotError> {
        let mut kept = self.kept.lock();
        let last = kept.serials.insert(pool_slot, entry.pool_serial);
        assert!(last.is_none_or(|last| last <= entry.pool_serial));
        kept.pools.insert(pool_slot, entry.clone());
        Ok(())
    }

    fn drop_pool(&self, pool_slot: u32) -> Result<(), SlotError> {
        self.kept.lock().pools.remove(&pool_slot);
        Ok(())
    }

    fn last_serial(&self, pool_slot: u32) -> Option<u32> {
        self.kept.lock().serials.get(&pool_slot).copied()
    }

    fn pools(&self) -> Vec<(u32, PoolEntry)> {
        let kept = self.kept.lock();
        kept.pools
            .iter()
            .map(|(slot, entry)| (*slot, entry.clone()))
            .collect()
    }

    fn scan(&self, found: &mut dyn FnMut(u32, SlotHeader)) -> Result<ScanReport, SlotError> {
        let kept = self.kept.lock().clone();
        for (slot, (header, _)) in kept.pages {
            let known = kept.pools.get(&header.pool_slot);
            if known.is_some_and(|entry| entry.pool_serial == header.pool_serial) {
                found(slot, header);
            }
        }
        Ok(ScanReport::default())
    }

    fn mode(&self) -> &'static str {
        "test"
    }
}
