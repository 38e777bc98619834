// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! An engine with tiers below DRAM in memory, some guests with a swap area each, one worker, and the
//! mover.

#[path = "../files/slots.rs"]
mod slots;

use std::sync::Arc;

use tmem_pages::slots::SlotFile;
use tmem_pages::{
    Engine, EngineConfig, EngineFiles, GetMode, GetResult, Guest, GuestConfig, Layout, Mover,
    ObjectId, PAGE_SIZE, PageBytes, PageIndex, Pool, PoolId, PoolKind, PoolSpec, PutResult, Step,
    Stores, Ticket, Worker,
};

pub(crate) struct House {
    pub(crate) engine: Arc<Engine>,
    pub(crate) guests: Vec<Arc<Guest>>,
    pub(crate) pools: Vec<Arc<Pool>>,
    pub(crate) worker: Worker,
    pub(crate) mover: Mover,
    tickets: u64,
}

/// What page `number` of a guest is.
pub(crate) fn page(guest: usize, number: u32) -> PageBytes {
    let mut page = [u8::try_from(guest).unwrap(); PAGE_SIZE];
    page[64..68].copy_from_slice(&(number ^ 0xffff_0000).to_le_bytes());
    page
}

/// A guest's swap area.
fn swap(guest: &Arc<Guest>) -> Arc<Pool> {
    let spec = PoolSpec {
        kind: PoolKind::Persistent,
        layout: Layout::Dense { pages: 100_000 },
    };
    guest.create_pool(PoolId(0), spec).unwrap()
}

#[allow(dead_code, reason = "each test file uses its part")]
impl House {
    /// Frames, and slots of the tiers below (none if 0); a guest for each grant.
    pub(crate) fn new([frames, pm, remote]: [u32; 3], grants: &[u32]) -> Self {
        let store = |slots| (slots > 0).then(|| Arc::new(SlotFile::memory(slots).unwrap()) as _);
        let stores = Stores {
            pm: store(pm),
            remote: store(remote),
            keep_over_reboot: false,
        };
        Self::with(frames, stores, grants)
    }

    /// The same with a file on a file system for the PM tier, where a page that comes up keeps its slot.
    pub(crate) fn on_file([frames, pm, remote]: [u32; 3], grants: &[u32]) -> Self {
        let remote = (remote > 0).then(|| Arc::new(SlotFile::memory(remote).unwrap()) as _);
        let stores = Stores {
            pm: Some(Arc::new(slots::on_file(pm))),
            remote,
            keep_over_reboot: false,
        };
        Self::with(frames, stores, grants)
    }

    pub(crate) fn with(frames: u32, stores: Stores, grants: &[u32]) -> Self {
        let config = EngineConfig {
            frames,
            workers_max: 2,
            guests_max: 4,
        };
        let files = EngineFiles::anonymous().unwrap();
        Self::on(
            Engine::open_tiered(config, files, stores).unwrap().0,
            grants,
        )
    }

    /// On an engine that is there, with what is in it.
    pub(crate) fn on(engine: Arc<Engine>, grants: &[u32]) -> Self {
        let guests: Vec<_> = (0..)
            .zip(grants)
            .map(|(number, grant): (u32, _)| {
                let config = GuestConfig {
                    name: format!("guest{number}"),
                    grant_pages: u64::from(*grant),
                };
                engine.attach_guest(config).unwrap()
            })
            .collect();
        let restarted = engine.stats().total.pages > 0;
        let pools = guests.iter().map(swap).collect();
        Self {
            pools,
            guests,
            worker: engine.worker().unwrap(),
            mover: engine.mover(Box::new(|| {})).unwrap(),
            engine,
            tickets: 1_000_000 * u64::from(restarted),
        }
    }

    /// Makes the swap areas again, after an epoch has ended.
    pub(crate) fn make_pools(&mut self) {
        self.pools = self.guests.iter().map(swap).collect();
    }

    /// A pool of pages that may vanish.
    pub(crate) fn cache(&self, guest: usize) -> Arc<Pool> {
        let spec = PoolSpec {
            kind: PoolKind::Ephemeral,
            layout: Layout::Sparse,
        };
        self.guests[guest].create_pool(PoolId(1), spec).unwrap()
    }

    pub(crate) fn try_put(&mut self, guest: usize, number: u32) -> PutResult {
        self.tickets += 1;
        let ticket = Ticket::new(self.tickets).unwrap();
        let (pool, index) = (&self.pools[guest], PageIndex(number));
        self.worker
            .put(pool, ObjectId::ZERO, index, ticket, &page(guest, number))
    }

    pub(crate) fn put(&mut self, guest: usize, number: u32) {
        assert_eq!(
            self.try_put(guest, number),
            PutResult::Stored,
            "page {number}"
        );
    }

    pub(crate) fn try_get(&mut self, guest: usize, number: u32) -> GetResult {
        let mut back = [0; PAGE_SIZE];
        let (pool, index) = (&self.pools[guest], PageIndex(number));
        let got = (self.worker).get(pool, ObjectId::ZERO, index, GetMode::Copy, &mut back);
        if got == GetResult::Hit {
            assert!(back == page(guest, number), "other bytes for page {number}");
        }
        got
    }

    pub(crate) fn get(&mut self, guest: usize, number: u32) {
        assert_eq!(self.try_get(guest, number), GetResult::Hit, "page {number}");
    }

    /// All pages of a guest are what they are.
    pub(crate) fn check_pages(&mut self, guest: usize, pages: u32) {
        (0..pages).for_each(|number| self.get(guest, number));
    }

    pub(crate) fn step(&mut self) {
        self.mover.step(false);
    }

    /// Lets the mover work until there is nothing to do. Returns the steps in which it did something.
    pub(crate) fn settle(&mut self) -> usize {
        let steps = std::iter::from_fn(|| (self.mover.step(false) == Step::Busy).then_some(()));
        let busy = steps.take(100_000).count();
        assert!(busy < 100_000, "the mover never rests");
        busy
    }
}
