// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The admin API of `vhost-device-tmem`: paths, answers and errors, as types.
//!
//! The daemon serves HTTP/1.1 with JSON bodies on a Unix socket ([`DEFAULT_SOCKET`]); `tmemctl` is
//! its first client, `curl --unix-socket` the second. This crate holds what both ends must agree
//! on and nothing that runs: no socket, no runtime, no command line.
//!
//! | path | answer |
//! | --- | --- |
//! | [`path::STATUS`] | [`Status`]: health, tiers, where the memory went |
//! | [`path::GUESTS`] | [`GuestList`] |
//! | [`path::GUESTS`]`/{name}` | [`GuestDetail`] |
//! | [`path::POOLS`]`?guest=` | [`PoolList`] |
//! | [`path::STATS`]`?guest=` | [`Stats`]: counters and latencies |
//! | [`path::METRICS`] | the same as Prometheus text |
//!
//! Every JSON object that is a whole answer, errors included, has a field `schema`. Its number
//! changes when a field changes its meaning, its unit or its name, or goes; a new field does not
//! change it, so a client must ignore fields that it does not know. Units are in the names:
//! `_bytes`, `_pages`, `_ns`, `_seconds`; a count without a unit counts pages or, where the field
//! says so, requests or events.

mod error;
mod guest;
mod latency;
mod pool;
mod schema;
mod stats;
mod status;

pub use error::{ErrorAnswer, ErrorCode};
pub use guest::{Guest, GuestDetail, GuestList};
pub use latency::{Bucket, Histogram};
pub use pool::{Pool, PoolKind, PoolLayout, PoolList};
pub use schema::Schema;
pub use stats::{GuestStats, Latency, Op, PageResult, RequestStatus, Stats};
pub use status::{Health, Memory, PageTotals, Resident, Status, Tier};

/// Where the daemon listens and `tmemctl` looks unless they are told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/tmem/admin.sock";

/// Bytes of a page, the only size there is.
pub const PAGE_BYTES: u64 = 4096;

/// Paths of the API.
pub mod path {
    /// [`Status`](super::Status).
    pub const STATUS: &str = "/v1/status";
    /// [`GuestList`](super::GuestList); with `/{name}` behind it [`GuestDetail`](super::GuestDetail).
    pub const GUESTS: &str = "/v1/guests";
    /// [`PoolList`](super::PoolList); takes `?guest=`.
    pub const POOLS: &str = "/v1/pools";
    /// [`Stats`](super::Stats); takes `?guest=`.
    pub const STATS: &str = "/v1/stats";
    /// Prometheus text.
    pub const METRICS: &str = "/metrics";
}
