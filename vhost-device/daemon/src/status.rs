// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the admin API is answered from: snapshots of the running daemon, as plain types.
//!
//! The admin server knows only [`AdminSource`]; a test hands it a made-up one.

use tmem_admin_api::{DaemonOperation, DaemonStatus, Guest, GuestStats, Pool, Status};

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

    /// Time since the counters began, in nanoseconds.
    fn uptime_ns(&self) -> u64;

    /// The daemon's processes, the same as [`Status::daemon`]. While its state is `failed`, nothing
    /// is asked about guests.
    fn daemon(&self) -> DaemonStatus;

    /// Asks the keeper for an operation and returns its number, above those of all before. What
    /// becomes of it is told by [`DaemonStatus::operation`], from now on or by the next worker.
    /// Returns within a second: the keeper accepts or refuses, and begins afterwards, no sooner
    /// than the caller can have been answered.
    ///
    /// # Errors
    /// [`RequestError`]; nothing was begun then.
    fn request(&self, operation: &DaemonOperation) -> Result<u64, RequestError>;
}

/// Why the keeper did not take an operation on.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// There is none.
    #[error("this daemon runs as one process and has no keeper that could replace it")]
    NoKeeper,
    /// One at a time.
    #[error("operation {id} on this daemon is still under way")]
    UnderWay {
        /// Its number.
        id: u64,
    },
    /// The keeper said no.
    #[error("the keeper refused: {reason}")]
    Refused {
        /// Such as a program that lies outside the directories it is trusted from.
        reason: String,
    },
    /// The keeper did not answer the worker.
    #[error("the keeper does not answer")]
    Silent(#[source] std::io::Error),
}
