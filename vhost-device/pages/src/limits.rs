// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What an admin says of a guest: how much of DRAM it may take, and which of its pages leave first.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::account::Account;
use crate::guest::Guest;
use crate::policy::{POLICIES, UnknownPolicy};
use crate::records::{KeptLimits, POLICY_NAME_MAX};
use crate::shared::Shared;
use crate::slot_table::SLOT_BYTES;
use crate::tier::DEMOTE_BATCH;

/// A guest's part of DRAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DramLimits {
    /// Frames that the guest's pages may take at most, at least 1; nothing: no limit.
    pub cap_pages: Option<u32>,
    /// Frames that are not taken from the guest for others.
    pub floor_pages: u32,
    /// Its part of what is above all floors, against others' weights; at least 1.
    pub weight: u32,
}

impl Default for DramLimits {
    fn default() -> Self {
        Self {
            cap_pages: None,
            floor_pages: 0,
            weight: 100,
        }
    }
}

/// Why limits cannot be set.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum LimitsError {
    /// A cap or a weight of 0.
    #[error("Cannot limit guest {name}: a cap and a weight are at least 1")]
    Zero {
        /// The guest.
        name: String,
    },
    /// The floor is above the cap.
    #[error("Cannot limit guest {name}: its floor of {floor} pages is above its cap of {cap}")]
    FloorAboveCap {
        /// The guest.
        name: String,
        /// The floor.
        floor: u32,
        /// The cap.
        cap: u32,
    },
    /// The floors would exceed DRAM.
    #[error(
        "Cannot promise guest {name} {floor} pages of DRAM: at most {floor_max} are left of it; lower another guest's floor"
    )]
    FloorsAboveDram {
        /// The guest.
        name: String,
        /// The floor.
        floor: u32,
        /// What it can be.
        floor_max: u64,
    },
    /// Pages of DRAM would have nowhere to go.
    #[error(
        "Cannot cap guest {name}: there is no tier below DRAM where its pages could go; configure one"
    )]
    NoTier {
        /// The guest.
        name: String,
    },
}

/// What of a guest's DRAM could be had, in pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Freeable {
    /// Pages that may vanish.
    pub ephemeral: u64,
    /// Pages that have a copy in a lower tier already.
    pub victims: u64,
    /// Other pages for which lower tiers have room.
    pub demotable: u64,
}

impl Guest {
    /// The guest's part of DRAM.
    #[must_use]
    pub fn dram_limits(&self) -> DramLimits {
        let (floor, weight) = self.account.floor_and_weight();
        let pages = |pages| u32::try_from(pages).unwrap_or(u32::MAX);
        DramLimits {
            cap_pages: self.account.cap().map(pages),
            floor_pages: pages(floor),
            weight: pages(weight),
        }
    }

    /// Changes the guest's part of DRAM. What is above a lower cap leaves as the mover goes on.
    ///
    /// # Errors
    /// [`LimitsError`]; nothing has changed then.
    pub fn set_dram_limits(&self, limits: DramLimits) -> Result<(), LimitsError> {
        let name = || self.name().to_owned();
        let DramLimits {
            cap_pages,
            floor_pages,
            weight,
        } = limits;
        if weight == 0 || cap_pages == Some(0) {
            return Err(LimitsError::Zero { name: name() });
        }
        if let Some(cap) = cap_pages {
            if floor_pages > cap {
                return Err(LimitsError::FloorAboveCap {
                    name: name(),
                    floor: floor_pages,
                    cap,
                });
            }
            if !self.shared.is_tiered() {
                return Err(LimitsError::NoTier { name: name() });
            }
        }
        // Whoever changes floors holds this.
        let _grants = self.shared.grants.lock();
        let others = self.shared.accounts().into_iter();
        let others = others.filter(|account| account.slot != self.account.slot);
        let floors: u64 = others.map(|account| account.floor_and_weight().0).sum();
        let floor_max = self.shared.dram_limit().saturating_sub(floors);
        if u64::from(floor_pages) > floor_max {
            return Err(LimitsError::FloorsAboveDram {
                name: name(),
                floor: floor_pages,
                floor_max,
            });
        }
        self.account
            .set_dram(cap_pages.map(u64::from), floor_pages.into(), weight.into());
        self.keep_limits(None);
        self.shared.wake_mover();
        Ok(())
    }

    /// The name of the guest's replacement policy.
    #[must_use]
    pub fn policy(&self) -> &'static str {
        self.shared.policy(self.account.slot).0
    }

    /// Changes the replacement policy. Pages move over in the old one's order.
    ///
    /// # Errors
    /// [`UnknownPolicy`] if none has this name.
    pub fn set_policy(&self, name: &str, seed: u32) -> Result<(), UnknownPolicy> {
        let slot = self.account.slot;
        let hits = self.shared.set_policy(slot, name, seed.into())?;
        self.account.set_hits(hits);
        self.keep_limits(Some(seed));
        Ok(())
    }

    /// Writes what was said into the map.
    fn keep_limits(&self, seed: Option<u32>) {
        let limits = self.dram_limits();
        let slot = self.account.slot as usize;
        let record = &self.shared.frames.mapping().limits()[slot];
        record.set(&KeptLimits {
            cap: limits.cap_pages.unwrap_or(u32::MAX),
            floor: limits.floor_pages,
            weight: limits.weight,
            policy: self.policy().to_owned(),
            seed: seed.unwrap_or_else(|| record.get().map_or(0, |kept| kept.seed)),
        });
    }

    /// Frames that the guest's pages take now, of either kind.
    #[must_use]
    pub fn dram_pages(&self) -> u64 {
        self.account.dram()
    }

    /// Puts that went beyond the cap, because no page could leave DRAM.
    #[must_use]
    pub fn puts_over_cap(&self) -> u64 {
        self.account.over_cap()
    }

    /// What of the guest's DRAM could be had.
    #[must_use]
    pub fn freeable(&self) -> Freeable {
        let (ephemeral, victims) = (self.account.ephemeral_frames(), self.account.victims.len());
        let rest = self.account.dram().saturating_sub(ephemeral + victims);
        let room: u64 = (self.shared.lower.iter().flatten())
            .map(|tier| {
                let used = tier.used.load(std::sync::atomic::Ordering::Relaxed);
                tier.promised_room().saturating_sub(used)
            })
            .sum();
        Freeable {
            ephemeral,
            victims,
            // What has a copy needs no room.
            demotable: rest.min(room + self.account.victims.kept()),
        }
    }

    /// Frees some of the guest's DRAM, at most `pages`: drops ephemeral pages, lets go of pages that
    /// have a copy below, and copies more. To be called again until it returns 0, or enough was freed.
    pub fn reclaim_some(&self, pages: u64) -> u64 {
        let shared = &*self.shared;
        let nobody = shared.nobody.lock();
        let worker = shared.workers_max;
        let mut freed = 0;
        let most = pages.min(DEMOTE_BATCH as u64);
        let mut frames = Vec::new();
        while freed < most {
            let released = shared.reclaim_one(&self.account, worker, &mut frames);
            if !released {
                let demoted = shared.demote(&self.account, worker, DEMOTE_BATCH);
                if demoted == 0 {
                    break;
                }
                continue;
            }
            freed += 1;
        }
        shared.free.give_all(&mut frames);
        drop(nobody);
        freed
    }
}

impl Shared {
    /// What the map says of a guest that a dead process knew.
    pub(crate) fn recall_limits(&self, account: &Account) {
        let Some(kept) = self.frames.mapping().limits()[account.slot as usize].get() else {
            return;
        };
        let cap = (kept.cap != u32::MAX).then_some(u64::from(kept.cap));
        account.set_dram(cap, kept.floor.into(), kept.weight.into());
        // A name that this program does not know leaves the policy as it is.
        if let Ok(hits) = self.set_policy(account.slot, &kept.policy, kept.seed.into()) {
            account.set_hits(hits);
        }
    }

    /// Bytes of the slot tables, as far as slots were ever used.
    pub(crate) fn slot_table_bytes(&self) -> u64 {
        let tiers = self.lower.iter().flatten();
        tiers
            .map(|tier| u64::from(tier.store.slots()) * SLOT_BYTES as u64)
            .sum()
    }
}

// Every policy's name fits into the map.
const _: () = {
    let mut at = 0;
    while at < POLICIES.len() {
        assert!(POLICIES[at].name.len() <= POLICY_NAME_MAX);
        at += 1;
    }
};
