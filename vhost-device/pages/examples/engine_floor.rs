// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How far a put and a get are from the copy and the checksum that they cannot do without.
//!
//! ```text
//! cargo run --release -p tmem-pages --example engine_floor [-- MIB [SECONDS]]
//! ```
//! Each line is the median over interleaved rounds of one run, in nanoseconds a page: the floors
//! (`memcpy`, and `memcpy` with CRC-32) beside the engine, on the same number of pages, visited in
//! the same random order; `hot` stays within 64 pages.

use std::hint::black_box;
use std::time::Instant;

use tmem_pages::{
    Engine, EngineConfig, GetMode, GetResult, GuestConfig, Layout, ObjectId, PAGE_SIZE, PageBytes,
    PageIndex, Pool, PoolId, PoolKind, PoolSpec, PutResult, Ticket, Worker,
};

/// Pages that one measurement visits.
const BATCH: usize = 4096;

type Failure = Box<dyn std::error::Error>;

/// One way to carry a page.
type Case = fn(&mut Bench, u32);

/// What is measured.
struct Bench {
    pool: std::sync::Arc<Pool>,
    worker: Worker,
    /// As many pages as the pool has, for the floor.
    floor: Vec<PageBytes>,
    guest: Box<PageBytes>,
    /// What is put: never one byte repeated.
    page: Box<PageBytes>,
    ticket: u64,
}

impl Bench {
    fn ticket(&mut self) -> Ticket {
        self.ticket += 1;
        Ticket::new(self.ticket).unwrap_or(Ticket::MAX)
    }

    fn put(&mut self, index: u32) {
        let ticket = self.ticket();
        let result = self.worker.put(
            &self.pool,
            ObjectId::ZERO,
            PageIndex(index),
            ticket,
            &*self.page,
        );
        assert_eq!(result, PutResult::Stored);
    }

    fn get(&mut self, index: u32) {
        let result = self.worker.get(
            &self.pool,
            ObjectId::ZERO,
            PageIndex(index),
            GetMode::Copy,
            &mut *self.guest,
        );
        assert_eq!(result, GetResult::Hit);
    }

    fn put_and_get_exclusive(&mut self, index: u32) {
        self.put(index);
        let at = PageIndex(index);
        let mode = GetMode::Exclusive;
        let sink = &mut *self.guest;
        let result = (self.worker).get(&self.pool, ObjectId::ZERO, at, mode, sink);
        assert_eq!(result, GetResult::Hit);
    }

    fn put_and_take(&mut self, index: u32) {
        self.put(index);
        let at = PageIndex(index);
        self.worker.begin_taking(0, 0);
        let sink = &mut *self.guest;
        let result = self.worker.take(&self.pool, ObjectId::ZERO, at, sink);
        assert_eq!(result, GetResult::Hit);
        self.worker.commit_taken();
    }

    fn copy_in(&mut self, index: u32) {
        self.floor[index as usize].copy_from_slice(black_box(&*self.guest));
    }

    fn copy_out(&mut self, index: u32) {
        self.guest.copy_from_slice(&self.floor[index as usize]);
        black_box(&mut self.guest);
    }

    fn sum(page: &PageBytes) {
        black_box(crc_fast::checksum(
            crc_fast::CrcAlgorithm::Crc32Iscsi,
            black_box(page),
        ));
    }

    fn copy_in_and_sum(&mut self, index: u32) {
        self.copy_in(index);
        Self::sum(&self.floor[index as usize]);
    }

    fn sum_and_copy_out(&mut self, index: u32) {
        Self::sum(&self.floor[index as usize]);
        self.copy_out(index);
    }
}

/// Numbers to visit pages by (xorshift).
fn shuffle(state: &mut u64) -> u32 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    let [.., a, b, c, d] = state.to_be_bytes();
    u32::from_be_bytes([a, b, c, d])
}

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let mib: u32 = arguments.next().map_or(Ok(1024), |mib| mib.parse())?;
    let seconds: u64 = arguments.next().map_or(Ok(5), |seconds| seconds.parse())?;
    let pages = mib * 256;
    let engine = Engine::new(EngineConfig {
        frames: pages,
        workers_max: 1,
        guests_max: 4,
    })?;
    let guest = engine.attach_guest(GuestConfig {
        name: "bench".into(),
        grant_pages: u64::from(pages),
    })?;
    let spec = PoolSpec {
        kind: PoolKind::Persistent,
        layout: Layout::Dense { pages },
    };
    let mut page = Box::new([0; PAGE_SIZE]);
    let mut state = 0x5eed;
    for word in page.as_chunks_mut::<4>().0 {
        *word = shuffle(&mut state).to_le_bytes();
    }
    let mut bench = Bench {
        pool: guest.create_pool(PoolId(0), spec)?,
        worker: engine.worker()?,
        floor: vec![[1; PAGE_SIZE]; pages as usize],
        guest: page.clone(),
        page,
        ticket: 0,
    };
    let cases: [(&str, Case); 8] = [
        ("copy in", Bench::copy_in),
        ("copy in + crc32", Bench::copy_in_and_sum),
        ("put", Bench::put),
        ("copy out", Bench::copy_out),
        ("crc32 + copy out", Bench::sum_and_copy_out),
        ("get", Bench::get),
        ("put + get exclusive", Bench::put_and_get_exclusive),
        ("put + take", Bench::put_and_take),
    ];
    (0..pages).for_each(|index| bench.put(index));
    println!("{mib} MiB; ns a page, median");
    for (regime, reach) in [("random", pages), ("hot", 64)] {
        let mut samples = [const { Vec::new() }; 8];
        let begin = Instant::now();
        while begin.elapsed().as_secs() < seconds {
            for (samples, (_, case)) in samples.iter_mut().zip(&cases) {
                let order: Vec<u32> = (0..BATCH).map(|_| shuffle(&mut state) % reach).collect();
                let start = Instant::now();
                order.iter().for_each(|index| case(&mut bench, *index));
                samples.push(start.elapsed().as_nanos() / BATCH as u128);
                if bench.pool.stats().pages < u64::from(pages) {
                    // What exclusive gets have emptied.
                    order.iter().for_each(|index| bench.put(*index));
                }
            }
        }
        for (samples, (name, _)) in samples.iter_mut().zip(&cases) {
            samples.sort_unstable();
            println!("{regime:8} {name:20} {:6}", samples[samples.len() / 2]);
        }
    }
    Ok(())
}
