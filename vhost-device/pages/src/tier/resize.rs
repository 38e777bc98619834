// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Sizes of tiers, changed while pages are in them.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use thiserror::Error;

use crate::account::Account;
use crate::engine::Engine;
use crate::shared::Shared;
use crate::slots::SlotError;
use crate::tier::{LowerTier, Tier};

/// Why a tier's size cannot be changed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ResizeError {
    /// There is no such tier here.
    #[error("Cannot change the {tier} tier: there is none; configure one and restart the daemon")]
    NoTier {
        /// The tier.
        tier: Tier,
    },
    /// The size is beyond what the engine was made for.
    #[error(
        "Cannot give the {tier} tier {pages} pages: 1 to {pages_max} is what this engine was made for"
    )]
    OutOfRange {
        /// The tier.
        tier: Tier,
        /// Pages asked for.
        pages: u64,
        /// The most that it can have.
        pages_max: u64,
    },
    /// What guests are promised would not fit.
    #[error(
        "Cannot give the {tier} tier {pages} pages: guests are promised {promised} pages, and all tiers together would hold {room}; lower a grant first, enlarge another tier, or allow overcommitment"
    )]
    Promised {
        /// The tier.
        tier: Tier,
        /// Pages asked for.
        pages: u64,
        /// Pages promised.
        promised: u64,
        /// Pages that all tiers would hold.
        room: u64,
    },
    /// The guests' floors would not fit.
    #[error(
        "Cannot give the dram tier {pages} pages: the floors of guests together are {floors} pages; lower one first"
    )]
    Floors {
        /// Pages asked for.
        pages: u64,
        /// Pages of DRAM that guests were promised.
        floors: u64,
    },
    /// The tier's store refuses.
    #[error("Cannot give the {tier} tier {pages} pages")]
    Store {
        /// The tier.
        tier: Tier,
        /// Pages asked for.
        pages: u64,
        /// Why.
        source: SlotError,
    },
}

impl Engine {
    /// Changes the size of a tier, in pages. More room is there at once; less is when the mover has
    /// moved what is beyond it, and [`TierStats`](crate::TierStats) says how far it is.
    ///
    /// # Errors
    /// [`ResizeError`]; nothing has changed then.
    pub fn resize_tier(&self, tier: Tier, pages: u64) -> Result<(), ResizeError> {
        let shared = &*self.shared;
        let grants = shared.grants.lock();
        let lower = match tier.lower() {
            None => None,
            Some(lower) => Some(shared.lower(lower).ok_or(ResizeError::NoTier { tier })?),
        };
        let (now, most) = match lower {
            None => (shared.dram_limit(), u64::from(shared.frames_max)),
            Some(lower) => (lower.capacity(), u64::from(crate::slot_table::SLOTS_MAX)),
        };
        let out_of_range = ResizeError::OutOfRange {
            tier,
            pages,
            pages_max: most,
        };
        let Some(limit) = u32::try_from(pages)
            .ok()
            .filter(|limit| *limit > 0 && u64::from(*limit) <= most)
        else {
            return Err(out_of_range);
        };
        let room = shared.room() - now + pages;
        if pages < now && grants.promised > room && !shared.may_overcommit() {
            return Err(ResizeError::Promised {
                tier,
                pages,
                promised: grants.promised,
                room,
            });
        }
        let floors = |account: &Arc<Account>| account.floor_and_weight().0;
        let floors: u64 = shared.accounts().iter().map(floors).sum();
        if lower.is_none() && pages < floors {
            return Err(ResizeError::Floors { pages, floors });
        }
        if let Some(lower) = lower {
            if limit > lower.store.slots() {
                let failed = |source| ResizeError::Store {
                    tier,
                    pages,
                    source,
                };
                lower.store.resize(limit).map_err(failed)?;
            }
            shared.frames.mapping().tiers()[tier as usize].raise_high(limit);
            lower.limit.store(limit, Ordering::Relaxed);
        } else {
            let record = &shared.frames.mapping().tiers()[tier as usize];
            // Until it is first said how large DRAM is, any frame may have been used.
            if record.high() > 0 || shared.dram_used() == 0 {
                record.raise_high(limit.max(record.high()));
            }
            shared.set_dram_limit(limit);
            shared.withhold_frames();
        }
        shared.frames.mapping().tiers()[tier as usize].set_limit(limit);
        shared.limit_ephemeral(&grants);
        shared.wake_mover();
        Ok(())
    }

    /// Has all pages of a lower tier moved elsewhere by the mover, and keeps others out; or takes
    /// pages again.
    ///
    /// # Errors
    /// [`ResizeError::NoTier`]: DRAM cannot be drained, and what is not there cannot either.
    /// [`ResizeError::Promised`] if the other tiers cannot hold what guests are promised.
    pub fn drain_tier(&self, tier: Tier, drain: bool) -> Result<(), ResizeError> {
        let shared = &*self.shared;
        let grants = shared.grants.lock();
        let lower = tier.lower().and_then(|lower| shared.lower(lower));
        let lower = lower.ok_or(ResizeError::NoTier { tier })?;
        let room = shared.room() - lower.promised_room();
        if drain && grants.promised > room && !shared.may_overcommit() {
            return Err(ResizeError::Promised {
                tier,
                pages: 0,
                promised: grants.promised,
                room,
            });
        }
        lower.draining.store(drain, Ordering::Relaxed);
        shared.wake_mover();
        Ok(())
    }
}

impl LowerTier {
    /// Pages that it can be counted on for.
    pub(crate) fn promised_room(&self) -> u64 {
        if self.draining.load(Ordering::Relaxed) {
            0
        } else {
            self.capacity()
        }
    }
}

impl Shared {
    /// Gives back the room of tiers whose slots beyond their limit are empty. Returns whether it did.
    pub(crate) fn cut_emptied_tiers(&self) -> bool {
        let mut cut = false;
        for tier in self.lower.iter().flatten() {
            let limit = tier.limit.load(Ordering::Relaxed);
            let slots = tier.store.slots();
            if limit >= slots {
                continue;
            }
            let table = self.frames.mapping().slots(tier.lower);
            let empty = |slot: u32| table.state(slot) == crate::slot_table::SlotState::Free;
            if !(limit..slots).all(empty) {
                continue;
            }
            // Old pages there are nobody's; the store wants to know that.
            let tail: Vec<u32> = (limit..slots).collect();
            let done = tail
                .chunks(4096)
                .try_for_each(|slots| tier.store.invalidate(slots))
                .and_then(|()| tier.store.resize(limit));
            match done {
                Ok(()) => cut = true,
                Err(error) => tier.note_error(&error),
            }
        }
        cut
    }
}
