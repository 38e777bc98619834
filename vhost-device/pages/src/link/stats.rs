// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a link has carried, and how well its dues were kept.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use super::histogram::{Histogram, HistogramStats};
use super::model::Passed;

/// What one direction of a link has carried while it was emulated.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkStats {
    /// Transfers reserved.
    pub transfers: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Nanoseconds that they waited for those before them and for a link that stood still.
    pub waited_ns: u64,
    /// Times that one was lost.
    pub dropped: u64,
    /// Transfers sent slowly.
    pub slowed: u64,
    /// Transfers that met a link that stood still.
    pub stalled: u64,
    /// Transfers with a flipped bit.
    pub corrupted: u64,
    /// Transfers completed.
    pub completed: u64,
    /// Those whose real work took longer than the link was to take: the target was not kept.
    pub overruns: u64,
    /// Those completed before they were due: always 0, or there is a mistake in the pacing.
    pub early: u64,
    /// How late they were completed.
    pub error: HistogramStats,
}

/// What is counted with a reservation, under the link's lock.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Reserved {
    transfers: u64,
    bytes: u64,
    waited_ns: u64,
    dropped: u64,
    slowed: u64,
    stalled: u64,
    corrupted: u64,
}

impl Reserved {
    pub(crate) fn count(&mut self, arrival: u64, bytes: u64, passed: &Passed) {
        let faults = passed.fate.faults;
        self.transfers += 1;
        self.bytes = self.bytes.saturating_add(bytes);
        let waited = passed.start.saturating_sub(arrival);
        self.waited_ns = self.waited_ns.saturating_add(waited);
        self.dropped += u64::from(faults.dropped);
        self.slowed += u64::from(faults.slowed);
        self.stalled += u64::from(faults.stalled);
        self.corrupted += u64::from(faults.corrupt.is_some());
    }
}

/// What is counted with a completion, by any thread.
#[derive(Debug)]
pub(crate) struct Completions {
    overruns: AtomicU64,
    early: AtomicU64,
    error: Histogram,
}

impl Completions {
    pub(crate) fn new() -> Self {
        Self {
            overruns: AtomicU64::new(0),
            early: AtomicU64::new(0),
            error: Histogram::new(),
        }
    }

    pub(crate) fn count(&self, due: u64, ready: u64, done: u64) {
        if ready > due {
            self.overruns.fetch_add(1, Ordering::Relaxed);
        }
        if done < due {
            self.early.fetch_add(1, Ordering::Relaxed);
        }
        self.error.record(done.saturating_sub(due));
    }
}

impl LinkStats {
    pub(crate) fn of(reserved: Reserved, completions: &Completions) -> Self {
        let error = completions.error.snapshot();
        Self {
            transfers: reserved.transfers,
            bytes: reserved.bytes,
            waited_ns: reserved.waited_ns,
            dropped: reserved.dropped,
            slowed: reserved.slowed,
            stalled: reserved.stalled,
            corrupted: reserved.corrupted,
            completed: error.count,
            overruns: completions.overruns.load(Ordering::Relaxed),
            early: completions.early.load(Ordering::Relaxed),
            error,
        }
    }
}
