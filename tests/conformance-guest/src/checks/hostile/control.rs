// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Garbage on the queues that have one chain form each: control, event, balloon, report.

use super::{Fate, nowhere, offer};
use crate::bench::{Bench, UNTOUCHED_BYTE};
use crate::checks::{Check, Kind};
use crate::ring::Descriptor;
use crate::why::{Result, ensure};
use crate::wire::{
    ControlRequest, ControlResponse, Event, QUEUE_BALLOON, QUEUE_CONTROL, QUEUE_EVENT,
    QUEUE_REPORT, status,
};

pub(super) const CHECKS: &[Check] = &[
    Check {
        name: "bad-chains-on-the-control-queue",
        kind: Kind::Hostile,
        run: control_queue,
    },
    Check {
        name: "bad-buffers-on-the-event-queue",
        kind: Kind::Hostile,
        run: event_queue,
    },
    Check {
        name: "bad-chains-on-the-balloon-queues",
        kind: Kind::Hostile,
        run: balloon_queues,
    },
];

fn control_queue(bench: &mut Bench) -> Result {
    let question = bench.question(0).part(0, ControlRequest::SIZE);
    let answer = bench.reply(0).part(0, ControlResponse::SIZE);
    question.fill(0);
    let readable = Descriptor::readable(question);
    let writable = Descriptor::writable(answer);
    let short = Descriptor {
        length: 47,
        ..writable
    };
    let none = (0, UNTOUCHED_BYTE);
    let refused = (48, status::INVALID);
    let mut cases = [
        (readable, writable, (48, status::UNSUPPORTED)),
        (readable, short, none),
        (
            readable,
            Descriptor {
                length: 0,
                ..writable
            },
            none,
        ),
        (
            Descriptor {
                length: 0,
                ..readable
            },
            writable,
            refused,
        ),
        (
            Descriptor {
                length: 39,
                ..readable
            },
            writable,
            refused,
        ),
        (writable, readable, none),
        (readable, readable, none),
        (readable.then(0), writable, none),
        (readable, writable.then(0), none),
        (readable, writable.then(300), none),
        (readable, writable, none),
        (readable, writable, refused),
    ];
    for address in nowhere(bench) {
        cases[10].1.address = address;
        cases[11].0.address = address;
        for (first, second, expected) in cases {
            let table = bench.ring(QUEUE_CONTROL).descriptors;
            let first = if first.flags & crate::ring::NEXT == 0 {
                first.then(1)
            } else {
                first
            };
            first.write(table, 0);
            second.write(table, 1);
            let fate = offer(bench, QUEUE_CONTROL, 0, answer)?;
            ensure!(
                fate == Fate::Stuck || fate == Fate::Used(expected.0, expected.1),
                "{first:x?}, {second:x?}: {fate:?}, expected {expected:?}"
            );
        }
    }
    Ok(())
}

fn event_queue(bench: &mut Bench) -> Result {
    let buffer = bench.event_buffer(0);
    let good = Descriptor::writable(buffer);
    let bad = [
        Descriptor { length: 15, ..good },
        Descriptor { length: 0, ..good },
        Descriptor::readable(buffer),
        good.then(1),
        Descriptor {
            address: bench.memory_end,
            ..good
        },
        Descriptor {
            address: u64::MAX - 3,
            ..good
        },
        good.then(999),
    ];
    for descriptor in bad {
        // Without other buffers: the next event meets this one.
        bench.set_up()?;
        let transport = bench.transport;
        let ring = bench.ring(QUEUE_EVENT);
        descriptor.write(ring.descriptors, 0);
        // What a chain leads to is a loop.
        good.then(0).write(ring.descriptors, 1);
        ring.offer(transport, 0);
        bench.hello()?;
        // The control queue has answered, whatever became of the buffer; and the event, or a later
        // one, finds a good buffer.
        bench.set_up()?;
        bench.supply_events(4);
        bench.hello()?;
        let event = bench.event()?;
        ensure!(
            event.sequence != 0 && Event::SIZE == 16,
            "an event without a number after {descriptor:x?}"
        );
    }
    Ok(())
}

fn balloon_queues(bench: &mut Bench) -> Result {
    balloon_queue(bench, QUEUE_BALLOON)?;
    balloon_queue(bench, QUEUE_REPORT)
}

fn balloon_queue(bench: &mut Bench, queue: u16) -> Result {
    let region = bench.reply(0).part(0, 64);
    let good = Descriptor::writable(region);
    for descriptor in [
        good,
        Descriptor::readable(region),
        Descriptor { length: 0, ..good },
        Descriptor { length: 7, ..good },
        Descriptor {
            length: u32::MAX,
            ..good
        },
        Descriptor {
            address: bench.memory_end,
            ..good
        },
        good.then(0),
        good.then(700),
    ] {
        descriptor.write(bench.ring(queue).descriptors, 0);
        let fate = offer(bench, queue, 0, region)?;
        if let Fate::Used(bytes, code) = fate {
            ensure!(
                bytes == 0
                    || (bytes == 16 && [status::UNSUPPORTED, status::INVALID].contains(&code)),
                "{descriptor:x?}: {fate:?}"
            );
        }
    }
    Ok(())
}
