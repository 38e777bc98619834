// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How fast pages go to a slot file, against plain writes of the same bytes to the same disk, and how
//! fast they are found again.
//!
//! ```text
//! cargo run --release -p tmem-pages --example slot_speed [-- FOLDER [MIB [PAGES_A_BATCH [ROUNDS]]]]
//! ```
//! One thread. The plain file is written by one `pwrite` a batch, and `fdatasync` after it where pages
//! have to survive the host. Both files have their room and have been written before; the two take
//! turns, and each line has the medians of the rounds and the range of the ratios. Without durability
//! there are two figures: until the last call returns, and until all of it is on the disk. The
//! folder's file system and the machine decide the figures: give the one that is to be used.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{Advice, FallocateFlags, fadvise, fallocate, fdatasync};
use tmem_pages::slots::{Durability, PoolEntry, SlotFile, SlotHeader};
use tmem_pages::{
    Epoch, Layout, ObjectId, PAGE_SIZE, PageBytes, PageIndex, PoolId, PoolKind, PoolSpec, Ticket,
};

type Failure = Box<dyn std::error::Error>;

struct Figures {
    returned: Vec<f64>,
    on_disk: Vec<f64>,
}

struct Setup {
    folder: PathBuf,
    slots: u32,
    batch: u32,
    rounds: usize,
    pages: Vec<PageBytes>,
}

fn page(number: u32) -> PageBytes {
    let mut bytes = [0; PAGE_SIZE];
    for (at, word) in (0_u32..).zip(bytes.as_chunks_mut::<4>().0) {
        *word = (number.wrapping_mul(0x9e37_79b9) ^ at.wrapping_mul(0x85eb_ca6b)).to_le_bytes();
    }
    bytes
}

fn header(slot: u32) -> SlotHeader {
    SlotHeader {
        pool_slot: 1,
        pool_serial: 1,
        object: ObjectId::ZERO,
        index: PageIndex(slot),
        ticket: Ticket::MIN,
        checksum: 0,
        flags: 0,
    }
}

fn open(path: &Path) -> Result<File, Failure> {
    let mut options = File::options();
    let options = options.read(true).write(true).create(true).truncate(false);
    Ok(options.open(path)?)
}

fn open_slots(setup: &Setup, durability: Durability) -> Result<SlotFile, Failure> {
    let path = setup.folder.join("slot-speed.slots");
    let file = OwnedFd::from(open(&path)?);
    Ok(SlotFile::open(file, &path, setup.slots, durability)?.0)
}

/// MiB/s of one round of plain writes.
fn plain(setup: &Setup, file: &File, durability: Durability) -> Result<(f64, f64), Failure> {
    let begin = Instant::now();
    let bytes = setup.pages.as_flattened();
    let mut at = 0;
    while at < u64::from(setup.slots) * PAGE_SIZE as u64 {
        file.write_all_at(bytes, at)?;
        if durability == Durability::Host {
            fdatasync(file)?;
        }
        at += bytes.len() as u64;
    }
    let returned = begin.elapsed();
    fdatasync(file)?;
    Ok((rate(setup, returned), rate(setup, begin.elapsed())))
}

/// MiB/s of one round of slots.
fn slots(setup: &Setup, slots: &SlotFile, file: &File) -> Result<(f64, f64), Failure> {
    let begin = Instant::now();
    let headers: Vec<_> = (0..setup.slots).map(header).collect();
    for headers in headers.chunks(setup.batch as usize) {
        let entries = headers.iter().zip(&setup.pages);
        let batch: Vec<_> = entries
            .map(|(header, page)| (header.index.0, header, page))
            .collect();
        slots.write(&batch)?;
    }
    let returned = begin.elapsed();
    fdatasync(file)?;
    Ok((rate(setup, returned), rate(setup, begin.elapsed())))
}

fn rate(setup: &Setup, time: Duration) -> f64 {
    f64::from(setup.slots) * PAGE_SIZE as f64 / f64::from(1 << 20) / time.as_secs_f64()
}

fn median(figures: &mut [f64]) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}

fn writes(setup: &Setup, durability: Durability) -> Result<(), Failure> {
    let plain_path = setup.folder.join("slot-speed.plain");
    let plain_file = open(&plain_path)?;
    let bytes = u64::from(setup.slots) * PAGE_SIZE as u64;
    fallocate(&plain_file, FallocateFlags::empty(), 0, bytes)?;
    let file = open_slots(setup, durability)?;
    let same = open(&setup.folder.join("slot-speed.slots"))?;
    let all: Vec<u32> = (0..setup.slots).collect();
    let new = || Figures {
        returned: Vec::new(),
        on_disk: Vec::new(),
    };
    let (mut floor, mut ours, mut ratios) = (new(), new(), new());
    let mut emptied = Vec::new();
    for round in 0..=setup.rounds {
        let begin = Instant::now();
        for some in all.chunks(setup.batch as usize) {
            file.invalidate(some)?;
        }
        emptied.push(begin.elapsed().as_secs_f64() * 1e6 / f64::from(setup.slots));
        fdatasync(&same)?;
        let plain = plain(setup, &plain_file, durability)?;
        let slots = slots(setup, &file, &same)?;
        if round > 0 {
            for (figures, pair) in [
                (&mut floor, plain),
                (&mut ours, slots),
                (&mut ratios, (slots.0 / plain.0, slots.1 / plain.1)),
            ] {
                figures.returned.push(pair.0);
                figures.on_disk.push(pair.1);
            }
        }
        fadvise(&plain_file, 0, None, Advice::DontNeed)?;
    }
    let name = match durability {
        Durability::Process => "process",
        Durability::Host => "host",
    };
    let line = |what: &str, floor: &mut [f64], ours: &mut [f64], ratios: &mut [f64]| {
        let (floor, ours, ratio) = (median(floor), median(ours), median(ratios));
        let (least, most) = (ratios.first().copied(), ratios.last().copied());
        println!(
            "{name:8} {what:20} plain {floor:6.0} MiB/s   slots {ours:6.0} MiB/s   {:.2} ({:.2} to {:.2})",
            ratio,
            least.unwrap_or(f64::NAN),
            most.unwrap_or(f64::NAN),
        );
    };
    line(
        "until it returns",
        &mut floor.returned,
        &mut ours.returned,
        &mut ratios.returned,
    );
    if durability == Durability::Process {
        line(
            "until it is on disk",
            &mut floor.on_disk,
            &mut ours.on_disk,
            &mut ratios.on_disk,
        );
    }
    emptied.remove(0);
    println!("{name:8} empty slots: {:.2} us each", median(&mut emptied));
    std::fs::remove_file(plain_path)?;
    Ok(())
}

fn scans(setup: &Setup) -> Result<(), Failure> {
    let file = open_slots(setup, Durability::Host)?;
    let spec = PoolSpec {
        kind: PoolKind::Persistent,
        layout: Layout::Dense { pages: setup.slots },
    };
    let entry = PoolEntry {
        guest: "guest".into(),
        guest_serial: 1,
        epoch: Epoch([1; 16]),
        grant_pages: setup.slots,
        pool: PoolId(1),
        pool_serial: 1,
        spec,
    };
    file.put_pool(1, &entry)?;
    drop(file);
    let gib = f64::from(setup.slots) * PAGE_SIZE as f64 / f64::from(1 << 30);
    for cache in ["cold", "warm"] {
        if cache == "cold" {
            let file = open(&setup.folder.join("slot-speed.slots"))?;
            fdatasync(&file)?;
            fadvise(&file, 0, None, Advice::DontNeed)?;
        }
        let begin = Instant::now();
        let file = open_slots(setup, Durability::Host)?;
        let opened = begin.elapsed();
        let report = file.scan(&mut |_, _| {}, &mut |_, _| {})?;
        let all = begin.elapsed();
        println!(
            "scan, {cache} cache: {} pages, opened in {:.1} ms, {:.1} ms per GiB of pages in all",
            report.pages,
            opened.as_secs_f64() * 1e3,
            all.as_secs_f64() * 1e3 / gib,
        );
        if cache == "warm" {
            let mut page = [0; PAGE_SIZE];
            let begin = Instant::now();
            let reads = 20_000.min(setup.slots);
            for number in 0..reads {
                file.read(number.wrapping_mul(0x9e37_79b1) % setup.slots, &mut page)?;
            }
            let each = begin.elapsed().as_secs_f64() * 1e6 / f64::from(reads);
            println!("read of a page that is not cached: {each:.1} us in the mean");
        }
    }
    Ok(())
}

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments
        .next()
        .map_or_else(std::env::temp_dir, PathBuf::from);
    let mib: u32 = arguments.next().map_or(Ok(1024), |text| text.parse())?;
    let batch: u32 = arguments.next().map_or(Ok(256), |text| text.parse())?;
    let rounds = arguments.next().map_or(Ok(5), |text| text.parse())?;
    let slots = (mib * 256).next_multiple_of(batch);
    let setup = Setup {
        folder,
        slots,
        batch,
        rounds,
        pages: (0..batch).map(page).collect(),
    };
    let slots_path = setup.folder.join("slot-speed.slots");
    if slots_path.exists() {
        std::fs::remove_file(&slots_path)?;
    }
    let mode = open_slots(&setup, Durability::Process)?.mode();
    println!(
        "{} pages in batches of {batch}, {rounds} rounds, slots on {mode}",
        setup.slots
    );
    writes(&setup, Durability::Process)?;
    writes(&setup, Durability::Host)?;
    scans(&setup)?;
    std::fs::remove_file(slots_path)?;
    Ok(())
}
