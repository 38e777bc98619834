// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a guest may have of the tiers, what it has, and what could be taken from it.

use serde::{Deserialize, Serialize};

use crate::words::words;
use crate::{Schema, TaskStatus};

/// A guest's part of the tiers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct GuestMemory {
    /// Its puts are refused; gets and flushes work.
    pub frozen: bool,
    /// The most of its pages that may be in DRAM; absent: no cap of its own.
    pub dram_cap_pages: Option<u64>,
    /// Its part of the DRAM that is wanted by several: weights are compared with each other.
    pub weight: u32,
    /// Pages that it always has room for in DRAM.
    pub floor_pages: u64,
    /// Pages of it in DRAM, copies that can be given up left out.
    pub dram_pages: u64,
    /// Of DRAM, copies of pages that are in a farther tier already.
    pub victim_pages: u64,
    /// Pages of it in the PM file.
    pub pm_pages: u64,
    /// Pages of it in the remote tier alone.
    pub remote_pages: u64,
    /// Pages of DRAM that weights, floors and caps entitle it to now.
    pub entitled_pages: u64,
    /// What it could be made to give up.
    pub freeable: Freeable,
    /// Name of its replacement policy.
    pub policy: String,
    /// The seed of a policy that draws lots.
    pub policy_seed: Option<u64>,
    /// A link of it is emulated.
    pub emulated: bool,
    /// The page trace that is being recorded, if one is.
    pub trace: Option<TraceStatus>,
    /// The reclaim under way, or the last one.
    pub task: Option<TaskStatus>,
}

/// Pages of a guest in DRAM that could leave it, by what that costs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Freeable {
    /// Ephemeral pages: they may be forgotten.
    pub ephemeral_pages: u64,
    /// Copies of pages that are in a farther tier already.
    pub victim_pages: u64,
    /// Pages that a farther tier has room for.
    pub demotable_pages: u64,
}

impl Freeable {
    /// All of them.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.ephemeral_pages
            .saturating_add(self.victim_pages)
            .saturating_add(self.demotable_pages)
    }
}

/// Body of `POST /v1/guests/{name}/limits`; what is absent stays as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsRequest {
    /// Pages of persistent pools that it is promised room for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grant_pages: Option<u64>,
    /// See [`GuestMemory::dram_cap_pages`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dram_cap_pages: Option<DramCap>,
    /// See [`GuestMemory::weight`]; at least 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    /// See [`GuestMemory::floor_pages`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub floor_pages: Option<u64>,
}

/// A cap, or the word for having none. In JSON a number of pages or `"none"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum DramCap {
    /// So many pages.
    Pages(u64),
    /// No cap.
    Word(NoCap),
}

words! {
    /// The word for having no cap.
    NoCap {
        /// None.
        None = "none",
    }
}

impl DramCap {
    /// No cap.
    pub const NONE: Self = Self::Word(NoCap::None);

    /// The pages, if it is a cap.
    #[must_use]
    pub const fn pages(self) -> Option<u64> {
        match self {
            Self::Pages(pages) => Some(pages),
            Self::Word(NoCap::None) => None,
        }
    }
}

/// The highest weight of a guest.
pub const WEIGHT_MAX: u32 = 10_000;

/// Body of `POST /v1/guests/{name}/reclaim`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReclaimRequest {
    /// Pages of DRAM that it shall give up.
    pub pages: u64,
}

/// Answer to `GET /v1/policies`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyList {
    /// Version of this layout.
    pub schema: Schema,
    /// In order of name.
    pub policies: Vec<Policy>,
}

/// A replacement policy: which page of a guest leaves DRAM next.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Policy {
    /// Name.
    pub name: String,
    /// What it does, in a line.
    pub about: String,
    /// It draws lots, and takes a seed.
    pub seeded: bool,
    /// Guests that have it, in order of name.
    pub guests: Vec<String>,
}

/// Body of `POST /v1/guests/{name}/policy`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyRequest {
    /// The policy's name.
    pub policy: String,
    /// For one that draws lots; the daemon draws one and tells it if absent.
    #[serde(default)]
    pub seed: Option<u64>,
}

/// Body of `POST /v1/guests/{name}/trace/start`. No body is the same as `{}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TraceRequest {
    /// The file's name within the daemon's `trace_dir`, without `.trace`; the guest's name if absent.
    pub name: Option<String>,
}

/// Answer to `POST /v1/guests/{name}/trace/start` and `…/stop`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceDetail {
    /// Version of this layout.
    pub schema: Schema,
    /// The trace, as it is or as it became.
    pub trace: TraceStatus,
}

/// A record of which pages a guest put, got and flushed; never of what is in them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TraceStatus {
    /// The guest.
    pub guest: String,
    /// Where the daemon writes it.
    pub path: String,
    /// Records written.
    pub records: u64,
    /// Bytes written.
    pub bytes: u64,
    /// Records left out, because the file could not keep up.
    pub lost: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cap_is_a_number_or_none() {
        for (cap, text) in [
            (DramCap::Pages(7), r#"{"dram_cap_pages":7}"#),
            (DramCap::NONE, r#"{"dram_cap_pages":"none"}"#),
        ] {
            let request = LimitsRequest {
                dram_cap_pages: Some(cap),
                ..LimitsRequest::default()
            };
            assert_eq!(serde_json::to_string(&request).unwrap(), text);
            assert_eq!(
                serde_json::from_str::<LimitsRequest>(text).unwrap(),
                request
            );
        }
        for bad in [
            r#"{"dram_cap_pages":"nine"}"#,
            r#"{"dram_cap_pages":-1}"#,
            r#"{"cap":1}"#,
        ] {
            assert!(serde_json::from_str::<LimitsRequest>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_freeable_add_up_without_overflow() {
        let freeable = Freeable {
            ephemeral_pages: u64::MAX,
            victim_pages: 1,
            demotable_pages: 1,
        };
        assert_eq!(freeable.total(), u64::MAX);
    }
}
