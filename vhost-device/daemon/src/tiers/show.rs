// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Tiers, guests' parts of them, and links, as the admin API shows them.

use std::collections::BTreeMap;

use tmem_admin_api::{
    Bucket, Durability, Freeable, GuestMemory, GuestStats, Histogram, HitTier, Link, LinkDirection,
    LinkFault, LinkQueue, Op, PAGE_BYTES, PageResult, Promises, RefusalReason, Tier as Shown,
    TierCounts, TierKind, TierName, TierOp, TierResult, TierState,
};
use tmem_pages::link::{Direction, FaultPlan, HistogramStats, LinkView, Queue};
use tmem_pages::{Guest, PoolKind, PoolStats, Tier};

use super::settings::name_of;
use crate::snapshot::{Running, ServedGuest};

impl Running {
    /// All tiers, nearest first.
    pub(crate) fn shown_tiers(&self) -> Vec<Shown> {
        let tiers = Tier::ALL.into_iter();
        tiers.filter_map(|tier| self.shown_tier(tier)).collect()
    }

    fn shown_tier(&self, tier: Tier) -> Option<Shown> {
        let stats = self.engine.tier(tier)?;
        let config = &self.tiers.config;
        let guests: Vec<_> = self
            .guests
            .iter()
            .map(|guest| &guest.station.guest)
            .collect();
        let mut ephemeral = 0;
        let mut persistent = 0;
        for pool in guests.iter().flat_map(|guest| guest.pools()) {
            let held = pool.stats();
            let pages = match tier {
                Tier::Dram => held.frames,
                Tier::Pm => held.pm,
                Tier::Remote => held.remote,
            };
            match pool.spec().kind {
                PoolKind::Persistent => persistent += pages,
                PoolKind::Ephemeral => ephemeral += pages,
            }
        }
        let max_pages = match tier {
            Tier::Dram => u64::from(config.dram_frames_max()),
            Tier::Pm | Tier::Remote => stats.capacity_pages,
        };
        let pm = config.pm.as_ref().filter(|_| tier == Tier::Pm);
        let floors = guests.iter().map(|guest| guest.dram_limits().floor_pages);
        let is_dram = tier == Tier::Dram;
        let task = self.tiers.tasks.last_of(&self.engine, tier.name());
        let resizing = task.as_ref().is_some_and(|task| {
            task.kind == tmem_admin_api::TaskKind::Resize && !task.state.is_final()
        });
        Some(Shown {
            name: name_of(tier),
            kind: match (tier, self.engine.store(tier).map(|store| store.mode())) {
                (Tier::Dram, _) => TierKind::Memory,
                (Tier::Pm, Some("dax")) => TierKind::Dax,
                (Tier::Pm, _) => TierKind::File,
                (Tier::Remote, Some("stores")) => TierKind::Stores,
                (Tier::Remote, Some("valkey")) => TierKind::Valkey,
                (Tier::Remote, _) => TierKind::StandIn,
            },
            state: match (stats.draining, stats.used_pages) {
                (true, 0) => TierState::Drained,
                (true, _) => TierState::Draining,
                (false, _) if resizing => TierState::Resizing,
                (false, _) => TierState::Ok,
            },
            path: pm.map(|pm| pm.path.display().to_string()),
            capacity_bytes: stats.capacity_pages * PAGE_BYTES,
            max_bytes: max_pages * PAGE_BYTES,
            used_bytes: stats.used_pages * PAGE_BYTES,
            free_bytes: stats.capacity_pages.saturating_sub(stats.used_pages) * PAGE_BYTES,
            persistent_pages: persistent,
            ephemeral_pages: ephemeral,
            victim_pages: stats.victim_pages,
            promised_pages: if is_dram {
                floors.map(u64::from).sum()
            } else {
                0
            },
            watermarks: (is_dram && self.has_lower_tier())
                .then(|| self.tiers.settings.lock().watermarks),
            durability: pm.map_or(Durability::Process, |pm| pm.durability),
            keep_over_reboot: pm.is_some_and(|pm| pm.keep_over_reboot),
            emulated: !is_dram && self.is_emulated(tier, None),
            errors: stats.read_errors + stats.write_errors,
            error: self.engine.tier_error(tier),
            task,
        })
    }

    /// There is a tier below DRAM.
    pub(crate) fn has_lower_tier(&self) -> bool {
        [Tier::Pm, Tier::Remote].map(|tier| self.engine.tier(tier).is_some()) != [false; 2]
    }

    /// A link to this tier is emulated, for this guest or for any.
    pub(crate) fn is_emulated(&self, tier: Tier, guest: Option<&str>) -> bool {
        let views = self.tiers.paths.links().map(|links| links.show());
        let mut views = views.unwrap_or_default().into_iter();
        views.any(|view| {
            let concerns =
                guest.is_none() || view.guest.is_none() || view.guest.as_deref() == guest;
            view.tier == tier.name() && view.emulated && concerns
        })
    }

    /// What is promised, against what there is.
    pub(crate) fn promises(&self) -> Promises {
        let (promised_pages, capacity_pages) = self.engine.promised_and_room();
        Promises {
            promised_pages,
            capacity_pages,
            overcommit: self.tiers.settings.lock().overcommit,
        }
    }

    /// A guest's part of the tiers.
    pub(crate) fn memory_of(&self, served: &ServedGuest, held: &PoolStats) -> GuestMemory {
        let guest = &served.station.guest;
        let (limits, freeable) = (guest.dram_limits(), guest.freeable());
        let seeds = &self.tiers.settings.lock().seeds;
        GuestMemory {
            frozen: guest.stats().frozen,
            dram_cap_pages: limits.cap_pages.map(u64::from),
            weight: limits.weight,
            floor_pages: u64::from(limits.floor_pages),
            dram_pages: guest.dram_pages().saturating_sub(freeable.victims),
            victim_pages: freeable.victims,
            pm_pages: held.pm,
            remote_pages: held.remote,
            entitled_pages: self.entitled(guest),
            freeable: Freeable {
                ephemeral_pages: freeable.ephemeral,
                victim_pages: freeable.victims,
                demotable_pages: freeable.demotable,
            },
            policy: guest.policy().to_owned(),
            policy_seed: seeds.get(guest.name()).copied().map(u64::from),
            emulated: [Tier::Pm, Tier::Remote]
                .into_iter()
                .any(|tier| self.is_emulated(tier, Some(guest.name()))),
            trace: served.station.trace.status(),
            task: self.tiers.tasks.last_of(&self.engine, guest.name()),
        }
    }

    /// Frames that floors, weights and caps give a guest when all want as many as they can get.
    fn entitled(&self, guest: &Guest) -> u64 {
        let all = self.guests.iter().map(|of| of.station.guest.dram_limits());
        let (floors, weights) = all.fold((0u64, 0u64), |(floors, weights), limits| {
            let floor = u64::from(limits.floor_pages);
            (floors + floor, weights + u64::from(limits.weight))
        });
        let own = guest.dram_limits();
        let dram = self.engine.tier(Tier::Dram);
        let dram = dram.map_or(0, |stats| stats.capacity_pages);
        let above = u128::from(dram.saturating_sub(floors)) * u128::from(own.weight);
        let share = u64::try_from(above / u128::from(weights.max(1))).unwrap_or(u64::MAX);
        let entitled = u64::from(own.floor_pages).saturating_add(share);
        entitled.min(own.cap_pages.map_or(u64::MAX, u64::from))
    }

    /// All links.
    pub(crate) fn shown_links(&self) -> Vec<Link> {
        let floor_ns = self
            .tiers
            .paths
            .known_calibration()
            .map(|known| known.floor_ns);
        let views = self.tiers.paths.links().map(|links| links.show());
        let there = |view: &LinkView| {
            let tier: Option<Tier> = view.tier.parse().ok();
            tier.is_some_and(|tier| self.engine.tier(tier).is_some())
        };
        let views = views.unwrap_or_default().into_iter().filter(there);
        views.map(|view| shown_link(view, floor_ns)).collect()
    }
}

fn shown_link(view: LinkView, floor_ns: Option<u64>) -> Link {
    let stats = view.stats;
    let faulted = [
        (LinkFault::Drop, stats.dropped),
        (LinkFault::Slow, stats.slowed),
        (LinkFault::Stall, stats.stalled),
        (LinkFault::Corrupt, stats.corrupted),
    ];
    let mut text = String::new();
    if view.guest.is_some() || view.spec.adds_delay() {
        text = view.spec.to_string();
    }
    let faults = if view.faults == FaultPlan::default() {
        String::new()
    } else {
        view.faults.to_string()
    };
    Link {
        tier: TierName::from_word(&view.tier).unwrap_or_default(),
        queue: match view.queue {
            Some(Queue::Own) => LinkQueue::Own,
            Some(Queue::Shared) | None => LinkQueue::Shared,
        },
        guest: view.guest,
        direction: match view.direction {
            Direction::In => LinkDirection::In,
            Direction::Out => LinkDirection::Out,
        },
        text,
        faults,
        latency_ns: view.spec.latency_ns,
        bandwidth_bps: view.spec.bandwidth_bps.map(std::num::NonZeroU64::get),
        floor_ns,
        transfers: stats.transfers,
        bytes: stats.bytes,
        wait_ns: stats.waited_ns,
        error: histogram(&stats.error),
        overruns: stats.overruns,
        early: stats.early,
        faulted: faulted
            .into_iter()
            .filter(|(_, count)| *count > 0)
            .collect(),
    }
}

fn histogram(stats: &HistogramStats) -> Histogram {
    let buckets = stats.buckets.iter().map(|bucket| Bucket {
        upper_ns: bucket.up_to_ns,
        count: bucket.count,
    });
    Histogram::from_buckets(buckets, stats.sum_ns, stats.max_ns)
}

/// Pages got, by where they were.
pub(crate) fn hits(stats: &PoolStats) -> BTreeMap<HitTier, u64> {
    let elsewhere = stats.hits_same_filled + stats.hits_victim + stats.hits_pm + stats.hits_remote;
    let hits = [
        (HitTier::SameFilled, stats.hits_same_filled),
        (HitTier::Dram, stats.gets.saturating_sub(elsewhere)),
        (HitTier::Victim, stats.hits_victim),
        (HitTier::Pm, stats.hits_pm),
        (HitTier::Remote, stats.hits_remote),
    ];
    hits.into_iter().filter(|(_, count)| *count > 0).collect()
}

/// What each tier did. Moves are told of the tier that pages left; where there are two below DRAM, the
/// engine does not say for a pool from which of them a page came back.
pub(crate) fn counts(stats: &PoolStats, lower: &[TierName]) -> BTreeMap<TierName, TierCounts> {
    let ok = |counts: &mut TierCounts, op, count| {
        if count > 0 {
            let of = counts.pages.entry(op).or_default();
            of.insert(TierResult::Ok, count);
        }
    };
    let mut dram = TierCounts {
        demoted: stats.demoted,
        evicted: stats.evicted,
        ..TierCounts::default()
    };
    let below = stats.hits_pm + stats.hits_remote;
    ok(&mut dram, TierOp::Put, stats.puts);
    ok(&mut dram, TierOp::Get, stats.gets.saturating_sub(below));
    ok(&mut dram, TierOp::Flush, stats.flushes);
    let mut all = BTreeMap::from([(TierName::Dram, dram)]);
    for &name in lower {
        let mut counts = TierCounts::default();
        let hits = match name {
            TierName::Pm => stats.hits_pm,
            _ => stats.hits_remote,
        };
        ok(&mut counts, TierOp::Get, hits);
        if lower.len() == 1 {
            ok(&mut counts, TierOp::Put, stats.demoted);
            counts.promoted = stats.promoted;
        }
        all.insert(name, counts);
    }
    all
}

/// Adds what the engine counts for a guest to what its workers did.
pub(crate) fn add_counts(stats: &mut GuestStats, guest: &Guest, lower: &[TierName]) {
    let total = guest.stats().total;
    stats.hits = hits(&total);
    stats.tiers = counts(&total, lower);
    let refused = |result| stats.pages_of(Op::Put, result);
    let (full, frozen) = (
        refused(PageResult::RefusedFull),
        refused(PageResult::RefusedFrozen),
    );
    // A persistent page within its grant is not refused; an ephemeral one has no grant.
    let ephemeral = guest.pools().into_iter();
    let ephemeral = ephemeral.filter(|pool| pool.spec().kind == PoolKind::Ephemeral);
    let no_room = ephemeral
        .map(|pool| pool.stats().refused)
        .sum::<u64>()
        .min(full);
    let refused = [
        (RefusalReason::OverGrant, full - no_room),
        (RefusalReason::NoRoom, no_room),
        (RefusalReason::Frozen, frozen),
    ];
    let refused = refused.into_iter().filter(|(_, count)| *count > 0);
    stats.refused = refused.collect();
}
