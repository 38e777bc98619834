// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Pages and stores for tests.

use std::time::Duration;

use rustix::fs::{MemfdFlags, memfd_create};
use tmem_pages::slots::{SlotHeader, SlotMemory};
use tmem_pages::{ObjectId, PAGE_SIZE, PageBytes, PageIndex, Ticket};
use tmem_remote_client::valkey::{ValkeyConfig, ValkeyError, ValkeyStore};

use crate::servers::Servers;

/// A small generator (SplitMix64).
#[derive(Clone, Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// A page of which every byte depends on `tag`.
pub(crate) fn page(tag: u64) -> PageBytes {
    let mut page = [0; PAGE_SIZE];
    let mut random = Random(tag);
    for word in page.as_chunks_mut::<8>().0 {
        *word = random.next().to_le_bytes();
    }
    page
}

pub(crate) fn checksum(page: &PageBytes) -> u32 {
    tmem_remote_protocol::checksum(page)
}

pub(crate) fn header(page: &PageBytes) -> SlotHeader {
    SlotHeader {
        pool_slot: 0,
        pool_serial: 1,
        object: ObjectId::ZERO,
        index: PageIndex(0),
        ticket: Ticket::MIN,
        checksum: checksum(page),
        flags: 0,
    }
}

/// Slot memory of nobody yet.
pub(crate) fn memory() -> SlotMemory {
    let file = memfd_create("slots", MemfdFlags::CLOEXEC).unwrap();
    SlotMemory::open(file).unwrap().0
}

pub(crate) fn config(servers: &Servers) -> ValkeyConfig {
    ValkeyConfig::new("test", servers.addresses())
}

pub(crate) fn open(servers: &Servers) -> ValkeyStore {
    ValkeyStore::open(&config(servers), memory(), 4096).unwrap()
}

pub(crate) fn write(store: &ValkeyStore, slot: u32, page: &PageBytes) -> Result<(), ValkeyError> {
    store.write_pages(&[(slot, &header(page), page)])
}

/// Reads what should be `expected`. Other bytes are a failure of the test.
pub(crate) fn read(
    store: &ValkeyStore,
    slot: u32,
    expected: &PageBytes,
) -> Result<(), ValkeyError> {
    let mut page = [0xee; PAGE_SIZE];
    store.read_page(slot, checksum(expected), &mut page)?;
    assert!(page == *expected, "slot {slot} returned other bytes");
    Ok(())
}

/// The most that a call may take: its deadline, the attempts that were begun before it, and some time
/// for a machine that has other things to do.
pub(crate) fn bound(config: &ValkeyConfig) -> Duration {
    config.deadline
        + 2 * (config.connect + 2 * config.response + config.wait)
        + Duration::from_secs(5)
}
