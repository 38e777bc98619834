// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Pages on other hosts: what the daemon's remote tier is made of.
//!
//! ```text
//!  engine ── SlotStore ──▶ Replicated ─ Session ─ lanes ══▶ remote-store, several, each with some copies
//!                              │  table: who has which page      ▲
//!                              └─ Shared ─ Driver ═══════════════╛ adverts, repair, lists, flushes
//!                                            └─ control::Core decides: no clock, no socket
//! ```
//! [`open()`] makes both halves of a client: [`Replicated`], which the engine's threads call, and
//! [`driver::Driver`], the one thread that looks after the stores. Which stores there are, the driver is
//! told by its [`driver::Handle`].
//!
//! # What it promises
//! - A page whose write was acknowledged is read again as it was written, as long as one of its copies
//!   is on a store that can be reached; otherwise the read is an error. It is never other bytes.
//! - A copy counts only if it was acknowledged, and only as long as its store is known to have it: a
//!   store that was away is compared with the table before its copies count again.
//! - A slot that was invalidated is empty at once. What stores still have of it is flushed later.
//! - Only the newest process of a namespace writes: stores refuse the others.
//! - A write or a read waits for a bounded time, whatever stores do.
//!
//! # What outlives the process
//! The table, in memory that the caller keeps ([`SlotMemory`](tmem_pages::slots::SlotMemory)): which
//! stores have which page, and numbers that must not be used twice. Pages that the host holds for late
//! stores ([`Ack::First`]) do not: their copies are made again from the one that was acknowledged.
//!
//! # Where to start reading
//! `replicated/mod.rs` for pages, `driver/mod.rs` for stores, `table/mod.rs` for what is kept,
//! `control/mod.rs` for decisions.
#![forbid(unsafe_code)]

pub mod connect;
pub mod control;
mod disk;
pub mod driver;
mod hash;
pub mod lane;
pub mod membership;
mod metrics;
mod open;
mod replicated;
mod settings;
mod shared;
pub mod table;
#[cfg(feature = "valkey")]
pub mod valkey;
mod volatile;

pub use disk::Disk;
pub use metrics::{ClientCounters, Latency, MetricsSnapshot, StoreCounters};
pub use open::{OpenError, control_config, open, open_with};
pub use replicated::{ReadError, Replicated, Session, Volatile, WriteError, Written};
pub use settings::{
    Ack, BadSettings, HELD_PAGES_DEFAULT, Hedge, MEMBERS_MAX, REPLICAS_MAX, Settings,
};

/// The seed of a test's run: `TMEM_SEED`, or a new one. Printed with the command that runs it again.
#[cfg(test)]
pub(crate) fn test_seed(test: &str) -> u64 {
    let seed = std::env::var("TMEM_SEED").map_or_else(
        |_| {
            use std::hash::{BuildHasher, RandomState};
            RandomState::new().hash_one(test)
        },
        |seed| seed.parse().expect("TMEM_SEED is a number"),
    );
    println!("replay: TMEM_SEED={seed} cargo test -p tmem-remote-client {test} -- --nocapture");
    seed
}
