// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The part of the text about tiers, guests' parts of them, and links.

use std::collections::BTreeMap;

use tmem_admin_api::{
    Guest, GuestMemory, GuestStats, Link, Pool, Status, Tier, TierCounts, TierName, TierOp,
    TierResult, TierState,
};
use tmem_metrics::{Seconds, Text};

use super::histograms::histograms;
use super::{
    CAPACITY, CHECKSUM, DEMOTED, DRAM_CAP, ENTITLED, EVICTED, FLOOR, FREEABLE, FROZEN,
    GUEST_EMULATED, HITS, LINK_BANDWIDTH, LINK_BYTES, LINK_ERROR, LINK_FAULTS, LINK_FLOOR,
    LINK_LATENCY, LINK_OVERRUNS, LINK_TRANSFERS, LINK_WAIT, Metric, OVERCOMMIT, POLICY, POOL_HITS,
    POOL_MOVED, POOL_TIER, POOL_TIER_PAGES, PROMISED, PROMOTED, QUEUE_WAIT, REFUSED, SHARE,
    TIER_CAPACITY, TIER_EMULATED, TIER_ERRORS, TIER_FLUSH, TIER_FREE, TIER_GET, TIER_IN_USE,
    TIER_MARK, TIER_PAGES, TIER_PROMISED, TIER_PUT, TIER_TIME, TIER_USED, VICTIMS, WEIGHT,
};
use crate::status::AdminSource;

/// The tiers themselves, and what is promised of them.
pub(super) fn tiers(text: &mut Text, status: &Status) {
    let mut plain = |metric: Metric, value: fn(&Tier) -> u64| {
        let tiers = status.tiers.iter();
        text.family(
            metric,
            tiers.map(|t| ([("tier", t.name.as_str())], value(t))),
        );
    };
    plain(TIER_CAPACITY, |t| t.capacity_bytes);
    plain(TIER_USED, |t| t.used_bytes);
    plain(TIER_FREE, |t| t.free_bytes);
    plain(TIER_IN_USE, |t| {
        u64::from(matches!(t.state, TierState::Ok | TierState::Resizing))
    });
    plain(TIER_PROMISED, |t| t.promised_pages);
    plain(TIER_EMULATED, |t| u64::from(t.emulated));
    plain(TIER_ERRORS, |t| t.errors);
    text.family(
        TIER_PAGES,
        status.tiers.iter().flat_map(|t| {
            [
                ("persistent", t.persistent_pages),
                ("ephemeral", t.ephemeral_pages),
                ("victim", t.victim_pages),
            ]
            .map(|(kind, pages)| ([("tier", t.name.as_str()), ("kind", kind)], pages))
        }),
    );
    text.family(
        TIER_MARK,
        status.tiers.iter().flat_map(|t| {
            let marks = t.watermarks.into_iter();
            marks.flat_map(|marks| {
                [("low", marks.low_percent), ("high", marks.high_percent)].map(|(mark, percent)| {
                    let ratio = format!("{}.{:02}", percent / 100, percent % 100);
                    ([("tier", t.name.as_str()), ("mark", mark)], ratio)
                })
            })
        }),
    );
    let promises = status.promises;
    text.family(PROMISED, promises.map(|p| ([], p.promised_pages)));
    text.family(CAPACITY, promises.map(|p| ([], p.capacity_pages)));
    text.family(OVERCOMMIT, promises.map(|p| ([], u64::from(p.overcommit))));
}

/// Guests' limits and shares. Of a daemon that has none the families are empty.
pub(super) fn guests(text: &mut Text, guests: &[Guest]) {
    let known = || {
        let known = guests.iter();
        known.filter_map(|g| g.memory.as_ref().map(|memory| (&*g.name, memory)))
    };
    let mut plain = |metric: Metric, value: fn(&GuestMemory) -> u64| {
        text.family(metric, known().map(|(g, m)| ([("guest", g)], value(m))));
    };
    plain(FROZEN, |m| u64::from(m.frozen));
    plain(WEIGHT, |m| m.weight.into());
    plain(FLOOR, |m| m.floor_pages);
    plain(SHARE, |m| m.dram_pages);
    plain(ENTITLED, |m| m.entitled_pages);
    plain(VICTIMS, |m| m.victim_pages);
    plain(GUEST_EMULATED, |m| u64::from(m.emulated));
    text.family(
        DRAM_CAP,
        known().filter_map(|(g, m)| m.dram_cap_pages.map(|cap| ([("guest", g)], cap))),
    );
    text.family(
        FREEABLE,
        known().flat_map(|(g, m)| {
            [
                ("ephemeral", m.freeable.ephemeral_pages),
                ("victim", m.freeable.victim_pages),
                ("demotable", m.freeable.demotable_pages),
            ]
            .map(|(kind, pages)| ([("guest", g), ("kind", kind)], pages))
        }),
    );
    text.family(
        POLICY,
        known().map(|(g, m)| ([("guest", g), ("policy", &*m.policy)], 1)),
    );
}

/// What tiers did for guests, and how long it took.
pub(super) fn counters(text: &mut Text, stats: &[GuestStats]) {
    text.family(
        HITS,
        stats.iter().flat_map(|s| {
            let hits = s.hits.iter();
            hits.map(|(tier, &pages)| ([("guest", &*s.guest), ("tier", tier.as_str())], pages))
        }),
    );
    text.family(
        REFUSED,
        stats.iter().flat_map(|s| {
            let refused = s.refused.iter();
            refused.map(|(why, &pages)| ([("guest", &*s.guest), ("reason", why.as_str())], pages))
        }),
    );
    for (metric, op) in [
        (TIER_PUT, TierOp::Put),
        (TIER_GET, TierOp::Get),
        (TIER_FLUSH, TierOp::Flush),
    ] {
        text.family(
            metric,
            each_tier(stats).flat_map(|(guest, tier, counts)| {
                let results = counts.pages.get(&op).into_iter().flatten();
                results.map(move |(result, &pages)| {
                    let labels = [
                        ("guest", guest),
                        ("tier", tier),
                        ("result", result.as_str()),
                    ];
                    (labels, pages)
                })
            }),
        );
    }
    let mut plain = |metric: Metric, value: fn(&TierCounts) -> u64| {
        text.family(
            metric,
            each_tier(stats)
                .map(|(guest, tier, counts)| ([("guest", guest), ("tier", tier)], value(counts))),
        );
    };
    plain(DEMOTED, |counts| counts.demoted);
    plain(PROMOTED, |counts| counts.promoted);
    plain(EVICTED, |counts| counts.evicted);
    plain(CHECKSUM, |counts| counts.pages_with(TierResult::Corrupt));
    histograms(
        text,
        QUEUE_WAIT,
        stats
            .iter()
            .map(|s| ([("guest", &*s.guest)], &s.stages.queue_wait)),
    );
    histograms(
        text,
        TIER_TIME,
        stats.iter().flat_map(|s| {
            let tiers = s.stages.tiers.iter();
            tiers.map(|(tier, times)| ([("guest", &*s.guest), ("tier", tier.as_str())], times))
        }),
    );
    histograms(
        text,
        LINK_WAIT,
        stats.iter().flat_map(|s| {
            s.stages.links.iter().flat_map(|(tier, ways)| {
                ways.iter().map(|(way, times)| {
                    let labels = [
                        ("guest", &*s.guest),
                        ("tier", tier.as_str()),
                        ("direction", way.as_str()),
                    ];
                    (labels, times)
                })
            })
        }),
    );
}

fn each_tier(stats: &[GuestStats]) -> impl Iterator<Item = (&str, &'static str, &TierCounts)> {
    stats.iter().flat_map(|s| {
        let tiers = s.tiers.iter();
        tiers.map(|(tier, counts)| (&*s.guest, tier.as_str(), counts))
    })
}

/// What tiers hold of pools and did for them.
pub(super) fn pools(text: &mut Text, source: &dyn AdminSource, guests: &[Guest]) {
    let pools: Vec<Pool> = guests
        .iter()
        .filter_map(|guest| source.pools(&guest.name))
        .flatten()
        .collect();
    let ids: Vec<String> = pools.iter().map(|pool| pool.id.to_string()).collect();
    let each = || {
        pools.iter().zip(&ids).map(|(pool, id)| {
            let labels = [
                ("guest", &*pool.guest),
                ("pool", &**id),
                ("kind", pool.kind.as_str()),
            ];
            (pool, labels)
        })
    };
    let tiers: BTreeMap<TierName, fn(&Pool) -> u64> = BTreeMap::from([
        (TierName::Dram, (|pool| pool.frames) as fn(&Pool) -> u64),
        (TierName::Pm, |pool| pool.pm),
        (TierName::Remote, |pool| pool.remote),
    ]);
    text.family(
        POOL_TIER_PAGES,
        each().flat_map(|(pool, [guest, id, kind])| {
            let tiers = tiers.iter();
            tiers
                .map(move |(tier, pages)| ([guest, id, kind, ("tier", tier.as_str())], pages(pool)))
        }),
    );
    text.family(
        POOL_HITS,
        each().flat_map(|(pool, [guest, id, kind])| {
            let hits = pool.hits.iter();
            hits.map(move |(tier, &pages)| ([guest, id, kind, ("tier", tier.as_str())], pages))
        }),
    );
    text.family(
        POOL_TIER,
        each().flat_map(|(pool, [guest, id, _])| {
            pool.tiers.iter().flat_map(move |(tier, counts)| {
                counts.pages.iter().flat_map(move |(op, results)| {
                    results.iter().map(move |(result, &pages)| {
                        let labels = [
                            guest,
                            id,
                            ("tier", tier.as_str()),
                            ("op", op.as_str()),
                            ("result", result.as_str()),
                        ];
                        (labels, pages)
                    })
                })
            })
        }),
    );
    text.family(
        POOL_MOVED,
        each().flat_map(|(pool, [guest, id, _])| {
            pool.tiers.iter().flat_map(move |(tier, counts)| {
                [
                    ("demoted", counts.demoted),
                    ("promoted", counts.promoted),
                    ("evicted", counts.evicted),
                ]
                .map(|(way, pages)| ([guest, id, ("tier", tier.as_str()), ("way", way)], pages))
            })
        }),
    );
}

/// Links and how well they are emulated.
pub(super) fn links(text: &mut Text, source: &dyn AdminSource) {
    let links = source.tier_admin().map(|admin| admin.links());
    let links: Vec<Link> = links.unwrap_or_default();
    fn labels(link: &Link) -> [(&str, &str); 3] {
        [
            ("tier", link.tier.as_str()),
            ("guest", link.guest.as_deref().unwrap_or_default()),
            ("direction", link.direction.as_str()),
        ]
    }
    let emulated = || links.iter().filter(|link| link.emulated());
    text.family(
        LINK_LATENCY,
        emulated().map(|link| (labels(link), Seconds::of_ns(link.latency_ns))),
    );
    text.family(
        LINK_BANDWIDTH,
        emulated().filter_map(|link| link.bandwidth_bps.map(|bps| (labels(link), bps))),
    );
    text.family(
        LINK_FLOOR,
        links
            .iter()
            .filter_map(|link| link.floor_ns.map(|ns| (labels(link), Seconds::of_ns(ns)))),
    );
    let mut plain = |metric: Metric, value: fn(&Link) -> u64| {
        text.family(metric, links.iter().map(|link| (labels(link), value(link))));
    };
    plain(LINK_TRANSFERS, |link| link.transfers);
    plain(LINK_BYTES, |link| link.bytes);
    plain(LINK_OVERRUNS, |link| link.overruns);
    histograms(
        text,
        LINK_ERROR,
        links.iter().map(|link| (labels(link), &link.error)),
    );
    text.family(
        LINK_FAULTS,
        links.iter().flat_map(|link| {
            let faulted = link.faulted.iter();
            faulted.map(|(fault, &times)| {
                let [tier, guest, direction] = labels(link);
                ([tier, guest, direction, ("fault", fault.as_str())], times)
            })
        }),
    );
}
