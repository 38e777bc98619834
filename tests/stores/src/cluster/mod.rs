// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Real stores: processes of this machine, in networks of their own where that is possible, and what
//! can happen to them.
//!
//! `process.rs` starts, kills and freezes; `stores.rs` has several and a client; `network.rs` cuts; `limits.rs` takes room away; `load.rs`
//! reads and writes through the real client meanwhile, and records what it saw.

mod limits;
mod load;
mod network;
mod process;
mod program;
mod stores;

pub use limits::{MemoryLimit, SmallDisk};
pub use load::{Complaint, Load, Seen};
pub use network::{Cut, Namespace, unavailable};
pub use process::{StoreOptions, StoreProcess};
pub use program::{PROGRAM, remote_store};
pub use stores::{Cluster, Member};
