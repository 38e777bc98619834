// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The event queue.

use super::{Check, Kind};
use crate::bench::Bench;
use crate::why::{Result, ensure, same};
use crate::wire::{QUEUE_EVENT, event};

pub(super) const CHECKS: &[Check] = &[
    Check {
        name: "grant-is-told-after-hello",
        kind: Kind::Styles,
        run: grant_is_told_after_hello,
    },
    Check {
        name: "events-do-not-wait-for-buffers",
        kind: Kind::Once,
        run: events_do_not_wait_for_buffers,
    },
];

fn grant_is_told_after_hello(bench: &mut Bench) -> Result {
    let mut last = 0;
    for round in 0..3 {
        let told = bench.event()?;
        same!(told.kind, event::GRANT, "kind of event");
        same!(told.value, bench.config.grant_pages, "value of event");
        ensure!(
            round == 0 || told.sequence == last + 1,
            "event {} after event {last}",
            told.sequence
        );
        last = told.sequence;
        bench.hello()?;
    }
    Ok(())
}

fn events_do_not_wait_for_buffers(bench: &mut Bench) -> Result {
    const HELLOS: u32 = 40;
    let first = bench.event()?.sequence;
    // The ring has no buffer any more once the device was set up without.
    bench.set_up()?;
    for _ in 0..HELLOS {
        bench.hello()?;
    }
    let mut last = first;
    while last < first + HELLOS {
        bench.supply_events(1);
        let told = bench.event()?;
        ensure!(
            told.sequence > last && told.sequence <= first + HELLOS,
            "event {} after event {last}, and {first} was the first",
            told.sequence
        );
        last = told.sequence;
    }
    let transport = bench.transport;
    let ring = bench.ring(QUEUE_EVENT);
    ring.kick(transport);
    ensure!(ring.poll().is_none(), "an event without a buffer");
    Ok(())
}
