// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Readers and writers of one disk at the same time: no sector that is read may be older than what
//! was acknowledged, or read, before the read began.
//!
//! Writers have areas of their own, so that a sector has one writer at a time; besides writing blocks
//! they write single sectors, zero and discard ranges, and flush. Readers read anywhere. With
//! `--direct 1` all of them go past the page cache, with memory that begins at a page or not; with
//! `--direct 0` all go through it, and one thread keeps dropping it. The page cache lets a read pass a write
//! half-way: then a sector may be of several versions, but of none that is too old.

use crate::options::Options;
use crate::pattern::Words;
use crate::report::{Report, elapsed_ms};
use crate::stamps::{self, Content, Ledger, SECTOR, SECTORS_PER_BLOCK};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const BLKDISCARD: u64 = 0x1277;
const BLKZEROOUT: u64 = 0x127f;
/// Sectors of an area with one writer.
const AREA: u64 = 64 * SECTORS_PER_BLOCK;
/// The most sectors of one request.
const MOST: u64 = AREA;
const MOST_BYTES: usize = 64 * 4096;
const _: () = assert!(MOST_BYTES as u64 == MOST * SECTOR as u64);
/// So many wrong sectors are told of.
const TOLD: u64 = 10;

/// Memory for one request, aligned to a page.
struct Buffer {
    bytes: Vec<u8>,
    start: usize,
}

impl Buffer {
    fn new() -> Self {
        let bytes = vec![0; MOST_BYTES + 2 * 4096];
        let start = bytes.as_ptr().align_offset(4096);
        Self { bytes, start }
    }

    /// `sectors` sectors, `offset` bytes behind a page's start.
    fn part(&mut self, offset: usize, sectors: u64) -> &mut [u8] {
        let start = self.start + offset;
        let length = usize::try_from(sectors).map_or(0, |sectors| sectors * SECTOR);
        &mut self.bytes[start..start + length]
    }
}

struct Run<'a> {
    file: File,
    ledger: &'a Ledger,
    seed: u64,
    sectors: u64,
    direct: bool,
    over: &'a AtomicBool,
    checked: &'a AtomicU64,
    mismatches: &'a AtomicU64,
    torn: &'a AtomicU64,
}

impl Run<'_> {
    fn write(&self, buffer: &mut [u8], sector: u64) -> Result<(), String> {
        let version = self.ledger.next_version();
        for nth in 0..(buffer.len() / SECTOR) as u64 {
            self.ledger.begin(sector + nth, version);
        }
        for (nth, bytes) in (0..).zip(buffer.chunks_exact_mut(SECTOR)) {
            stamps::fill(bytes, self.seed, sector + nth, version);
        }
        self.file
            .write_all_at(buffer, sector * SECTOR as u64)
            .map_err(|error| format!("cannot write at sector {sector}: {error}"))?;
        for nth in 0..(buffer.len() / SECTOR) as u64 {
            self.ledger.raise(sector + nth, version);
        }
        Ok(())
    }

    /// Zeroes or discards a range; what is read after a discard is anybody's guess until the next write.
    fn wipe(&self, request: u64, sector: u64, sectors: u64) -> Result<(), String> {
        let version = self.ledger.next_version();
        for nth in 0..sectors {
            self.ledger.zeroing(sector + nth, version);
        }
        let range = [sector * SECTOR as u64, sectors * SECTOR as u64];
        // SAFETY: both requests read two 64-bit numbers.
        let result = unsafe { libc::ioctl(self.file.as_raw_fd(), request, range.as_ptr()) };
        if result < 0 {
            return Err(format!(
                "cannot wipe from sector {sector} on: {}",
                io::Error::last_os_error()
            ));
        }
        if request == BLKZEROOUT {
            for nth in 0..sectors {
                self.ledger.raise(sector + nth, version);
            }
        }
        Ok(())
    }

    fn read_and_check(&self, buffer: &mut [u8], sector: u64) -> Result<(), String> {
        let count = (buffer.len() / SECTOR) as u64;
        let known = |at| [self.ledger.floor(at), self.ledger.begun(at)];
        let before: Vec<[u64; 2]> = (sector..sector + count).map(known).collect();
        self.file
            .read_exact_at(buffer, sector * SECTOR as u64)
            .map_err(|error| format!("cannot read at sector {sector}: {error}"))?;
        for ((at, bytes), before) in (sector..).zip(buffer.chunks_exact(SECTOR)).zip(before) {
            let likely = [before, known(at)];
            let [floor, _] = before;
            let newest = self.ledger.newest();
            let content = stamps::look(bytes, self.seed, at, newest, likely.as_flattened());
            if matches!(content, Content::Torn { .. }) {
                self.torn.fetch_add(1, Ordering::Relaxed);
            }
            if !self.ledger.allows(at, floor, content, !self.direct) {
                let told = self.mismatches.fetch_add(1, Ordering::Relaxed);
                if told < TOLD {
                    eprintln!(
                        "sector {at} holds {content:?}; before it was read [floor, begun] were {before:?}, now \
                         {:?}; its bytes: {}",
                        known(at),
                        stamps::hexadecimal(bytes)
                    );
                }
            }
        }
        self.checked
            .fetch_add(count / SECTORS_PER_BLOCK, Ordering::Relaxed);
        Ok(())
    }

    /// Reads until enough was checked, and for as long as `end` is to come.
    fn reader(&self, nth: u64, wanted: u64, end: Instant) -> Result<(), String> {
        let mut random = Words::of_seed(self.seed ^ (nth + 1) << 8);
        let mut buffer = Buffer::new();
        while self.checked.load(Ordering::Relaxed) < wanted || Instant::now() < end {
            // Mostly single blocks and what readahead asks for; now and then what is aligned to nothing.
            let (mut sector, mut count) = match random.below(8) {
                0..=3 => (random.below(self.sectors), SECTORS_PER_BLOCK),
                4..=5 => (random.below(self.sectors), 32 * SECTORS_PER_BLOCK),
                _ => (random.below(self.sectors), 1 + random.below(MOST)),
            };
            let aligned = !self.direct || random.below(8) != 0;
            if aligned {
                sector -= sector % SECTORS_PER_BLOCK;
                count = count.next_multiple_of(SECTORS_PER_BLOCK);
            }
            count = count.min(self.sectors - sector);
            let offset = if random.below(8) == 0 { SECTOR } else { 0 };
            self.read_and_check(buffer.part(offset, count), sector)?;
        }
        Ok(())
    }

    /// Writes to its own areas until told otherwise.
    fn writer(&self, nth: u64, writers: u64, pause: Duration) -> Result<u64, String> {
        let mut random = Words::of_seed(self.seed ^ (nth + 1) << 24);
        let mut buffer = Buffer::new();
        let areas = self.sectors / AREA / writers;
        let mut writes = 0;
        while !self.over.load(Ordering::Relaxed) {
            let area = (random.below(areas) * writers + nth) * AREA;
            let block = random.below(AREA / SECTORS_PER_BLOCK);
            let blocks = 1 + random.below((AREA / SECTORS_PER_BLOCK - block).min(16));
            let (sector, count) = (area + block * SECTORS_PER_BLOCK, blocks * SECTORS_PER_BLOCK);
            match random.below(16) {
                0 => self.wipe(BLKZEROOUT, sector, count)?,
                1 => {
                    self.wipe(BLKDISCARD, sector, count)?;
                    self.write(buffer.part(0, count), sector)?;
                }
                2..=3 if self.direct => {
                    // Sectors of a block, or of two.
                    let sector = area + random.below(AREA - 16);
                    self.write(buffer.part(SECTOR, 1 + random.below(12)), sector)?;
                }
                4 => self
                    .file
                    .sync_data()
                    .map_err(|error| format!("cannot flush: {error}"))?,
                _ => self.write(buffer.part(0, count), sector)?,
            }
            writes += 1;
            std::thread::sleep(pause);
        }
        Ok(writes)
    }

    /// Keeps the page cache from answering everything.
    fn dropper(&self) -> Result<u64, String> {
        let mut drops = 0;
        while !self.over.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(50));
            self.file
                .sync_data()
                .map_err(|error| format!("cannot flush: {error}"))?;
            // SAFETY: it only takes numbers.
            unsafe { libc::posix_fadvise(self.file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
            drops += 1;
        }
        Ok(drops)
    }
}

fn open(path: &str, direct: bool, write: bool) -> Result<File, String> {
    let flags = if direct { libc::O_DIRECT } else { 0 };
    OpenOptions::new()
        .read(true)
        .write(write)
        .custom_flags(flags)
        .open(path)
        .map_err(|error| format!("cannot open {path}: {error}"))
}

/// `tmem-workload disk --path DISK --mib 32 --seed 7 --blocks 100000 [--direct 1] [--readers 3]
/// [--writers 2] [--pause-us 500] [--least-ms 0]`
pub(crate) fn run(options: &Options) -> Result<Report, String> {
    let path: String = options.required("path")?;
    let sectors = options.required::<u64>("mib")? << 11;
    let seed = options.required("seed")?;
    let wanted: u64 = options.required("blocks")?;
    let direct = options.number("direct", 1u8)? != 0;
    let readers: u64 = options.number("readers", 3)?;
    let writers: u64 = options.number("writers", 2)?;
    let pause = Duration::from_micros(options.number("pause-us", 500)?);
    let least = Duration::from_millis(options.number("least-ms", 0)?);
    if sectors / AREA < writers || writers == 0 {
        return Err("the disk is too small for so many writers".to_owned());
    }

    let ledger = Ledger::new(sectors);
    let over = AtomicBool::new(false);
    let [checked, mismatches, torn] = [const { AtomicU64::new(0) }; 3];
    let new = || -> Result<Run<'_>, String> {
        Ok(Run {
            file: open(&path, direct, true)?,
            ledger: &ledger,
            seed,
            sectors,
            direct,
            over: &over,
            checked: &checked,
            mismatches: &mismatches,
            torn: &torn,
        })
    };
    let first = new()?;
    let mut buffer = Buffer::new();
    for sector in (0..sectors).step_by(MOST_BYTES / SECTOR) {
        first.write(buffer.part(0, MOST.min(sectors - sector)), sector)?;
    }
    let start = Instant::now();
    let end = start + least;
    let (mut writes, mut drops) = (0, 0);
    std::thread::scope(|scope| -> Result<(), String> {
        let mut reading = Vec::new();
        for nth in 0..readers {
            let run = new()?;
            reading.push(scope.spawn(move || run.reader(nth, wanted, end)));
        }
        let mut others = Vec::new();
        for nth in 0..writers {
            let run = new()?;
            others.push(scope.spawn(move || run.writer(nth, writers, pause)));
        }
        let dropper = if direct {
            None
        } else {
            let run = new()?;
            Some(scope.spawn(move || run.dropper()))
        };
        let ended = |_| "a thread panicked".to_owned();
        let mut result = Ok(());
        for reader in reading {
            result = result.and(reader.join().map_err(ended)?);
        }
        over.store(true, Ordering::Relaxed);
        for writer in others {
            writes += writer.join().map_err(ended)??;
        }
        if let Some(dropper) = dropper {
            drops = dropper.join().map_err(ended)??;
        }
        result
    })?;
    let read_ms = elapsed_ms(start);
    // All of it once more, now that nobody writes: what is there is the last version.
    for sector in (0..sectors).step_by(MOST_BYTES / SECTOR) {
        first.read_and_check(buffer.part(0, MOST.min(sectors - sector)), sector)?;
    }
    let mut report = Report::default();
    report.mismatches = mismatches.into_inner();
    report.count("blocks", checked.into_inner());
    report.count("torn", torn.into_inner());
    report.count("writes", writes);
    report.count("cache_drops", drops);
    report.count("read_ms", read_ms);
    Ok(report)
}

/// `tmem-workload reads --path FILE --mib 64 --seed 7 --count 4000 --kib 4 [--order random] [--direct 1]`:
/// the time that reads take.
pub(crate) fn reads(options: &Options) -> Result<Report, String> {
    let path: String = options.required("path")?;
    let sectors = options.required::<u64>("mib")? << 11;
    let count: u64 = options.required("count")?;
    let length = options.required::<u64>("kib")? * 2;
    let direct = options.number("direct", 1u8)? != 0;
    let random = options.text("order").unwrap_or("random") == "random";
    if length == 0 || length > MOST || length > sectors {
        return Err("--kib is out of range".to_owned());
    }
    let file = open(&path, direct, false)?;
    let mut words = Words::of_seed(options.required("seed")?);
    let mut buffer = Buffer::new();
    let mut times = Vec::new();
    let start = Instant::now();
    for nth in 0..count {
        let slot = if random {
            words.below(sectors / length)
        } else {
            nth % (sectors / length)
        };
        let begin = Instant::now();
        file.read_exact_at(buffer.part(0, length), slot * length * SECTOR as u64)
            .map_err(|error| format!("cannot read: {error}"))?;
        times.push(begin.elapsed());
    }
    let total = elapsed_ms(start);
    times.sort_unstable();
    let at = |share: usize| {
        let time = times.get(times.len() * share / 100).copied();
        u64::try_from(time.unwrap_or_default().as_micros()).unwrap_or(u64::MAX)
    };
    let mut report = Report::default();
    report.count("reads", count);
    report.count("elapsed_ms", total);
    report.count("kib_per_s", count * length / 2 * 1000 / total.max(1));
    report.count("p50_us", at(50));
    report.count("p99_us", at(99));
    Ok(report)
}
