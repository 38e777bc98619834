// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Doorbells: rung for nothing, too often, too early, and ones that do not exist.

use crate::bench::{Bench, Handle, QUEUES};
use crate::checks::{Check, Kind};
use crate::transport::device_status;
use crate::why::Result;

pub(super) const CHECKS: &[Check] = &[
    Check {
        name: "kicks-without-work",
        kind: Kind::Hostile,
        run: kicks_without_work,
    },
    Check {
        name: "kicks-before-and-after",
        kind: Kind::Hostile,
        run: kicks_before_and_after,
    },
    Check {
        name: "doorbells-of-no-queue",
        kind: Kind::Hostile,
        run: doorbells_of_no_queue,
    },
];

/// Rings the doorbell of every queue.
fn kick_all(bench: &mut Bench) {
    let transport = bench.transport;
    for ring in &bench.rings {
        ring.kick(transport);
    }
}

fn kicks_without_work(bench: &mut Bench) -> Result {
    let at = Handle::dense(bench.swap_area(64)?);
    for round in 0..300 {
        kick_all(bench);
        if round % 100 == 0 {
            bench.serves(0, at, 1)?;
            bench.serves(1, at, 2)?;
        }
    }
    bench.serves(0, at, 1)
}

fn kicks_before_and_after(bench: &mut Bench) -> Result {
    let at = Handle::dense(bench.swap_area(64)?);
    bench.transport.reset()?;
    kick_all(bench);
    bench.transport.add_status(device_status::ACKNOWLEDGE);
    kick_all(bench);
    bench.negotiate()?;
    kick_all(bench);
    for queue in 0..QUEUES {
        bench.set_up_queue(queue, crate::ring::RING_SIZE)?;
        kick_all(bench);
    }
    bench.transport.add_status(device_status::DRIVER_OK);
    kick_all(bench);
    bench.serves(0, at, 1)?;
    bench.transport.reset()?;
    kick_all(bench);
    Ok(())
}

fn doorbells_of_no_queue(bench: &mut Bench) -> Result {
    let at = Handle::dense(bench.swap_area(64)?);
    let transport = bench.transport;
    let step = transport.doorbell_step().max(2);
    let last = transport.doorbell_bytes().min(step * 64);
    for doorbell in (0..last).step_by(step) {
        for value in [0, 3, 63, 0x7fff, u16::MAX] {
            transport.kick(doorbell, value);
        }
    }
    bench.serves(0, at, 1)?;
    bench.serves(1, at, 1)
}
