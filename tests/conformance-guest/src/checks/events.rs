// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The event queue.

use super::{Check, Kind};
use crate::bench::{Bench, EVENT_BUFFERS};
use crate::why::{Result, ensure, same};
use crate::wire::{QUEUE_EVENT, capability, event};

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

/// Events after each HELLO: the grant, and with a balloon its target and the interval of statistics.
fn told_after_hello(bench: &Bench) -> &'static [u32] {
    if bench.config.capabilities & capability::BALLOON == 0 {
        &[event::GRANT]
    } else {
        &[event::GRANT, event::BALLOON, event::STATS]
    }
}

fn grant_is_told_after_hello(bench: &mut Bench) -> Result {
    let (mut last, mut used) = (0, 0);
    for round in 0..3 {
        for (nth, kind) in told_after_hello(bench).iter().enumerate() {
            let told = bench.event()?;
            // What finds no buffer would be told to the next check.
            bench.supply_event(used % EVENT_BUFFERS);
            used += 1;
            same!(told.kind, *kind, "kind of event");
            if nth == 0 {
                same!(told.value, bench.config.grant_pages, "value of event");
            }
            ensure!(
                (round, nth) == (0, 0) || told.sequence == last + 1,
                "event {} after event {last}",
                told.sequence
            );
            last = told.sequence;
        }
        bench.hello()?;
    }
    Ok(())
}

fn events_do_not_wait_for_buffers(bench: &mut Bench) -> Result {
    const HELLOS: u32 = 40;
    let first = bench.event()?.sequence;
    let each = u32::try_from(told_after_hello(bench).len()).unwrap_or(u32::MAX);
    let end = first + each - 1 + HELLOS * each;
    // The ring has no buffer any more once the device was set up without.
    bench.set_up()?;
    for _ in 0..HELLOS {
        bench.hello()?;
    }
    let mut last = first;
    while last < end {
        bench.supply_events(1);
        let told = bench.event()?;
        ensure!(
            told.sequence > last && told.sequence <= end,
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
