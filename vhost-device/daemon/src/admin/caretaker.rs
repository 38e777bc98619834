// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What is answered when no worker can run.
//!
//! A daemon whose workers end again and again is not gone: its keeper still holds the guests'
//! connections and pages, and an administrator must be able to learn why it serves nobody, and to
//! restart or replace the worker. So the keeper starts the program once more, with this source and
//! no engine behind the admin API: nothing of the guests is mapped, and what made the workers end
//! cannot end this one.

use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use tmem_admin_api::{
    DaemonOperation, DaemonStatus, Guest, GuestStats, Health, Memory, PageTotals, Pool, Schema,
    Status,
};

use crate::status::{AdminSource, RequestError};

/// Hands an operation to the keeper; the contract is [`AdminSource::request`]'s.
pub type PassOn = Box<dyn Fn(&DaemonOperation) -> Result<u64, RequestError> + Send + Sync>;

/// Tells how the daemon is, takes operations, and knows no guest.
pub struct Caretaker {
    daemon: Mutex<DaemonStatus>,
    pass_on: PassOn,
}

impl Caretaker {
    /// Tells `daemon`, in whose state `failed` nothing is asked about guests, and hands operations
    /// to `pass_on`.
    #[must_use]
    pub fn new(daemon: DaemonStatus, pass_on: PassOn) -> Self {
        Self {
            daemon: Mutex::new(daemon),
            pass_on,
        }
    }

    /// Tells `daemon` from now on.
    pub fn update(&self, daemon: DaemonStatus) {
        *self.daemon.lock() = daemon;
    }
}

impl AdminSource for Caretaker {
    fn status(&self) -> Status {
        let daemon = self.daemon();
        let reasons = daemon.reasons();
        Status {
            schema: Schema,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_seconds: daemon.uptime_seconds(),
            health: Health::from_reasons(&reasons),
            reasons,
            emulated: false,
            tiers: Vec::new(),
            promises: None,
            pages: PageTotals::default(),
            memory: Memory::default(),
            guests: 0,
            connected: 0,
            daemon,
        }
    }

    fn guests(&self) -> Vec<Guest> {
        Vec::new()
    }

    fn guest(&self, _name: &str) -> Option<Guest> {
        None
    }

    fn pools(&self, _guest: &str) -> Option<Vec<Pool>> {
        None
    }

    fn stats(&self, _guest: &str) -> Option<GuestStats> {
        None
    }

    fn uptime_ns(&self) -> u64 {
        0
    }

    fn daemon(&self) -> DaemonStatus {
        DaemonStatus {
            now_unix_ms: now_unix_ms(),
            ..self.daemon.lock().clone()
        }
    }

    fn request(&self, operation: &DaemonOperation) -> Result<u64, RequestError> {
        (self.pass_on)(operation)
    }
}

/// The host's clock, in ms since 1970.
pub(crate) fn now_unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}
