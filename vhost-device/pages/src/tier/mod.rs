// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Tiers: where pages are when DRAM has no room for them.
//!
//! ```text
//!            put, get                    demote: mover, or a put that finds DRAM full
//! guest ───────────────▶ DRAM frames ─────────────────────────────▶ PM file ──no room──▶ remote
//!                            ▲   └─ victims: copied below, still here   │                   │
//!                            └──────── promote: a get, or the mover ────┴───────────────────┘
//! ```
//! A tier below DRAM is an array of slots behind [`SlotStore`]; which slots are free, and what is in
//! them, the engine keeps in the map (`slot_table.rs`). A page leaves DRAM in two steps: it is written
//! to a slot, and becomes a *victim* (`victims.rs`), which is served from its frame as before; when
//! the frame is wanted, its index word is changed to name the slot. So a put that needs a frame waits
//! for no store as long as there are victims, and a get never waits for a page on its way.
//!
//! A page that is got comes up (`promote.rs`) if there is room, or if it was got lately before
//! (`door.rs`). It may keep its slot as a copy, as victims do (`copies.rs`), and leave without a write.

mod copies;
mod demote;
mod door;
mod gather;
mod mover;
mod promote;
mod resize;
mod store;
mod victims;

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use parking_lot::Mutex;
use thiserror::Error;

use crate::slots::SlotError;

pub(crate) use demote::DEMOTE_BATCH;
pub(crate) use door::Door;
pub(crate) use gather::{Gathered, window_ahead};
pub use mover::{Mover, Step};
pub(crate) use promote::{Fetched, From};
pub use resize::ResizeError;
pub use store::{SlotStore, SlotWrite};
pub(crate) use victims::{Released, Victims};

/// Tiers.
pub(crate) const TIERS: usize = 3;
/// Tiers below DRAM.
pub(crate) const LOWER: usize = TIERS - 1;

/// A tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// Frames in the host's memory.
    Dram,
    /// A file, on persistent memory or not.
    Pm,
    /// Memory elsewhere.
    Remote,
}

impl Tier {
    /// All of them, the nearest first.
    pub const ALL: [Self; TIERS] = [Self::Dram, Self::Pm, Self::Remote];

    /// The name, as admins write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Dram => "dram",
            Self::Pm => "pm",
            Self::Remote => "remote",
        }
    }

    pub(crate) fn lower(self) -> Option<Lower> {
        match self {
            Self::Dram => None,
            Self::Pm => Some(Lower::Pm),
            Self::Remote => Some(Lower::Remote),
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// There is no such tier.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("There is no tier {name:?}: choose dram, pm or remote")]
pub struct UnknownTier {
    /// The name.
    pub name: String,
}

impl FromStr for Tier {
    type Err = UnknownTier;

    fn from_str(name: &str) -> Result<Self, UnknownTier> {
        let found = Self::ALL.into_iter().find(|tier| tier.name() == name);
        found.ok_or_else(|| UnknownTier { name: name.into() })
    }
}

/// A tier below DRAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Lower {
    Pm,
    Remote,
}

impl Lower {
    /// The nearest first.
    pub(crate) const ALL: [Self; LOWER] = [Self::Pm, Self::Remote];

    #[inline]
    pub(crate) fn number(self) -> usize {
        match self {
            Self::Pm => 0,
            Self::Remote => 1,
        }
    }

    pub(crate) fn tier(self) -> Tier {
        match self {
            Self::Pm => Tier::Pm,
            Self::Remote => Tier::Remote,
        }
    }
}

/// Of the demotions that could go to a tier whose store fails, one in so many is tried.
const RETRY_ONE_IN: u32 = 16;

/// The stores of an engine's lower tiers.
#[derive(Clone, Debug, Default)]
pub struct Stores {
    /// The PM file.
    pub pm: Option<Arc<dyn SlotStore>>,
    /// The memory elsewhere.
    pub remote: Option<Arc<dyn SlotStore>>,
    /// A map that is empty takes over what the PM file holds: guests, pools and pages.
    pub keep_over_reboot: bool,
}

/// A lower tier at work.
#[derive(Debug)]
pub(crate) struct LowerTier {
    pub(crate) lower: Lower,
    pub(crate) store: Arc<dyn SlotStore>,
    /// Slots that are not free.
    pub(crate) used: AtomicU64,
    /// Slots below this may be taken.
    pub(crate) limit: AtomicU32,
    /// Its pages are to leave, and none come.
    pub(crate) draining: AtomicBool,
    /// Where the search for a free slot goes on.
    pub(crate) cursor: AtomicU32,
    pub(crate) counts: LowerCounts,
    /// Batches in a row that could not be written.
    failures: AtomicU32,
    /// How often a tier that fails was asked since.
    asked: AtomicU32,
    /// Pools that the store was told of: their serials, by slot.
    pub(crate) noted: Mutex<HashMap<u32, u32>>,
    /// What its store said last.
    pub(crate) last_error: Mutex<Option<String>>,
}

/// What is counted of a lower tier.
#[derive(Debug, Default)]
pub(crate) struct LowerCounts {
    pub(crate) demoted: AtomicU64,
    pub(crate) promoted: AtomicU64,
    pub(crate) reads: AtomicU64,
    pub(crate) read_errors: AtomicU64,
    pub(crate) write_errors: AtomicU64,
}

impl LowerTier {
    /// A tier that holds nothing yet.
    pub(crate) fn new(lower: Lower, store: Arc<dyn SlotStore>, limit: u32) -> Self {
        Self {
            lower,
            limit: AtomicU32::new(limit.min(store.slots())),
            store,
            used: AtomicU64::new(0),
            draining: AtomicBool::new(false),
            cursor: AtomicU32::new(0),
            counts: LowerCounts::default(),
            failures: AtomicU32::new(0),
            asked: AtomicU32::new(0),
            noted: Mutex::default(),
            last_error: Mutex::new(None),
        }
    }

    /// Pages that it may hold.
    pub(crate) fn capacity(&self) -> u64 {
        u64::from(self.limit.load(Ordering::Relaxed))
    }

    /// Notes whether a batch was written. After a failure the next tier is tried first, most times.
    pub(crate) fn note_written(&self, result: &Result<(), SlotError>) {
        match result {
            Ok(()) => self.failures.store(0, Ordering::Relaxed),
            Err(error) => {
                self.failures.fetch_add(1, Ordering::Relaxed);
                self.counts.write_errors.fetch_add(1, Ordering::Relaxed);
                self.note_error(error);
            }
        }
    }

    /// Whether to try this tier now.
    pub(crate) fn is_worth_a_try(&self) -> bool {
        self.failures.load(Ordering::Relaxed) == 0
            || self
                .asked
                .fetch_add(1, Ordering::Relaxed)
                .is_multiple_of(RETRY_ONE_IN)
    }

    /// Notes what its store says, if that is news.
    pub(crate) fn note_error(&self, error: &SlotError) {
        let mut last = self.last_error.lock();
        let text = error.to_string();
        if last.as_ref() != Some(&text) {
            *last = Some(text);
        }
    }

    /// Pages come to it.
    pub(crate) fn takes_pages(&self) -> bool {
        // Pages beyond the end of a tier that was made smaller take no room below it.
        !self.draining.load(Ordering::Relaxed)
            && (self.used.load(Ordering::Relaxed) < self.capacity()
                || self.capacity() < u64::from(self.store.slots()))
    }
}

/// Counts of a tier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TierStats {
    /// Pages that it may hold.
    pub capacity_pages: u64,
    /// Pages that take room in it; of a lower tier, copies of pages that are in DRAM too.
    pub used_pages: u64,
    /// Of DRAM: pages with a copy in a lower tier, whose frames are the next to go.
    pub victim_pages: u64,
    /// Of DRAM: pages that may vanish.
    pub ephemeral_pages: u64,
    /// Its pages are leaving for other tiers.
    pub draining: bool,
    /// Pages moved down into it.
    pub demoted: u64,
    /// Pages moved up out of it.
    pub promoted: u64,
    /// Pages read from it.
    pub reads: u64,
    /// Reads that failed, or brought other bytes than were written.
    pub read_errors: u64,
    /// Batches that could not be written.
    pub write_errors: u64,
}
