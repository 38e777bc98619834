// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The tier on Valkey against real servers: six processes, three primaries with a replica each.
//!
//! | file | what |
//! | --- | --- |
//! | `servers.rs` | starts, kills, freezes and ends the processes |
//! | `pages.rs` | pages and stores for tests |
//! | `fitness.rs` | what is refused when a store is opened, and a full cluster |
//! | `losses.rs` | values that are gone, older, another's or damaged |
//! | `moves.rs` | hash slots that move, restarts of the client, garbage |
//! | `frozen.rs` | replicas and primaries that stand still |
//! | `failover.rs` | primaries killed and frozen under load, for as many rounds as one likes |
//!
//! The server is `$TMEM_VALKEY_SERVER`, else `valkey-server`, else `redis-server` of version 7 or later,
//! which speaks the same protocol. Without any of them the tests do nothing and say so, except where
//! `CI` or `TMEM_VALKEY_SERVER` is set.
#![cfg(feature = "valkey")]
#![expect(clippy::unwrap_used, reason = "tests")]

mod failover;
mod fitness;
mod frozen;
mod losses;
mod moves;
mod pages;
mod servers;
