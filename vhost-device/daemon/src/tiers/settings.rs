// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What an administrator has set while the daemon ran and the engine's map does not keep. The worker
//! tells its keeper of each change, and the keeper tells the next worker.
//!
//! | kept by | what |
//! | --- | --- |
//! | the map | sizes of tiers; guests' grants, caps, floors, weights, policies |
//! | this | watermarks, overcommitment, drains, links and their faults, seeds of policies, stores that came and went, balloons |
//!
//! A daemon's start takes everything from its configuration, a worker's restart everything from here
//! and the map. Faults begin anew with each worker: their times count from its start.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tmem_admin_api::{TierName, Watermarks};
use tmem_pages::link::{
    Calibration, Direction, Directions, FaultPlan, LinkChange, LinkSpec, LinkView, Queue,
};
use tmem_pages::{DramLimits, Engine, Tier};

use super::paths::Paths;
use super::stores::StoreSettings;
use crate::balloon::BalloonSetting;
use crate::config::{Config, GuestConfig, LinkConfig};
use crate::error::Error;

/// See the module's head.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Settings {
    pub(crate) watermarks: Watermarks,
    pub(crate) overcommit: bool,
    pub(crate) draining: Vec<TierName>,
    pub(crate) links: Vec<LinkSetting>,
    /// By guest.
    pub(crate) seeds: BTreeMap<String, u32>,
    /// What waiting costs on this machine, if it was measured.
    pub(crate) measured: Option<Measured>,
    /// Of the remote tier.
    pub(crate) stores: StoreSettings,
    /// By guest.
    pub(crate) balloons: BTreeMap<String, BalloonSetting>,
    /// What all guests on auto may keep together.
    pub(crate) balloon_budget: Option<u64>,
}

/// A [`Calibration`], so that each worker need not take the time to make one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Measured {
    clock_read_ns: u64,
    floor_ns: u64,
    spin_late_p50_ns: u64,
    spin_late_p999_ns: u64,
    sleep_late_p50_ns: u64,
    sleep_guard_ns: u64,
}

impl From<Calibration> for Measured {
    fn from(of: Calibration) -> Self {
        Self {
            clock_read_ns: of.clock_read_ns,
            floor_ns: of.floor_ns,
            spin_late_p50_ns: of.spin_late_p50_ns,
            spin_late_p999_ns: of.spin_late_p999_ns,
            sleep_late_p50_ns: of.sleep_late_p50_ns,
            sleep_guard_ns: of.sleep_guard_ns,
        }
    }
}

impl From<Measured> for Calibration {
    fn from(of: Measured) -> Self {
        Self {
            clock_read_ns: of.clock_read_ns,
            floor_ns: of.floor_ns,
            spin_late_p50_ns: of.spin_late_p50_ns,
            spin_late_p999_ns: of.spin_late_p999_ns,
            sleep_late_p50_ns: of.sleep_late_p50_ns,
            sleep_guard_ns: of.sleep_guard_ns,
        }
    }
}

/// One direction of a link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LinkSetting {
    tier: String,
    guest: Option<String>,
    direction: Direction,
    queue: Option<Queue>,
    spec: LinkSpec,
    faults: FaultPlan,
}

impl Settings {
    /// What the configuration says.
    pub(crate) fn of(config: &Config) -> Self {
        let seeds = config.guests.iter().filter_map(|guest| {
            let seed = seed_of(guest.limits.policy_seed?);
            Some((guest.name.clone(), seed))
        });
        Self {
            watermarks: config.dram.watermarks,
            overcommit: config.overcommit,
            seeds: seeds.collect(),
            balloon_budget: config.balloon.budget_pages,
            ..Self::default()
        }
    }

    /// Does what a worker before this one was told.
    pub(crate) fn apply(&self, engine: &Engine, paths: &Paths) {
        engine.allow_overcommit(self.overcommit);
        set_watermarks(engine, self.watermarks);
        for name in &self.draining {
            if let Err(error) = engine.drain_tier(tier_of(*name), true) {
                tracing::error!(tier = name.as_str(), %error, "a drain cannot be gone on with");
            }
        }
        if let Some(measured) = self.measured {
            paths.set_calibration(measured.into());
        }
        for link in &self.links {
            if let Err(error) = link.apply(paths) {
                tracing::error!(tier = link.tier, %error, "a link cannot be emulated any more");
            }
        }
        paths.look_again();
    }
}

impl LinkSetting {
    /// What is to be kept of a link; nothing of one that adds nothing.
    pub(crate) fn of(view: LinkView) -> Option<Self> {
        let plain = !view.spec.adds_delay() && view.faults == FaultPlan::default();
        (view.guest.is_some() || !plain).then_some(Self {
            tier: view.tier,
            guest: view.guest,
            direction: view.direction,
            queue: view.queue,
            spec: view.spec,
            faults: view.faults,
        })
    }

    /// It is a tier's, not one guest's.
    pub(crate) const fn is_of_all(&self) -> bool {
        self.guest.is_none()
    }

    fn apply(&self, paths: &Paths) -> Result<(), tmem_pages::link::LinkError> {
        let Some(links) = paths.links() else {
            return Ok(());
        };
        let change = LinkChange {
            latency_ns: Some(self.spec.latency_ns),
            bandwidth_bps: Some(self.spec.bandwidth_bps),
            jitter: Some(self.spec.jitter.clone()),
            seed: Some(self.spec.seed),
            queue: self.queue,
            local_npages: None,
        };
        let (guest, ways) = (self.guest.as_deref(), one_way(self.direction));
        // It was checked when it was set.
        links.set(&self.tier, guest, ways, &change, &Calibration::default())?;
        if self.faults == FaultPlan::default() {
            return Ok(());
        }
        links.set_faults(&self.tier, guest, ways, paths.now(), &self.faults)
    }
}

/// Sizes the tiers as configured, and sets what belongs to them: for a daemon's start. Guests that are
/// no longer configured are gone by now.
///
/// # Errors
/// [`Error`], if that cannot be.
pub(crate) fn begin(config: &Config, engine: &Engine, paths: &Paths) -> Result<(), Error> {
    for (tier, pages) in sizes(config) {
        engine.resize_tier(tier, pages)?;
    }
    set_watermarks(engine, config.dram.watermarks);
    // Floors are lowered before any is raised.
    for guest in &config.guests {
        if let Some(attached) = engine.guest(&guest.name) {
            let now = attached.dram_limits();
            let floor_pages = now.floor_pages.min(limits_of(guest).floor_pages);
            attached.set_dram_limits(DramLimits { floor_pages, ..now })?;
        }
    }
    for guest in &config.guests {
        limit(guest, engine)?;
    }
    let all = config.links.iter().map(|link| (None, link));
    let own = config.guests.iter().flat_map(|guest| {
        let links = guest.limits.links.iter();
        links.map(|link| (Some(guest.name.as_str()), link))
    });
    for (guest, link) in all.chain(own) {
        set_link(paths, guest, link)?;
    }
    paths.look_again();
    Ok(())
}

/// Makes room for what guests are about to be promised: tiers that are to be larger.
///
/// # Errors
/// [`Error::TierSize`].
pub(crate) fn grow(config: &Config, engine: &Engine) -> Result<(), Error> {
    for (tier, pages) in sizes(config) {
        let now = engine.tier(tier).map_or(0, |stats| stats.capacity_pages);
        if pages > now {
            engine.resize_tier(tier, pages)?;
        }
    }
    Ok(())
}

fn sizes(config: &Config) -> Vec<(Tier, u64)> {
    let pm = config.pm.as_ref().map(|pm| (Tier::Pm, pm.pages));
    let remote = config.remote.as_ref();
    let remote = remote.map(|remote| (Tier::Remote, remote.pages));
    std::iter::once((Tier::Dram, u64::from(config.dram_frames)))
        .chain(pm)
        .chain(remote)
        .collect()
}

fn limits_of(guest: &GuestConfig) -> DramLimits {
    let pages = |pages| u32::try_from(pages).unwrap_or(u32::MAX);
    DramLimits {
        cap_pages: guest.limits.dram_cap_pages.map(pages),
        floor_pages: pages(guest.limits.floor_pages),
        weight: guest.limits.weight,
    }
}

fn limit(guest: &GuestConfig, engine: &Engine) -> Result<(), Error> {
    let Some(attached) = engine.guest(&guest.name) else {
        return Ok(());
    };
    attached.set_dram_limits(limits_of(guest))?;
    let name = guest.limits.policy.as_deref();
    let seed = seed_of(guest.limits.policy_seed.unwrap_or(0));
    let name = name.unwrap_or(tmem_pages::policy::DEFAULT.name);
    (attached.set_policy(name, seed)).map_err(|source| Error::Policy {
        name: guest.name.clone(),
        source,
    })
}

fn set_link(paths: &Paths, guest: Option<&str>, link: &LinkConfig) -> Result<(), Error> {
    let tier = link.tier.as_str();
    let failed = |source| Error::Link { tier, source };
    let change: LinkChange = link.text.parse().map_err(failed)?;
    let direction = match link.direction {
        tmem_admin_api::LinkDirection::In => Directions::In,
        tmem_admin_api::LinkDirection::Out => Directions::Out,
    };
    let Some(links) = paths.links() else {
        return Ok(());
    };
    links
        .set(tier, guest, direction, &change, &paths.calibration())
        .map_err(failed)
}

/// Sets when pages leave DRAM.
pub(crate) fn set_watermarks(engine: &Engine, marks: Watermarks) {
    let share = |percent| f64::from(percent) / 100.0;
    engine.set_watermarks(share(marks.low_percent), share(marks.high_percent));
}

/// The engine's word for a tier.
pub(crate) const fn tier_of(name: TierName) -> Tier {
    match name {
        TierName::Dram => Tier::Dram,
        TierName::Pm => Tier::Pm,
        TierName::Remote => Tier::Remote,
    }
}

/// The admin API's word for a tier.
pub(crate) const fn name_of(tier: Tier) -> TierName {
    match tier {
        Tier::Dram => TierName::Dram,
        Tier::Pm => TierName::Pm,
        Tier::Remote => TierName::Remote,
    }
}

pub(crate) const fn one_way(direction: Direction) -> Directions {
    match direction {
        Direction::In => Directions::In,
        Direction::Out => Directions::Out,
    }
}

/// A seed as the engine keeps it.
pub(crate) fn seed_of(seed: u64) -> u32 {
    // Any number is as good as any other; the same gives the same.
    let folded = (seed ^ (seed >> 32)) & u64::from(u32::MAX);
    u32::try_from(folded).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(paths: &Paths) -> Vec<LinkSetting> {
        let views = paths.links().unwrap().show().into_iter();
        views.filter_map(LinkSetting::of).collect()
    }

    #[test]
    fn links_come_back_as_they_were() {
        let paths = Paths::new();
        let links = paths.links().unwrap();
        let lines = [
            (
                "remote",
                None,
                "latency=5us bandwidth=25Gbit/s jitter=uniform:2us seed=7",
            ),
            ("remote", Some("a"), "latency=9us"),
            ("remote", Some("b"), "queue=own bandwidth=unlimited"),
            ("pm", None, "latency=1us"),
        ];
        for (tier, guest, line) in lines {
            let change = line.parse().unwrap();
            let none = Calibration::default();
            links
                .set(tier, guest, Directions::Both, &change, &none)
                .unwrap();
        }
        let plan = "corrupt=0.1 drop=0.01 seed=3".parse().unwrap();
        (links.set_faults("pm", None, Directions::In, 0, &plan)).unwrap();
        let settings = Settings {
            links: kept(&paths),
            ..Settings::default()
        };
        assert_eq!(settings.links.len(), 8);
        let json = serde_json::to_value(&settings).unwrap();
        let told: Settings = serde_json::from_value(json).unwrap();
        assert_eq!(told, settings);
        let next = Paths::new();
        for link in &told.links {
            link.apply(&next).unwrap();
        }
        assert_eq!(kept(&next), settings.links);
        assert!(!next.is_on());
        next.look_again();
        assert!(next.is_on());
    }

    #[test]
    fn nothing_is_kept_of_links_that_add_nothing() {
        assert_eq!(kept(&Paths::new()), []);
    }

    #[test]
    fn a_seed_of_any_size_is_one_that_the_engine_takes() {
        assert_eq!((seed_of(7), seed_of(1 << 32)), (7, 1));
        assert_eq!(seed_of(u64::MAX), 0);
    }
}
