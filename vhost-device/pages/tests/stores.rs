// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Stores of lower tiers that fail: no page is lost that could be kept, and what is elsewhere is not
//! touched by it.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

#[path = "house/tiered.rs"]
mod tiered;

use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use tiered::House;
use tmem_pages::slots::{Durability, PoolEntry, ScanReport, SlotError, SlotFile, SlotHeader};
use tmem_pages::{
    Engine, EngineConfig, EngineError, EngineFiles, Epoch, GetResult, ObjectId, PageBytes,
    PageIndex, PutResult, Recovery, SlotStore, SlotWrite, Stores, Tier,
};

/// A store that does as it is told.
#[derive(Debug)]
struct Moody {
    inner: SlotFile,
    refuses_writes: AtomicBool,
    refuses_reads: AtomicBool,
    /// Flips a bit of every page that is read.
    lies: AtomicBool,
    /// Has to be asked to forget pages.
    outlives: AtomicBool,
    writes: AtomicU32,
    /// Calls to forget pages.
    forgets: AtomicU32,
}

impl Moody {
    fn new(slots: u32) -> Arc<Self> {
        Arc::new(Self {
            inner: SlotFile::memory(slots).unwrap(),
            refuses_writes: AtomicBool::new(false),
            refuses_reads: AtomicBool::new(false),
            lies: AtomicBool::new(false),
            outlives: AtomicBool::new(false),
            writes: AtomicU32::new(0),
            forgets: AtomicU32::new(0),
        })
    }
}

/// An error as a store has it when its disk is bad.
fn bad() -> SlotError {
    let missing = std::fs::File::open("/dev/null").unwrap();
    SlotFile::open(
        missing.into(),
        Path::new("/dev/null"),
        1,
        Durability::Process,
    )
    .expect_err("no file of slots")
}

impl SlotStore for Moody {
    fn id(&self) -> [u8; 16] {
        self.inner.id()
    }

    fn slots(&self) -> u32 {
        self.inner.slots()
    }

    fn write(&self, batch: &[SlotWrite<'_>]) -> Result<(), SlotError> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        if self.refuses_writes.load(Ordering::Relaxed) {
            return Err(bad());
        }
        self.inner.write(batch)
    }

    fn read(&self, slot: u32, _checksum: u32, page: &mut PageBytes) -> Result<(), SlotError> {
        if self.refuses_reads.load(Ordering::Relaxed) {
            return Err(bad());
        }
        self.inner.read(slot, page)?;
        page[77] ^= u8::from(self.lies.load(Ordering::Relaxed));
        Ok(())
    }

    fn header(&self, slot: u32) -> Result<Option<SlotHeader>, SlotError> {
        self.inner.header(slot)
    }

    fn invalidate(&self, slots: &[u32]) -> Result<(), SlotError> {
        self.forgets.fetch_add(1, Ordering::Relaxed);
        self.inner.invalidate(slots)
    }

    fn keeps_copies(&self) -> bool {
        self.outlives.load(Ordering::Relaxed)
    }

    fn outlives_the_map(&self) -> bool {
        self.outlives.load(Ordering::Relaxed)
    }

    fn resize(&self, slots: u32) -> Result<(), SlotError> {
        self.inner.resize(slots)
    }

    fn put_pool(&self, pool_slot: u32, entry: &PoolEntry) -> Result<(), SlotError> {
        self.inner.put_pool(pool_slot, entry)
    }

    fn drop_pool(&self, pool_slot: u32) -> Result<(), SlotError> {
        self.inner.drop_pool(pool_slot)
    }

    fn last_serial(&self, pool_slot: u32) -> Option<u32> {
        self.inner.last_serial(pool_slot)
    }

    fn pools(&self) -> Vec<(u32, PoolEntry)> {
        self.inner.pools()
    }

    fn scan(&self, found: &mut dyn FnMut(u32, SlotHeader)) -> Result<ScanReport, SlotError> {
        self.inner.scan(&mut |_, _| {}, found)
    }

    fn mode(&self) -> &'static str {
        "moody"
    }
}

fn house(frames: u32, slots: u32, grant: u32, remote: u32) -> (House, Arc<Moody>) {
    let moody = Moody::new(slots);
    let remote = (remote > 0).then(|| Arc::new(SlotFile::memory(remote).unwrap()) as _);
    let stores = Stores {
        pm: Some(Arc::clone(&moody) as _),
        remote,
        keep_over_reboot: false,
    };
    (House::with(frames, stores, &[grant]), moody)
}

#[test]
fn store_that_takes_no_pages_leaves_them_in_dram() {
    let (mut house, moody) = house(100, 200, 250, 0);
    moody.refuses_writes.store(true, Ordering::Relaxed);
    (0..100).for_each(|number| house.put(0, number));
    house.step();
    let stats = house.engine.tier(Tier::Pm).unwrap();
    assert!(stats.write_errors > 0 && stats.used_pages == 0, "{stats:?}");
    assert!(house.engine.tier_error(Tier::Pm).is_some());
    house.check_pages(0, 100);
    house.engine.self_check();
    // It is asked again, and once it is well all goes on.
    moody.refuses_writes.store(false, Ordering::Relaxed);
    (100..250).for_each(|number| house.put(0, number));
    house.check_pages(0, 250);
    assert!(house.engine.tier(Tier::Pm).unwrap().used_pages > 0);
    house.engine.self_check();
}

#[test]
fn pages_go_to_the_next_tier_while_one_fails() {
    let (mut house, moody) = house(100, 400, 400, 400);
    moody.refuses_writes.store(true, Ordering::Relaxed);
    (0..400).for_each(|number| house.put(0, number));
    house.settle();
    assert_eq!(house.engine.tier(Tier::Pm).unwrap().used_pages, 0);
    assert!(house.engine.tier(Tier::Remote).unwrap().used_pages >= 300);
    house.check_pages(0, 400);
    house.engine.self_check();
}

#[test]
fn page_that_cannot_be_read_is_an_error_and_no_other_bytes() {
    for lies in [false, true] {
        let (mut house, moody) = house(50, 200, 200, 0);
        (0..200).for_each(|number| house.put(0, number));
        let switch = if lies {
            &moody.lies
        } else {
            &moody.refuses_reads
        };
        switch.store(true, Ordering::Relaxed);
        let got: Vec<_> = (0..200).map(|number| house.try_get(0, number)).collect();
        let corrupt = got.iter().filter(|got| **got == GetResult::Corrupt).count() as u64;
        let hits = got.iter().filter(|got| **got == GetResult::Hit).count();
        assert!(corrupt > 100 && hits > 0, "{corrupt} corrupt, {hits} hits");
        let total = house.engine.stats().total;
        assert_eq!((total.corrupt, total.pages), (corrupt, 200));
        assert!(house.engine.tier(Tier::Pm).unwrap().read_errors >= corrupt);
        // They are there when the store is well again, and a put in between counts.
        house.put(0, 0);
        switch.store(false, Ordering::Relaxed);
        house.check_pages(0, 200);
        house.engine.self_check();
    }
}

#[test]
fn map_takes_no_other_store_than_the_one_its_pages_are_in() {
    let config = EngineConfig {
        frames: 50,
        workers_max: 2,
        guests_max: 4,
    };
    let files = EngineFiles::anonymous().unwrap();
    let store = Arc::new(SlotFile::memory(200).unwrap());
    let stores = |pm: Option<&Arc<SlotFile>>| Stores {
        pm: pm.map(|store| Arc::clone(store) as _),
        ..Stores::default()
    };
    let open = |pm: Option<&Arc<SlotFile>>| {
        Engine::open_tiered(config, files.try_clone().unwrap(), stores(pm))
    };
    let other = Arc::new(SlotFile::memory(200).unwrap());
    // As long as nothing is in it, any will do.
    drop(open(Some(&other)).unwrap());
    drop(open(None).unwrap());
    let mut house = House::on(open(Some(&store)).unwrap().0, &[200]);
    (0..200).for_each(|number| house.put(0, number));
    drop(house);
    let error = open(None).unwrap_err();
    assert!(
        matches!(error, EngineError::StoreMissing { tier: Tier::Pm }),
        "{error}"
    );
    let error = open(Some(&other)).unwrap_err();
    assert!(
        matches!(error, EngineError::OtherStore { tier: Tier::Pm }),
        "{error}"
    );
    let mut house = House::on(open(Some(&store)).unwrap().0, &[200]);
    house.check_pages(0, 200);
    house.engine.self_check();
}

#[test]
fn overcommitted_puts_are_refused_and_nothing_else_is_lost() {
    let (mut house, _) = house(50, 60, 110, 0);
    house.engine.allow_overcommit(true);
    house.guests[0].set_grant(500).unwrap();
    (0..110).for_each(|number| house.put(0, number));
    let refused = (110..200)
        .map(|number| house.try_put(0, number))
        .filter(|put| *put == PutResult::RefusedFull)
        .count();
    assert!(refused > 0);
    house.check_pages(0, 110);
    house.engine.self_check();
}

#[test]
fn request_forgets_its_pages_below_in_one_call() {
    let (mut house, store) = house(50, 200, 200, 0);
    store.outlives.store(true, Ordering::Relaxed);
    (0..200).for_each(|number| house.put(0, number));
    house.settle();
    let below: Vec<u32> = (0..200)
        .filter(|number| {
            let at = (&house.pools[0], ObjectId::ZERO, PageIndex(*number));
            house.worker.tier_of(at.0, at.1, at.2) == Some(Tier::Pm)
        })
        .take(40)
        .collect();
    assert_eq!(below.len(), 40);
    // One that stands alone asks for itself.
    let before = store.forgets.load(Ordering::Relaxed);
    house.put(0, below[0]);
    assert!(store.forgets.load(Ordering::Relaxed) > before);
    // Others wait for the end of their request; the mover that makes room for them asks for none.
    house.worker.begin_request();
    let before = store.forgets.load(Ordering::Relaxed);
    below[1..].iter().for_each(|number| house.put(0, *number));
    assert_eq!(store.forgets.load(Ordering::Relaxed), before);
    house.worker.end_request();
    assert_eq!(store.forgets.load(Ordering::Relaxed), before + 1);
    house.engine.self_check();
    house.check_pages(0, 200);
}

/// Where the headers of a file of slots begin.
const FIRST_HEADER: u64 = 18 << 20;

/// An engine on a file of slots that outlives the host.
fn on_host_file(
    file: &std::fs::File,
    files: &EngineFiles,
    keep_over_reboot: bool,
) -> (Arc<Engine>, Recovery) {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let path = Path::new(&path);
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let (store, _) = SlotFile::open(file.into(), path, 200, Durability::Host).unwrap();
    let stores = Stores {
        pm: Some(Arc::new(store)),
        remote: None,
        keep_over_reboot,
    };
    let config = EngineConfig {
        frames: 50,
        workers_max: 2,
        guests_max: 4,
    };
    Engine::open_tiered(config, files.try_clone().unwrap(), stores).unwrap()
}

#[test]
fn file_that_outlives_its_map_serves_the_next_one_as_asked() {
    let file = tempfile::tempfile().unwrap();
    let map = || EngineFiles::anonymous().unwrap();
    for round in 0..3 {
        // What the last map had there is forgotten, and pages go there again.
        let files = map();
        let mut house = House::on(on_host_file(&file, &files, false).0, &[200]);
        house.guests[0].begin_epoch(Epoch([round; 16]));
        house.make_pools();
        (0..200).for_each(|number| house.put(0, number));
        house.settle();
        assert!(house.engine.stats().total.pm >= 150, "round {round}");
        house.check_pages(0, 200);
        house.put(0, 3);
        house.engine.self_check();
    }
    // The host has ended: what had left DRAM is there, the rest is not, and nothing is older.
    let (engine, report) = on_host_file(&file, &map(), true);
    assert_eq!(report.damaged, 0);
    let mut house = House::on(engine, &[200]);
    assert_eq!(house.guests[0].epoch(), Some(Epoch([2; 16])));
    let hits = (0..200).filter(|number| house.try_get(0, *number) == GetResult::Hit);
    let hits = hits.count();
    assert!((140..200).contains(&hits), "{hits} pages came back");
    assert_eq!(house.engine.stats().total.corrupt, 0);
    house.engine.self_check();
    drop(house);
    // A page whose header has lost a bit is told of.
    let at = (0..200).map(|slot| FIRST_HEADER + slot * 64).find(|at| {
        let mut line = [0; 64];
        file.read_exact_at(&mut line, *at).unwrap();
        line[60..] != [0; 4]
    });
    let at = at.expect("a slot with a page") + 20;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 4], at).unwrap();
    let (_, report) = on_host_file(&file, &map(), true);
    assert_eq!(report.damaged, 1);
}
