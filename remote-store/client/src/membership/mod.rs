// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Who says which stores there are: the configuration, a person at run time, and etcd.
//!
//! ```text
//!  configuration ──┐
//!  a person ───────┼─▶ Roster ── Event::AddMember, Event::Unlist ──▶ control::Core
//!  etcd's list ────┘
//! ```
//! The [`Roster`] merges them: a store is listed as long as one of them names it. What that means is
//! the core's to decide, by what the store itself says: one that answers is used though nobody lists
//! it any more, and one that is listed and silent is dead.
//!
//! # What it must not know
//! Pages, connections, health. Nor whether etcd can be asked: while it cannot, nothing comes from it,
//! and nothing changes.

mod roster;

#[cfg(feature = "etcd")]
pub mod etcd;

pub use roster::{Roster, Source};
