// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Resets at every moment.

use crate::bench::{Ask, Bench, Handle, PAIRS, QUEUES, UNTOUCHED};
use crate::checks::{Check, Kind};
use crate::content::Content;
use crate::memory::Region;
use crate::ring::RING_SIZE;
use crate::time::Deadline;
use crate::transport::device_status;
use crate::why::{Context, Result, ensure, fail, same};
use crate::wire::{
    ControlRequest, QUEUE_CONTROL, RequestHeader, control, get_queue, op, put_queue, result, status,
};

pub(super) const CHECKS: &[Check] = &[
    Check {
        name: "reset-at-every-step",
        kind: Kind::Hostile,
        run: reset_at_every_step,
    },
    Check {
        name: "reset-with-requests-in-flight",
        kind: Kind::Hostile,
        run: reset_with_requests_in_flight,
    },
    Check {
        name: "no-write-after-reset",
        kind: Kind::Hostile,
        run: no_write_after_reset,
    },
    Check {
        name: "driver-ok-without-queues",
        kind: Kind::Hostile,
        run: driver_ok_without_queues,
    },
    Check {
        name: "many-resets",
        kind: Kind::Hostile,
        run: many_resets,
    },
];

/// Steps of a set-up with requests at its end.
const STEPS: usize = 4 + 2 * QUEUES + 5;

/// Takes one step of a set-up.
fn take_step(bench: &mut Bench, step: usize, at: Handle) -> Result {
    let transport = bench.transport;
    match step {
        0 => transport.add_status(device_status::ACKNOWLEDGE),
        1 => transport.add_status(device_status::DRIVER),
        2 => transport.accept(bench.features()),
        3 => transport.add_status(device_status::FEATURES_OK),
        _ if step < 4 + 2 * QUEUES => {
            let queue = (step - 4) / 2;
            let style = bench.style;
            let ring = &mut bench.rings[queue];
            if step % 2 == 0 {
                ring.clear(style, RING_SIZE);
                transport.place_queue(ring.queue, RING_SIZE, ring.place());
            } else {
                ring.set_up(transport);
            }
        }
        _ => match step - 4 - 2 * QUEUES {
            0 => transport.add_status(device_status::DRIVER_OK),
            1 => bench.supply_events(4),
            2 => {
                let question = bench.question(9).part(0, ControlRequest::SIZE);
                let stat = ControlRequest {
                    op: control::POOL_STAT,
                    pool: at.pool,
                    ..ControlRequest::default()
                };
                question.put(0, &stat.to_bytes());
                let reply = bench.reply(9).part(0, 48);
                let ring = bench.ring(QUEUE_CONTROL);
                let mut chain = crate::ring::Chain::begin(ring, 0);
                chain.readable(question);
                chain.writable(reply);
                let head = chain.end();
                ring.offer(transport, head);
            }
            3 => publish_puts(bench, at, 1),
            _ => publish_gets(bench, at),
        },
    }
    Ok(())
}

/// Makes a PUT of every page of the put stage available on each pair, and does not wait.
fn publish_puts(bench: &mut Bench, at: Handle, pairs: u16) {
    let pages = bench.config.batch_pages;
    for pair in 0..pairs {
        let ticket = bench.next_ticket();
        let put = Ask {
            data: Some(bench.areas.put.pages(0, pages as usize)),
            ..Ask::plain(RequestHeader {
                ticket,
                ..at.header(op::PUT, 0, pages)
            })
        };
        bench.enter(pair, usize::from(pair), &put);
        let transport = bench.transport;
        bench.ring(put_queue(pair)).publish(transport);
    }
}

/// Makes a GET into the get stage available on each pair, and does not wait.
fn publish_gets(bench: &mut Bench, at: Handle) {
    let pages = bench.config.batch_pages;
    for pair in 0..PAIRS {
        let get = Ask {
            data: Some(bench.areas.get.pages(0, pages as usize)),
            ..Ask::plain(at.header(op::GET, 0, pages))
        };
        bench.enter(pair, 4 + usize::from(pair), &get);
        let transport = bench.transport;
        bench.ring(get_queue(pair)).publish(transport);
    }
}

fn reset_at_every_step(bench: &mut Bench) -> Result {
    let at = Handle::dense(bench.swap_area(256)?);
    let stamp = bench.next_stamps(256);
    bench.fill_put_stage(bench.config.batch_pages, stamp);
    for last in 0..STEPS {
        bench.transport.reset()?;
        for step in 0..=last {
            take_step(bench, step, at)?;
        }
        bench
            .again()
            .and_then(|()| bench.serves(0, at, 255))
            .during(format_args!("reset after step {last}"))?;
    }
    Ok(())
}

/// Long puts of which the last pages are looked at: those that a reset may meet undone.
fn reset_with_requests_in_flight(bench: &mut Bench) -> Result {
    let at = Handle::dense(bench.swap_area(256)?);
    let batch = bench.config.batch_pages;
    let pages = batch.min(40);
    let first = batch - pages;
    let mut old = bench.store(at, first, pages)?;
    for round in 0..12 {
        let new = bench.next_stamps(u64::from(pages));
        for nth in 0..pages {
            let page = bench.areas.put.page((first + nth) as usize);
            let content = Content::Stamp(new + u64::from(nth));
            bench.template.make(content, page);
        }
        publish_puts(bench, at, PAIRS);
        // Sooner or later.
        for _ in 0..bench.random.below(2000) {
            core::hint::spin_loop();
        }
        bench.again().during(format_args!("round {round}"))?;
        let answer = bench.get(at, first, pages)?;
        same!(answer.status, status::OK, "status in round {round}");
        for (nth, code) in answer.results().iter().enumerate() {
            let page = bench.areas.get.page(nth);
            let one_of = [old, new].map(|stamp| Content::Stamp(stamp + nth as u64));
            ensure!(
                *code == result::OK && one_of.into_iter().any(|content| bench.holds(page, content)),
                "round {round}: page {nth} has result {code} and holds {:#x}",
                page.read::<u64>(0)
            );
        }
        old = bench.store(at, first, pages)?;
    }
    Ok(())
}

/// What a reset has ended is not finished behind the driver's back.
fn no_write_after_reset(bench: &mut Bench) -> Result {
    const SLOTS_OF_PAIR: usize = 24;
    let at = Handle::dense(bench.swap_area(256)?);
    let pages = bench.config.batch_pages;
    bench.store(at, 0, pages)?;
    let stage = bench.areas.get.pages(0, pages as usize);
    let words = move |visit: &mut dyn FnMut(Region)| {
        for nth in 0..pages {
            visit(stage.page(nth as usize));
        }
    };
    for round in 0..8 {
        // More than can be done before the reset arrives, all into the same pages.
        let get = Ask {
            data: Some(stage),
            ..Ask::plain(at.header(op::GET, 0, pages))
        };
        for pair in 0..PAIRS {
            for slot in 0..SLOTS_OF_PAIR {
                bench.enter(pair, slot * usize::from(PAIRS) + usize::from(pair), &get);
            }
        }
        let transport = bench.transport;
        for pair in 0..PAIRS {
            bench.ring(get_queue(pair)).publish(transport);
        }
        bench.transport.reset()?;
        // Memory is the driver's own again.
        words(&mut |page| page.write(0, UNTOUCHED));
        let glance = Deadline::glance();
        while !glance.is_over() {}
        let mut written = 0;
        words(&mut |page| written += usize::from(page.read::<u64>(0) != UNTOUCHED));
        ensure!(written == 0, "round {round}: {written} pages were written");
        bench.again()?;
    }
    Ok(())
}

fn driver_ok_without_queues(bench: &mut Bench) -> Result {
    for enabled in 0..QUEUES {
        bench.negotiate()?;
        // Only one queue, and that any.
        bench.set_up_queue(enabled, RING_SIZE)?;
        bench.transport.add_status(device_status::DRIVER_OK);
        for queue in 0..QUEUES {
            let doorbell = bench.transport.doorbell(u16::try_from(queue).unwrap_or(0));
            bench
                .transport
                .kick(doorbell, u16::try_from(queue).unwrap_or(0));
        }
    }
    bench.negotiate()?;
    bench.transport.add_status(device_status::DRIVER_OK);
    if bench.transport.status() == 0 {
        return fail!("the device did not take DRIVER_OK");
    }
    Ok(())
}

fn many_resets(bench: &mut Bench) -> Result {
    for _ in 0..40 {
        bench.transport.reset()?;
    }
    for _ in 0..10 {
        bench.set_up()?;
    }
    Ok(())
}
