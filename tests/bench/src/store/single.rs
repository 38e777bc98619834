// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One get at a time, beside a ping-pong of the same message sizes: what the store adds to the socket.
//! Store and client poll, and so do both sides of the ping-pong.

use super::AREA;
use super::floor::PingPong;
use super::load::{Load, Mix};
use super::pipe::Pipe;
use super::servers::{Ours, Server};
use super::wire;
use super::{Scale, StoreOptions};
use crate::pin::{self, Processors};
use crate::row::{Compared, microseconds};
use crate::{Result, Row};

/// How much of the ping-pong's rate is to be reached: 1.25 times its time at most.
const GOAL: f64 = 0.8;
/// Longer than any pause of a closed loop.
const POLL_US: u32 = 1_000_000;

pub(super) fn rows(
    options: &StoreOptions,
    scale: &Scale,
    processors: Processors,
) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (unix, on) in [(false, "TCP"), (true, "Unix socket")] {
        rows.extend(on_socket(options, scale, processors, unix, on)?);
    }
    Ok(rows)
}

fn on_socket(
    options: &StoreOptions,
    scale: &Scale,
    processors: Processors,
    unix: bool,
    on: &str,
) -> Result<Vec<Row>> {
    let keys = scale.few_keys;
    let mut medians = [Vec::new(), Vec::new()];
    let mut tails = [Vec::new(), Vec::new()];
    let mut sleeps = 0;
    let mut gets = 0;
    for _ in 0..scale.rounds {
        // Two pollers on one processor would take turns of milliseconds: one at a time is there.
        let mut floor = PingPong::start(unix, processors)?;
        let turns = floor.run(scale.pass)?;
        drop(floor);
        medians[1].push(microseconds(&turns, 0.5));
        tails[1].push(microseconds(&turns, 0.99));
        let server = Ours {
            program: &options.server,
            pages: keys * 2,
            poll_us: POLL_US,
            unix,
            certificates: None,
        };
        let server = Server::ours(server, processors.server)?;
        let pipe = Pipe::open(&server.address, Box::new(wire::Ours::new(keys)?))?;
        let mut load = Load::new(server.name, vec![pipe], keys, 2)?;
        let slept = pin::sleeps(server.process());
        let mix = Mix {
            puts: 0,
            depth: 1,
            connections: 1,
        };
        let pass = load.run(mix, scale.pass)?;
        sleeps += pin::sleeps(server.process()) - slept;
        gets += pass.pages;
        if let Some(times) = pass.times {
            medians[0].push(microseconds(&times, 0.5));
            tails[0].push(microseconds(&times, 0.99));
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "counts of a benchmark")]
    let slept = sleeps as f64 / gets.max(1) as f64;
    let regime = format!("all poll, the store slept {slept:.3} times a get");
    let median = Compared {
        area: AREA,
        name: format!("one get, {on}, median, beside ping-pong of 40 and 4144 bytes"),
        unit: "us",
        ours: &medians[0],
        other: &medians[1],
        peer: None,
        less: true,
        goal: Some(GOAL),
        regime: regime.clone(),
    };
    let tail = Compared {
        area: AREA,
        name: format!("one get, {on}, p99"),
        ours: &tails[0],
        other: &tails[1],
        goal: None,
        ..median.clone()
    };
    let cost = AREA.note(
        format!("one get, {on}, what the store adds"),
        "us",
        crate::report::median(&medians[0]) - crate::report::median(&medians[1]),
        regime,
    );
    Ok(vec![median.row(), tail.row(), cost])
}
