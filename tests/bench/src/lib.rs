// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Benchmarks: floors first, then product and peers by turns in one run.
//!
//! [`device()`] measures the virtqueue path: our device and a vhost-user block device over a
//! RAM-backed file, driven by the same in-process front-end with the same rings, server pinned to
//! one processor and client to another; and our device as keeper and worker beside the same program
//! as a single process. A [`Report`] holds the rows, prints as a table for people and serialises for
//! programs.
//!
//! What a figure means stands in its row's `regime`: who polls, who sleeps, and how often the server
//! really slept, counted by the kernel and not taken from its settings.
#![forbid(unsafe_code)]

mod device;
mod error;
mod floors;
mod pin;
mod report;
mod table;

pub use device::{DeviceOptions, device};
pub use error::{Error, Result};
pub use report::{Floors, Machine, Report, Row, Spread};
