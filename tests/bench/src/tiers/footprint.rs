// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What size costs: gets of many real pages, and the index alone with many more.
//!
//! More pages than caches and translation buffers cover cost any program more, so gets are held
//! against copies of random pages in memory of the same two sizes: the ratio of ratios is what the
//! engine itself loses. Real pages lie in shared memory of small pages; so does the copies' memory,
//! unless the kernel gives huge ones to whoever does not ask, which the row says.

use std::hint::black_box;
use std::time::Duration;

use tmem_abi::PAGE_SIZE;
use tmem_frontend::Random;
use tmem_pages::{
    CopyFault, Engine, EngineConfig, GetMode, GetResult, GuestConfig, Layout, ObjectId, PageBytes,
    PageIndex, PageSink, Pool, PoolId, PoolKind, PoolSpec, PutResult, Step, Ticket, Worker,
};

use super::AREA;
use super::Scale;
use super::stand::{Size, Stand, rate};
use crate::row::Compared;
use crate::{Error, Result, Row};

/// Of the engine's own loss.
const GOAL_GETS: f64 = 0.8;
/// Of the index.
const GOAL_INDEX: f64 = 0.6;
/// Pages of a request: a page fault's, and a batch's, whose pages are looked ahead for.
const REQUESTS: [usize; 2] = [1, 32];
/// Memory that is left to others, in KiB.
const SPARE_KIB: u64 = 1 << 20;
/// Frames that a map for a very large pool must have, of which hardly any is used.
const FRAMES_LARGE: u32 = 1 << 23;

/// Gets of real pages.
pub(super) fn gets(scale: &Scale) -> Result<Vec<Row>> {
    let [few, many] = scale.real;
    let name = |batch: usize| {
        let how = match batch {
            1 => "one a request".to_owned(),
            _ => format!("{batch} a request"),
        };
        format!("get of random pages among {many}, beside {few}, {how}")
    };
    // The pages of both engines, their metadata, and the memory to copy in.
    let needed = u64::from(few + 2 * many) * 4 + SPARE_KIB;
    let free = available_kib();
    if free < needed {
        let why = format!(
            "skipped: needs {} MiB, free are {}",
            needed >> 10,
            free >> 10
        );
        let rows = REQUESTS.map(|batch| AREA.note(name(batch), "ratio", 0.0, why.clone()));
        return Ok(rows.into());
    }
    let mut engines = [few, many].map(|pages| {
        let size = Size {
            frames: pages,
            pages,
        };
        let pm = tmem_pages::slots::SlotFile::memory(1)
            .map_err(Error::other("make a file of memory"))?;
        let mut stand = Stand::new(size, Some(pm))?;
        stand.engine.set_watermarks(0.0, 0.0);
        (0..pages).try_for_each(|number| stand.put(number))?;
        Ok::<_, Error>((stand, pages))
    });
    let memory = vec![1_u8; many as usize * PAGE_SIZE];
    let mut random = Random::new(3);
    let mut engine = [const { [const { Vec::new() }; 2] }; REQUESTS.len()];
    let mut copies = [const { Vec::new() }; 2];
    for _ in 0..scale.rounds {
        for (at, stand) in engines.iter_mut().enumerate() {
            let (stand, pages) = match stand {
                Ok((stand, pages)) => (stand, *pages),
                Err(_) => break,
            };
            for (rates, batch) in engine.iter_mut().zip(REQUESTS) {
                rates[at].push(stand.random_gets(&mut random, pages, batch, scale.pass)?);
            }
            copies[at].push(copy_rate(&memory, pages, &mut random, scale.pass)?);
        }
    }
    for stand in engines {
        drop(stand?);
    }
    let kept = |of: &[Vec<f64>; 2]| -> Vec<f64> {
        let pairs = of[0].iter().zip(&of[1]);
        pairs.map(|(few, many)| many / few).collect()
    };
    let middle = |of: &[f64]| crate::report::median(of);
    let row = |(engine, batch): (&[Vec<f64>; 2], usize)| {
        let regime = format!(
            "one thread, {} and {} MiB: gets {:.0} and {:.0} pages/s, copies {:.0} and {:.0}; floor: the \
         share that plain copies keep; transparent huge pages: {}",
            few >> 8,
            many >> 8,
            middle(&engine[0]),
            middle(&engine[1]),
            middle(&copies[0]),
            middle(&copies[1]),
            huge_pages(),
        );
        let row = Compared {
            area: AREA,
            name: name(batch),
            unit: "share kept",
            ours: &kept(engine),
            other: &kept(&copies),
            peer: None,
            less: false,
            goal: Some(GOAL_GETS),
            regime,
        };
        row.row()
    };
    Ok(engine.iter().zip(REQUESTS).map(row).collect())
}

/// Copies of random pages a second, out of the first `pages` of some memory.
fn copy_rate(memory: &[u8], pages: u32, random: &mut Random, time: Duration) -> Result<f64> {
    let mut page = [0; PAGE_SIZE];
    rate(time, || {
        let at = random.below(pages) as usize * PAGE_SIZE;
        page.copy_from_slice(&memory[at..at + PAGE_SIZE]);
        black_box(&page);
        Ok(())
    })
}

/// When the kernel gives huge pages to memory that did not ask for them.
fn huge_pages() -> String {
    let text = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled");
    let text = text.unwrap_or_default();
    let chosen = text.split(['[', ']']).nth(1);
    chosen.unwrap_or("unknown").to_owned()
}

/// Memory that can be had, in KiB.
fn available_kib() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("MemAvailable"));
    let word = line.and_then(|line| line.split_whitespace().nth(1));
    word.and_then(|word| word.parse().ok()).unwrap_or(0)
}

/// Takes no bytes.
struct Nothing;

impl PageSink for Nothing {
    fn write_from(&mut self, page: &PageBytes) -> std::result::Result<(), CopyFault> {
        black_box(page);
        Ok(())
    }
}

/// An index of so many entries, with pages of one repeated byte, which have no body.
struct Index {
    worker: Worker,
    pool: std::sync::Arc<Pool>,
    entries: u32,
    ticket: u64,
    engine: std::sync::Arc<Engine>,
}

impl Index {
    fn new(entries: u32) -> Result<Self> {
        let failed = "make an engine with a very large pool";
        let config = EngineConfig {
            frames: FRAMES_LARGE,
            workers_max: 2,
            guests_max: 1,
        };
        let engine = Engine::new(config).map_err(Error::other(failed))?;
        engine.allow_overcommit(true);
        let config = GuestConfig {
            name: "guest".into(),
            grant_pages: entries.into(),
        };
        let guest = engine.attach_guest(config).map_err(Error::other(failed))?;
        let spec = PoolSpec {
            kind: PoolKind::Persistent,
            layout: Layout::Dense { pages: entries },
        };
        let pool = guest.create_pool(PoolId(0), spec);
        let mut index = Self {
            worker: engine.worker().map_err(Error::other(failed))?,
            pool: pool.map_err(Error::other(failed))?,
            entries,
            ticket: 1,
            engine,
        };
        (0..entries).try_for_each(|number| index.insert(number))?;
        // As in the daemon: when there is nothing else to do, the words go to huge pages.
        let mover = index.engine.mover(Box::new(|| {}));
        let mut mover = mover.map_err(Error::other(failed))?;
        while mover.step(true) == Step::Busy {}
        Ok(index)
    }

    fn insert(&mut self, number: u32) -> Result<()> {
        let ticket = Ticket::new(self.ticket).unwrap_or(Ticket::MAX);
        let index = PageIndex(number);
        let put = (self.worker).put(&self.pool, ObjectId::ZERO, index, ticket, &[9; PAGE_SIZE]);
        expect(put == PutResult::SameFilled, put)
    }

    fn look_up(&mut self, number: u32) -> Result<()> {
        let index = PageIndex(number);
        let mode = GetMode::Copy;
        let got = (self.worker).get(&self.pool, ObjectId::ZERO, index, mode, &mut Nothing);
        expect(got == GetResult::HitSameFilled, got)
    }

    /// What a worker does before each page of a request.
    fn look_ahead(&self, nth: u32, request: &[u32]) {
        let count = u32::try_from(request.len()).unwrap_or(u32::MAX);
        let index = |nth: u32| PageIndex(request[nth as usize]);
        self.worker.look_ahead(&self.pool, (nth, count), index);
    }

    /// Lookups of random entries a second, so many a request.
    fn lookups(&mut self, random: &mut Random, batch: usize, time: Duration) -> Result<f64> {
        let entries = self.entries;
        let mut request = vec![0; batch];
        let requests = rate(time, || {
            request.fill_with(|| random.below(entries));
            for (nth, number) in (0..).zip(&request) {
                self.look_ahead(nth, &request);
                self.look_up(*number)?;
            }
            Ok(())
        })?;
        #[expect(clippy::cast_precision_loss, reason = "pages of a request")]
        Ok(requests * batch as f64)
    }

    /// Inserts of random entries a second, which were flushed before, so many a request.
    fn inserts(&mut self, random: &mut Random, batch: usize, count: u32) -> Result<f64> {
        let gone: Vec<u32> = (0..count).map(|_| random.below(self.entries)).collect();
        self.ticket += 1;
        let ticket = Ticket::new(self.ticket).unwrap_or(Ticket::MAX);
        for number in &gone {
            let index = PageIndex(*number);
            (self.worker).flush_page(&self.pool, ObjectId::ZERO, index, ticket);
        }
        let start = std::time::Instant::now();
        for request in gone.chunks(batch) {
            for (nth, number) in (0..).zip(request) {
                self.look_ahead(nth, request);
                self.insert(*number)?;
            }
        }
        Ok(crate::floors::per_second(count.into(), start))
    }
}

fn expect(right: bool, answer: impl std::fmt::Debug) -> Result<()> {
    if right {
        return Ok(());
    }
    Err(Error::Refused {
        what: "the engine",
        answer: format!("{answer:?}"),
    })
}

/// The index alone.
pub(super) fn index(scale: &Scale) -> Result<Vec<Row>> {
    let [few, many] = scale.entries;
    let mut indexes = [Index::new(few)?, Index::new(many)?];
    let mut random = Random::new(4);
    let mut lookups = [const { [const { Vec::new() }; 2] }; REQUESTS.len()];
    let mut inserts = [const { [const { Vec::new() }; 2] }; REQUESTS.len()];
    // Written to: memory that is only read is one page of zeroes, over and over.
    let mut words = vec![1_u32; 2 * many as usize];
    words.fill(black_box(0));
    let mut reads = [const { Vec::new() }; 2];
    for _ in 0..scale.rounds {
        for (at, index) in indexes.iter_mut().enumerate() {
            for (nth, batch) in REQUESTS.into_iter().enumerate() {
                lookups[nth][at].push(index.lookups(&mut random, batch, scale.pass)?);
                inserts[nth][at].push(index.inserts(&mut random, batch, scale.inserts)?);
            }
            reads[at].push(word_rate(&words, index.entries, &mut random, scale.pass)?);
        }
    }
    let [few_reads, many_reads] = reads.each_ref().map(|rates| crate::report::median(rates));
    let all = [("lookups", &lookups), ("inserts", &inserts)];
    let all = all.iter().flat_map(|(what, rates)| {
        let rates = rates.iter().zip(REQUESTS);
        rates.map(move |(rates, batch)| (what, batch, rates))
    });
    let rows = all.map(|(what, batch, rates)| {
        let row = Compared {
            area: AREA,
            name: format!(
                "index: random {what} among {many} entries, beside {few}, {batch} a request"
            ),
            unit: "1/s",
            ours: &rates[1],
            other: &rates[0],
            peer: None,
            less: false,
            goal: Some(GOAL_INDEX),
            regime: format!(
                "one thread, dense pool, pages of one repeated byte, which have no body; words in huge \
                 pages as far as the kernel has some; floor: with few; plain reads of random 8-byte words \
                 of as many, one after another, keep {:.2} ({few_reads:.0} and {many_reads:.0} a second)",
                many_reads / few_reads
            ),
        };
        row.row()
    });
    Ok(rows.collect())
}

/// Reads of random words of 8 bytes a second, each of which waits for the one before.
fn word_rate(words: &[u32], entries: u32, random: &mut Random, time: Duration) -> Result<f64> {
    let mut last = 0;
    rate(time, || {
        // All words are zero, which only the memory knows.
        let at = random.below(entries) ^ black_box(last);
        last = words[2 * at as usize];
        Ok(())
    })
}
