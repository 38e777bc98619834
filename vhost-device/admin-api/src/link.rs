// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Links: the emulated way between DRAM and a farther tier.
//!
//! What a link is set to is a line of text, which the daemon reads and writes; nobody else has to know
//! its grammar.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::words::words;
use crate::{Histogram, Schema, TierName};

/// Answer to `GET /v1/links`, and to what changes a link: then of those that the change concerned.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkList {
    /// Version of this layout.
    pub schema: Schema,
    /// In order of tier, then those of all guests before those of one, then direction.
    pub links: Vec<Link>,
}

words! {
    /// Which way pages go.
    #[derive(Default)]
    LinkDirection {
        /// From the tier to DRAM: gets, promotions.
        #[default]
        In = "in",
        /// From DRAM to the tier: demotions.
        Out = "out",
    }
}

words! {
    /// Which directions a request means.
    #[derive(Default)]
    LinkDirections {
        /// [`LinkDirection::In`].
        In = "in",
        /// [`LinkDirection::Out`].
        Out = "out",
        /// Both.
        #[default]
        Both = "both",
    }
}

words! {
    /// What a link is made to do wrong.
    LinkFault {
        /// A transfer is lost.
        Drop = "drop",
        /// A transfer takes longer.
        Slow = "slow",
        /// Nothing is transferred for a while.
        Stall = "stall",
        /// A byte of a page is changed.
        Corrupt = "corrupt",
    }
}

words! {
    /// Whose transfers wait for each other.
    #[derive(Default)]
    LinkQueue {
        /// Those of all guests of the tier.
        #[default]
        Shared = "shared",
        /// Those of the one guest.
        Own = "own",
    }
}

/// A link of a tier: in one direction, shared by all guests or one guest's own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Link {
    /// The tier at its far end.
    pub tier: TierName,
    /// The guest whose own it is; absent: that of all guests that have none of their own.
    pub guest: Option<String>,
    /// Which way pages go.
    pub direction: LinkDirection,
    /// Whose wire it is, if it is one guest's.
    pub queue: LinkQueue,
    /// What it is set to, in the words that `link set` takes; empty: nothing is emulated.
    pub text: String,
    /// What it does wrong, in the words that `link fault` takes; empty: nothing.
    pub faults: String,
    /// The latency that it is set to.
    pub latency_ns: u64,
    /// The bandwidth that it is set to, in bits a second; absent: no limit.
    pub bandwidth_bps: Option<u64>,
    /// The lowest latency that can be emulated here, by calibration; absent before it was measured.
    pub floor_ns: Option<u64>,
    /// Transfers over it.
    pub transfers: u64,
    /// Bytes transferred.
    pub bytes: u64,
    /// Time that transfers spent on it, waits for others on the same wire included.
    pub wait_ns: u64,
    /// How much later transfers ended than they should have.
    pub error: Histogram,
    /// Transfers that were late beyond the model's tolerance.
    pub overruns: u64,
    /// Transfers that ended too early; there ought to be none.
    pub early: u64,
    /// Transfers that were made to go wrong, by how.
    pub faulted: BTreeMap<LinkFault, u64>,
}

impl Link {
    /// Whether figures of transfers over it are not the hardware's own.
    #[must_use]
    pub const fn emulated(&self) -> bool {
        !self.text.is_empty() || !self.faults.is_empty()
    }
}

/// Body of `POST /v1/links/set`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkRequest {
    /// The tier; absent: the farthest one, as DiME's one-line form has it, for `guest` alone.
    #[serde(default)]
    pub tier: Option<TierName>,
    /// One guest's own link; absent: that of all others.
    #[serde(default)]
    pub guest: Option<String>,
    /// Which ways.
    #[serde(default)]
    pub direction: LinkDirections,
    /// What to set it to, in the daemon's words or in DiME's one-line form.
    pub text: String,
}

/// Body of `POST /v1/links/clear`. No body is the same as `{}`: every link.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LinkClearRequest {
    /// Of this tier; absent: of all.
    pub tier: Option<TierName>,
    /// This guest's own links, which then has the tier's; absent: those of all guests and each one's
    /// own.
    pub guest: Option<String>,
    /// Which ways.
    pub direction: LinkDirections,
}

/// Body of `POST /v1/links/faults`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultsRequest {
    /// The tier.
    pub tier: TierName,
    /// On one guest's own link; absent: on that of all others.
    #[serde(default)]
    pub guest: Option<String>,
    /// Which ways.
    #[serde(default)]
    pub direction: LinkDirections,
    /// What goes wrong from now on; empty: nothing.
    pub text: String,
}
