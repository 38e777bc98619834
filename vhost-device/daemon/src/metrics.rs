// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a guest did and what came of it, counted by those who serve it.
//!
//! Each worker has counters of its own, so that none waits for another's cache line; a reader adds
//! them up. They belong to the guest and live as long as the daemon.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tmem_admin_api::{
    Bucket, GuestStats, Latency, LinkDirection, Op, PageResult, RequestStatus, StageTimes, TierName,
};

use crate::device::request::Malformed;
use crate::device::request::serve::{RESULTS, Served};
use crate::limits::LOG_INTERVAL;
use crate::tiers::paths::{Flight, LOWER};

const OPS: usize = Op::ALL.len();
const STATUSES: usize = RequestStatus::ALL.len();
const KINDS: usize = Malformed::ALL.len();
// Codes on the wire are indices here; the order of the words is checked by a test.
const _: () = assert!(PageResult::ALL.len() == RESULTS);

/// Buckets an octave: an edge is at most 1/8 above what it stands for.
const STEPS: u64 = 8;
const BUCKETS: usize = 62 * 8;

/// A distribution of times in ns, in buckets that grow with the value.
#[derive(Debug)]
pub struct Histogram {
    buckets: Box<[AtomicU64]>,
    sum_ns: AtomicU64,
    max_ns: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            buckets: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect(),
            sum_ns: AtomicU64::new(0),
            max_ns: AtomicU64::new(0),
        }
    }
}

/// Index of the bucket that holds `ns`.
#[expect(clippy::cast_possible_truncation, reason = "it is below BUCKETS")]
const fn bucket(ns: u64) -> usize {
    if ns < STEPS {
        return ns as usize;
    }
    // The three bits after the highest one choose among an octave's steps.
    let octave = ns.ilog2() - STEPS.ilog2();
    let step = (ns >> octave) - STEPS;
    (STEPS + octave as u64 * STEPS + step) as usize
}

/// The largest value of a bucket.
const fn upper(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < STEPS {
        return bucket;
    }
    let octave = (bucket - STEPS) / STEPS;
    let step = bucket % STEPS;
    // Written so that the last octave does not overflow.
    ((STEPS + step) << octave) + ((1 << octave) - 1)
}

impl Histogram {
    /// Enters one time. Only one thread at a time does.
    pub fn record(&self, ns: u64) {
        self.record_many(ns, 1);
    }

    /// Enters a time that several things took. Only one thread at a time does.
    pub fn record_many(&self, ns: u64, times: u64) {
        if let Some(count) = self.buckets.get(bucket(ns)) {
            add(count, times);
            add(&self.sum_ns, ns.wrapping_mul(times));
            if ns > self.max_ns.load(Relaxed) {
                self.max_ns.store(ns, Relaxed);
            }
        }
    }
}

/// Adds to a counter that only this thread writes: a locked instruction costs as much as some
/// hundred bytes of the page's copy, and nobody needs it.
#[inline]
fn add(counter: &AtomicU64, value: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(value), Relaxed);
}

/// The sum of several histograms, as it is told.
fn merged(parts: &[&Histogram]) -> tmem_admin_api::Histogram {
    let count = |index: usize| -> u64 {
        let counts = parts.iter().filter_map(|part| part.buckets.get(index));
        counts.map(|count| count.load(Relaxed)).sum()
    };
    tmem_admin_api::Histogram::from_buckets(
        (0..BUCKETS).map(|index| Bucket {
            upper_ns: upper(index),
            count: count(index),
        }),
        parts.iter().map(|part| part.sum_ns.load(Relaxed)).sum(),
        parts
            .iter()
            .map(|part| part.max_ns.load(Relaxed))
            .max()
            .unwrap_or(0),
    )
}

/// The counters of one worker; written by its thread alone.
#[derive(Debug, Default)]
pub struct WorkerMetrics {
    requests: [[AtomicU64; STATUSES]; OPS],
    pages: [[AtomicU64; RESULTS]; OPS],
    get_ns: Histogram,
    put_ns: Histogram,
    /// From the taking of a batch to the beginning of a request.
    wait_ns: Histogram,
    /// What lower tiers took for a request's pages.
    tier_ns: [Histogram; LOWER],
    /// What their links added.
    link_ns: [Histogram; LOWER],
    kicks: AtomicU64,
    calls: AtomicU64,
    polls: AtomicU64,
    poll_hits: AtomicU64,
}

impl WorkerMetrics {
    /// Counts a chain that was used, `ns` after it had been taken.
    pub fn served(&self, served: &Served, ns: u64) {
        let Some(op) = served.op else { return };
        if let Some(status) = served.status {
            let counts = &self.requests[op as usize];
            if let Some(count) = counts.get(usize::from(status)) {
                add(count, 1);
            }
        }
        for (count, pages) in self.pages[op as usize].iter().zip(served.pages) {
            if pages != 0 {
                add(count, u64::from(pages));
            }
        }
        match op {
            Op::Get => self.get_ns.record(ns),
            Op::Put => self.put_ns.record(ns),
            _ => {}
        }
    }

    /// Counts so many requests that were begun `ns` after they had been taken.
    pub fn waited(&self, ns: u64, requests: usize) {
        if requests > 0 {
            self.wait_ns.record_many(ns, requests as u64);
        }
    }

    /// Counts what lower tiers took for a request.
    pub(crate) fn read_below(&self, spent: [u64; LOWER]) {
        for (histogram, ns) in self.tier_ns.iter().zip(spent) {
            if ns > 0 {
                histogram.record(ns);
            }
        }
    }

    /// Counts a request that was kept back for its tiers' links.
    pub(crate) fn linked(&self, flight: &Flight) {
        for (histogram, due) in self.link_ns.iter().zip(flight.parts) {
            if let Some(due) = due {
                histogram.record(due.saturating_sub(flight.arrival));
            }
        }
    }

    /// Counts a wake-up by a kick.
    pub fn kicked(&self) {
        self.kicks.fetch_add(1, Relaxed);
    }

    /// Counts an interrupt of the guest.
    pub fn called(&self) {
        self.calls.fetch_add(1, Relaxed);
    }

    /// Counts a round of polling.
    pub fn polled(&self, hit: bool) {
        self.polls.fetch_add(1, Relaxed);
        if hit {
            self.poll_hits.fetch_add(1, Relaxed);
        }
    }
}

/// All counters of one guest.
#[derive(Debug)]
pub struct GuestMetrics {
    /// One for each queue pair, and the last for control, event and balloon queue.
    workers: Vec<WorkerMetrics>,
    malformed: [AtomicU64; KINDS],
    /// When a kind was last logged, in ns since any fixed moment, plus 1; 0: never.
    logged: [AtomicU64; KINDS],
    connections: AtomicU64,
}

impl GuestMetrics {
    /// Counters at zero for a guest with `pairs` queue pairs.
    #[must_use]
    pub fn new(pairs: u16) -> Self {
        Self {
            workers: (0..=pairs).map(|_| WorkerMetrics::default()).collect(),
            malformed: std::array::from_fn(|_| AtomicU64::new(0)),
            logged: std::array::from_fn(|_| AtomicU64::new(0)),
            connections: AtomicU64::new(0),
        }
    }

    /// The counters of a queue pair's worker; beyond the last pair, those of the control thread.
    #[must_use]
    pub fn worker(&self, pair: usize) -> &WorkerMetrics {
        &self.workers[pair.min(self.workers.len() - 1)]
    }

    /// The counters of the control thread.
    #[must_use]
    pub fn control(&self) -> &WorkerMetrics {
        self.worker(usize::MAX)
    }

    /// Counts a chain or ring that broke the rules. Returns how many of its kind there were so far
    /// if it is time to log one, and nothing otherwise: guests must not fill the host's logs.
    pub fn malformed(&self, kind: Malformed, now: Duration) -> Option<u64> {
        let count = self.malformed[kind as usize].fetch_add(1, Relaxed) + 1;
        let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        let last = self.logged[kind as usize].load(Relaxed);
        let interval = u64::try_from(LOG_INTERVAL.as_nanos()).unwrap_or(u64::MAX);
        if last != 0 && now.saturating_sub(last - 1) < interval {
            return None;
        }
        self.logged[kind as usize]
            .compare_exchange(last, now.saturating_add(1), Relaxed, Relaxed)
            .is_ok()
            .then_some(count)
    }

    /// Counts a VMM's connection.
    pub fn connected(&self) {
        self.connections.fetch_add(1, Relaxed);
    }

    /// Requests of all kinds that were answered.
    #[must_use]
    pub fn requests(&self) -> u64 {
        let counts = self.workers.iter().flat_map(|worker| &worker.requests);
        counts.flatten().map(|count| count.load(Relaxed)).sum()
    }

    fn stages(&self) -> StageTimes {
        let all = |of: &dyn Fn(&WorkerMetrics) -> Option<&Histogram>| {
            merged(&self.workers.iter().filter_map(of).collect::<Vec<_>>())
        };
        let mut stages = StageTimes {
            queue_wait: all(&|worker| Some(&worker.wait_ns)),
            ..StageTimes::default()
        };
        for (at, name) in [TierName::Pm, TierName::Remote].into_iter().enumerate() {
            let tier = all(&|worker| worker.tier_ns.get(at));
            if tier.count > 0 {
                stages.tiers.insert(name, tier);
            }
            let link = all(&|worker| worker.link_ns.get(at));
            if link.count > 0 {
                let ways = BTreeMap::from([(LinkDirection::In, link)]);
                stages.links.insert(name, ways);
            }
        }
        stages
    }

    /// Everything, added up.
    #[must_use]
    pub fn snapshot(&self, guest: &str) -> GuestStats {
        let sum = |of: &dyn Fn(&WorkerMetrics) -> &AtomicU64| -> u64 {
            self.workers.iter().map(|w| of(w).load(Relaxed)).sum()
        };
        let mut pages: BTreeMap<Op, BTreeMap<PageResult, u64>> = BTreeMap::new();
        let mut requests: BTreeMap<Op, BTreeMap<RequestStatus, u64>> = BTreeMap::new();
        for &op in Op::ALL {
            for (code, &result) in PageResult::ALL.iter().enumerate() {
                let count = sum(&|w| &w.pages[op as usize][code]);
                if count != 0 {
                    pages.entry(op).or_default().insert(result, count);
                }
            }
            for (code, &status) in RequestStatus::ALL.iter().enumerate() {
                let count = sum(&|w| &w.requests[op as usize][code]);
                if count != 0 {
                    requests.entry(op).or_default().insert(status, count);
                }
            }
        }
        let malformed = Malformed::ALL
            .iter()
            .map(|&kind| {
                (
                    kind.to_string(),
                    self.malformed[kind as usize].load(Relaxed),
                )
            })
            .filter(|(_, count)| *count != 0)
            .collect();
        GuestStats {
            guest: guest.to_owned(),
            pages,
            requests,
            malformed,
            kicks: sum(&|w| &w.kicks),
            calls: sum(&|w| &w.calls),
            polls: sum(&|w| &w.polls),
            poll_hits: sum(&|w| &w.poll_hits),
            connections: self.connections.load(Relaxed),
            latency: Latency {
                get: merged(&self.workers.iter().map(|w| &w.get_ns).collect::<Vec<_>>()),
                put: merged(&self.workers.iter().map(|w| &w.put_ns).collect::<Vec<_>>()),
            },
            stages: self.stages(),
            ..GuestStats::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use tmem_abi::{result, status};

    use super::*;

    #[test]
    fn codes_of_the_wire_are_the_indices_of_the_words() {
        let results = [
            (result::OK, PageResult::Ok),
            (result::MISS, PageResult::Miss),
            (result::REFUSED_FULL, PageResult::RefusedFull),
            (result::REFUSED_FROZEN, PageResult::RefusedFrozen),
            (result::STALE, PageResult::Stale),
            (result::CORRUPT, PageResult::Corrupt),
            (result::BAD_INDEX, PageResult::BadIndex),
            (result::IO_ERROR, PageResult::IoError),
        ];
        for (code, word) in results {
            assert_eq!(PageResult::ALL[usize::from(code)], word);
        }
        let statuses = [
            (status::OK, RequestStatus::Ok),
            (status::INVALID, RequestStatus::Invalid),
            (status::UNSUPPORTED, RequestStatus::Unsupported),
            (status::NO_POOL, RequestStatus::NoPool),
            (status::EXISTS, RequestStatus::Exists),
            (status::NO_SPACE, RequestStatus::NoSpace),
            (status::NOT_READY, RequestStatus::NotReady),
            (status::SHUTTING_DOWN, RequestStatus::ShuttingDown),
            (status::DEVICE_ERROR, RequestStatus::DeviceError),
        ];
        for (code, word) in statuses {
            assert_eq!(RequestStatus::ALL[usize::from(code)], word);
        }
        for (index, &op) in Op::ALL.iter().enumerate() {
            assert_eq!(op as usize, index);
        }
    }

    #[test]
    fn every_time_lies_in_its_bucket_and_above_the_one_before() {
        let mut values: Vec<u64> = (0..4096).collect();
        values.extend((12..64).flat_map(|bit| [(1 << bit) - 1, 1 << bit, (1 << bit) + 1]));
        values.push(u64::MAX);
        for ns in values {
            let index = bucket(ns);
            assert!(index < BUCKETS, "{ns} is beyond the buckets");
            assert!(upper(index) >= ns, "{ns} is above its bucket's edge");
            assert!(
                index == 0 || upper(index - 1) < ns,
                "{ns} belongs further down"
            );
            assert!(
                upper(index) - ns <= ns / STEPS,
                "the edge is too far above {ns}"
            );
        }
    }

    #[test]
    fn a_kind_is_counted_each_time_and_logged_once_an_interval() {
        let metrics = GuestMetrics::new(1);
        let at = |ms| metrics.malformed(Malformed::Op, Duration::from_millis(ms));
        assert_eq!(at(0), Some(1));
        assert_eq!(at(1), None);
        assert_eq!(metrics.malformed(Malformed::Flag, Duration::ZERO), Some(1));
        assert_eq!(at(20_000), Some(3));
        assert_eq!(metrics.snapshot("a").malformed["op"], 3);
    }

    #[test]
    fn workers_are_added_up() {
        let metrics = GuestMetrics::new(2);
        let mut served = Served {
            op: Some(Op::Put),
            status: Some(status::OK),
            ..Served::default()
        };
        served.pages[usize::from(result::STALE)] = 3;
        metrics.worker(0).served(&served, 100);
        metrics.worker(1).served(&served, 1000);
        metrics.control().kicked();
        let stats = metrics.snapshot("a");
        assert_eq!(stats.pages_of(Op::Put, PageResult::Stale), 6);
        assert_eq!(stats.requests[&Op::Put][&RequestStatus::Ok], 2);
        assert_eq!(
            (stats.latency.put.count, stats.latency.put.max_ns),
            (2, 1000)
        );
        assert_eq!((stats.latency.get.count, stats.kicks), (0, 1));
    }
}
