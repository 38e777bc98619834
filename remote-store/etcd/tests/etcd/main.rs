// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! This crate against a real etcd, which is started for each test on ports of the kernel's choice
//! and frozen, killed and started again.
//!
//! The program is `$TMEM_ETCD`, or `etcd` of the path, where `cargo xtask test` puts one. Without it
//! the tests fail and say so; nothing is skipped in silence.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod calls;
mod following;
mod owning;
mod registering;
mod server;
mod tls;
