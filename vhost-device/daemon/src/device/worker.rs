// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The worker of one queue pair: takes requests, serves them, gives them back; then polls for a
//! while, and sleeps.
//!
//! The get ring goes first: it is looked at before the put ring, and between the chunks of a put. A
//! page fault in the guest waits for the one, write-back for the other.
//!
//! A get of pages behind an emulated link is served at once, and its answer kept back until the link
//! would have brought the pages (`deferred.rs`): requests after it go on. While answers are kept back
//! the worker does not sleep in its queue, and looks at the rings all the time.
//!
//! Where the way to a tier is long, the tiers are told which pages of the requests at hand will be got
//! (`ahead.rs`), so that the way is gone once and not once a page.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tmem_pages::{Guest, Worker};
use vm_memory::{GuestAddressSpace, GuestMemoryMmap};

use tmem_abi::QUEUE_REQUEST_FIRST;

use super::ahead::Ahead;
use super::batch::Batch;
use super::deferred::Deferred;
use super::poll::Poller;
use super::request::Malformed;
use super::request::parse::Lane;
use super::request::serve::{Job, Served, Slot, begin};
use super::ring::{Memory, PollPoint, Ring, Taken};
use crate::limits::{CHUNK_PAGES, TAKE_MAX};
use crate::metrics::{GuestMetrics, WorkerMetrics};
use crate::tiers::paths::Ways;
use crate::tiers::traces::GuestTrace;

/// Looks at the rings between two looks at the clock.
const SPINS: u32 = 16;

/// What a worker needs to know of its device; the same for all workers of a connection.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The guest's pools.
    pub guest: &'a Guest,
    /// The guest's counters.
    pub metrics: &'a GuestMetrics,
    /// The guest's memory, as it is now.
    pub memory: &'a Memory,
    /// The trace of the guest's pages.
    pub(crate) trace: &'a GuestTrace,
    /// Puts are refused, because the daemon is about to end.
    pub ending: &'a dyn Fn() -> bool,
    /// The connection is over: leave the rings alone.
    pub over: &'a dyn Fn() -> bool,
}

impl Context<'_> {
    /// Counts a broken rule, and logs it if its kind has not been logged for a while.
    pub fn malformed(&self, kind: Malformed, queue: &str) {
        // Since any fixed moment; the daemon's start would do as well.
        if let Some(count) = self.metrics.malformed(kind, since_start()) {
            tracing::warn!(
                guest = self.guest.name(),
                queue,
                kind = kind.as_str(),
                count,
                "the guest's driver breaks the device's rules"
            );
        }
    }

    /// As [`Context::malformed`], for what stops the whole queue.
    pub fn broken(&self, kind: Malformed, queue: &str) {
        if let Some(count) = self.metrics.malformed(kind, since_start()) {
            tracing::error!(
                guest = self.guest.name(),
                queue,
                kind = kind.as_str(),
                count,
                "the guest's driver broke a queue, which stands still until the device is reset"
            );
        }
    }
}

/// Time since the first call.
fn since_start() -> Duration {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    START.get_or_init(Instant::now).elapsed()
}

/// What serves requests: the engine's worker and the buffers, without any ring.
#[derive(Debug)]
pub struct PairWorker {
    pair: usize,
    engine: Worker,
    get: Slot,
    put: Slot,
    poller: Poller,
    deferred: Deferred,
    ahead: Ahead,
}

/// The two rings of a pair.
#[derive(Clone, Copy)]
pub struct Pair<'a> {
    /// Gets.
    pub get: &'a Ring,
    /// Puts and flushes.
    pub put: &'a Ring,
}

impl PairWorker {
    /// A worker for queue pair `pair` that polls at most `poll_us`.
    #[must_use]
    pub fn new(pair: usize, engine: Worker, poll_us: u32) -> Self {
        let ways = Ways::new(&Arc::default(), "");
        Self::with_ways(pair, engine, poll_us, ways)
    }

    /// The same, whose gets take these ways.
    pub(crate) fn with_ways(pair: usize, engine: Worker, poll_us: u32, ways: Ways) -> Self {
        Self {
            pair,
            engine,
            get: Slot::default(),
            put: Slot::default(),
            poller: Poller::new(poll_us),
            ahead: Ahead::new(ways.paths_shared()),
            deferred: Deferred::new(ways),
        }
    }

    /// Serves both rings until they are empty and polling has found nothing. Called for each kick.
    pub fn run(&mut self, context: &Context<'_>, rings: Pair<'_>) {
        let metrics = context.metrics.worker(self.pair);
        metrics.kicked();
        self.poller.wake(now_ns());
        self.suppress_kicks(context, rings);
        while !(context.over)() {
            let mem = context.memory.memory();
            let served =
                self.serve_gets(context, rings, &mem) + self.serve_puts(context, rings, &mem);
            if served == 0 && !self.deferred.is_empty() {
                let metrics = context.metrics.worker(self.pair);
                let gets = Batch {
                    context,
                    metrics,
                    ring: rings.get,
                    name: "get",
                    mem: &mem,
                };
                self.deferred.linger(&gets, rings.put);
                continue;
            }
            if served == 0 && !self.poll(rings, &mem, metrics) {
                if !self.ask_for_kicks(context, rings, &mem) {
                    break;
                }
                // Something came just now, so the driver need not kick for what follows.
                self.suppress_kicks(context, rings);
            }
        }
        if (context.over)() {
            // Of a connection that is no more.
            self.deferred.forget();
        }
        self.poller.sleep(now_ns());
    }

    fn suppress_kicks(&self, context: &Context<'_>, rings: Pair<'_>) {
        let mem = context.memory.memory();
        rings.get.suppress_kicks(&mem);
        rings.put.suppress_kicks(&mem);
    }

    /// Returns whether a request was made available before the driver knew that it must kick.
    fn ask_for_kicks(&self, context: &Context<'_>, rings: Pair<'_>, mem: &GuestMemoryMmap) -> bool {
        let mut pending = false;
        for (ring, name) in [(rings.get, "get"), (rings.put, "put")] {
            match ring.ask_for_kicks(mem) {
                Ok(more) => pending |= more,
                Err(kind) => context.broken(kind, name),
            }
        }
        pending
    }

    /// Looks at both rings, without a lock, until one has a request or the window is over.
    fn poll(&mut self, rings: Pair<'_>, mem: &GuestMemoryMmap, metrics: &WorkerMetrics) -> bool {
        let window = Duration::from_nanos(self.poller.window_ns());
        let points: [Option<PollPoint>; 2] = [rings.get.poll_point(), rings.put.poll_point()];
        if window.is_zero() || points.iter().all(Option::is_none) {
            return false;
        }
        let start = Instant::now();
        let waited = loop {
            for _ in 0..SPINS {
                if points.iter().flatten().any(|point| point.pending(mem)) {
                    break;
                }
                std::hint::spin_loop();
            }
            let waited = start.elapsed();
            if points.iter().flatten().any(|point| point.pending(mem)) {
                break Some(waited);
            }
            if waited >= window {
                break None;
            }
        };
        metrics.polled(waited.is_some());
        if let Some(waited) = waited {
            self.poller.hit(nanos(waited));
        }
        waited.is_some()
    }

    /// A turn of one of the rings.
    fn batch<'a>(
        &self,
        context: &'a Context<'a>,
        ring: &'a Ring,
        name: &'a str,
        mem: &'a GuestMemoryMmap,
    ) -> Batch<'a> {
        let metrics = context.metrics.worker(self.pair);
        Batch {
            context,
            metrics,
            ring,
            name,
            mem,
        }
    }

    /// Serves what is in the get ring now. Returns the number of requests.
    fn serve_gets(
        &mut self,
        context: &Context<'_>,
        rings: Pair<'_>,
        mem: &GuestMemoryMmap,
    ) -> usize {
        let gets = self.batch(context, rings.get, "get", mem);
        let Self {
            pair,
            engine,
            get,
            deferred,
            ahead,
            ..
        } = self;
        serve_gets(gets, *pair, get, engine, deferred, ahead)
    }

    /// Serves what is in the put ring now, and the get ring meanwhile. Returns the number of
    /// requests of the put ring.
    fn serve_puts(
        &mut self,
        context: &Context<'_>,
        rings: Pair<'_>,
        mem: &GuestMemoryMmap,
    ) -> usize {
        let gets = self.batch(context, rings.get, "get", mem);
        let puts = self.batch(context, rings.put, "put", mem);
        let Self {
            pair,
            engine,
            get,
            put,
            deferred,
            ahead,
            ..
        } = self;
        // Pages dealt with since the get ring was looked at.
        let mut pages = 0;
        puts.serve(TAKE_MAX, |chain, _, turn| {
            run(chain, put, Lane::Put, context, mem, |mut job| {
                if context.trace.recorder.is_on() {
                    job.record(context.trace, *pair, deferred.now());
                }
                if job.is_long() || pages >= CHUNK_PAGES {
                    turn.give_back();
                }
                loop {
                    if pages >= CHUNK_PAGES {
                        serve_gets(gets, *pair, get, engine, deferred, ahead);
                        pages = 0;
                    }
                    if job.step(mem, engine) {
                        break;
                    }
                    pages = CHUNK_PAGES;
                }
                let served = job.finish(mem);
                pages += served.page_count().saturating_add(1).min(CHUNK_PAGES);
                Some(served)
            })
        })
    }
}

/// Serves what is in the get ring of `pair` now, and gives back what was kept back and is due. Returns
/// the number of requests.
fn serve_gets(
    gets: Batch<'_>,
    pair: usize,
    slot: &mut Slot,
    engine: &mut Worker,
    deferred: &mut Deferred,
    ahead: &mut Ahead,
) -> usize {
    let Batch { context, mem, .. } = gets;
    let mut landed = deferred.land(&gets);
    if let Some((generation, heads)) = gets.ring.take_adopted() {
        landed += deferred.serve_again(&gets, slot, engine, generation, &heads);
    }
    let limit = TAKE_MAX.min(deferred.room());
    let arrival = deferred.arrival();
    ahead.begin();
    landed
        + gets.serve(limit, |chain, rest, turn| {
            ahead.look(&gets, &chain, rest, engine);
            run(chain, slot, Lane::Get, context, mem, |mut job| {
                if context.trace.recorder.is_on() {
                    job.record(context.trace, pair, deferred.now());
                }
                if !deferred.is_empty() {
                    // What is due does not wait for the rest of the batch.
                    let _landed = deferred.land(&gets);
                }
                let flight = arrival.and_then(|arrival| deferred.reserve(&job, engine, arrival));
                if let Some(flight) = flight {
                    turn.give_back();
                    if job.takes() {
                        // Its pages leave with it, so it is not served before it can be given back.
                        deferred.wait(&gets, &flight);
                    }
                }
                if job.takes() {
                    // Pages that leave with their request must be found again if this process dies
                    // before the request is given back, and must not if it dies after.
                    turn.give_back();
                    engine.begin_taking(get_queue(pair), turn.position());
                } else if job.is_long() {
                    turn.give_back();
                }
                while !job.step(mem, engine) {}
                let takes = job.takes();
                let served = job.finish(mem);
                gets.metrics.read_below(deferred.read_below());
                if takes {
                    if turn.give_back_now(served) {
                        engine.commit_taken();
                    } else {
                        engine.abort_taken();
                    }
                    if let Some(flight) = flight {
                        deferred.landed_now(&gets, &flight);
                    }
                    return None;
                }
                let Some(flight) = flight else {
                    return Some(served);
                };
                let (generation, head) = turn.request();
                if gets.ring.defer(generation, head) {
                    deferred.keep(flight, generation, head, served);
                    return None;
                }
                // It cannot be passed, so those after it wait with it.
                deferred.wait(&gets, &flight);
                deferred.landed_now(&gets, &flight);
                Some(served)
            })
        })
}

/// The number of a pair's get queue.
pub(super) fn get_queue(pair: usize) -> u32 {
    // There are at most 64 queues.
    u32::from(QUEUE_REQUEST_FIRST) + 2 * u32::try_from(pair).unwrap_or(u32::MAX / 4)
}

/// Gathers a chain and runs it, if it is a request, by `work`.
fn run(
    chain: Taken<'_>,
    slot: &mut Slot,
    lane: Lane,
    context: &Context<'_>,
    mem: &GuestMemoryMmap,
    work: impl FnOnce(Job<'_>) -> Option<Served>,
) -> Option<Served> {
    match slot.chain.gather(chain) {
        Ok(()) => match begin(mem, slot, lane, context.guest, (context.ending)()) {
            Ok(job) => work(job),
            Err(served) => Some(served),
        },
        Err(kind) => Some(Served::silent(kind)),
    }
}

pub(super) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Now, on the poller's clock.
fn now_ns() -> u64 {
    nanos(since_start())
}
