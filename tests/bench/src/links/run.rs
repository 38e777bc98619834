// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One thread that submits, polls and completes, as a queue worker does.
//!
//! A closed loop: each completion is at once the next arrival, and what is due goes before what has
//! arrived. What a request costs, a copy of 4 KiB from a random page of 64 MiB, is done while it is
//! emulated to be under way; its completion, a store that another thread could see, waits until it is
//! due.

use std::collections::VecDeque;
use std::fs;
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;
use tmem_abi::PAGE_SIZE;
use tmem_frontend::Random;
use tmem_pages::link::{Clock, Link, LinkSpec, Pending, SystemClock};

/// Bytes from which pages are copied.
const SOURCE: usize = 64 << 20;
/// Longest error that is told apart, in nanoseconds.
const ERROR_MAX: u64 = 1 << 34;
/// What a thread sleeps before a pass.
pub(super) const SETTLE: Duration = Duration::from_micros(20);
/// What comes before the measured part of a pass, in nanoseconds: the caches are cold after a sleep.
const WARM_UP: u64 = 100_000;

/// One timed pass, or several together.
#[derive(Clone, Debug)]
pub(super) struct Pass {
    /// From due to done, in nanoseconds.
    pub(super) errors: Histogram<u64>,
    pub(super) early: u64,
    pub(super) overruns: u64,
    /// From arrival to done, all together.
    time_ns: u64,
    /// From the completion before the first measured one to the last.
    span_ns: u64,
}

impl Pass {
    pub(super) fn new() -> Self {
        let errors = Histogram::new_with_bounds(1, ERROR_MAX, 3);
        Self {
            errors: errors.expect("three digits up to a quarter of a minute"),
            early: 0,
            overruns: 0,
            time_ns: 0,
            span_ns: 0,
        }
    }

    fn clear(&mut self) {
        self.errors.reset();
        (self.early, self.overruns) = (0, 0);
        (self.time_ns, self.span_ns) = (0, 0);
    }

    pub(super) fn add(&mut self, other: &Self) {
        (self.errors.add(&other.errors)).expect("all have the same range");
        self.early += other.early;
        self.overruns += other.overruns;
        self.time_ns += other.time_ns;
        self.span_ns += other.span_ns;
    }

    #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
    pub(super) fn quantile(&self, quantile: f64) -> f64 {
        self.errors.value_at_quantile(quantile) as f64
    }

    /// Completions a second.
    #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
    pub(super) fn rate(&self) -> f64 {
        self.errors.len() as f64 * 1e9 / (self.span_ns.max(1) as f64)
    }

    /// Throughput times mean time: the depth, by Little's law.
    #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
    pub(super) fn depth(&self) -> f64 {
        self.time_ns as f64 / (self.span_ns.max(1) as f64)
    }
}

/// The memory and the randomness of the loop.
pub(super) struct Worker {
    source: Vec<u8>,
    slots: Vec<u8>,
    used: AtomicU64,
    random: Random,
}

/// Passes of one cell.
#[derive(Clone, Debug)]
pub(super) struct Passes {
    /// Passes that count, together.
    pub(super) sum: Pass,
    /// Completions before they were due, also in those that do not count.
    pub(super) early: u64,
    /// How many were made.
    pub(super) tried: usize,
    /// How many the thread kept its processor in.
    pub(super) kept: usize,
}

impl Default for Passes {
    fn default() -> Self {
        Self {
            sum: Pass::new(),
            early: 0,
            tried: 0,
            kept: 0,
        }
    }
}

/// How often this thread was put off its processor.
pub(super) fn preemptions() -> u64 {
    let text = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix("nonvoluntary_ctxt_switches:"))
        .and_then(|count| count.trim().parse().ok())
        .unwrap_or(0)
}

/// A request on its way.
#[derive(Clone, Copy, Debug)]
struct Request {
    slot: usize,
    arrival: u64,
    ready: u64,
}

impl Worker {
    pub(super) fn new(depth_max: u32) -> Self {
        Self {
            source: vec![1; SOURCE],
            slots: vec![0; depth_max as usize * PAGE_SIZE],
            used: AtomicU64::new(0),
            random: Random::new(3),
        }
    }

    /// The real work of a request: its page, from memory into the place of `slot`.
    fn copy(&mut self, slot: usize) {
        let pages = u32::try_from(SOURCE / PAGE_SIZE).unwrap_or(u32::MAX);
        let from = self.random.below(pages) as usize * PAGE_SIZE;
        let page = &self.source[from..from + PAGE_SIZE];
        self.slots[slot * PAGE_SIZE..(slot + 1) * PAGE_SIZE].copy_from_slice(page);
        black_box(&self.slots);
    }

    /// Submits to `link` what arrived at `arrival`, and does the work.
    fn submit(&mut self, link: &Link, slot: usize, arrival: u64) -> (u64, Request) {
        let due = link.reserve(arrival, PAGE_SIZE as u64).due;
        self.copy(slot);
        let ready = SystemClock.now();
        let request = Request {
            slot,
            arrival,
            ready,
        };
        (due, request)
    }

    /// Keeps `depth` requests in flight for about `time` and measures it into `pass`. The measured
    /// part are whole turns of all requests, so that a burst of completions is in it or is not.
    fn pass(&mut self, link: &Link, depth: u32, time: Duration, pass: &mut Pass) {
        pass.clear();
        let mut pending = Pending::with_capacity(depth as usize);
        let begin = SystemClock.now();
        let mut now = begin;
        // Requests that have arrived, and when.
        let mut arrived: VecDeque<_> = (0..depth as usize).map(|slot| (slot, begin)).collect();
        let length = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let mut turns = 0_u64;
        // The end of the warm-up, once it is over.
        let mut from = None;
        loop {
            let mut done = now;
            for _ in 0..depth {
                // What is due goes before what has come: work held up by a stall of the machine
                // would hold up the completions of the next turn as well.
                let (due, request) = loop {
                    if let Some(first) = pending.pop_due(now) {
                        break first;
                    }
                    if let Some((slot, arrival)) = arrived.pop_front() {
                        let (due, request) = self.submit(link, slot, arrival);
                        now = request.ready;
                        pending.push(due, request);
                    } else {
                        SystemClock.relax();
                        now = SystemClock.now();
                    }
                };
                self.used.store(due, Ordering::Release);
                done = SystemClock.now();
                if from.is_some() {
                    pass.errors.saturating_record(done.saturating_sub(due));
                    pass.early += u64::from(done < due);
                    pass.overruns += u64::from(request.ready > due);
                    pass.time_ns += done - request.arrival;
                }
                link.completed(due, request.ready, done);
                arrived.push_back((request.slot, done));
                now = done;
            }
            turns += 1;
            match from {
                None if turns >= 2 && done - begin >= WARM_UP => from = Some(done),
                None => {}
                Some(from) => {
                    pass.span_ns = done - from;
                    if pass.span_ns >= length {
                        return;
                    }
                }
            }
        }
    }

    /// Makes `passes` passes, each on a link of its own, and adds those up in which the thread kept
    /// its processor; tries twice as often to get them. All, if there was no such pass.
    pub(super) fn passes(
        &mut self,
        spec: &LinkSpec,
        depth: u32,
        passes: usize,
        time: Duration,
    ) -> Passes {
        let mut one = Pass::new();
        let (mut kept, mut all) = (Pass::new(), Pass::new());
        let mut result = Passes::default();
        while result.tried < 2 * passes && result.kept < passes {
            let link = Link::new(spec.clone()).expect("all cells are links that can be");
            // A thread that has slept starts with a whole slice of its processor's time.
            std::thread::sleep(SETTLE);
            let before = preemptions();
            self.pass(&link, depth, time, &mut one);
            result.tried += 1;
            all.add(&one);
            if preemptions() == before {
                result.kept += 1;
                kept.add(&one);
            }
        }
        result.early = all.early;
        result.sum = if result.kept > 0 { kept } else { all };
        result
    }

    /// Nanoseconds of a copy by itself.
    pub(super) fn copy_floor(&mut self, rounds: usize) -> f64 {
        const COPIES: u32 = 2_000;
        let rounds: Vec<f64> = (0..rounds)
            .map(|_| {
                let start = SystemClock.now();
                (0..COPIES).for_each(|_| self.copy(0));
                #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
                let taken = (SystemClock.now() - start) as f64;
                taken / f64::from(COPIES)
            })
            .collect();
        crate::report::median(&rounds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_completes_nothing_early_and_measures_whole_turns() {
        let spec: LinkSpec = "latency=20us bandwidth=10Gbit/s".parse().unwrap();
        let passes = Worker::new(4).passes(&spec, 4, 2, Duration::from_millis(2));
        let pass = &passes.sum;
        assert_eq!((pass.early, passes.early), (0, 0));
        assert!(passes.tried >= 2 && passes.kept <= 2);
        assert!(!pass.errors.is_empty() && pass.errors.len().is_multiple_of(4));
        assert!(pass.rate() > 0.0 && pass.depth() > 0.0);
        assert!(pass.quantile(0.5) <= pass.quantile(0.999));
    }
}
