// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The owner of all that is known of the stores, without a clock, a socket or a thread.
//!
//! ```text
//!  sockets, timers, commands ──▶ driver ──Event, now──▶ Core ──Action──▶ driver ──▶ sockets, table
//!                                                        │
//!                                              View, an immutable snapshot
//!                                                        ▼
//!                                         every thread that reads and writes pages
//! ```
//! [`Core`] decides: which stores live and which are trusted, where new pages go, what is copied
//! where and how fast, when a store is empty, what people are told. The driver does what it is told
//! and reports what happened. The simulation, the tests and the daemon drive the same core; a test
//! makes up the events.
//!
//! # What it keeps to
//! - A page gets no copy on a store that is dead, suspect, draining, or not reconciled; nor two on
//!   one store or in one failure domain.
//! - A copy is struck off only while as many others as a page should have are on stores that are
//!   well. The one exception is a person's `remove --force`.
//! - No more copies are under way, and no more bytes per second are copied, than is allowed.
//! - A store that was dead, or that came back as another incarnation, is trusted again only once its
//!   list and the table agree.
//! - An event of a connection that was given up changes nothing.
//! - A driver that comes late takes nobody for dead: [`Core::next_wake`] is a promise, and what time
//!   it was broken by is given to everybody.
//!
//! # Where to start reading
//! `core.rs` routes; `member.rs` is one store's life; `table.rs` judges one page; `repair.rs` finds the
//! pages that need something and `copy.rs` does it; `view.rs` is what the data path sees.

mod action;
mod balance;
mod bucket;
mod commands;
mod condition;
mod config;
mod copy;
mod core;
mod event;
mod member;
mod members;
mod progress;
mod queue;
mod random;
mod repair;
mod status;
mod table;
mod view;
mod walk;

#[cfg(test)]
mod tests;

pub use action::{Action, Level, Notice};
pub use bucket::TokenBucket;
pub use config::{COPIES_MAX, Config, ConfigError, MEMBERS_MAX};
pub use core::Core;
pub use event::{
    Advert, Command, CopyResult, Event, Kind, Known, Lost, MemberNo, MemberSpec, Refused, name_id,
};
pub use progress::{Progress, Task};
pub use random::Random;
pub use repair::Totals;
pub use status::{MemberStatus, Status};
pub use table::Table;
pub use view::{MemberView, Order, Placement, State, View};
