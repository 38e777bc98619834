// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Pools: what a guest keeps its pages in.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{HitTier, Schema, TierCounts, TierName};

/// Answer to `GET /v1/pools`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolList {
    /// Version of this layout.
    pub schema: Schema,
    /// In order of guest name and pool id.
    pub pools: Vec<Pool>,
}

/// One pool. `pages` = `same_filled` + `frames` + `pm` + `remote`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// Name of the guest that it belongs to.
    pub guest: String,
    /// Number that the guest gave it.
    pub id: u32,
    /// What is promised for its pages.
    pub kind: PoolKind,
    /// How its pages are indexed.
    pub layout: PoolLayout,
    /// Dense pools: indices are below this. 0 for sparse ones.
    pub object_pages: u32,
    /// Pages held now.
    pub pages: u64,
    /// Of these, pages that repeat one word and take no frame.
    pub same_filled: u64,
    /// Of these, pages that lie in a frame of 4096 bytes.
    pub frames: u64,
    /// Of these, pages in the PM file.
    #[serde(default)]
    pub pm: u64,
    /// Of these, pages in the remote tier alone.
    #[serde(default)]
    pub remote: u64,
    /// Pages stored so far.
    pub puts: u64,
    /// Pages delivered so far.
    pub gets: u64,
    /// Pages asked for that were not there.
    pub misses: u64,
    /// Pages flushed so far by request.
    pub flushes: u64,
    /// Pages whose put was refused, because the pool was full or the guest frozen.
    pub refused: u64,
    /// Pages that a put or flush left alone because theirs was the newer ticket.
    pub stale: u64,
    /// Ephemeral pools: pages given up to make room.
    pub evicted: u64,
    /// Pages that failed their checksum when they were asked for.
    pub corrupt: u64,
    /// Pages delivered, by where they were. Entries that would be zero may be absent.
    #[serde(default)]
    pub hits: BTreeMap<HitTier, u64>,
    /// What each tier did for it.
    #[serde(default)]
    pub tiers: BTreeMap<TierName, TierCounts>,
}

/// What a pool promises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PoolKind {
    /// An acknowledged page stays until it is flushed.
    #[default]
    Persistent,
    /// A page may vanish at any time.
    Ephemeral,
}

impl PoolKind {
    /// The word that stands for it in answers and tables.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Persistent => "persistent",
            Self::Ephemeral => "ephemeral",
        }
    }
}

/// How a pool's pages are indexed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PoolLayout {
    /// One object, like a swap area.
    #[default]
    Dense,
    /// Any object and index, like files.
    Sparse,
}

impl PoolLayout {
    /// The word that stands for it in answers and tables.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Dense => "dense",
            Self::Sparse => "sparse",
        }
    }
}
