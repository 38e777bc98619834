// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Counters and latencies, a guest at a time. They only grow, from the worker's start.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::words::words;
use crate::{Histogram, HitTier, RefusalReason, Schema, StageTimes, TierCounts, TierName};

/// Answer to `GET /v1/stats`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Version of this layout.
    pub schema: Schema,
    /// The worker's time since its start, when it read the counters; rates divide by differences
    /// of this.
    pub uptime_ns: u64,
    /// In order of name.
    pub guests: Vec<GuestStats>,
}

/// What one guest did and what came of it. Map entries that would be zero may be absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestStats {
    /// Its name.
    pub guest: String,
    /// Pages, by operation and result.
    pub pages: BTreeMap<Op, BTreeMap<PageResult, u64>>,
    /// Requests, by operation and status.
    pub requests: BTreeMap<Op, BTreeMap<RequestStatus, u64>>,
    /// Chains and rings that broke the rules, by what was wrong with them.
    pub malformed: BTreeMap<String, u64>,
    /// Times that the guest's kick woke a queue worker.
    pub kicks: u64,
    /// Times that the daemon interrupted the guest.
    pub calls: u64,
    /// Rounds that queue workers polled.
    pub polls: u64,
    /// Of these, rounds that found a request, and so spared a kick.
    pub poll_hits: u64,
    /// Times that a VMM connected.
    pub connections: u64,
    /// From a request's being taken from its ring to its being given back.
    pub latency: Latency,
    /// Pages delivered, by where they were.
    #[serde(default)]
    pub hits: BTreeMap<HitTier, u64>,
    /// Puts that were refused, by why.
    #[serde(default)]
    pub refused: BTreeMap<RefusalReason, u64>,
    /// What each tier did for it.
    #[serde(default)]
    pub tiers: BTreeMap<TierName, TierCounts>,
    /// Where the time of its requests went.
    #[serde(default)]
    pub stages: StageTimes,
}

/// Latencies of requests, whatever their number of pages.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latency {
    /// GET.
    pub get: Histogram,
    /// PUT.
    pub put: Histogram,
}

impl GuestStats {
    /// Pages of `op` that ended with `result`.
    #[must_use]
    pub fn pages_of(&self, op: Op, result: PageResult) -> u64 {
        self.pages
            .get(&op)
            .and_then(|by_result| by_result.get(&result))
            .copied()
            .unwrap_or(0)
    }

    /// Requests that broke the rules, of all kinds.
    #[must_use]
    pub fn malformed_total(&self) -> u64 {
        self.malformed.values().sum()
    }
}

words! {
    /// An operation of the device.
    Op {
        /// Store pages.
        Put = "put",
        /// Fetch pages.
        Get = "get",
        /// Forget a run or a list of pages.
        Flush = "flush",
        /// Forget an object.
        FlushObject = "flush_object",
        /// Forget all pages of a pool.
        FlushPool = "flush_pool",
        /// Begin.
        Hello = "hello",
        /// Make a pool.
        PoolCreate = "pool_create",
        /// Flush and remove a pool.
        PoolDestroy = "pool_destroy",
        /// Read a pool's counts.
        PoolStat = "pool_stat",
        /// Put pages into the balloon.
        BalloonInflate = "balloon_inflate",
        /// Take pages out of the balloon.
        BalloonDeflate = "balloon_deflate",
        /// Tell how the guest is.
        BalloonStats = "balloon_stats",
        /// Tell of free pages.
        BalloonReport = "balloon_report",
    }
}

words! {
    /// What became of a single page.
    PageResult {
        /// Stored, delivered or gone, as was asked.
        Ok = "ok",
        /// Asked for and not there.
        Miss = "miss",
        /// Put refused: beyond the grant, or no room.
        RefusedFull = "refused_full",
        /// Put refused: the guest is frozen.
        RefusedFrozen = "refused_frozen",
        /// Put or flush skipped: the page has a newer ticket.
        Stale = "stale",
        /// The stored page failed its checksum.
        Corrupt = "corrupt",
        /// The index is outside the object.
        BadIndex = "bad_index",
        /// The buffer is not in guest memory, or the tier failed.
        IoError = "io_error",
    }
}

words! {
    /// What became of a request as a whole.
    RequestStatus {
        /// Carried out; the pages' results say how.
        Ok = "ok",
        /// Malformed.
        Invalid = "invalid",
        /// Not an operation, flag or layout of this device.
        Unsupported = "unsupported",
        /// No such pool.
        NoPool = "no_pool",
        /// The pool exists with other properties.
        Exists = "exists",
        /// No more pools.
        NoSpace = "no_space",
        /// HELLO must come first.
        NotReady = "not_ready",
        /// The daemon is ending.
        ShuttingDown = "shutting_down",
        /// The daemon failed.
        DeviceError = "device_error",
    }
}
