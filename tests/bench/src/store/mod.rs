// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Area `store`: pages on other hosts, all of them this one.
//!
//! Servers are processes on one processor, the generator is a thread on another, with the same shape for
//! all protocols: it polls sockets that never block, keeps so many requests in flight, and looks at each
//! page that comes back.
//!
//! | rows | beside | module |
//! | --- | --- | --- |
//! | pages a second for each busy processor, memory of a page | Valkey, memcached | `peers` |
//! | one get at a time | a ping-pong of the same sizes | `single` |
//! | two copies, mutual TLS | one copy, plain | `copies` |
//! | longest get when a store dies or stands still, repair | limits, what is allowed | `faults` |
//!
//! The first two drive the server alone, by `wire` and `pipe`; the others are the client that the daemon
//! uses, with all it does.

mod client;
mod copies;
mod faults;
mod floor;
mod load;
mod peers;
mod pipe;
mod row;
mod servers;
mod single;
mod wire;

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::pin::{self, Processors};
use crate::report::{Machine, SCHEMA};
use crate::{Report, Result};

/// What to measure, and with which programs.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Our store's program, `remote-store`, built for release.
    pub server: PathBuf,
    /// `valkey-server`, or `redis-server`; without one, its rows say so.
    pub valkey: Option<PathBuf>,
    /// `memcached`, likewise.
    pub memcached: Option<PathBuf>,
    /// Fewer pages, shorter passes, fewer rounds.
    pub quick: bool,
}

impl StoreOptions {
    /// With the peers that this machine has: those that `TMEM_VALKEY_SERVER` and `TMEM_MEMCACHED` name,
    /// else `valkey-server`, `redis-server` and `memcached`, if they run.
    #[must_use]
    pub fn new(server: PathBuf, quick: bool) -> Self {
        Self {
            server,
            valkey: program("TMEM_VALKEY_SERVER", &["valkey-server", "redis-server"]),
            memcached: program("TMEM_MEMCACHED", &["memcached"]),
            quick,
        }
    }
}

/// The program that a variable names, else the first of `names` that runs.
fn program(variable: &str, names: &[&str]) -> Option<PathBuf> {
    let runs = |program: &PathBuf| {
        let output = Command::new(program).arg("--version").output();
        output.is_ok_and(|output| output.status.success())
    };
    let given = std::env::var_os(variable).map(PathBuf::from);
    given.or_else(|| names.iter().map(PathBuf::from).find(runs))
}

/// Sizes that follow from `quick`.
#[derive(Clone, Copy, Debug)]
struct Scale {
    rounds: usize,
    /// Length of a pass.
    pass: Duration,
    /// Keys of the comparison with others.
    keys: u32,
    /// Keys where the latency of one request counts.
    few_keys: u32,
}

impl Scale {
    const fn new(quick: bool) -> Self {
        if quick {
            Self {
                rounds: 3,
                pass: Duration::from_millis(200),
                keys: 50_000,
                few_keys: 10_000,
            }
        } else {
            Self {
                rounds: 5,
                pass: Duration::from_secs(2),
                keys: 1_000_000,
                few_keys: 100_000,
            }
        }
    }
}

/// Measures everything of this area.
///
/// # Errors
/// When the machine has fewer than two processors, a server does not start or answers wrongly, or a page
/// comes back wrong.
pub fn store(options: &StoreOptions) -> Result<Report> {
    let scale = Scale::new(options.quick);
    let processors = Processors::choose()?;
    let results = pin::on(processors.client, || {
        let mut rows = single::rows(options, &scale, processors)?;
        rows.extend(peers::rows(options, &scale, processors)?);
        rows.extend(copies::rows(options, &scale, processors)?);
        rows.extend(faults::rows(options, &scale, processors)?);
        Ok::<_, crate::Error>(rows)
    })??;
    Ok(Report {
        schema: SCHEMA,
        machine: Machine::here(),
        results,
    })
}
