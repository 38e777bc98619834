// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the admin API is answered from: snapshots of the running daemon, as plain types.
//!
//! The admin server knows only [`AdminSource`]; a test hands it a made-up one.

use tmem_admin_api::{Guest, GuestStats, Pool, Status};

/// Where the admin API's answers come from. Every method takes a fresh snapshot, holds no lock when
/// it returns, and never waits for a guest.
pub trait AdminSource: Send + Sync {
    /// Health, tiers and memory.
    fn status(&self) -> Status;

    /// All guests, in order of name.
    fn guests(&self) -> Vec<Guest>;

    /// One guest, or nothing if none has this name.
    fn guest(&self, name: &str) -> Option<Guest>;

    /// The pools of a guest in order of id, or nothing if no guest has this name.
    fn pools(&self, guest: &str) -> Option<Vec<Pool>>;

    /// A guest's counters and latencies, or nothing if no guest has this name.
    fn stats(&self, guest: &str) -> Option<GuestStats>;

    /// The daemon's time since its start, in nanoseconds.
    fn uptime_ns(&self) -> u64;
}
