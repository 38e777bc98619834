// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Tiers, links and guests' parts of them, as configured. All sizes are in pages.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tmem_admin_api::{Durability, LinkDirection, TierName, WEIGHT_MAX, Watermarks};
use tmem_pages::link::{LinkChange, LinkSpec};

use super::raw::{RawDaemon, RawDram, RawFile, RawGuest, RawLinks, RawPm};
use super::stores::RemoteConfig;
use super::value::{frames, pages, pages_or_none, percent, range};
use super::{Config, ConfigError};

/// A guest's weight where none is configured: there is room to both sides.
pub const WEIGHT: u32 = 100;

/// The nearest tier, beyond its size, which is [`Config::dram_frames`].
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DramConfig {
    /// Frames that it can be resized to while the daemon runs; 0: [`Config::dram_frames`].
    pub max_frames: u32,
    /// When pages leave it for the next tier.
    pub watermarks: Watermarks,
}

/// A file that pages are demoted to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PmConfig {
    /// The file; made if it is not there.
    pub path: PathBuf,
    /// Pages that fit into it.
    pub pages: u64,
    /// What a page in it outlives.
    pub durability: Durability,
    /// Pages of an earlier boot of the host are taken for the guests' own.
    pub keep_over_reboot: bool,
}

/// What one direction of a link is set to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkConfig {
    /// The tier at its far end.
    pub tier: TierName,
    /// Which way.
    pub direction: LinkDirection,
    /// In the words of `tmemctl link set`.
    pub text: String,
}

/// A guest's part of the tiers, beyond its grant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct GuestLimits {
    /// The most of its pages in DRAM, copies left out; absent: no cap of its own.
    pub dram_cap_pages: Option<u64>,
    /// Its part of the DRAM that several want, against other guests' weights.
    pub weight: u32,
    /// Pages that it always has room for in DRAM.
    pub floor_pages: u64,
    /// Name of its replacement policy; absent: the engine's usual one.
    pub policy: Option<String>,
    /// For a policy that draws lots.
    pub policy_seed: Option<u64>,
    /// Links of its own.
    pub links: Vec<LinkConfig>,
}

impl Default for GuestLimits {
    fn default() -> Self {
        Self {
            dram_cap_pages: None,
            weight: WEIGHT,
            floor_pages: 0,
            policy: None,
            policy_seed: None,
            links: Vec::new(),
        }
    }
}

/// What a file says of the tiers.
pub(super) struct Tiers {
    pub(super) dram_frames: u32,
    pub(super) dram: DramConfig,
    pub(super) pm: Option<PmConfig>,
    pub(super) remote: Option<RemoteConfig>,
    pub(super) links: Vec<LinkConfig>,
}

impl Tiers {
    pub(super) fn of(file: &RawFile) -> Result<Self, ConfigError> {
        Ok(Self {
            dram_frames: dram_frames(&file.daemon, &file.dram)?,
            dram: dram(&file.dram)?,
            pm: file.pm.as_ref().map(pm).transpose()?,
            remote: file.remote.as_ref().map(RemoteConfig::of).transpose()?,
            links: links("link", &file.link)?,
        })
    }
}

/// From either of the two places where it may stand.
fn dram_frames(daemon: &RawDaemon, dram: &RawDram) -> Result<u32, ConfigError> {
    match (&daemon.dram, &dram.size) {
        (Some(size), None) => frames("daemon.dram", size),
        (None, Some(size)) => frames("dram.size", size),
        (Some(_), Some(_)) => Err(ConfigError::DramSize { times: "twice" }),
        (None, None) => Err(ConfigError::DramSize { times: "nowhere" }),
    }
}

fn dram(raw: &RawDram) -> Result<DramConfig, ConfigError> {
    let max_frames = raw.max.as_ref().map(|max| frames("dram.max", max));
    Ok(DramConfig {
        max_frames: max_frames.transpose()?.unwrap_or(0),
        watermarks: marks(raw)?,
    })
}

fn pm(raw: &RawPm) -> Result<PmConfig, ConfigError> {
    Ok(PmConfig {
        path: raw.path.clone(),
        pages: pages("pm.size", &raw.size)?,
        durability: raw.durability,
        keep_over_reboot: raw.keep_over_reboot,
    })
}

fn marks(raw: &RawDram) -> Result<Watermarks, ConfigError> {
    let usual = Watermarks::default();
    let read = |key: &str, text: &Option<String>| {
        let text = text.as_ref();
        text.map(|text| percent(key, text)).transpose()
    };
    let low = read("dram.low_watermark", &raw.low_watermark)?;
    let high = read("dram.high_watermark", &raw.high_watermark)?;
    // One that is given alone takes the other along.
    let low_percent = low.unwrap_or_else(|| high.unwrap_or(usual.high_percent) / 2);
    let twice = low_percent.saturating_mul(2).min(Watermarks::PERCENT_MAX);
    Ok(Watermarks {
        low_percent,
        high_percent: high.unwrap_or_else(|| twice.max(usual.high_percent)),
    })
}

fn links(key: &str, raw: &RawLinks) -> Result<Vec<LinkConfig>, ConfigError> {
    let mut links = Vec::new();
    for (tier, raw) in [(TierName::Pm, &raw.pm), (TierName::Remote, &raw.remote)] {
        let Some(raw) = raw else { continue };
        for (direction, text) in [
            (LinkDirection::In, &raw.r#in),
            (LinkDirection::Out, &raw.out),
        ] {
            let Some(text) = text else { continue };
            if text.trim().is_empty() {
                let key = format!("{key}.{}.{}", tier.as_str(), direction.as_str());
                return Err(ConfigError::Empty { key });
            }
            let text = text.clone();
            links.push(LinkConfig {
                tier,
                direction,
                text,
            });
        }
    }
    Ok(links)
}

/// What a file says of a guest's part of the tiers; `nth` of the guests.
pub(super) fn limits(nth: usize, raw: &RawGuest) -> Result<GuestLimits, ConfigError> {
    let key = |key: &str| format!("guest[{nth}].{key}");
    let size = |name: &str, text: &Option<String>| {
        let text = text.as_ref();
        text.map(|text| pages_or_none(&key(name), text)).transpose()
    };
    Ok(GuestLimits {
        dram_cap_pages: size("dram_cap", &raw.dram_cap)?,
        weight: raw.weight.unwrap_or(WEIGHT),
        floor_pages: size("floor", &raw.floor)?.unwrap_or(0),
        policy: raw.policy.clone(),
        policy_seed: raw.policy_seed,
        links: links(&key("link"), &raw.link)?,
    })
}

impl Config {
    /// Pages that all tiers hold together; what is promised must fit into them.
    #[must_use]
    pub fn tier_pages(&self) -> u64 {
        let pm = self.pm.as_ref().map_or(0, |pm| pm.pages);
        let remote = self.remote.as_ref().map_or(0, |remote| remote.pages);
        u64::from(self.dram_frames)
            .saturating_add(pm)
            .saturating_add(remote)
    }

    /// Frames that DRAM can be resized to while the daemon runs.
    #[must_use]
    pub fn dram_frames_max(&self) -> u32 {
        self.dram.max_frames.max(self.dram_frames)
    }

    /// Pages that all guests are promised together.
    #[must_use]
    pub fn promised_pages(&self) -> u64 {
        let grants = self.guests.iter().map(|guest| guest.grant_pages);
        grants.fold(0u64, u64::saturating_add)
    }

    /// Checks tiers, links and guests' parts of them.
    pub(super) fn check_tiers(&self) -> Result<(), ConfigError> {
        let max = self.dram.max_frames;
        if max != 0 && max < self.dram_frames {
            let size = u64::from(self.dram_frames).div_ceil(256);
            return Err(ConfigError::DramMax { size });
        }
        range("dram.max (in pages)", max, 0, u32::MAX - 1)?;
        let marks = self.dram.watermarks;
        if !marks.are_possible() {
            return Err(ConfigError::Watermarks {
                low: marks.low_percent,
                high: marks.high_percent,
            });
        }
        if let Some(pm) = &self.pm {
            check_absolute("pm.path", &pm.path)?;
            range("pm.size (in pages)", pm.pages, 1, u64::from(u32::MAX - 1))?;
            if pm.keep_over_reboot && pm.durability != Durability::Host {
                return Err(ConfigError::KeepNeedsHost);
            }
        }
        if let Some(remote) = &self.remote {
            remote.check()?;
        }
        if let Some(dir) = &self.trace_dir {
            check_absolute("daemon.trace_dir", dir)?;
        }
        self.check_links("link", &self.links)?;
        for (nth, guest) in self.guests.iter().enumerate() {
            self.check_limits(nth, &guest.limits)?;
        }
        let floors = self.guests.iter().map(|guest| guest.limits.floor_pages);
        let floors = floors.fold(0u64, u64::saturating_add);
        let dram = u64::from(self.dram_frames);
        if floors > dram {
            return Err(ConfigError::Floors { floors, dram });
        }
        let (granted, held) = (self.promised_pages(), self.tier_pages());
        if granted > held && !self.overcommit {
            return Err(ConfigError::Overcommitted { granted, held });
        }
        Ok(())
    }

    fn check_limits(&self, nth: usize, limits: &GuestLimits) -> Result<(), ConfigError> {
        let key = |key: &str| format!("guest[{nth}].{key}");
        range(&key("weight"), limits.weight, 1, WEIGHT_MAX)?;
        if limits
            .dram_cap_pages
            .is_some_and(|cap| limits.floor_pages > cap)
        {
            return Err(ConfigError::FloorAboveCap { key: key("floor") });
        }
        if let Some(name) = &limits.policy {
            let key = key("policy");
            tmem_pages::policy::kind(name).map_err(|source| ConfigError::Policy { key, source })?;
        }
        if limits.policy_seed.is_some() && limits.policy.is_none() {
            let key = key("policy_seed");
            return Err(ConfigError::SeedAlone { key });
        }
        self.check_links(&key("link"), &limits.links)
    }

    /// A link must lead somewhere.
    fn check_links(&self, key: &str, links: &[LinkConfig]) -> Result<(), ConfigError> {
        for link in links {
            let there = match link.tier {
                TierName::Dram => false,
                TierName::Pm => self.pm.is_some(),
                TierName::Remote => self.remote.is_some(),
            };
            let tier = link.tier.as_str();
            if !there {
                let key = format!("{key}.{tier}");
                return Err(ConfigError::NoTier { key, tier });
            }
            let key = || format!("{key}.{tier}.{}", link.direction.as_str());
            let change = link.text.parse().and_then(|change: LinkChange| {
                change.apply(&LinkSpec::default()).check()?;
                Ok(change)
            });
            let change = change.map_err(|source| ConfigError::Link { key: key(), source })?;
            if change.local_npages.is_some() {
                return Err(ConfigError::LocalPages { key: key() });
            }
        }
        Ok(())
    }
}

pub(super) fn check_absolute(key: &'static str, path: &std::path::Path) -> Result<(), ConfigError> {
    if path.is_absolute() {
        return Ok(());
    }
    let path = path.to_owned();
    Err(ConfigError::NotAbsolute { key, path })
}
