// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Remote stores under faults: in a simulated network, as real processes, and against clients that
//! mean harm.
//!
//! ```text
//!  page.rs    pages that say who wrote them, where, and as which version
//!  oracle.rs  what a read may return: from the last acknowledged change to the last sent
//!  history.rs what threads saw of each key, judged by a linearizability checker
//!  sim/       the real client and stores over a simulated network; a seed decides everything
//!  cluster/   real processes: killed, frozen, cut off, starved, under load
//!  peer.rs    a client that says what no proper client would say
//! ```
//! What these find is judged in `tests/`: `simulation.rs`, `processes.rs`, `security/`; any number of
//! seeds is run by the program `tmem-sim`, which is `cargo xtask sim`. docs/testing-stores.md tells
//! people how.
//!
//! # Where to start reading
//! `oracle.rs`, then `sim/mod.rs`.

pub mod cluster;
mod history;
mod oracle;
mod page;
pub mod peer;
mod random;
pub mod sim;

pub use history::{Begun, Operation, Recorder, Violation};
pub use oracle::{Kind, Oracle, ReadId, Seen, Wrong};
pub use page::Stamp;
pub use random::{Random, fresh, mix, parameter, seed};
