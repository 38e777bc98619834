// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The worker of one queue pair: takes requests, serves them, gives them back; then polls for a
//! while, and sleeps.
//!
//! The get ring goes first: it is looked at before the put ring, and between the chunks of a put. A
//! page fault in the guest waits for the one, write-back for the other.

use std::time::{Duration, Instant};

use tmem_pages::{Guest, Worker};
use vm_memory::{GuestAddressSpace, GuestMemoryMmap};

use tmem_abi::QUEUE_REQUEST_FIRST;

use super::inflight::Generation;
use super::poll::Poller;
use super::request::Malformed;
use super::request::parse::Lane;
use super::request::serve::{Job, Served, Slot, begin};
use super::ring::{Memory, PollPoint, Ring, Taken};
use crate::limits::{CHUNK_PAGES, TAKE_MAX, USE_MAX, USE_PAGES};
use crate::metrics::{GuestMetrics, WorkerMetrics};

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
        Self {
            pair,
            engine,
            get: Slot::default(),
            put: Slot::default(),
            poller: Poller::new(poll_us),
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
            if served == 0 && !self.poll(rings, &mem, metrics) {
                if !self.ask_for_kicks(context, rings, &mem) {
                    break;
                }
                // Something came just now, so the driver need not kick for what follows.
                self.suppress_kicks(context, rings);
            }
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
        serve_gets(gets, self.pair, &mut self.get, &mut self.engine)
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
            ..
        } = self;
        // Pages dealt with since the get ring was looked at.
        let mut pages = 0;
        puts.serve(TAKE_MAX, |chain, turn| {
            run(chain, put, Lane::Put, context, mem, |mut job| {
                if job.is_long() || pages >= CHUNK_PAGES {
                    turn.give_back();
                }
                loop {
                    if pages >= CHUNK_PAGES {
                        serve_gets(gets, *pair, get, engine);
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

/// Serves what is in the get ring of `pair` now. Returns the number of requests.
fn serve_gets(gets: Batch<'_>, pair: usize, slot: &mut Slot, engine: &mut Worker) -> usize {
    let Batch { context, mem, .. } = gets;
    gets.serve(TAKE_MAX, |chain, turn| {
        run(chain, slot, Lane::Get, context, mem, |mut job| {
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
            if !takes {
                return Some(served);
            }
            if turn.give_back_now(served) {
                engine.commit_taken();
            } else {
                engine.abort_taken();
            }
            None
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

/// One ring's turn.
#[derive(Clone, Copy)]
pub(super) struct Batch<'a> {
    pub(super) context: &'a Context<'a>,
    pub(super) metrics: &'a WorkerMetrics,
    pub(super) ring: &'a Ring,
    pub(super) name: &'a str,
    pub(super) mem: &'a GuestMemoryMmap,
}

impl Batch<'_> {
    /// Takes what is in the ring, has each chain served, uses it, and at the end notifies the
    /// driver. At most `limit` chains, and at most [`TAKE_MAX`]. Returns the number used.
    /// `serve` returns nothing for a request that it has given back itself.
    pub(super) fn serve(
        &self,
        limit: usize,
        mut serve: impl FnMut(Taken<'_>, &mut Turn<'_, '_>) -> Option<Served>,
    ) -> usize {
        let mut taken = [const { None }; TAKE_MAX];
        let (count, generation) = match self.ring.take(self.mem, &mut taken[..limit.min(TAKE_MAX)])
        {
            Ok(taken) => taken,
            Err(kind) => {
                self.context.broken(kind, self.name);
                return 0;
            }
        };
        if count == 0 {
            return 0;
        }
        let mut used = 0;
        let mut turn = Turn {
            batch: self,
            generation,
            start: Instant::now(),
            head: 0,
            done: Done::default(),
        };
        for chain in taken.into_iter().flatten() {
            if self.ring.draining() {
                turn.use_up(false);
                self.ring.put_back(generation);
                break;
            }
            turn.head = chain.head_index();
            used += 1;
            if let Some(served) = serve(chain, &mut turn) {
                turn.done.push(turn.head, served);
            }
            if turn.done.is_due() {
                turn.use_up(false);
            }
        }
        turn.use_up(true);
        used
    }
}

/// A batch under way.
pub(super) struct Turn<'b, 'a> {
    batch: &'b Batch<'a>,
    generation: Generation,
    start: Instant,
    /// The request that is served.
    head: u16,
    done: Done,
}

impl Turn<'_, '_> {
    /// Gives back what was served before this request, so that it does not wait for long work.
    pub(super) fn give_back(&mut self) {
        if self.done.count > 0 {
            self.use_up(true);
        }
    }

    /// Gives this request back at once. Returns whether the driver has it now.
    pub(super) fn give_back_now(&mut self, served: Served) -> bool {
        self.done.push(self.head, served);
        self.use_up(true)
    }

    /// The used index that this request gets if all before it have been given back.
    pub(super) fn position(&self) -> u16 {
        self.batch.ring.next_used()
    }

    /// Gives what is done back to the driver, and counts it; before a `pause` if nothing follows
    /// soon. Returns whether the driver has it.
    fn use_up(&mut self, pause: bool) -> bool {
        let Batch {
            context,
            metrics,
            ring,
            name,
            mem,
        } = self.batch;
        let served = (self.done.served.iter()).take(std::mem::take(&mut self.done.count));
        self.done.pages = 0;
        let used = served
            .clone()
            .map(|(head, served)| (*head, served.used_bytes));
        let given = match ring.finish(mem, self.generation, used, pause) {
            Ok(Some(called)) => {
                if called {
                    metrics.called();
                }
                true
            }
            Ok(None) => false,
            Err(kind) => {
                context.broken(kind, name);
                false
            }
        };
        if served.len() == 0 {
            return given;
        }
        let ns = nanos(self.start.elapsed());
        for (_, served) in served {
            metrics.served(served, ns);
            if let Some(kind) = served.malformed {
                context.malformed(kind, name);
            }
        }
        given
    }
}

/// Requests that were served and are not given back yet, by their heads.
#[derive(Debug, Default)]
struct Done {
    served: [(u16, Served); USE_MAX],
    count: usize,
    pages: u32,
}

impl Done {
    fn push(&mut self, head: u16, served: Served) {
        self.pages = self.pages.saturating_add(served.page_count());
        if let Some(place) = self.served.get_mut(self.count) {
            *place = (head, served);
            self.count += 1;
        }
    }

    fn is_due(&self) -> bool {
        self.count == USE_MAX || self.pages >= USE_PAGES
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Now, on the poller's clock.
fn now_ns() -> u64 {
    nanos(since_start())
}
