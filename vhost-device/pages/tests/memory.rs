// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a page costs beside its 4096 bytes.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

#[path = "files/slots.rs"]
mod slots;

use std::sync::Arc;

use tmem_pages::policy::POLICIES;
use tmem_pages::slots::SlotFile;
use tmem_pages::{
    Engine, EngineConfig, EngineFiles, GetMode, GetResult, Guest, GuestConfig, Layout,
    MemoryReport, ObjectId, PAGE_SIZE, PageBytes, PageIndex, PoolId, PoolKind, PoolSpec, PutResult,
    Step, Stores, Ticket, Tier, Worker,
};

const PAGES: u32 = 32_768;

/// What the design allows for a page in DRAM.
const METADATA_BYTES_MAX: f64 = 48.0;
/// What copies that are kept may add, in tiers where some are.
const COPIES_BYTES_MAX: f64 = 4.0;
/// What the design allows for a page below DRAM.
const METADATA_BYTES_BELOW_MAX: f64 = 16.0;

fn engine() -> (Arc<Engine>, Arc<Guest>, Worker) {
    let engine = Engine::new(EngineConfig {
        frames: PAGES,
        workers_max: 2,
        guests_max: 4,
    })
    .unwrap();
    let guest = engine
        .attach_guest(GuestConfig {
            name: "guest".into(),
            grant_pages: u64::from(PAGES),
        })
        .unwrap();
    let worker = engine.worker().unwrap();
    (engine, guest, worker)
}

fn page(number: u32) -> PageBytes {
    let mut page = [1; PAGE_SIZE];
    page[..4].copy_from_slice(&number.to_le_bytes());
    page
}

/// Fills an engine with objects of so many pages. Returns what it reports then, and once all is
/// flushed.
fn fill(layout: Layout, object_pages: u32) -> (MemoryReport, MemoryReport) {
    let (engine, guest, mut worker) = engine();
    let kind = PoolKind::Persistent;
    let pool = guest
        .create_pool(PoolId(0), PoolSpec { kind, layout })
        .unwrap();
    for number in 0..PAGES {
        let object = ObjectId([u64::from(number / object_pages), 0, 0]);
        let index = PageIndex(number % object_pages);
        let result = worker.put(&pool, object, index, Ticket::MAX, &page(number));
        assert_eq!(result, PutResult::Stored);
    }
    let full = engine.memory();
    assert_eq!(full.frames_used, u64::from(PAGES) * PAGE_SIZE as u64);
    engine.self_check();
    assert_eq!(worker.flush_pool(&pool, Ticket::MAX), u64::from(PAGES));
    let empty = engine.memory();
    assert_eq!(
        (empty.frames_used, empty.frame_table),
        (0, full.frame_table)
    );
    (full, empty)
}

fn bytes_a_page(what: &str, report: &MemoryReport) -> f64 {
    let a_page = |bytes: u64| f64::from(u32::try_from(bytes).unwrap()) / f64::from(PAGES);
    let all = a_page(report.metadata());
    println!(
        "{what:32} {all:6.2} bytes a page: frame table {:.2}, owners {:.2}, index {:.2}, \
         pools {:.2}, free lists {:.2}",
        a_page(report.frame_table),
        a_page(report.owners),
        a_page(report.index),
        a_page(report.pools),
        a_page(report.free_lists),
    );
    all
}

#[test]
fn metadata_of_a_page_in_dram_is_at_most_48_bytes() {
    let (dense, _) = fill(Layout::Dense { pages: PAGES }, PAGES);
    assert!(bytes_a_page("dense pool", &dense) <= METADATA_BYTES_MAX);
    for object_pages in [PAGES, 256, 64, 16] {
        let (sparse, empty) = fill(Layout::Sparse, object_pages);
        let what = format!("sparse, objects of {object_pages} pages");
        assert!(bytes_a_page(&what, &sparse) <= METADATA_BYTES_MAX);
        assert_eq!(empty.owners, 0);
        assert!(
            empty.index < sparse.index / 4,
            "flushed pages keep their index"
        );
    }
    // Not held to the limit, for an object's name alone has 24 bytes; printed, so that it is known.
    for object_pages in [4, 1] {
        let (sparse, _) = fill(Layout::Sparse, object_pages);
        let what = format!("sparse, objects of {object_pages} pages");
        assert!(bytes_a_page(&what, &sparse) < PAGE_SIZE as f64 / 10.0);
    }
}

#[test]
fn same_filled_pages_cost_their_index_entry_alone() {
    let (engine, guest, mut worker) = engine();
    let kind = PoolKind::Persistent;
    let layout = Layout::Dense { pages: PAGES };
    let pool = guest
        .create_pool(PoolId(0), PoolSpec { kind, layout })
        .unwrap();
    let before = engine.memory();
    for number in 0..PAGES {
        let index = PageIndex(number);
        let result = worker.put(&pool, ObjectId::ZERO, index, Ticket::MAX, &[9; PAGE_SIZE]);
        assert_eq!(result, PutResult::SameFilled);
    }
    let after = engine.memory();
    assert_eq!(after.frames_used, 0);
    let entry = (after.metadata() - before.metadata()) / u64::from(PAGES);
    assert_eq!(entry, 8);
}

/// Bytes for each page in DRAM, with nothing below, and for each page below. What frames cost is not in
/// the latter: it is what the engine has more when three times as many pages have come, without its
/// slot table, by the pages that are below now; and the slot table, by its slots.
fn bytes_in_tiers(layout: Layout, policy: &str) -> (f64, f64) {
    let tiered = tiered(layout, policy, SlotFile::memory(ALL).unwrap());
    (tiered.dram, tiered.below)
}

/// Pages in DRAM and below.
const ALL: u32 = 4 * PAGES;

/// Bytes for each page.
struct Tiered {
    dram: f64,
    below: f64,
    /// More for each page in DRAM, once pages have come up again and keep their copies.
    kept: f64,
}

fn tiered(layout: Layout, policy: &str, pm: SlotFile) -> Tiered {
    let config = EngineConfig {
        frames: PAGES,
        workers_max: 2,
        guests_max: 4,
    };
    let stores = Stores {
        pm: Some(Arc::new(pm)),
        ..Stores::default()
    };
    let files = EngineFiles::anonymous().unwrap();
    let (engine, _) = Engine::open_tiered(config, files, stores).unwrap();
    let guest = GuestConfig {
        name: "guest".into(),
        grant_pages: u64::from(ALL),
    };
    let guest = engine.attach_guest(guest).unwrap();
    guest.set_policy(policy, 1).unwrap();
    let kind = PoolKind::Persistent;
    let spec = PoolSpec { kind, layout };
    let pool = guest.create_pool(PoolId(0), spec).unwrap();
    let mut worker = engine.worker().unwrap();
    let mut mover = engine.mover(Box::new(|| {})).unwrap();
    let metadata = || {
        let memory = engine.memory();
        let own = memory.metadata() - memory.slot_tables - memory.copies;
        (own, memory.slot_tables, memory.copies)
    };
    let name = |number: u32| {
        let object = ObjectId([u64::from(number / 1024), 0, 0]);
        match layout {
            Layout::Dense { .. } => (ObjectId::ZERO, PageIndex(number)),
            Layout::Sparse => (object, PageIndex(number % 1024)),
        }
    };
    let mut put = |number: u32| {
        let (object, index) = name(number);
        let result = worker.put(&pool, object, index, Ticket::MAX, &page(number));
        assert_eq!(result, PutResult::Stored);
    };
    (0..PAGES).for_each(&mut put);
    let (full, slots, _) = metadata();
    let in_dram = PAGES - u32::try_from(engine.tier(Tier::Pm).unwrap().used_pages).unwrap();
    for number in PAGES..ALL {
        put(number);
        while number % 64 == 0 && mover.step(false) == Step::Busy {}
    }
    let below = pool.stats().pm;
    assert!(below >= u64::from(ALL - PAGES), "most pages are below");
    let ratio = |part: u64, whole: u64| {
        f64::from(u32::try_from(part).unwrap()) / f64::from(u32::try_from(whole).unwrap())
    };
    let (at_rest, _, victims) = metadata();
    let mut back = [0; PAGE_SIZE];
    for number in (0..ALL).flat_map(|number| [number; 2]) {
        let (object, index) = name(number);
        let got = worker.get(&pool, object, index, GetMode::Copy, &mut back);
        assert_eq!(got, GetResult::Hit);
        while number % 64 == 0 && mover.step(false) == Step::Busy {}
    }
    Tiered {
        dram: ratio(full, u64::from(in_dram)) + ratio(victims, u64::from(PAGES)),
        below: ratio(at_rest - full, below) + ratio(slots, u64::from(ALL)),
        kept: ratio(metadata().2.saturating_sub(victims), u64::from(PAGES)),
    }
}

#[test]
fn metadata_of_a_page_in_tiers_is_within_the_limits_with_each_policy() {
    for kind in POLICIES {
        let (dram, below) = bytes_in_tiers(Layout::Dense { pages: 4 * PAGES }, kind.name);
        println!(
            "{:8} {dram:6.2} bytes a page in DRAM, {below:6.2} below",
            kind.name
        );
        assert!(dram <= METADATA_BYTES_MAX, "{}: {dram}", kind.name);
        assert!(below <= METADATA_BYTES_BELOW_MAX, "{}: {below}", kind.name);
    }
    let layout = Layout::Dense { pages: ALL };
    let Tiered { dram, kept, .. } = tiered(layout, "s3-fifo", slots::on_file(ALL));
    println!("on disk  {dram:6.2} bytes a page in DRAM, {kept:6.2} more for copies that are kept");
    assert!(kept > 0.5 && kept <= COPIES_BYTES_MAX, "{kept}");
    // Not held to the limit below DRAM, for the index of names is larger than a word; printed.
    let (dram, below) = bytes_in_tiers(Layout::Sparse, "clock");
    println!("sparse   {dram:6.2} bytes a page in DRAM, {below:6.2} below");
    assert!(dram <= METADATA_BYTES_MAX && below < 2.0 * METADATA_BYTES_BELOW_MAX);
}
