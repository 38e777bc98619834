// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Frames come in huge pages, where the kernel has some, and go back to it as before.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::fs;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::fstat;
use tmem_pages::{
    Engine, EngineConfig, EngineFiles, FlushResult, GetMode, GetResult, GuestConfig, Layout, Mover,
    ObjectId, PAGE_SIZE, PageBytes, PageIndex, Pool, PoolId, PoolKind, PoolSpec, PutResult, Step,
    Ticket, Tier, Worker,
};

const FRAMES: u32 = 8192;
const HUGE_PAGES: u64 = 512;

struct House {
    engine: Arc<Engine>,
    worker: Worker,
    pool: Arc<Pool>,
    mover: Mover,
    files: EngineFiles,
    /// How many windows the mover says that it has gathered.
    gathered: u64,
}

impl House {
    fn new() -> Self {
        let files = EngineFiles::anonymous().unwrap();
        let config = EngineConfig {
            frames: FRAMES,
            workers_max: 2,
            guests_max: 1,
        };
        let (engine, _) = Engine::open(config, files.try_clone().unwrap()).unwrap();
        let name = "guest".into();
        let grant_pages = 100;
        let guest = engine
            .attach_guest(GuestConfig { name, grant_pages })
            .unwrap();
        // What is beyond the grant is not refused as long as it is ephemeral.
        let spec = PoolSpec {
            kind: PoolKind::Ephemeral,
            layout: Layout::Dense { pages: FRAMES },
        };
        Self {
            pool: guest.create_pool(PoolId(0), spec).unwrap(),
            worker: engine.worker().unwrap(),
            mover: engine.mover(Box::new(|| {})).unwrap(),
            engine,
            files,
            gathered: 0,
        }
    }

    fn put(&mut self, number: u32, version: u32) {
        let (index, ticket) = (PageIndex(number), Ticket::new(u64::from(version)).unwrap());
        let page = page(number, version);
        let put = (self.worker).put(&self.pool, ObjectId::ZERO, index, ticket, &page);
        assert_eq!(put, PutResult::Stored, "page {number}");
    }

    fn check(&mut self, number: u32, version: u32) {
        let mut into = [0; PAGE_SIZE];
        let index = PageIndex(number);
        let mode = GetMode::Copy;
        let got = (self.worker).get(&self.pool, ObjectId::ZERO, index, mode, &mut into);
        assert_eq!(got, GetResult::Hit, "page {number}");
        assert_eq!(into, page(number, version), "page {number}");
    }

    fn flush(&mut self, number: u32) {
        let (index, ticket) = (PageIndex(number), Ticket::MAX);
        let flushed = (self.worker).flush_page(&self.pool, ObjectId::ZERO, index, ticket);
        assert_eq!(flushed, FlushResult::Flushed, "page {number}");
    }

    fn let_the_mover_work(&mut self, idle: bool) {
        while self.mover.step(idle) == Step::Busy {
            self.gathered += 1;
        }
    }

    /// 4 KiB blocks of memory that the frames take.
    fn blocks(&self) -> u64 {
        u64::try_from(fstat(&self.files.frames).unwrap().st_blocks).unwrap() / 8
    }
}

fn page(number: u32, version: u32) -> PageBytes {
    let mut page = [3; PAGE_SIZE];
    page[..4].copy_from_slice(&number.to_le_bytes());
    page[PAGE_SIZE - 4..].copy_from_slice(&version.to_le_bytes());
    page
}

/// Of the frames, what this process has mapped as huge pages, in 4 KiB.
fn mapped_huge() -> u64 {
    let maps = fs::read_to_string("/proc/self/smaps").unwrap();
    let of_frames = (maps.lines()).skip_while(|line| !line.contains("memfd:tmem-frames"));
    let mut fields = of_frames.filter_map(|line| line.strip_prefix("ShmemPmdMapped:"));
    let kilobytes = fields.next().unwrap().trim().trim_end_matches(" kB");
    kilobytes.parse::<u64>().unwrap() / 4
}

/// Why this machine cannot be asked for huge pages.
fn cannot() -> Option<String> {
    if !Path::new("/sys/kernel/mm/transparent_hugepage").exists() {
        return Some("the kernel has no transparent huge pages".into());
    }
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split('.').map_while(|part| part.parse().ok());
    let version: (u32, u32) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version < (6, 1) {
        return Some(format!("Linux {} gathers none on request", release.trim()));
    }
    let shared = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/shmem_enabled");
    if shared.is_ok_and(|modes| modes.contains("[deny]")) {
        return Some("huge pages are denied to shared memory (shmem_enabled)".into());
    }
    let free = free_huge_pages().filter(|free| *free < 64)?;
    Some(format!("only {free} huge pages are free in one piece"))
}

/// Huge pages that are free now, if the kernel tells: the last columns are blocks of 2 and 4 MiB.
fn free_huge_pages() -> Option<u64> {
    let zones = fs::read_to_string("/proc/buddyinfo").ok()?;
    let of_zone = |zone: &str| {
        let mut columns = zone.split_whitespace().rev();
        let mut blocks = || columns.next()?.parse::<u64>().ok();
        Some(2 * blocks()? + blocks()?)
    };
    zones.lines().map(of_zone).sum()
}

#[test]
fn frames_come_in_huge_pages_and_go_back() {
    if let Some(reason) = cannot() {
        println!("skipped: {reason}");
        return;
    }
    let mut house = House::new();
    for number in 0..1000 {
        house.put(number, 1);
        house.let_the_mover_work(false);
    }
    assert_eq!(house.gathered, 3, "windows of the first 1000 frames");
    assert_eq!(mapped_huge(), 3 * HUGE_PAGES);
    assert_eq!(house.blocks(), 3 * HUGE_PAGES);
    (0..1000).for_each(|number| house.check(number, 1));

    // The mover does not come along: pages come one by one, and are gathered when nothing else happens.
    for number in 1000..4000 {
        house.put(number, 1);
    }
    assert!(house.blocks() < 4000 + 2 * HUGE_PAGES);
    house.let_the_mover_work(true);
    assert_eq!(house.gathered, 8);
    assert_eq!(mapped_huge(), 8 * HUGE_PAGES);
    (0..4000).for_each(|number| house.check(number, 1));

    // Memory goes back as frames are taken out of use, though huge pages are broken for it.
    (2000..4000).for_each(|number| house.flush(number));
    (house.engine.resize_tier(Tier::Dram, 2048)).unwrap();
    house.let_the_mover_work(true);
    assert!(house.blocks() < 3000, "{} blocks are left", house.blocks());
    (0..2000).for_each(|number| house.check(number, 1));

    // And it comes again.
    (house.engine.resize_tier(Tier::Dram, FRAMES.into())).unwrap();
    for number in 1000..6000 {
        house.put(number, 2);
    }
    house.let_the_mover_work(true);
    assert!(mapped_huge() >= 9 * HUGE_PAGES);
    (0..1000).for_each(|number| house.check(number, 1));
    (1000..6000).for_each(|number| house.check(number, 2));
    house.engine.self_check();
}
