// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Rings whose indices lie, or that lie where there is nothing.

use super::nowhere;
use crate::bench::{Bench, Handle, QUEUES};
use crate::checks::{Check, Kind};
use crate::intrinsics::barrier;
use crate::ring::{Descriptor, RING_SIZE};
use crate::time::Deadline;
use crate::transport::{QueuePlace, device_status};
use crate::why::{Context, Result};
use crate::wire::{QUEUE_CONTROL, QUEUE_EVENT, get_queue, put_queue};

pub(super) const CHECKS: &[Check] = &[
    Check {
        name: "available-index-that-jumps",
        kind: Kind::Hostile,
        run: available_index_that_jumps,
    },
    Check {
        name: "heads-beyond-the-table",
        kind: Kind::Hostile,
        run: heads_beyond_the_table,
    },
    Check {
        name: "rings-nowhere",
        kind: Kind::Hostile,
        run: rings_nowhere,
    },
    Check {
        name: "rings-over-each-other",
        kind: Kind::Hostile,
        run: rings_over_each_other,
    },
    Check {
        name: "rings-scribbled-over",
        kind: Kind::Hostile,
        run: rings_scribbled_over,
    },
];

/// Lets the device look at what was done to a queue, for a moment.
fn linger(bench: &mut Bench, queue: u16) {
    let glance = Deadline::glance();
    let transport = bench.transport;
    let ring = bench.ring(queue);
    ring.kick(transport);
    while !glance.is_over() {
        ring.poll();
    }
}

fn available_index_that_jumps(bench: &mut Bench) -> Result {
    let at = Handle::dense(bench.swap_area(64)?);
    for queue in [put_queue(0), get_queue(0)] {
        for jump in [RING_SIZE, RING_SIZE + 1, 1000, 0x8000, u16::MAX] {
            let transport = bench.transport;
            let ring = bench.ring(queue);
            let index = ring.next_available().wrapping_add(jump);
            ring.jump(index);
            ring.kick(transport);
            // The queue may stand still; the other pair may not.
            bench
                .serves(1, at, 9)
                .during(format_args!("queue {queue} jumped by {jump}"))?;
            bench.again()?;
            bench.serves(0, at, 9)?;
        }
    }
    Ok(())
}

fn heads_beyond_the_table(bench: &mut Bench) -> Result {
    let at = Handle::dense(bench.swap_area(64)?);
    for queue in [put_queue(0), get_queue(0), QUEUE_CONTROL, QUEUE_EVENT] {
        for head in [RING_SIZE, RING_SIZE + 1, 0x8000, u16::MAX] {
            let transport = bench.transport;
            let ring = bench.ring(queue);
            ring.offer(transport, head);
            ring.kick(transport);
            bench
                .serves(1, at, 9)
                .during(format_args!("head {head} on queue {queue}"))?;
            bench.again()?;
            bench.serves(0, at, 9)?;
        }
    }
    Ok(())
}

/// A monitor may refuse to start such a device, so nothing is asked of it before its reset.
fn rings_nowhere(bench: &mut Bench) -> Result {
    for queue in [put_queue(0), QUEUE_CONTROL] {
        for address in nowhere(bench) {
            for part in 0..3 {
                let mut place = bench.ring(queue).place();
                *match part {
                    0 => &mut place.descriptors,
                    1 => &mut place.available,
                    _ => &mut place.used,
                } = address & !15;
                start_with(bench, queue, place)?;
                linger(bench, queue);
            }
        }
    }
    Ok(())
}

fn rings_over_each_other(bench: &mut Bench) -> Result {
    let queue = put_queue(0);
    let own = bench.ring(queue).place();
    let other = bench.ring(get_queue(0)).place();
    for place in [
        QueuePlace {
            used: own.descriptors,
            ..own
        },
        QueuePlace {
            used: own.available,
            ..own
        },
        QueuePlace {
            available: own.descriptors,
            ..own
        },
        QueuePlace {
            descriptors: own.available,
            available: own.available,
            used: own.available,
        },
        other,
    ] {
        start_with(bench, queue, place)?;
        let page = bench.areas.scratch.page(0);
        let transport = bench.transport;
        let ring = bench.ring(queue);
        Descriptor::writable(page).write(ring.descriptors, 0);
        ring.offer(transport, 0);
        linger(bench, queue);
    }
    Ok(())
}

/// Sets the device up with one queue at `place`.
fn start_with(bench: &mut Bench, queue: u16, place: QueuePlace) -> Result {
    bench.negotiate()?;
    for other in 0..QUEUES {
        bench.set_up_queue(other, RING_SIZE)?;
    }
    bench.transport.place_queue(queue, RING_SIZE, place);
    bench.transport.add_status(device_status::DRIVER_OK);
    Ok(())
}

/// The driver's and the device's own words in the rings, overwritten while requests go on.
fn rings_scribbled_over(bench: &mut Bench) -> Result {
    let at = Handle::dense(bench.swap_area(64)?);
    for round in 0..30 {
        for queue in [put_queue(0), get_queue(0), QUEUE_CONTROL] {
            let transport = bench.transport;
            let mut random = bench.random;
            let ring = bench.ring(queue);
            for _ in 0..8 {
                // Indices, flags, event indices, used elements.
                let word = match random.below(4) {
                    0 => random.below(4) * 2,
                    1 => 4 + u32::from(RING_SIZE) * 8,
                    2 => 4 + u32::from(RING_SIZE) * 2,
                    _ => 4 + random.below(u32::from(RING_SIZE)) * 2,
                };
                let [low, high, ..] = random.next().to_le_bytes();
                let value = u16::from_le_bytes([low, high]);
                let part = random.pick(&[ring.used, ring.available, ring.used]);
                part.write(word as usize, value);
                barrier();
                ring.kick(transport);
            }
            bench.random = random;
        }
        bench
            .serves(1, at, 9)
            .during(format_args!("round {round}"))?;
        bench.again()?;
    }
    Ok(())
}
