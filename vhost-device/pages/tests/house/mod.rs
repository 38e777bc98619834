// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! An engine with one guest and one worker, of whose files a copy can be opened at any time.

use std::sync::Arc;

use super::files::copy;
use super::model::{Content, Sink};
use tmem_pages::{
    Engine, EngineConfig, EngineFiles, FlushResult, GetMode, GetResult, Guest, GuestConfig, Layout,
    ObjectId, PageBytes, PageIndex, Pool, PoolId, PoolKind, PoolSpec, PutResult, Recovery, Ticket,
    Worker,
};

pub(crate) const CONFIG: EngineConfig = EngineConfig {
    frames: 64,
    workers_max: 2,
    guests_max: 3,
};
pub(crate) const SWAP: PoolSpec = spec(PoolKind::Persistent, Layout::Dense { pages: 3000 });
pub(crate) const FILES: PoolSpec = spec(PoolKind::Persistent, Layout::Sparse);
pub(crate) const CACHE: PoolSpec = spec(PoolKind::Ephemeral, Layout::Sparse);
pub(crate) const BUFFER: PoolSpec = spec(PoolKind::Ephemeral, Layout::Dense { pages: 600 });
pub(crate) const SPECS: [PoolSpec; 4] = [SWAP, FILES, CACHE, BUFFER];

const fn spec(kind: PoolKind, layout: Layout) -> PoolSpec {
    PoolSpec { kind, layout }
}

/// An engine with one guest, one worker and the files, which the test keeps.
pub(crate) struct House {
    pub(crate) files: EngineFiles,
    pub(crate) engine: Arc<Engine>,
    pub(crate) guest: Arc<Guest>,
    pub(crate) worker: Worker,
    pub(crate) recovery: Recovery,
}

pub(crate) fn open(files: EngineFiles) -> House {
    let kept = files.try_clone().unwrap();
    let (engine, recovery) = Engine::open(CONFIG, files).unwrap();
    engine.self_check();
    let config = GuestConfig {
        name: "guest".into(),
        grant_pages: 40,
    };
    House {
        files: kept,
        guest: engine.attach_guest(config).unwrap(),
        worker: engine.worker().unwrap(),
        engine,
        recovery,
    }
}

pub(crate) fn house() -> House {
    let house = open(EngineFiles::anonymous().unwrap());
    assert!(house.recovery.fresh);
    house
}

pub(crate) fn page(number: u64) -> PageBytes {
    Content(4 * number + 1).bytes()
}

pub(crate) fn ticket(number: u64) -> Ticket {
    Ticket::new(number).unwrap()
}

pub(crate) const FILE: ObjectId = ObjectId([1, u64::MAX, 3]);

/// A name that the pool's layout has.
pub(crate) fn object(pool: &Pool) -> ObjectId {
    match pool.spec().layout {
        Layout::Dense { .. } => ObjectId::ZERO,
        Layout::Sparse => FILE,
    }
}

impl House {
    /// What a kill now would leave, opened.
    pub(crate) fn killed(&self) -> House {
        let next = open(copy(&self.files));
        assert!(!next.recovery.fresh);
        next
    }

    pub(crate) fn pool(&self, id: u32) -> Arc<Pool> {
        (self.guest)
            .create_pool(PoolId(id), SPECS[id as usize % 4])
            .unwrap()
    }

    pub(crate) fn put(&mut self, pool: &Pool, index: u32, number: u64) -> PutResult {
        let source = page(number);
        self.worker.put(
            pool,
            object(pool),
            PageIndex(index),
            ticket(number),
            &source,
        )
    }

    pub(crate) fn get(&mut self, pool: &Pool, index: u32) -> Result<PageBytes, GetResult> {
        let mut sink = Sink::default();
        let at = (object(pool), PageIndex(index));
        let result = self.worker.get(pool, at.0, at.1, GetMode::Copy, &mut sink);
        sink.page.map(|page| *page).ok_or(result)
    }

    pub(crate) fn take(&mut self, pool: &Pool, index: u32) -> GetResult {
        let mut sink = Sink::default();
        let at = (object(pool), PageIndex(index));
        let result = self.worker.take(pool, at.0, at.1, &mut sink);
        assert_eq!(result.is_hit(), sink.page.is_some());
        result
    }

    pub(crate) fn flush(&mut self, pool: &Pool, index: u32, at: u64) -> FlushResult {
        self.worker
            .flush_page(pool, object(pool), PageIndex(index), ticket(at))
    }
}
