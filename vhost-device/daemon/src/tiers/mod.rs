// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The tiers below DRAM, and the links to them, as the daemon runs them.
//!
//! ```text
//!  keeper ── files: the PM file, memory for the stand-in, records ──▶ worker
//!                                                                     │ files::open_stores
//!  queue worker ── get ─▶ engine ─▶ linked::LinkedStore ─▶ SlotFile   ▼
//!      │ paths::Ways: when may it be answered?         ▲            Engine::open_tiered
//!      ▼                                               │ step
//!  deferred answers                                  mover ── tasks, traces
//!                                    admin ── desk ────┘ settings ──▶ keeper ──▶ next worker
//! ```
//! - `files`: what the keeper opens and a worker makes stores of.
//! - `paths`, `linked`: links between guests and tiers; a store behind its link.
//! - `mover`: the thread that moves pages.
//! - `stores`: the remote tier, where it is on stores elsewhere.
//! - `settings`: what outlives a worker without being in the engine's map.
//! - `tasks`, `traces`, `desk`, `admin`, `show`: what an administrator sees and does.

mod admin;
mod desk;
pub(crate) mod files;
pub(crate) mod linked;
pub(crate) mod mover;
pub(crate) mod paths;
pub(crate) mod settings;
pub(crate) mod show;
pub(crate) mod stores;
mod tasks;
pub(crate) mod traces;

pub(crate) use desk::TierDesk;
pub use stores::StoresError;
