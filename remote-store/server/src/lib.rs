// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `remote-store`: keeps pages of other hosts, with the engine that the daemon keeps its own with.
//!
//! ```text
//! main ── args, config ──▶ service ─┬─ listeners ── TLS ── doors: who may come in, to which shard
//!                                   ├─ shard threads ── connection ── connection …
//!                                   │      worker │ read and write buffers
//!                                   ├─ mover thread, metrics, signals, the service manager
//!                                   ▼
//!                        Store ── engine ── namespaces
//! ```
//! The middle is a library that starts nothing, so that tests and the simulation run the code that
//! the program runs: a [`Store`], a [`Shard`] for each thread, [`serve_connection`] for each stream.
//! What the program adds to it is in `service/`.
//!
//! # What it promises
//! - A put that was answered is there to the next get, until it is flushed, as long as the process
//!   lives; with a state folder as long as the host's memory does.
//! - A client of an older epoch changes nothing once a newer one was welcomed.
//! - A client that breaks the protocol, or is slow, costs its own connection. Nobody's buffers grow
//!   with what a client sends or does not take.
//!
//! # Where to start reading
//! `connection/mod.rs`, then `connection/turn.rs`; `store/mod.rs`; `service/mod.rs` for the program.
#![forbid(unsafe_code)]

pub mod args;
pub mod cert;
mod config;
mod connection;
mod limits;
pub mod log;
mod metrics;
pub mod service;
mod shard;
mod store;

pub use config::{Address, Config, ConfigError, EtcdConfig, Quotas, TlsFiles};
pub use connection::{Access, Ended, Peer, serve_connection};
pub use limits::Limits;
pub use shard::Shard;
pub use store::{
    Identity, LogConfig, NamespaceError, NamespaceStats, Opened, PmConfig, SHARDS_MAX, Store,
    StoreConfig, StoreError, StoreStats, Totals,
};
