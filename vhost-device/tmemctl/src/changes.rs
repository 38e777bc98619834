// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What happened between two answers of the daemon: its counters only grow.

use std::collections::BTreeMap;

use tmem_admin_api::{GuestStats, Latency, Stats, TierCounts, TierName};

/// What happened to each guest between two answers, and in how many nanoseconds.
pub(crate) fn changes(now: &Stats, before: &Stats) -> (Vec<GuestStats>, u64) {
    // A daemon that has been up for less long than before was restarted: it counts from zero.
    let restarted = now.uptime_ns < before.uptime_ns;
    let over_ns = now.uptime_ns - if restarted { 0 } else { before.uptime_ns };
    let guests = now.guests.iter().map(|stats| {
        let mut before = before.guests.iter();
        let earlier = before.find(|b| b.guest == stats.guest && !restarted);
        earlier.map_or_else(|| stats.clone(), |earlier| since(stats, earlier))
    });
    (guests.collect(), over_ns)
}

fn since(now: &GuestStats, before: &GuestStats) -> GuestStats {
    GuestStats {
        guest: now.guest.clone(),
        pages: nested(&now.pages, &before.pages),
        requests: nested(&now.requests, &before.requests),
        malformed: flat(&now.malformed, Some(&before.malformed)),
        kicks: now.kicks.saturating_sub(before.kicks),
        calls: now.calls.saturating_sub(before.calls),
        polls: now.polls.saturating_sub(before.polls),
        poll_hits: now.poll_hits.saturating_sub(before.poll_hits),
        connections: now.connections.saturating_sub(before.connections),
        latency: Latency {
            get: now.latency.get.since(&before.latency.get),
            put: now.latency.put.since(&before.latency.put),
        },
        hits: flat(&now.hits, Some(&before.hits)),
        refused: flat(&now.refused, Some(&before.refused)),
        tiers: tiers(&now.tiers, &before.tiers),
        stages: now.stages.since(&before.stages),
    }
}

fn tiers(
    now: &BTreeMap<TierName, TierCounts>,
    before: &BTreeMap<TierName, TierCounts>,
) -> BTreeMap<TierName, TierCounts> {
    let none = TierCounts::default();
    let tiers = now.iter().map(|(&tier, now)| {
        let before = before.get(&tier).unwrap_or(&none);
        let counts = TierCounts {
            pages: nested(&now.pages, &before.pages),
            demoted: now.demoted.saturating_sub(before.demoted),
            promoted: now.promoted.saturating_sub(before.promoted),
            evicted: now.evicted.saturating_sub(before.evicted),
        };
        (tier, counts)
    });
    tiers.collect()
}

type Counts<K> = BTreeMap<K, u64>;

fn flat<K: Ord + Clone>(now: &Counts<K>, before: Option<&Counts<K>>) -> Counts<K> {
    now.iter()
        .map(|(key, count)| {
            let earlier = before
                .and_then(|before| before.get(key))
                .copied()
                .unwrap_or(0);
            (key.clone(), count.saturating_sub(earlier))
        })
        .collect()
}

fn nested<A: Ord + Copy, B: Ord + Copy>(
    now: &BTreeMap<A, Counts<B>>,
    before: &BTreeMap<A, Counts<B>>,
) -> BTreeMap<A, Counts<B>> {
    now.iter()
        .map(|(&key, counts)| (key, flat(counts, before.get(&key))))
        .collect()
}

#[cfg(test)]
mod tests {
    use tmem_admin_api::{HitTier, Op, PageResult, TierOp, TierResult};

    use super::*;

    fn stats(uptime_ns: u64, puts: u64) -> Stats {
        let pages = BTreeMap::from([(Op::Put, BTreeMap::from([(PageResult::Ok, puts)]))]);
        let taken = BTreeMap::from([(TierOp::Put, BTreeMap::from([(TierResult::Ok, puts)]))]);
        let dram = TierCounts {
            pages: taken,
            demoted: puts,
            ..TierCounts::default()
        };
        let guest = GuestStats {
            guest: "web".into(),
            pages,
            kicks: puts,
            hits: BTreeMap::from([(HitTier::Dram, puts)]),
            tiers: BTreeMap::from([(TierName::Dram, dram)]),
            ..Default::default()
        };
        Stats {
            uptime_ns,
            guests: vec![guest],
            ..Stats::default()
        }
    }

    fn puts((guests, over_ns): &(Vec<GuestStats>, u64)) -> (u64, u64) {
        (guests[0].pages_of(Op::Put, PageResult::Ok), *over_ns)
    }

    #[test]
    fn changes_are_differences_over_the_daemons_own_time() {
        let changed = changes(&stats(5_000, 70), &stats(2_000, 50));
        assert_eq!(puts(&changed), (20, 3_000));
        let guest = &changed.0[0];
        assert_eq!((guest.kicks, guest.hits[&HitTier::Dram]), (20, 20));
        let dram = &guest.tiers[&TierName::Dram];
        assert_eq!(dram.demoted, 20);
        assert_eq!(dram.pages_of(TierOp::Put, TierResult::Ok), 20);
    }

    #[test]
    fn a_restarted_daemon_counts_from_zero() {
        let changed = changes(&stats(1_000, 7), &stats(9_000, 50));
        assert_eq!(puts(&changed), (7, 1_000));
    }

    #[test]
    fn a_guest_that_is_new_counts_from_zero() {
        let before = Stats {
            uptime_ns: 1_000,
            ..Stats::default()
        };
        assert_eq!(puts(&changes(&stats(2_000, 7), &before)), (7, 1_000));
    }
}
