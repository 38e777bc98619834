// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How long a new process takes to find every page again.
//!
//! ```text
//! cargo run --release -p tmem-pages --example recovery_time [-- MIB [ROUNDS]]
//! ```
//! Fills an engine, ends it and opens its files anew, in a process that has not touched them but for
//! the kernel's page cache; each line is the median and the slowest of the rounds, in milliseconds.

use std::time::{Duration, Instant};

use tmem_pages::{
    Engine, EngineConfig, EngineFiles, GuestConfig, Layout, ObjectId, PAGE_SIZE, PageIndex, PoolId,
    PoolKind, PoolSpec, PutResult, Ticket,
};

/// Pages of a dense pool: 64 GiB, mostly unused.
const DENSE_PAGES: u32 = 1 << 24;

type Failure = Box<dyn std::error::Error>;

/// Where the pages of a pool are.
#[derive(Clone, Copy)]
enum Spread {
    Neighbours,
    Apart,
    Files(u32),
}

impl Spread {
    fn layout(self) -> Layout {
        match self {
            Self::Neighbours | Self::Apart => Layout::Dense { pages: DENSE_PAGES },
            Self::Files(_) => Layout::Sparse,
        }
    }

    fn name(self, page: u32, pages: u32) -> (ObjectId, PageIndex) {
        match self {
            Self::Neighbours => (ObjectId::ZERO, PageIndex(page)),
            Self::Apart => (ObjectId::ZERO, PageIndex(page * (DENSE_PAGES / pages))),
            Self::Files(size) => {
                let object = ObjectId([u64::from(page / size), 1, 0]);
                (object, PageIndex(page % size))
            }
        }
    }
}

fn measure(spread: Spread, pages: u32, rounds: usize) -> Result<(Duration, Duration), Failure> {
    let config = EngineConfig {
        frames: pages,
        workers_max: 8,
        guests_max: 4,
    };
    let files = EngineFiles::anonymous()?;
    {
        let (engine, _) = Engine::open(config, files.try_clone()?)?;
        let guest = engine.attach_guest(GuestConfig {
            name: "guest".into(),
            grant_pages: u64::from(pages),
        })?;
        let spec = PoolSpec {
            kind: PoolKind::Persistent,
            layout: spread.layout(),
        };
        let pool = guest.create_pool(PoolId(0), spec)?;
        let mut worker = engine.worker()?;
        let mut bytes = [1; PAGE_SIZE];
        for page in 0..pages {
            bytes[..4].copy_from_slice(&page.to_le_bytes());
            let (object, index) = spread.name(page, pages);
            let result = worker.put(&pool, object, index, Ticket::MIN, &bytes);
            assert_eq!(result, PutResult::Stored);
        }
    }
    let mut times = Vec::new();
    for _ in 0..rounds {
        let files = files.try_clone()?;
        let start = Instant::now();
        let (_engine, recovery) = Engine::open(config, files)?;
        times.push(start.elapsed());
        assert_eq!((recovery.pages, recovery.damaged), (u64::from(pages), 0));
    }
    times.sort_unstable();
    Ok((times[rounds / 2], times[rounds - 1]))
}

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let mib: u32 = arguments.next().map_or(Ok(1024), |mib| mib.parse())?;
    let rounds: usize = arguments.next().map_or(Ok(5), |rounds| rounds.parse())?;
    println!("{mib} MiB of pages; ms, median and slowest of {rounds}");
    for (what, spread) in [
        ("dense, neighbours", Spread::Neighbours),
        ("dense, spread over 64 GiB", Spread::Apart),
        ("sparse, objects of 1024", Spread::Files(1024)),
        ("sparse, objects of 16", Spread::Files(16)),
    ] {
        let (median, slowest) = measure(spread, mib * 256, rounds)?;
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        println!("{what:28} {:8.1} {:8.1}", ms(median), ms(slowest));
    }
    Ok(())
}
