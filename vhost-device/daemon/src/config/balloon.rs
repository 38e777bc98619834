// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Balloons, as configured. Sizes are of the memory that guests keep.

use serde::{Deserialize, Serialize};
use tmem_admin_api::WEIGHT_MAX;

use super::raw::{RawBalloon, RawHostBalloon};
use super::tiers::WEIGHT;
use super::value::{pages, pages_or_none, range, size};
use super::{Config, ConfigError};
use crate::balloon::{BalloonConfig, BalloonSetting};

/// What concerns all balloons together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostBalloonConfig {
    /// What all guests on auto may keep together; as much as they like without it.
    pub budget_pages: Option<u64>,
    /// What of the host's memory guests on auto have to leave free.
    pub reserve_bytes: Option<u64>,
}

impl HostBalloonConfig {
    pub(super) fn of(raw: &RawHostBalloon) -> Result<Self, ConfigError> {
        let budget = raw
            .budget
            .as_ref()
            .map(|text| pages("balloon.budget", text));
        let reserve = raw
            .reserve
            .as_ref()
            .map(|text| size("balloon.reserve", text));
        Ok(Self {
            budget_pages: budget.transpose()?,
            reserve_bytes: reserve.transpose()?,
        })
    }
}

/// What a file says of a guest's balloon; `nth` of the guests.
pub(super) fn balloon(nth: usize, raw: &RawBalloon) -> Result<BalloonConfig, ConfigError> {
    let read = |name: &str, text: &Option<String>| {
        let key = format!("guest[{nth}].balloon.{name}");
        let text = text.as_ref();
        text.map(|text| pages_or_none(&key, text)).transpose()
    };
    Ok(BalloonConfig {
        enabled: raw.enabled.unwrap_or(true),
        reporting: raw.reporting.unwrap_or(true),
        huge_pages: raw.huge_pages,
        setting: BalloonSetting {
            size_pages: read("size", &raw.size)?,
            auto: raw.auto,
            floor_pages: read("floor", &raw.floor)?.unwrap_or(0),
            ceiling_pages: read("ceiling", &raw.ceiling)?,
            weight: raw.weight.unwrap_or(WEIGHT),
        },
    })
}

impl Config {
    /// Checks what is set of balloons.
    pub(super) fn check_balloons(&self) -> Result<(), ConfigError> {
        for (nth, guest) in self.guests.iter().enumerate() {
            let key = |key: &str| format!("guest[{nth}].balloon.{key}");
            let setting = &guest.balloon.setting;
            range(&key("weight"), setting.weight, 1, WEIGHT_MAX)?;
            for (name, pages) in [
                ("ceiling", setting.ceiling_pages),
                ("size", setting.size_pages),
            ] {
                if let Some(pages) = pages {
                    let key = key(&format!("{name} (in pages)"));
                    range(&key, pages, setting.floor_pages, u64::MAX)?;
                }
            }
        }
        Ok(())
    }
}
