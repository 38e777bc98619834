// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The loops that are timed.

use crate::counters::Counters;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};
use tmem_user::program::{Rng, fill};
use tmem_user::{Flushes, Gets, Interface, Kind, Page, PageBuffer, Pool, PoolOptions, Puts};

/// Batches that a putting thread may be ahead of the flushing one.
const AHEAD: usize = 4;

/// A loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    Alloc,
    Steal,
}

/// What is the same for all measurements.
#[derive(Debug)]
pub(crate) struct Setup {
    /// Indices of each thread, and with them the pages that it keeps on the host.
    pub(crate) pages: u32,
    pub(crate) contiguous: bool,
    pub(crate) shared: bool,
    pub(crate) device: Option<u32>,
    pub(crate) seed: u64,
    pub(crate) time: Duration,
}

/// One kind of call: what it moved, and how long it took.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Moved {
    pub(crate) calls: u64,
    pub(crate) pages: u64,
    pub(crate) ns: u64,
}

impl Moved {
    fn add(&mut self, other: Self) {
        self.calls += other.calls;
        self.pages += other.pages;
        self.ns += other.ns;
    }

    fn record(&mut self, start: Instant, pages: u32) {
        self.calls += 1;
        self.pages += u64::from(pages);
        self.ns += u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
    }

    /// Pages that one thread moves in a second of such calls.
    pub(crate) fn rate(self) -> u64 {
        let rate = u128::from(self.pages) * 1_000_000_000 / u128::from(self.ns.max(1));
        u64::try_from(rate).unwrap_or(u64::MAX)
    }

    /// Nanoseconds of a call.
    pub(crate) fn call_ns(self) -> u64 {
        self.ns / self.calls.max(1)
    }
}

/// One measurement.
#[derive(Debug)]
pub(crate) struct Cell {
    pub(crate) which: Which,
    pub(crate) threads: u32,
    pub(crate) batch: u32,
    pub(crate) put: Moved,
    pub(crate) get: Moved,
    pub(crate) flush: Moved,
    /// Time of the whole measurement.
    pub(crate) wall_ns: u64,
    pub(crate) counters: Option<Counters>,
    /// Pages that were not there, or not as they were put.
    pub(crate) wrong: u64,
}

impl Cell {
    /// Pages that were moved, by whatever call.
    pub(crate) fn pages(&self) -> u64 {
        self.put.pages + self.get.pages + self.flush.pages
    }

    /// Pages that all threads together moved in a second.
    pub(crate) fn rate(&self) -> u64 {
        let rate = u128::from(self.pages()) * 1_000_000_000 / u128::from(self.wall_ns.max(1));
        u64::try_from(rate).unwrap_or(u64::MAX)
    }
}

/// What one thread did.
#[derive(Clone, Copy, Debug, Default)]
struct Done {
    put: Moved,
    get: Moved,
    flush: Moved,
    wrong: u64,
}

/// A thread's place: its pool, and the first of its indices.
struct Place<'a> {
    pool: &'a Pool,
    first: u32,
}

/// Measures one cell.
pub(crate) fn run(which: Which, threads: u32, batch: u32, setup: &Setup) -> Result<Cell, String> {
    // In the steal loop a pair of threads works on the indices of one.
    let workers = match which {
        Which::Alloc => threads,
        Which::Steal => threads.div_ceil(2),
    };
    let indices = setup.pages.max(batch);
    let pools = pools(workers, indices, setup)?;
    let places: Vec<Place<'_>> = (0..workers)
        .map(|nth| Place {
            pool: &pools[if setup.shared { 0 } else { nth as usize }],
            first: if setup.shared { nth * indices } else { 0 },
        })
        .collect();
    let number = setup.device.unwrap_or(0);
    let before = Counters::read(number);
    let start = Instant::now();
    let done = match which {
        Which::Alloc => alloc_all(&places, batch, indices, setup),
        Which::Steal => steal_all(&places, batch, indices, setup),
    }?;
    let wall = start.elapsed();
    let counters = Counters::read(number).zip(before);
    Ok(Cell {
        which,
        threads: match which {
            Which::Alloc => threads,
            Which::Steal => 2 * workers,
        },
        batch,
        put: done.put,
        get: done.get,
        flush: done.flush,
        wall_ns: u64::try_from(wall.as_nanos()).unwrap_or(u64::MAX),
        counters: counters.map(|(after, before)| after.since(before)),
        wrong: done.wrong,
    })
}

fn pools(workers: u32, indices: u32, setup: &Setup) -> Result<Vec<Pool>, String> {
    let (count, size) = if setup.shared {
        (1, workers * indices)
    } else {
        (workers, indices)
    };
    (0..count)
        .map(|_| {
            let mut options = PoolOptions::new(Kind::Persistent, size);
            if let Some(device) = setup.device {
                options = options.device(device);
            }
            Interface::open()?.create(&options)
        })
        .collect::<Result<_, _>>()
        .map_err(|error| told(&error))
}

fn told(error: &tmem_user::Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// Runs one thread for each place, all from the same moment on.
fn alloc_all(
    places: &[Place<'_>],
    batch: u32,
    indices: u32,
    setup: &Setup,
) -> Result<Done, String> {
    let barrier = Barrier::new(places.len());
    std::thread::scope(|scope| {
        let threads: Vec<_> = places
            .iter()
            .zip(0u64..)
            .map(|(place, nth)| {
                let barrier = &barrier;
                scope.spawn(move || {
                    let mut rng = Rng::of(setup.seed, nth);
                    let memory = Memory::new(batch, setup.contiguous, &mut rng);
                    barrier.wait();
                    alloc(place, memory?, batch, indices, setup, &mut rng)
                })
            })
            .collect();
        sum(threads)
    })
}

fn sum(
    threads: Vec<std::thread::ScopedJoinHandle<'_, Result<Done, String>>>,
) -> Result<Done, String> {
    let mut all = Done::default();
    for thread in threads {
        let done = thread
            .join()
            .unwrap_or_else(|_| Err("a thread panicked".to_owned()))?;
        all.put.add(done.put);
        all.get.add(done.get);
        all.flush.add(done.flush);
        all.wrong += done.wrong;
    }
    Ok(all)
}

/// A thread's memory, and the order in which a batch uses it.
struct Memory {
    pages: PageBuffer,
    order: Vec<usize>,
}

impl Memory {
    fn new(batch: u32, contiguous: bool, rng: &mut Rng) -> Result<Self, String> {
        let count = batch as usize;
        // Scattered pages are every second one, in no order.
        let stride = if contiguous { 1 } else { 2 };
        let mut pages = PageBuffer::new(count * stride).map_err(|error| told(&error))?;
        for (page, nth) in pages.iter_mut().zip(0..) {
            fill(&mut page[..], nth, rng.next());
        }
        let mut order: Vec<usize> = (0..count).map(|nth| nth * stride).collect();
        if !contiguous {
            rng.shuffle(&mut order);
        }
        Ok(Self { pages, order })
    }

    /// The pages of a batch, in its order.
    fn ordered(&mut self) -> Vec<&mut [Page]> {
        let mut all: Vec<Option<&mut Page>> = self.pages.iter_mut().map(Some).collect();
        self.order
            .iter()
            .filter_map(|nth| all[*nth].take())
            .map(std::slice::from_mut)
            .collect()
    }
}

/// The indices of one batch.
fn draw(batch: u32, first: u32, indices: u32, contiguous: bool, rng: &mut Rng) -> Vec<u32> {
    let base = first + rng.below(indices - batch + 1);
    if contiguous {
        return (base..base + batch).collect();
    }
    // As many different ones as it takes: one of each stretch of the pool.
    let stretch = indices / batch;
    let mut drawn: Vec<u32> = (0..batch)
        .map(|nth| first + nth * stretch + rng.below(stretch))
        .collect();
    rng.shuffle(&mut drawn);
    drawn
}

fn alloc(
    place: &Place<'_>,
    mut memory: Memory,
    batch: u32,
    indices: u32,
    setup: &Setup,
    rng: &mut Rng,
) -> Result<Done, String> {
    let mut done = Done::default();
    let end = Instant::now() + setup.time;
    while Instant::now() < end {
        let at = draw(batch, place.first, indices, setup.contiguous, rng);
        // The content moves with the round, so that a page of an earlier one is found out.
        let stamp = rng.next().to_le_bytes();
        for page in memory.ordered() {
            page[0][..8].copy_from_slice(&stamp);
        }
        put(place.pool, &mut memory, &at, setup.contiguous, &mut done)?;
        for page in memory.ordered() {
            page[0][..8].fill(0);
        }
        get(place.pool, &mut memory, &at, setup.contiguous, &mut done)?;
        let wrong = memory
            .ordered()
            .iter()
            .filter(|page| page[0][..8] != stamp)
            .count();
        done.wrong += wrong as u64;
        flush(place.pool, &at, setup.contiguous, &mut done)?;
    }
    Ok(done)
}

fn put(
    pool: &Pool,
    memory: &mut Memory,
    at: &[u32],
    contiguous: bool,
    done: &mut Done,
) -> Result<(), String> {
    let mut puts = Puts::new();
    if contiguous {
        puts.add(at[0], &memory.pages);
    } else {
        for (index, page) in at.iter().zip(&memory.order) {
            puts.add(*index, std::slice::from_ref(&memory.pages[*page]));
        }
    }
    let start = Instant::now();
    let pages = pool.put(&mut puts).map_err(|error| told(&error))?;
    done.put.record(start, pages);
    Ok(())
}

fn get(
    pool: &Pool,
    memory: &mut Memory,
    at: &[u32],
    contiguous: bool,
    done: &mut Done,
) -> Result<(), String> {
    let mut gets = Gets::new();
    if contiguous {
        gets.add(at[0], &mut memory.pages);
    } else {
        for (index, page) in at.iter().zip(memory.ordered()) {
            gets.add(*index, page);
        }
    }
    let start = Instant::now();
    let pages = pool.get(&mut gets).map_err(|error| told(&error))?;
    done.get.record(start, pages);
    Ok(())
}

fn flush(pool: &Pool, at: &[u32], contiguous: bool, done: &mut Done) -> Result<(), String> {
    let mut flushes = Flushes::new();
    if contiguous {
        let pages = u32::try_from(at.len()).unwrap_or(u32::MAX);
        flushes.add(at[0], pages);
    } else {
        for index in at {
            flushes.add(*index, 1);
        }
    }
    let start = Instant::now();
    let pages = pool.flush(&mut flushes).map_err(|error| told(&error))?;
    done.flush.record(start, pages);
    Ok(())
}

/// Runs two threads for each place: one puts, the other flushes what it has put.
fn steal_all(
    places: &[Place<'_>],
    batch: u32,
    indices: u32,
    setup: &Setup,
) -> Result<Done, String> {
    let flushed = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for (place, nth) in places.iter().zip(0u64..) {
            let (send, receive) = sync_channel(AHEAD);
            let flushed = &flushed;
            threads.push(scope.spawn(move || {
                let mut rng = Rng::of(setup.seed, nth);
                producer(place, batch, indices, setup, &mut rng, &send)
            }));
            threads.push(scope.spawn(move || consumer(place, setup, &receive, flushed)));
        }
        let mut done = sum(threads)?;
        // Every page that was put must have been there to be flushed.
        done.wrong += done.put.pages.abs_diff(flushed.load(Relaxed));
        Ok(done)
    })
}

fn producer(
    place: &Place<'_>,
    batch: u32,
    indices: u32,
    setup: &Setup,
    rng: &mut Rng,
    send: &SyncSender<Vec<u32>>,
) -> Result<Done, String> {
    let mut memory = Memory::new(batch, setup.contiguous, rng)?;
    let mut done = Done::default();
    let end = Instant::now() + setup.time;
    // A batch uses indices that no batch before it still has on its way.
    let turns = (indices / batch).clamp(1, 2 * u32::try_from(AHEAD + 2).unwrap_or(1));
    let share = indices / turns;
    for turn in (0..turns).cycle() {
        if Instant::now() >= end {
            break;
        }
        let first = place.first + turn * share;
        let at = draw(batch, first, share, setup.contiguous, rng);
        if turns <= u32::try_from(AHEAD).unwrap_or(u32::MAX) {
            return Err(format!(
                "--pages {indices} are too few for batches of {batch}"
            ));
        }
        put(place.pool, &mut memory, &at, setup.contiguous, &mut done)?;
        if send.send(at).is_err() {
            break;
        }
    }
    Ok(done)
}

fn consumer(
    place: &Place<'_>,
    setup: &Setup,
    receive: &Receiver<Vec<u32>>,
    flushed: &AtomicU64,
) -> Result<Done, String> {
    let mut done = Done::default();
    for at in receive {
        flush(place.pool, &at, setup.contiguous, &mut done)?;
    }
    flushed.fetch_add(done.flush.pages, Relaxed);
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_draw_different_indices_of_their_own_part() {
        let mut rng = Rng::new(1);
        for (batch, contiguous) in [(1, false), (512, false), (512, true), (7, false)] {
            let mut at = draw(batch, 1000, 4096, contiguous, &mut rng);
            at.sort_unstable();
            at.dedup();
            assert_eq!(at.len(), batch as usize);
            assert!(at.iter().all(|index| (1000..5096).contains(index)));
        }
    }

    #[test]
    fn scattered_memory_has_no_neighbours() {
        let memory = Memory::new(64, false, &mut Rng::new(1)).expect("memory");
        let mut order = memory.order.clone();
        assert!(order.windows(2).all(|pair| pair[0] + 1 != pair[1]));
        order.sort_unstable();
        order.dedup();
        assert_eq!(order.len(), 64);
    }
}
