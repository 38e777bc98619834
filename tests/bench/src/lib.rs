// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Benchmarks: floors first, then product and peers by turns in one run.
//!
//! [`device()`] measures the virtqueue path: our device and a vhost-user block device over a
//! RAM-backed file, driven by the same in-process front-end with the same rings, server pinned to
//! one processor and client to another; and our device as keeper and worker beside the same program
//! as a single process. [`links()`] measures how exactly emulated latency and bandwidth are kept,
//! [`policies()`] how many gets each replacement policy makes hits of,
//! [`tiers()`] what leaves DRAM and comes back, and what size costs, [`store()`] pages on other hosts,
//! beside other stores. A [`Report`] holds the rows, prints as a table for people and serialises for programs; [`Figures`]
//! are a report with the words and pictures that suit it.
//!
//! What a figure means stands in its row's `regime`: who polls, who sleeps, and how often the server
//! really slept, counted by the kernel and not taken from its settings.
#![forbid(unsafe_code)]

mod device;
mod error;
mod figures;
mod floors;
mod links;
mod pin;
mod policies;
mod report;
mod row;
mod store;
mod table;
mod tiers;

pub use device::{DeviceOptions, device};
pub use error::{Error, Result};
pub use figures::{Figures, Plot};
pub use links::links;
pub use policies::{PoliciesOptions, policies};
pub use report::{Floors, Machine, Report, Row, Spread};
pub use store::{StoreOptions, StorePart, store};
pub use tiers::{TiersOptions, TiersPart, tiers};
