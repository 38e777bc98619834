// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Balloons: memory that guests give back to the host.
//!
//! Sizes are of the memory that a guest keeps: its whole memory less what its balloon holds.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Schema;
use crate::words::words;

/// Answer to `GET /v1/balloons`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BalloonList {
    /// Version of this layout.
    pub schema: Schema,
    /// What all guests on auto may keep together; absent: as much as they like.
    pub budget_pages: Option<u64>,
    /// One for each guest, in order of its name.
    pub balloons: Vec<Balloon>,
}

/// Answer to `GET /v1/guests/{name}/balloon`, and to whatever changes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BalloonDetail {
    /// Version of this layout.
    pub schema: Schema,
    /// The guest's.
    pub balloon: Balloon,
}

words! {
    /// How a guest's driver answers for its balloon.
    #[derive(Default)]
    BalloonDriver {
        #[default]
        /// No VMM is connected, or no driver has said HELLO.
        Absent = "absent",
        /// There is a driver, and it has told nothing for some time.
        Silent = "silent",
        /// It tells its statistics.
        Works = "works",
    }
}

words! {
    /// Who says how large a balloon shall be.
    #[derive(Default)]
    BalloonMode {
        #[default]
        /// The administrator.
        Fixed = "fixed",
        /// The daemon's controller.
        Auto = "auto",
    }
}

words! {
    /// Why pages that a guest let go were not freed.
    BalloonRefusalReason {
        /// They are not in the guest's memory.
        Outside = "outside",
        /// That memory has no shared file.
        NoFile = "no_file",
        /// It is of huge pages, which do not fit or must not be freed.
        Huge = "huge",
        /// The host's file system refused.
        Failed = "failed",
        /// More than the target asks for.
        Over = "over",
    }
}

impl BalloonRefusalReason {
    /// What that means and what can be done, in a sentence.
    #[must_use]
    pub const fn tells(self) -> &'static str {
        match self {
            Self::Outside => "the driver named pages that are not in the guest's memory",
            Self::NoFile => {
                "the guest's memory is not a shared file: start its VMM with memory of a memfd or a file \
                 (share=on)"
            }
            Self::Huge => {
                "the guest's memory is of huge pages: use small ones, or set balloon.huge_pages of the \
                 guest and have it let whole ones go"
            }
            Self::Failed => {
                "the host's kernel would not free a part of the memory's file; it must be open for \
                 writing and not sealed"
            }
            Self::Over => "the driver let go more than its target asks for; it takes that back",
        }
    }
}

/// The balloon of one guest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Balloon {
    /// The guest.
    pub guest: String,
    /// The device offers a balloon to the guest.
    pub enabled: bool,
    /// What of the guest's driver is to be seen.
    pub driver: BalloonDriver,
    /// Who decides.
    pub mode: BalloonMode,
    /// The guest's whole memory, by its VMM; 0 until one has connected.
    pub memory_pages: u64,
    /// What it keeps of that now: without what the balloon holds.
    pub size_pages: u64,
    /// What the balloon shall hold.
    pub target_pages: u64,
    /// What it holds.
    pub held_pages: u64,
    /// The least that the guest keeps, whoever decides.
    pub floor_pages: u64,
    /// The most that auto lets it keep; absent: all.
    pub ceiling_pages: Option<u64>,
    /// Its part of what guests on auto want, compared with that of others.
    pub weight: u32,
    /// What auto decided last, and why.
    pub decision: Option<BalloonDecision>,
    /// Why pages were not freed, the last time that some were not.
    pub refusal: Option<BalloonRefusal>,
    /// What the driver told last.
    pub statistics: Option<BalloonStatistics>,
    /// What came of the balloon's requests, from the worker's start.
    pub counts: BalloonCounts,
}

/// What the controller chose for a guest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BalloonDecision {
    /// What the balloon shall hold.
    pub target_pages: u64,
    /// What the guest keeps then.
    pub size_pages: u64,
    /// Why, in a word.
    pub reason: String,
    /// Why, in a sentence.
    pub tells: String,
    /// Pages a second that the guest had to fetch again.
    pub faults_per_s: u64,
    /// For how much of the time tasks waited for memory; absent without an agent in the guest.
    pub stalled_permille: Option<u16>,
}

/// Why pages were not freed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BalloonRefusal {
    /// In a word.
    pub reason: BalloonRefusalReason,
    /// In a sentence.
    pub tells: String,
    /// For how long nothing was refused since.
    pub age_ms: u64,
}

/// How a guest is, by its driver. Counts are from the guest's boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BalloonStatistics {
    /// When it was told.
    pub age_ms: u64,
    /// Counts the driver's reports.
    pub sequence: u64,
    /// Pages in the balloon.
    pub held_pages: u64,
    /// Pages that the driver works towards: the target, as far as the guest's own floor allows.
    pub target_pages: u64,
    /// The guest's memory as its kernel counts it, without the balloon.
    pub total_pages: u64,
    /// Pages that could be had without swapping.
    pub available_pages: u64,
    /// Pages that nothing uses.
    pub free_pages: u64,
    /// Pages read back from swap.
    pub swap_ins: u64,
    /// Pages written to swap.
    pub swap_outs: u64,
    /// Pages that came back soon after their eviction.
    pub refaults: u64,
    /// Faults that waited for a device.
    pub major_faults: u64,
    /// Time in which some task waited for memory; absent without an agent in the guest.
    pub psi_some_us: Option<u64>,
    /// Time in which all tasks did.
    pub psi_full_us: Option<u64>,
    /// Pages that the guest's own side keeps, whatever the target.
    pub floor_pages: u64,
    /// Pages given back because the guest was out of memory.
    pub oom_deflated_pages: u64,
    /// Why pages were refused to the driver last, as a number of the device's interface; 0: they were not.
    pub reason: u64,
    /// Pages of swap in use.
    pub swapped_pages: u64,
}

/// Counts from the worker's start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BalloonCounts {
    /// Pages that went into the balloon and were freed.
    pub inflated_pages: u64,
    /// Pages that the guest took back.
    pub deflated_pages: u64,
    /// Pages that were freed because they were free in the guest.
    pub reported_pages: u64,
    /// Ranges of pages that were not freed, by why.
    pub refused: BTreeMap<BalloonRefusalReason, u64>,
}

/// Body of `POST /v1/guests/{name}/balloon`: fixes the balloon's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BalloonRequest {
    /// What the guest keeps; all of its memory or more: no balloon.
    pub size_pages: u64,
}

/// Body of `POST /v1/guests/{name}/balloon/auto`; what is absent stays as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BalloonAutoRequest {
    /// Whether the controller decides.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auto: Option<bool>,
    /// See [`Balloon::floor_pages`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub floor_pages: Option<u64>,
    /// See [`Balloon::ceiling_pages`]; 0: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ceiling_pages: Option<u64>,
    /// See [`Balloon::weight`]; at least 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
}

/// Body of `POST /v1/balloons/budget`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BalloonBudgetRequest {
    /// What all guests on auto may keep together; null: as much as they like.
    pub budget_pages: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_absent_from_a_request_is_not_written() {
        let request = BalloonAutoRequest {
            auto: Some(true),
            ..BalloonAutoRequest::default()
        };
        assert_eq!(serde_json::to_string(&request).unwrap(), r#"{"auto":true}"#);
        assert!(serde_json::from_str::<BalloonRequest>("{}").is_err());
        assert!(serde_json::from_str::<BalloonAutoRequest>(r#"{"size":1}"#).is_err());
    }

    #[test]
    fn a_refusal_stands_in_json_by_its_word() {
        let counts = BalloonCounts {
            refused: BTreeMap::from([(BalloonRefusalReason::NoFile, 2)]),
            ..BalloonCounts::default()
        };
        let json = serde_json::to_value(&counts).unwrap();
        assert_eq!(json["refused"]["no_file"], 2);
        assert!(BalloonRefusalReason::NoFile.tells().contains("share=on"));
    }
}
