// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Ours beside well-kept stores: 4 KiB pages, four times as many as DRAM holds, put and got by one
//! thread.
//!
//! | | DRAM | file | what a put waits for |
//! | --- | --- | --- | --- |
//! | ours, process | frames | slot file, uncached | a frame |
//! | foyer | its memory cache | blocks, direct I/O | nothing; what it cannot write in time it drops |
//! | ours, host | frames | slot file, uncached, fdatasync for each batch | a frame |
//! | redb | its page cache | B-tree, a sync for each transaction | the sync, once for 64 pages |
//!
//! Gets are asked for one at a time, and several at once: ours as a request of so many pages, foyer by so
//! many futures; redb takes one at a time in any case, within one transaction.
//!
//! The first round of each pattern is not counted: what is asked for often has to be found out, and is
//! then in the DRAM of either store.
//!
//! The kernel's page cache would be a second DRAM for whoever uses it, so before each pass of gets it
//! is emptied of all files, and a pass touches few of their pages twice. Background threads of both
//! sides may use both processors: our mover, and the threads of foyer's runtime.

mod foyer;
mod ours;
mod redb;

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use tmem_frontend::Random;
use tmem_pages::PageBytes;
use tmem_pages::slots::Durability;

use super::AREA;
use super::Scale;
use super::stand::{drop_cache, noise, write_number};
use crate::floors::per_second;
use crate::report::median;
use crate::row::Compared;
use crate::{Error, Result, Row};

const GOAL_FOYER: f64 = 2.0;
const GOAL_REDB: f64 = 5.0;
/// Pages that a pass looks for again, to see how many of its puts were kept.
const LOOKED_FOR: usize = 256;
/// Pages that are put at a time: our mover's batch, and a transaction of redb.
const BATCH: usize = 64;
/// Pages that are got at a time: as by a program that follows pointers, and as they are put.
const AT_ONCE: [usize; 2] = [1, BATCH];

/// Pages in DRAM and in a file.
trait Store {
    /// Who it is.
    fn name(&self) -> &'static str;

    /// Puts pages, each with its number and its version, and returns when the last is as durable as
    /// this store makes it.
    fn put_all(&mut self, pages: &[(u32, u64)], page: &mut PageBytes) -> Result<()>;

    /// Gets random pages, `at_once` at a time, for some time. Returns how many a second, found or not.
    fn get_for(
        &mut self,
        next: &mut dyn FnMut() -> u32,
        at_once: usize,
        time: Duration,
    ) -> Result<f64>;

    /// Waits for what goes on in the background.
    fn rest(&mut self) -> Result<()>;

    /// Reads of random pages out of its file a second, around all else: what a miss costs at least.
    /// Nothing if its file is not one of pages.
    fn reads(&mut self, _random: &mut Random, _time: Duration) -> Result<f64> {
        Ok(0.0)
    }

    /// The version of a page, if it is there.
    fn version(&mut self, number: u32) -> Result<Option<u64>>;
}

/// What gets ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pattern {
    /// Each page as often as any other.
    Uniform,
    /// Four of five gets are of one page in five.
    Skewed,
}

impl Pattern {
    fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Skewed => "80:20",
        }
    }

    fn next(self, random: &mut Random, pages: u32) -> u32 {
        // Hot pages lie apart: the multiplier is odd, and the pages are a power of two.
        let spread = |page: u32| page.wrapping_mul(0x9e37_79b1) % pages;
        match self {
            Self::Skewed if !random.one_in(5) => spread(random.below(pages / 5)),
            _ => spread(random.below(pages)),
        }
    }
}

const PATTERNS: [Pattern; 2] = [Pattern::Uniform, Pattern::Skewed];

/// On the file system to measure, and on one in memory, which costs what fast persistent memory would.
pub(super) fn rows(scale: &Scale, folder: &Path) -> Result<Vec<Row>> {
    let memory = tempfile::tempdir_in("/dev/shm").map_err(Error::system("use /dev/shm"))?;
    let mut rows = Vec::new();
    for (folder, on) in [(folder, "file on disk"), (memory.path(), "file in memory")] {
        rows.extend(rows_on(scale, folder, on)?);
    }
    Ok(rows)
}

fn rows_on(scale: &Scale, folder: &Path, on: &'static str) -> Result<Vec<Row>> {
    let sub = |name: &str| {
        let path = folder.join(name);
        let made = std::fs::create_dir(&path).map(|()| path);
        made.map_err(Error::system("make a folder"))
    };
    let mut rows = Vec::new();
    {
        let (ours, peer) = (sub("ours-process")?, sub("foyer")?);
        let mut pair = Pair {
            ours: Box::new(ours::Ours::new(scale, &ours, Durability::Process)?),
            peer: Box::new(foyer::Foyer::new(scale, &peer)?),
            goal: GOAL_FOYER,
            on,
            folders: [&ours, &peer],
        };
        rows.extend(pair.rows(scale)?);
    }
    let (ours, peer) = (sub("ours-host")?, sub("redb")?);
    let mut pair = Pair {
        ours: Box::new(ours::Ours::new(scale, &ours, Durability::Host)?),
        peer: Box::new(redb::Redb::new(scale, &peer)?),
        goal: GOAL_REDB,
        on,
        folders: [&ours, &peer],
    };
    rows.extend(pair.rows(scale)?);
    Ok(rows)
}

/// Ours and a peer, by turns.
struct Pair<'a> {
    ours: Box<dyn Store>,
    peer: Box<dyn Store>,
    goal: f64,
    /// What the files lie on.
    on: &'static str,
    folders: [&'a Path; 2],
}

/// What one store did in all passes of puts.
#[derive(Clone, Debug, Default)]
struct Puts {
    /// Of the pass that is under way.
    count: u64,
    /// Puts a second.
    rates: Vec<f64>,
    /// The share of them that was there after.
    kept: Vec<f64>,
}

impl Puts {
    /// Pages put and kept, a second.
    fn kept_rates(&self) -> Vec<f64> {
        let pairs = self.rates.iter().zip(&self.kept);
        pairs.map(|(rate, kept)| rate * kept).collect()
    }
}

impl Pair<'_> {
    fn rows(&mut self, scale: &Scale) -> Result<Vec<Row>> {
        let pages = 4 * scale.frames;
        let mut page = noise();
        let mut version = 0;
        for store in [&mut self.ours, &mut self.peer] {
            let all: Vec<_> = (0..pages).map(|number| (number, version)).collect();
            store.put_all(&all, &mut page)?;
            store.rest()?;
        }
        let mut rows = Vec::new();
        for pattern in PATTERNS {
            let mut random = Random::new(5);
            let mut puts = [Puts::default(), Puts::default()];
            let mut gets = AT_ONCE.map(|_| [const { Vec::new() }; 2]);
            let mut reads = Vec::new();
            for round in 0..=scale.rounds {
                if round == 1 {
                    // With the first round both have got to know the pattern.
                    puts = [Puts::default(), Puts::default()];
                    gets = AT_ONCE.map(|_| [const { Vec::new() }; 2]);
                    reads.clear();
                }
                let stores = [&mut self.ours, &mut self.peer].into_iter();
                for (store, puts) in stores.zip(&mut puts) {
                    let mut newest = HashMap::new();
                    let start = Instant::now();
                    while start.elapsed() < scale.pass {
                        let batch = [(); BATCH].map(|()| {
                            version += 1;
                            (pattern.next(&mut random, pages), version)
                        });
                        store.put_all(&batch, &mut page)?;
                        newest.extend(batch);
                        puts.count += BATCH as u64;
                    }
                    puts.rates
                        .push(per_second(std::mem::take(&mut puts.count), start));
                    store.rest()?;
                    puts.kept.push(kept(&mut **store, &newest)?);
                }
                for (at_once, gets) in AT_ONCE.into_iter().zip(&mut gets) {
                    self.empty_page_cache()?;
                    let stores = [&mut self.ours, &mut self.peer].into_iter();
                    for (store, gets) in stores.zip(gets) {
                        let mut next = || pattern.next(&mut random, pages);
                        gets.push(store.get_for(&mut next, at_once, scale.pass)?);
                    }
                }
                reads.push(self.ours.reads(&mut random, scale.pass / 2)?);
            }
            let mut compared = self.compared(scale, pattern, &puts, &gets);
            if let [_, one_at_a_time, ..] = &mut compared[..] {
                one_at_a_time.floor = Some(median(&reads));
            }
            rows.extend(compared);
        }
        Ok(rows)
    }

    fn compared(
        &self,
        scale: &Scale,
        pattern: Pattern,
        puts: &[Puts; 2],
        gets: &[[Vec<f64>; 2]],
    ) -> Vec<Row> {
        let [ours, peer] = [&self.ours, &self.peer].map(|store| store.name());
        let sizes = format!(
            "one thread; {} MiB of pages, {} MiB of DRAM",
            scale.frames / 64,
            scale.frames / 256
        );
        let [kept, peer_kept] = puts.each_ref().map(|puts| 100.0 * median(&puts.kept));
        let raw = median(&puts[1].rates);
        let row = |what: &str, ours: &[f64], other: &[f64], regime: String| {
            let row = Compared {
                area: AREA,
                name: format!("{what}, {}, {}", pattern.name(), self.on),
                unit: "pages/s",
                ours,
                other,
                peer: Some(peer.to_owned()),
                less: false,
                goal: Some(self.goal),
                regime,
            };
            row.row()
        };
        let put = row(
            "put and kept",
            &puts[0].kept_rates(),
            &puts[1].kept_rates(),
            format!(
                "{ours}; {sizes}; kept of what was put: {kept:.0} %, peer {peer_kept:.0} % \
                     of {raw:.0} puts/s"
            ),
        );
        let gets = AT_ONCE.into_iter().zip(gets);
        let gets = gets.map(|(at_once, [our_gets, peer_gets])| {
            let what = match at_once {
                1 => "get".to_owned(),
                _ => format!("get, {at_once} at once"),
            };
            row(
                &what,
                our_gets,
                peer_gets,
                format!(
                    "{ours}; {sizes}; page cache emptied before each pass; floor: random \
                     reads of 4 KiB from our file, one at a time"
                ),
            )
        });
        std::iter::once(put).chain(gets).collect()
    }

    fn empty_page_cache(&self) -> Result<()> {
        for folder in self.folders {
            let files = std::fs::read_dir(folder).map_err(Error::system("list a folder"))?;
            for file in files.filter_map(std::io::Result::ok) {
                drop_cache(&file.path())?;
            }
        }
        Ok(())
    }
}

/// The share of pages that are there, and as they were put last.
fn kept(store: &mut dyn Store, newest: &HashMap<u32, u64>) -> Result<f64> {
    let step = (newest.len() / LOOKED_FOR).max(1);
    let (mut looked, mut found) = (0_u32, 0_u32);
    for (number, version) in newest.iter().step_by(step) {
        looked += 1;
        found += u32::from(store.version(*number)? == Some(*version));
    }
    Ok(f64::from(found) / f64::from(looked.max(1)))
}

/// Writes what a page is.
fn prepare(page: &mut PageBytes, (number, version): (u32, u64)) {
    write_number(page, number, version);
}

/// The version that a page says it is.
fn version_of(page: &[u8]) -> Option<u64> {
    let bytes = page.get(8..16)?;
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}
