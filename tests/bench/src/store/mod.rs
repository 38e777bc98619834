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

mod bare;
mod client;
mod copies;
mod faults;
mod floor;
mod load;
mod peers;
mod pipe;
mod servers;
mod single;
mod wire;

use std::path::PathBuf;
use std::time::Duration;

use crate::pin::{self, Processors};
use crate::report::{Machine, SCHEMA};
use crate::row::Area;
use crate::{Report, Result, Row};

/// The area of all these rows.
const AREA: Area = Area("store");

/// What to measure, and with which programs.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Our store's program, `remote-store`, built for release.
    pub server: PathBuf,
    /// `valkey-server`, or `redis-server`; without one, its rows say so.
    pub valkey: Option<PathBuf>,
    /// `memcached`, likewise.
    pub memcached: Option<PathBuf>,
    /// What to measure of it; all, if none is named.
    pub parts: Vec<StorePart>,
    /// Fewer pages, shorter passes, fewer rounds.
    pub quick: bool,
}

/// A part of this area.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StorePart {
    /// One get at a time.
    Single,
    /// Beside Valkey and memcached.
    Peers,
    /// Two copies; mutual TLS.
    Copies,
    /// Deaths, stalls, repair.
    Faults,
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
        type Rows = fn(&StoreOptions, &Scale, Processors) -> Result<Vec<Row>>;
        let parts: [(StorePart, Rows); 4] = [
            (StorePart::Single, single::rows),
            (StorePart::Peers, peers::rows),
            (StorePart::Copies, copies::rows),
            (StorePart::Faults, faults::rows),
        ];
        let mut rows = Vec::new();
        for (part, measure) in parts {
            if options.parts.is_empty() || options.parts.contains(&part) {
                rows.extend(measure(options, &scale, processors)?);
            }
        }
        Ok::<_, crate::Error>(rows)
    })??;
    Ok(Report {
        schema: SCHEMA,
        machine: Machine::here(),
        results,
    })
}
