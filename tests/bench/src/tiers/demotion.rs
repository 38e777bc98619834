// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How fast pages leave DRAM for the PM file, beside plain writes of the same batches; and what a get
//! of a page in DRAM notices of it.
//!
//! The floor writes batches of as many neighbouring pages as the mover does, to a file beside ours
//! whose room was taken in the same way. It keeps no header and no checksum. As pages that leave DRAM do,
//! its pages come one by one: it gathers them. Beside it stand writes of one buffer, which the processor
//! copies faster than as many pages, and writes that leave the page cache.

use std::fs::File;
use std::io::IoSlice;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::fs::{FallocateFlags, fallocate, fdatasync};
use rustix::io::{Errno, ReadWriteFlags, pwrite, pwritev, pwritev2};
use tmem_frontend::Random;
use tmem_pages::slots::Durability;
use tmem_pages::{Engine, Mover, PAGE_SIZE, Step, Tier};

use super::AREA;
use super::Scale;
use super::stand::{Size, Stand, noise, slot_file};
use crate::floors::per_second;
use crate::pin::{self, Processors};
use crate::row::Compared;
use crate::{Error, Result, Row};

/// Pages that the mover writes at a time.
const BATCH: usize = 256;
/// `RWF_DONTCACHE`, since Linux 6.14.
const DONTCACHE: ReadWriteFlags = ReadWriteFlags::from_bits_retain(0x80);
/// What ought to be reached of the floor.
const GOAL: f64 = 0.7;
/// A demotion of all pages ends sooner.
const DEMOTION_MAX: Duration = Duration::from_secs(20);
/// A hit's p99 may be twice what it is without demotion.
const GOAL_HIT: f64 = 0.5;

/// How a floor writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Pages, through the page cache.
    Pages,
    /// One buffer, through the page cache.
    Buffer,
    /// One buffer; what was written leaves the page cache.
    Uncached,
}

/// Demotion with both durabilities.
pub(super) fn rows(scale: &Scale, folder: &Path) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for durability in [Durability::Process, Durability::Host] {
        rows.extend(demotion(scale, folder, durability)?);
    }
    Ok(rows)
}

/// A stand whose DRAM is full, and has never been demoted from. Pages of it may all become victims.
fn full(path: &Path, pages: u32, durability: Durability) -> Result<Stand> {
    let file = slot_file(path, pages, durability)?;
    let size = Size {
        frames: pages,
        pages,
    };
    let mut stand = Stand::new(size, Some(file))?;
    refill(&mut stand, pages)?;
    Ok(stand)
}

/// Puts all pages in DRAM.
fn refill(stand: &mut Stand, pages: u32) -> Result<()> {
    stand.engine.set_watermarks(0.0, 0.0);
    stand.flush();
    (0..pages).try_for_each(|number| stand.put(number))
}

/// Has the mover want all pages to be copied below, and none to leave DRAM.
fn want_all(stand: &Stand) {
    stand.engine.set_watermarks(0.0, 0.5);
}

fn demotion(scale: &Scale, folder: &Path, durability: Durability) -> Result<Vec<Row>> {
    let host = durability == Durability::Host;
    let pages = if host {
        scale.demoted / 4
    } else {
        scale.demoted
    };
    let path = folder.join("demotion");
    let mut stand = full(&path, pages, durability)?;
    let plain = Floor::new(&folder.join("floor"), pages)?;
    let kept = File::open(&path).map_err(Error::system("open a slot file"))?;
    let [mut ours, mut floor, mut buffer, mut uncached] = [const { Vec::new() }; 4];
    for _ in 0..scale.rounds {
        refill(&mut stand, pages)?;
        fdatasync(&kept).map_err(Error::system("write back"))?;
        want_all(&stand);
        let before = stand.engine.tier(Tier::Pm).map_or(0, |tier| tier.demoted);
        let demoted = |engine: &Engine| {
            let now = engine.tier(Tier::Pm).map_or(0, |tier| tier.demoted);
            now - before
        };
        let start = Instant::now();
        stand.settle_until(|engine| demoted(engine) >= u64::from(pages))?;
        ours.push(per_second(demoted(&stand.engine), start));
        // What the mover does with the page cache when it has nothing else to do.
        stand.settle()?;
        floor.push(plain.pass(Way::Pages, host)?);
        buffer.push(plain.pass(Way::Buffer, host)?);
        uncached.push(plain.pass(Way::Uncached, host)?);
    }
    drop(stand);
    let durable = if host { "host" } else { "process" };
    let sync = if host {
        ", fdatasync after each batch"
    } else {
        ""
    };
    let regime = format!(
        "mover alone until the last page is written, batches of {BATCH} pages, {} MiB; floor: one thread",
        pages / 256
    );
    let row = |what: &str, other: &[f64], goal, way: &str| {
        Compared {
            area: AREA,
            name: format!("demotion to the PM file, durability {durable}{what}"),
            unit: "pages/s",
            ours: &ours,
            other,
            peer: None,
            less: false,
            goal,
            regime: format!("{regime}, {way}{sync}"),
        }
        .row()
    };
    let rows = [
        row("", &floor, Some(GOAL), "pwritev of pages"),
        row(", beside one buffer", &buffer, None, "pwrite of one buffer"),
        row(
            ", beside uncached writes",
            &uncached,
            None,
            "pwritev2 with RWF_DONTCACHE, of one buffer",
        ),
    ];
    for name in ["demotion", "floor"] {
        remove(&folder.join(name))?;
    }
    Ok(rows.into())
}

fn remove(path: &Path) -> Result<()> {
    std::fs::remove_file(path).map_err(Error::system("remove a file that was measured"))
}

/// A file without any order in it, and as many pages in memory: what is written does not come out of
/// a cache, as pages in frames do not.
struct Floor {
    file: File,
    memory: Vec<u8>,
}

impl Floor {
    fn new(path: &Path, pages: u32) -> Result<Self> {
        let failed = "make a file to write to";
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)
            .map_err(Error::system(failed))?;
        let bytes = u64::from(pages) * PAGE_SIZE as u64;
        let flags = FallocateFlags::empty();
        fallocate(&file, flags, 0, bytes).map_err(Error::system(failed))?;
        let memory = (0..pages).flat_map(|_| *noise()).collect();
        Ok(Self { file, memory })
    }

    /// Writes all of the file. Returns the pages a second.
    fn pass(&self, way: Way, sync: bool) -> Result<f64> {
        let failed = Error::system("write to a plain file");
        // What earlier passes wrote is no burden of this one.
        fdatasync(&self.file).map_err(&failed)?;
        let start = Instant::now();
        let mut at = 0;
        for batch in self.memory.chunks(BATCH * PAGE_SIZE) {
            let mut rest = batch;
            while !rest.is_empty() {
                let written = self.write(way, at, rest).map_err(&failed)?;
                at += written as u64;
                rest = &rest[written..];
            }
            if sync {
                fdatasync(&self.file).map_err(&failed)?;
            }
        }
        let pages = (self.memory.len() / PAGE_SIZE) as u64;
        Ok(per_second(pages, start))
    }

    fn write(&self, way: Way, at: u64, batch: &[u8]) -> std::result::Result<usize, Errno> {
        match way {
            Way::Pages => {
                let pages: Vec<_> = batch.chunks(PAGE_SIZE).map(IoSlice::new).collect();
                return pwritev(&self.file, &pages, at);
            }
            Way::Uncached => match pwritev2(&self.file, &[IoSlice::new(batch)], at, DONTCACHE) {
                // Not here: the cached way is all there is.
                Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => {}
                result => return result,
            },
            Way::Buffer => {}
        }
        pwrite(&self.file, batch, at)
    }
}

/// The tail of gets from DRAM, with and without the mover at work on the other processor.
pub(super) fn hits(scale: &Scale, processors: Processors, folder: &Path) -> Result<Vec<Row>> {
    let pages = scale.demoted;
    let path = folder.join("hits");
    let mut stand = full(&path, pages, Durability::Process)?;
    let mut random = Random::new(2);
    let [mut with, mut without] = [const { Vec::new() }; 2];
    let mut rates = Vec::new();
    for _ in 0..scale.rounds {
        refill(&mut stand, pages)?;
        let quiet = tail(&mut stand, &mut random, pages, || true, scale.pass)?;
        want_all(&stand);
        let mover = stand.lend_mover();
        let done = AtomicBool::new(false);
        let start = Instant::now();
        let (busy, rate, mover) = thread::scope(|scope| {
            let at_work = scope.spawn(|| {
                let mover = pin::on(processors.server, || mover.map(demote_all));
                done.store(true, Ordering::Relaxed);
                (mover, per_second(pages.into(), start))
            });
            let goes_on = || !done.load(Ordering::Relaxed);
            let busy = tail(&mut stand, &mut random, pages, goes_on, DEMOTION_MAX);
            let (mover, rate) = at_work.join().expect("the mover does not panic");
            Ok::<_, Error>((busy?, rate, mover?))
        })?;
        stand.return_mover(mover);
        with.push(busy);
        without.push(quiet);
        rates.push(rate);
    }
    drop(stand);
    remove(&path)?;
    let regime = format!(
        "random gets of {} MiB in DRAM, one at a time, each timed; the mover demotes them meanwhile \
         ({:.0} pages/s, durability process) on the other processor",
        pages / 256,
        crate::report::median(&rates)
    );
    let row = Compared {
        area: AREA,
        name: "p99 of a DRAM hit during demotion, beside the same without".to_owned(),
        unit: "us",
        ours: &with,
        other: &without,
        peer: None,
        less: true,
        goal: Some(GOAL_HIT),
        regime,
    };
    Ok(vec![row.row()])
}

fn demote_all(mut mover: Mover) -> Mover {
    while mover.step(false) == Step::Busy {}
    mover
}

/// The p99 of gets, in microseconds, while `goes_on` and for no longer than `time`.
fn tail(
    stand: &mut Stand,
    random: &mut Random,
    pages: u32,
    goes_on: impl Fn() -> bool,
    time: Duration,
) -> Result<f64> {
    let mut histogram = Histogram::<u64>::new(3).expect("three digits are in range");
    let start = Instant::now();
    while goes_on() && start.elapsed() < time {
        for _ in 0..64 {
            let page = random.below(pages);
            let before = Instant::now();
            stand.get(page)?;
            histogram.saturating_record(u64::try_from(before.elapsed().as_nanos()).unwrap_or(0));
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "nanoseconds of one get")]
    let p99 = histogram.value_at_quantile(0.99) as f64;
    Ok(p99 / 1e3)
}
