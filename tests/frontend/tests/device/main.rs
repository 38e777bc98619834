// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The device as a guest meets it: the real daemon as a process, driven over its socket.
//!
//! Each test starts a daemon of its own. When the test is over the daemon must still run, end by
//! SIGTERM with code 0, and have logged no panic.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod balloon;
mod depth;
mod guest;
mod host;
mod in_process;
mod independent;
mod killed;
mod lifecycle;
mod malformed;
mod manager;
mod negotiate;
mod oracle;
mod pages;
mod replaced;
mod semantics;
mod stores;
mod tiers;
mod vanish;
