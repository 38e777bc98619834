// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Guests: the owners of pools, each behind a socket of its own.

use serde::{Deserialize, Serialize};

use crate::{GuestMemory, Pool, Schema};

/// Answer to `GET /v1/guests`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestList {
    /// Version of this layout.
    pub schema: Schema,
    /// In order of name.
    pub guests: Vec<Guest>,
}

/// Answer to `GET /v1/guests/{name}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestDetail {
    /// Version of this layout.
    pub schema: Schema,
    /// The guest.
    pub guest: Guest,
    /// Its pools, in order of id.
    pub pools: Vec<Pool>,
}

/// One guest. `held_pages` = `same_filled_pages` + `frame_pages` + `pm_pages` + `remote_pages`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guest {
    /// Name that the host's administrator gave it.
    pub name: String,
    /// Path of its vhost-user socket; absent where the daemon was handed an open one.
    pub socket: Option<String>,
    /// A VMM is connected.
    pub connected: bool,
    /// Boot epoch, 32 hexadecimal digits; absent until the guest's driver has said HELLO.
    pub epoch: Option<String>,
    /// Get/put queue pairs offered to it.
    pub queue_pairs: u16,
    /// Pages of persistent pools that it is promised room for.
    pub grant_pages: u64,
    /// Pages held in all its pools.
    pub held_pages: u64,
    /// Of these, pages that take no frame.
    pub same_filled_pages: u64,
    /// Of these, pages in frames.
    pub frame_pages: u64,
    /// Of these, pages in the PM file; a copy that is still in a frame is not counted again.
    #[serde(default)]
    pub pm_pages: u64,
    /// Of these, pages in the remote tier alone.
    #[serde(default)]
    pub remote_pages: u64,
    /// Number of its pools.
    pub pools: u32,
    /// The longest that a queue worker polls before it sleeps, in µs; 0: polling is off.
    pub poll_us: u32,
    /// Its part of the tiers: limits, shares, policy. Absent from a daemon that does not tell.
    #[serde(default)]
    pub memory: Option<GuestMemory>,
}

impl Guest {
    /// Whether its queue workers poll before they sleep.
    #[must_use]
    pub const fn polling(&self) -> bool {
        self.poll_us != 0
    }
}
