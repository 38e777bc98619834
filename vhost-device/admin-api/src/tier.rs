// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Tiers: the places that pages are kept in, nearest first, and what an administrator does to them.

use serde::{Deserialize, Serialize};

use crate::words::words;
use crate::{PAGE_BYTES, Schema, TaskStatus};

/// Answer to `GET /v1/tiers`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TierList {
    /// Version of this layout.
    pub schema: Schema,
    /// Nearest first.
    pub tiers: Vec<Tier>,
}

/// Answer to `GET /v1/tiers/{name}`, and to what changes a tier at once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TierDetail {
    /// Version of this layout.
    pub schema: Schema,
    /// The tier.
    pub tier: Tier,
}

words! {
    /// Which tier; the order is from the nearest to the farthest.
    #[derive(Default)]
    TierName {
        /// Frames in the host's memory.
        #[default]
        Dram = "dram",
        /// A file, at best on persistent memory.
        Pm = "pm",
        /// Stores behind a link.
        Remote = "remote",
    }
}

words! {
    /// What a tier is made of.
    #[derive(Default)]
    TierKind {
        /// Memory of the host.
        #[default]
        Memory = "memory",
        /// A file that is mapped so that a store to it is a store to persistent memory.
        Dax = "dax",
        /// A file on any other file system.
        File = "file",
        /// Memory of this process that stands in for a store elsewhere, behind the link model.
        StandIn = "stand_in",
        /// Stores of other processes or hosts.
        Stores = "stores",
        /// The primaries of a Valkey Cluster.
        Valkey = "valkey",
    }
}

words! {
    /// What a tier's acknowledged pages outlive.
    #[derive(Default)]
    Durability {
        /// The end of the daemon's process, not that of the host.
        #[default]
        Process = "process",
        /// The host's crash and power loss as well.
        Host = "host",
    }
}

words! {
    /// What goes on with a tier.
    #[derive(Default)]
    TierState {
        /// It takes and gives pages.
        #[default]
        Ok = "ok",
        /// It is on its way to another size.
        Resizing = "resizing",
        /// It takes no more pages, and those in it are moved elsewhere.
        Draining = "draining",
        /// It takes no pages and holds none.
        Drained = "drained",
        /// It cannot be used; [`Tier::error`] says why.
        Failed = "failed",
    }
}

/// A tier. `capacity_bytes` = `used_bytes` + `free_bytes`, but while it shrinks below what it holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tier {
    /// Which.
    pub name: TierName,
    /// What it is made of.
    pub kind: TierKind,
    /// What goes on with it.
    pub state: TierState,
    /// The file that it lies in, if it has one.
    pub path: Option<String>,
    /// What fits into it.
    pub capacity_bytes: u64,
    /// The most that it can be resized to without a restart; 0: `capacity_bytes`.
    pub max_bytes: u64,
    /// What pages take of it, copies included.
    pub used_bytes: u64,
    /// What pages could still take of it.
    pub free_bytes: u64,
    /// Pages of persistent pools in it.
    pub persistent_pages: u64,
    /// Pages of ephemeral pools in it.
    pub ephemeral_pages: u64,
    /// Copies of pages that are in a farther tier already; given up whenever room is wanted.
    pub victim_pages: u64,
    /// Pages of it that are promised to guests; in `dram` their floors.
    pub promised_pages: u64,
    /// When pages begin to leave it for the next tier, and when that ends. Absent of a tier that pages
    /// do not leave for want of room: they go past it when it is full.
    pub watermarks: Option<Watermarks>,
    /// What an acknowledged page in it outlives.
    pub durability: Durability,
    /// Its pages are found again after a reboot of the host.
    pub keep_over_reboot: bool,
    /// Its latency or bandwidth is emulated.
    pub emulated: bool,
    /// Failures of the tier itself: I/O errors, pages that failed their checksum.
    pub errors: u64,
    /// The last of them, a sentence; for `failed`, why.
    pub error: Option<String>,
    /// The resize or drain under way, or the last one.
    pub task: Option<TaskStatus>,
}

/// When pages leave a tier for the next one: from when less than `low_percent` of it is free until
/// `high_percent` is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Watermarks {
    /// Of the tier's capacity.
    pub low_percent: u8,
    /// Of the tier's capacity; above `low_percent`.
    pub high_percent: u8,
}

impl Default for Watermarks {
    fn default() -> Self {
        Self {
            low_percent: 5,
            high_percent: 10,
        }
    }
}

impl Watermarks {
    /// The highest that may be asked for: a tier that keeps itself emptier is better made smaller.
    pub const PERCENT_MAX: u8 = 90;

    /// Whether they can be kept to.
    #[must_use]
    pub const fn are_possible(self) -> bool {
        self.low_percent < self.high_percent && self.high_percent <= Self::PERCENT_MAX
    }
}

/// Body of `POST /v1/tiers/{name}/watermarks`; what is absent stays as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WatermarksRequest {
    /// See [`Watermarks::low_percent`].
    pub low_percent: Option<u8>,
    /// See [`Watermarks::high_percent`].
    pub high_percent: Option<u8>,
}

/// Body of `POST /v1/tiers/{name}/resize`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResizeRequest {
    /// Its capacity from now on.
    pub pages: u64,
}

/// What guests are promised, against what there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Promises {
    /// Pages promised to all guests together.
    pub promised_pages: u64,
    /// Pages that the tiers in use can hold.
    pub capacity_pages: u64,
    /// The administrator allowed to promise more than there is.
    pub overcommit: bool,
}

impl Promises {
    /// Why the daemon is degraded on their account, a sentence. It belongs among the
    /// [`Status::reasons`](crate::Status::reasons).
    #[must_use]
    pub fn reason(&self) -> Option<String> {
        let beyond = self.promised_pages.checked_sub(self.capacity_pages)?;
        if beyond == 0 {
            return None;
        }
        let mib = |pages: u64| (pages.saturating_mul(PAGE_BYTES)).div_ceil(1 << 20);
        Some(format!(
            "overcommitted: guests are promised {} MiB and the tiers hold {} MiB, so a put within its \
             grant may fail",
            mib(self.promised_pages),
            self.capacity_pages.saturating_mul(PAGE_BYTES) >> 20,
        ))
    }
}

impl Tier {
    /// What is wrong with it, a sentence; nothing when it is in use. It belongs among the
    /// [`Status::reasons`](crate::Status::reasons).
    #[must_use]
    pub fn reason(&self) -> Option<String> {
        let name = self.name.as_str();
        match self.state {
            TierState::Ok | TierState::Resizing => None,
            TierState::Draining => Some(format!("tier {name} is being drained")),
            TierState::Drained => Some(format!("tier {name} is drained and takes no pages")),
            TierState::Failed => {
                let why = self.error.as_deref().unwrap_or("no cause is known");
                Some(format!("tier {name} cannot be used: {why}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn promises_within_what_there_is_are_no_reason() {
        let mut promises = Promises {
            promised_pages: 512,
            capacity_pages: 512,
            overcommit: true,
        };
        assert_eq!(promises.reason(), None);
        promises.promised_pages = 513;
        let reason = promises.reason().unwrap();
        assert!(
            reason.contains("3 MiB and the tiers hold 2 MiB"),
            "{reason}"
        );
    }

    #[test]
    fn watermarks_need_a_distance() {
        let possible = |low_percent, high_percent| {
            let marks = Watermarks {
                low_percent,
                high_percent,
            };
            marks.are_possible()
        };
        assert!(Watermarks::default().are_possible());
        assert!(possible(0, 1) && possible(89, 90));
        assert!(!possible(5, 5) && !possible(6, 5) && !possible(5, 91));
    }

    #[test]
    fn a_tier_of_an_older_daemon_is_read() {
        let old = r#"{"name": "dram", "capacity_bytes": 8192, "used_bytes": 4096}"#;
        let tier: Tier = serde_json::from_str(old).unwrap();
        assert_eq!((tier.name, tier.state), (TierName::Dram, TierState::Ok));
        assert_eq!(tier.reason(), None);
    }

    #[test]
    fn only_tiers_out_of_use_give_a_reason() {
        let reason = |state, error: Option<&str>| {
            let tier = Tier {
                name: TierName::Pm,
                state,
                error: error.map(Into::into),
                ..Tier::default()
            };
            tier.reason()
        };
        assert_eq!(reason(TierState::Ok, Some("one bad page")), None);
        assert_eq!(
            reason(TierState::Failed, Some("disk full")).unwrap(),
            "tier pm cannot be used: disk full"
        );
        assert!(reason(TierState::Drained, None).is_some());
    }
}
