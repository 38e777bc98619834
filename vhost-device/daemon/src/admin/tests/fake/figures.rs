// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The made-up daemon's figures about tiers, as they are before anything is told to it.

use std::collections::BTreeMap;

use tmem_admin_api::{
    Bucket, Durability, Freeable, GuestMemory, Histogram, Link, LinkDirection, LinkFault,
    PAGE_BYTES, Tier, TierCounts, TierKind, TierName, TierOp, TierResult, Watermarks,
};

/// Pages of DRAM that the daemon has.
pub(super) const DRAM_PAGES: u64 = 1 << 18;

pub(super) fn tiers() -> Vec<Tier> {
    let sized = |tier: Tier| Tier {
        free_bytes: tier.capacity_bytes - tier.used_bytes,
        ..tier
    };
    let dram = Tier {
        kind: TierKind::Memory,
        capacity_bytes: DRAM_PAGES * PAGE_BYTES,
        max_bytes: 2 << 30,
        used_bytes: 1264 * PAGE_BYTES,
        persistent_pages: 1000,
        ephemeral_pages: 200,
        victim_pages: 64,
        promised_pages: 65_536,
        watermarks: Some(Watermarks::default()),
        ..Tier::default()
    };
    let pm = Tier {
        name: TierName::Pm,
        kind: TierKind::File,
        path: Some("/var/lib/tmem/pm".into()),
        capacity_bytes: 4 << 30,
        max_bytes: 4 << 30,
        used_bytes: 500 * PAGE_BYTES,
        persistent_pages: 500,
        promised_pages: 197_632,
        durability: Durability::Host,
        keep_over_reboot: true,
        errors: 1,
        error: Some("page 7 of guest web, pool 0, failed its checksum".into()),
        ..Tier::default()
    };
    let remote = Tier {
        name: TierName::Remote,
        kind: TierKind::StandIn,
        capacity_bytes: 8 << 30,
        max_bytes: 8 << 30,
        used_bytes: 200 * PAGE_BYTES,
        persistent_pages: 200,
        emulated: true,
        ..Tier::default()
    };
    [dram, pm, remote].map(sized).into()
}

pub(super) fn guests() -> BTreeMap<String, GuestMemory> {
    let web = GuestMemory {
        dram_cap_pages: Some(131_072),
        weight: 400,
        floor_pages: 65_536,
        dram_pages: 1200,
        victim_pages: 64,
        pm_pages: 500,
        remote_pages: 200,
        entitled_pages: 131_072,
        freeable: Freeable {
            ephemeral_pages: 200,
            victim_pages: 64,
            demotable_pages: 0,
        },
        policy: "s3-fifo".into(),
        emulated: true,
        ..GuestMemory::default()
    };
    let odd = GuestMemory {
        weight: 100,
        entitled_pages: 65_536,
        policy: "clock".into(),
        ..GuestMemory::default()
    };
    BTreeMap::from([("web".into(), web), ("a \"b\"/c".into(), odd)])
}

pub(super) fn link(tier: TierName, direction: LinkDirection) -> Link {
    Link {
        tier,
        direction,
        ..Link::default()
    }
}

pub(super) fn links() -> Vec<Link> {
    let error = Bucket {
        upper_ns: 255,
        count: 300,
    };
    let remote_in = Link {
        text: "latency=5us bandwidth=25Gbit/s".into(),
        latency_ns: 5000,
        bandwidth_bps: Some(25_000_000_000),
        floor_ns: Some(600),
        transfers: 300,
        bytes: 300 * PAGE_BYTES,
        wait_ns: 1_900_000,
        error: Histogram::from_buckets([error], 36_000, 250),
        overruns: 2,
        faulted: BTreeMap::from([(LinkFault::Stall, 1)]),
        ..link(TierName::Remote, LinkDirection::In)
    };
    vec![
        link(TierName::Pm, LinkDirection::In),
        link(TierName::Pm, LinkDirection::Out),
        remote_in,
        link(TierName::Remote, LinkDirection::Out),
    ]
}

/// What each tier did for `web`.
pub(super) fn counts() -> BTreeMap<TierName, TierCounts> {
    let ok = |put, get, flush| {
        let counted = |count| BTreeMap::from([(TierResult::Ok, count)]);
        BTreeMap::from([
            (TierOp::Put, counted(put)),
            (TierOp::Get, counted(get)),
            (TierOp::Flush, counted(flush)),
        ])
    };
    let mut pm = ok(900, 400, 0);
    let gets = pm.entry(TierOp::Get).or_default();
    gets.insert(TierResult::Corrupt, 1);
    BTreeMap::from([
        (
            TierName::Dram,
            TierCounts {
                pages: ok(9000, 6000, 6788),
                demoted: 900,
                promoted: 0,
                evicted: 40,
            },
        ),
        (
            TierName::Pm,
            TierCounts {
                pages: pm,
                demoted: 300,
                promoted: 100,
                evicted: 0,
            },
        ),
        (
            TierName::Remote,
            TierCounts {
                pages: ok(300, 300, 0),
                promoted: 100,
                ..TierCounts::default()
            },
        ),
    ])
}
