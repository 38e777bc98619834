// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The client against stores in the same process that do what a test tells them: slow ones, silent ones,
//! ones that lie, die, and come back with nothing or with what they had long ago.
//!
//! All of it runs in one thread under a clock that jumps, so a second of waiting takes no time, and the
//! same seed gives the same run.

#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]
#![allow(
    clippy::large_futures,
    reason = "a test's stack has room for its scenario"
)]

mod bench;
mod deaths;
mod fake;
mod model;
mod restarts;
mod scenarios;
mod vanishing;
