// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What tiers did for a guest or a pool, counted.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::words::words;
use crate::{Histogram, LinkDirection, TierName};

words! {
    /// Where a page was when it was asked for.
    HitTier {
        /// In the index alone: it repeats one byte.
        SameFilled = "same_filled",
        /// In DRAM.
        Dram = "dram",
        /// In DRAM, as a copy of a page that had left for a farther tier or was on its way.
        Victim = "victim",
        /// In the PM file.
        Pm = "pm",
        /// In the remote tier.
        Remote = "remote",
    }
}

words! {
    /// Why a put was refused.
    RefusalReason {
        /// A persistent page beyond the guest's grant.
        OverGrant = "over_grant",
        /// No tier had room, and nothing was promised.
        NoRoom = "no_room",
        /// The guest is frozen.
        Frozen = "frozen",
        /// A tier failed.
        TierFailed = "tier_failed",
    }
}

words! {
    /// What a tier is asked to do with a page.
    TierOp {
        /// Take it.
        Put = "put",
        /// Give it.
        Get = "get",
        /// Forget it.
        Flush = "flush",
    }
}

words! {
    /// What became of a page that a tier was asked about.
    TierResult {
        /// What was asked.
        Ok = "ok",
        /// The tier had no room for it.
        Full = "full",
        /// It failed its checksum.
        Corrupt = "corrupt",
        /// The tier failed.
        IoError = "io_error",
    }
}

/// What one tier did. Map entries that would be zero may be absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TierCounts {
    /// Pages, by what was asked and what came of it.
    pub pages: BTreeMap<TierOp, BTreeMap<TierResult, u64>>,
    /// Pages that left it for a farther tier.
    pub demoted: u64,
    /// Pages that left it for a nearer tier.
    pub promoted: u64,
    /// Ephemeral pages that it gave up to make room.
    pub evicted: u64,
}

impl TierCounts {
    /// Pages of `op` that ended with `result`.
    #[must_use]
    pub fn pages_of(&self, op: TierOp, result: TierResult) -> u64 {
        let results = self.pages.get(&op);
        results
            .and_then(|results| results.get(&result))
            .copied()
            .unwrap_or(0)
    }

    /// Pages of any operation that ended with `result`.
    #[must_use]
    pub fn pages_with(&self, result: TierResult) -> u64 {
        let ops = TierOp::ALL.iter();
        ops.map(|&op| self.pages_of(op, result)).sum()
    }
}

/// Where the time of requests went.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StageTimes {
    /// From a request's arrival, as far as the daemon can tell it, to a worker's taking it up.
    pub queue_wait: Histogram,
    /// What a tier took for a page, its link left out.
    pub tiers: BTreeMap<TierName, Histogram>,
    /// What a tier's emulated link added, by direction.
    pub links: BTreeMap<TierName, BTreeMap<LinkDirection, Histogram>>,
}

impl StageTimes {
    /// What happened since `before`, an earlier answer about the same guest.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let none = Histogram::default();
        let tiers = self.tiers.iter().map(|(&tier, now)| {
            let earlier = before.tiers.get(&tier).unwrap_or(&none);
            (tier, now.since(earlier))
        });
        let links = self.links.iter().map(|(&tier, ways)| {
            let earlier = before.links.get(&tier);
            let ways = ways.iter().map(|(&way, now)| {
                let earlier = earlier.and_then(|ways| ways.get(&way)).unwrap_or(&none);
                (way, now.since(earlier))
            });
            (tier, ways.collect())
        });
        Self {
            queue_wait: self.queue_wait.since(&before.queue_wait),
            tiers: tiers.collect(),
            links: links.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Bucket;

    #[test]
    fn what_was_not_counted_is_zero() {
        let ok = BTreeMap::from([(TierResult::Ok, 5), (TierResult::Full, 2)]);
        let counts = TierCounts {
            pages: BTreeMap::from([(TierOp::Put, ok)]),
            ..TierCounts::default()
        };
        assert_eq!(counts.pages_of(TierOp::Put, TierResult::Ok), 5);
        assert_eq!(counts.pages_of(TierOp::Get, TierResult::Ok), 0);
        assert_eq!(counts.pages_with(TierResult::Full), 2);
    }

    #[test]
    fn an_interval_of_stage_times_holds_what_is_new() {
        let times = |count| {
            let bucket = Bucket {
                upper_ns: 100,
                count,
            };
            let histogram = Histogram::from_buckets([bucket], 50 * count, 60);
            StageTimes {
                queue_wait: histogram.clone(),
                tiers: BTreeMap::from([(TierName::Pm, histogram.clone())]),
                links: BTreeMap::from([(
                    TierName::Remote,
                    BTreeMap::from([(LinkDirection::In, histogram)]),
                )]),
            }
        };
        let new = times(7).since(&times(3));
        assert_eq!(new.queue_wait.count, 4);
        assert_eq!(new.tiers[&TierName::Pm].count, 4);
        assert_eq!(new.links[&TierName::Remote][&LinkDirection::In].count, 4);
        assert_eq!(times(7).since(&StageTimes::default()), times(7));
    }
}
