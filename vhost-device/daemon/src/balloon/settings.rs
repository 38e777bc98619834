// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What is set of a guest's balloon: by the configuration at the daemon's start, by administrators and
//! the controller from then on. The keeper tells the next worker.

use serde::{Deserialize, Serialize};

/// What the configuration alone sets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BalloonConfig {
    /// The device has the capability.
    pub enabled: bool,
    /// Free pages are taken without a balloon, too.
    pub reporting: bool,
    /// Huge pages are freed.
    pub huge_pages: bool,
    /// What it begins with.
    pub setting: BalloonSetting,
}

impl Default for BalloonConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            reporting: true,
            huge_pages: false,
            setting: BalloonSetting::default(),
        }
    }
}

/// What can be set while the daemon runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BalloonSetting {
    /// What the guest keeps; all without it. Of a guest on auto, the controller's last word.
    pub size_pages: Option<u64>,
    /// The controller decides.
    pub auto: bool,
    /// The least that the guest keeps.
    pub floor_pages: u64,
    /// The most that the controller lets it keep.
    pub ceiling_pages: Option<u64>,
    /// Its weight against other guests on auto.
    pub weight: u32,
}

impl Default for BalloonSetting {
    fn default() -> Self {
        Self {
            size_pages: None,
            auto: false,
            floor_pages: 0,
            ceiling_pages: None,
            weight: crate::config::WEIGHT,
        }
    }
}

impl BalloonSetting {
    /// The balloon of a guest with so much memory. A guest that is not known yet has none.
    pub(crate) fn target_pages(&self, memory_pages: u64) -> u64 {
        self.size_pages.map_or(0, |size| {
            memory_pages.saturating_sub(size.max(self.floor_pages))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_leaves_the_floor_whatever_is_set() {
        let of = |size_pages, floor_pages| BalloonSetting {
            size_pages,
            floor_pages,
            ..BalloonSetting::default()
        };
        assert_eq!(of(Some(300), 0).target_pages(1000), 700);
        assert_eq!(of(Some(300), 400).target_pages(1000), 600);
        assert_eq!(of(Some(2000), 0).target_pages(1000), 0);
        assert_eq!(of(None, 400).target_pages(1000), 0);
        assert_eq!(of(Some(0), 0).target_pages(0), 0);
    }
}
