// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `tmemctl` against the daemon's real server, in process, over made-up daemons.
//!
//! What is printed is compared with the files in `golden/`. After a wanted change,
//! `TMEM_BLESS=1 cargo test -p tmemctl` writes them anew; review the difference.

// Helpers of tests may unwrap as tests do.
#![allow(clippy::unwrap_used)]

mod daemon;
mod host;
mod ran;
mod stores;
mod tasks;
mod tiering;
mod verbs;

#[path = "../../../daemon/src/admin/tests/fake.rs"]
mod fake;

// What the made-up daemon is made of; it finds them in the module above it.
use vhost_device_tmem::{
    AdminSource, BalloonAdmin, RequestError, StoreAdmin, TierAdmin, TierError,
};
