// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The made-up daemon's balloons: `web` is on auto and goes a third of its way at each look; the other
//! guest is not there.

use std::sync::Mutex;

use tmem_admin_api::{
    Balloon, BalloonAutoRequest, BalloonCounts, BalloonDecision, BalloonDriver, BalloonMode,
    BalloonRefusalReason, BalloonStatistics,
};

use super::{BalloonAdmin, TierError};

const MEMORY: u64 = 262_144;

/// What was told, and what is made of it.
#[derive(Debug)]
pub(crate) struct FakeBalloons {
    web: Mutex<(Balloon, Option<u64>)>,
}

impl Default for FakeBalloons {
    fn default() -> Self {
        let web = Balloon {
            guest: "web".into(),
            enabled: true,
            driver: BalloonDriver::Works,
            mode: BalloonMode::Auto,
            memory_pages: MEMORY,
            size_pages: MEMORY / 2,
            target_pages: MEMORY / 2,
            held_pages: MEMORY / 2,
            floor_pages: MEMORY / 8,
            weight: 100,
            decision: Some(BalloonDecision {
                target_pages: MEMORY / 2,
                size_pages: MEMORY / 2,
                reason: "idle".into(),
                tells: "it has more memory than it uses".into(),
                faults_per_s: 3,
                stalled_permille: Some(2),
            }),
            statistics: Some(BalloonStatistics {
                age_ms: 400,
                sequence: 77,
                held_pages: MEMORY / 2,
                target_pages: MEMORY / 2,
                total_pages: MEMORY / 2 - 8192,
                available_pages: 65_536,
                free_pages: 4096,
                swapped_pages: 20_000,
                floor_pages: MEMORY / 8,
                ..BalloonStatistics::default()
            }),
            counts: BalloonCounts {
                inflated_pages: 140_000,
                deflated_pages: 8928,
                reported_pages: 30_000,
                refused: [(BalloonRefusalReason::Over, 2)].into(),
            },
            ..Balloon::default()
        };
        Self {
            web: Mutex::new((web, Some(2 * MEMORY))),
        }
    }
}

impl FakeBalloons {
    fn change(&self, guest: &str, change: impl FnOnce(&mut Balloon)) -> Result<(), TierError> {
        if guest != "web" {
            let reason = format!(
                "guest {guest} has no driver that could follow; boot it and load virtio_tmem in it"
            );
            return Err(TierError::Refused { reason });
        }
        change(&mut self.web.lock().unwrap().0);
        Ok(())
    }
}

impl BalloonAdmin for FakeBalloons {
    fn budget(&self) -> Option<u64> {
        self.web.lock().unwrap().1
    }

    fn balloons(&self) -> Vec<Balloon> {
        let other = Balloon {
            guest: "a \"b\"/c".into(),
            enabled: true,
            weight: 100,
            ..Balloon::default()
        };
        let web = &mut self.web.lock().unwrap().0;
        let shown = web.clone();
        let way = web.target_pages.abs_diff(web.held_pages);
        let step = way.div_ceil(3).max(way.min(8192));
        if web.held_pages < web.target_pages {
            web.held_pages += step;
        } else {
            web.held_pages -= step;
        }
        web.size_pages = MEMORY - web.held_pages;
        vec![other, shown]
    }

    fn set_balloon(&self, guest: &str, size_pages: u64) -> Result<(), TierError> {
        if guest == "web" && size_pages < MEMORY / 8 {
            let reason = "guest web keeps at least 128 MiB, its floor".into();
            return Err(TierError::Refused { reason });
        }
        self.change(guest, |web| {
            web.mode = BalloonMode::Fixed;
            web.decision = None;
            web.target_pages = MEMORY.saturating_sub(size_pages);
            if let Some(told) = &mut web.statistics {
                told.target_pages = web.target_pages;
            }
        })
    }

    fn set_balloon_auto(&self, guest: &str, request: &BalloonAutoRequest) -> Result<(), TierError> {
        self.change(guest, |web| {
            web.floor_pages = request.floor_pages.unwrap_or(web.floor_pages);
            web.ceiling_pages = request.ceiling_pages.or(web.ceiling_pages);
            web.weight = request.weight.unwrap_or(web.weight);
            if request.auto == Some(false) {
                web.mode = BalloonMode::Fixed;
                web.decision = None;
            }
        })
    }

    fn set_budget(&self, pages: Option<u64>) {
        self.web.lock().unwrap().1 = pages;
    }
}
