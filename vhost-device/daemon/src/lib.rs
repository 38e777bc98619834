// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The virtio-tmem device: a vhost-user back-end that keeps the cold pages of virtual machines.
//!
//! ```text
//! vhost-device-tmem --config FILE.toml [--admin-socket PATH]
//! vhost-device-tmem --socket-path PATH | --fd FDNUM
//!     [--name NAME] [--grant SIZE] [--dram SIZE] [--queue-pairs N] [--poll-us MICROSECONDS]
//!     [--state-dir DIR] [--frames-file PATH] [--admin-socket PATH [--admin-group GROUP]]
//! vhost-device-tmem --print-capabilities
//!
//! and always: [--sandbox none|auto|strict] [--user USER] [--upgrade-dir DIR]... [--crash-limit N]
//!     [--single-process] [--log-level LEVEL] [--log-format text|json]
//! ```
//! The first form serves the guests of a file (see [`config`]), the second one guest. Sizes are
//! written `512MiB`. Exit codes: 0 after SIGTERM, SIGINT or SIGHUP, 1 if it cannot start, 2 if it is
//! told something impossible.
//!
//! # Two processes
//! ```text
//!  main ── args ── config ──▶ keeper    sockets, VMMs' connections and their record, the worker's life
//!                               │ channel: JSON and descriptors
//!                               ▼
//!  main --worker ───────────▶ worker ── desk ── connection::Place, one a guest
//!                               │                   │ a VMM's connection is handed over
//!                               │                   ▼
//!                               │    device::Device ── vhost-user thread, queue workers
//!                               │        │                     │
//!                               │        ▼                     ▼ chain → request → pages
//!                               │    device::Station ──▶ tmem_pages::Engine, in shared memory
//!                               └── admin: HTTP on a Unix socket ── snapshot ── metrics
//! ```
//! Start with [`keeper`], then [`worker`], then [`device`]. [`sandbox`] fences both processes in.
//! [`Daemon`] is the same in one process, for tests and benchmarks.
//!
//! A guest's pools belong to its name: they stay when its VMM goes, and a VMM may come as often as
//! it likes. One VMM is served at a time; a second waits until the first has gone.
//!
//! # What is trusted
//! Nothing that a guest writes: rings, descriptors, requests and page addresses cost, at worst, a
//! status or a queue of that guest. A VMM is trusted with its guest, and may vanish at any message.
//!
//! In a test the whole daemon runs in process:
//! ```no_run
//! use vhost_device_tmem::{Config, Daemon};
//! let config = Config::from_file("tmem.toml".as_ref())?;
//! let daemon = Daemon::start(&config)?;
//! daemon.stop();
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod admin;
pub mod args;
pub mod balloon;
mod channel;
pub mod config;
mod connection;
mod daemon;
pub mod device;
mod error;
mod ipc;
pub mod keeper;
pub mod limits;
pub mod logging;
pub mod metrics;
mod notify;
mod port;
mod process;
pub mod sandbox;
mod service;
pub mod signals;
mod snapshot;
mod socket;
mod status;
mod tiers;
mod told;
pub mod worker;

pub use config::{Config, ConfigError};
pub use daemon::Daemon;
pub use error::Error;
pub use status::{AdminSource, BalloonAdmin, RequestError, StoreAdmin, TierAdmin, TierError};
pub use tiers::StoresError;

/// What `--print-capabilities` prints, in the form that QEMU's conventions for back-ends ask for. The
/// type is not one of the conventions' own: they have none for this device.
#[must_use]
pub fn capabilities() -> String {
    serde_json::json!({
        "type": "tmem",
        "features": ["several-guests", "admin-api"],
        "virtio-id": tmem_abi::VIRTIO_ID,
        "version": tmem_abi::VERSION,
        "queue-pairs-max": limits::QUEUE_PAIRS_MAX,
    })
    .to_string()
}
