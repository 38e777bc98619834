// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Rings as such: several requests in flight, order, sizes, and indices that wrap.

use super::{Check, Kind};
use crate::bench::{Ask, Bench, Handle, PAIRS, SLOT_DESCRIPTORS, SLOT_PAGES, SLOTS, Split, dense};
use crate::content::Content;
use crate::ring::{Chain, Descriptor, RING_SIZE};
use crate::time::Deadline;
use crate::transport::device_status;
use crate::why::{Context, Result, ensure, fail, same};
use crate::wire::{
    ControlRequest, ControlResponse, QUEUE_CONTROL, QUEUE_EVENT, RequestHeader, ResponseHeader,
    control, get_queue, op, pool_kind, put_queue, result, status,
};

pub(super) const CHECKS: &[Check] = &[
    Check {
        name: "many-in-flight",
        kind: Kind::Styles,
        run: many_in_flight,
    },
    Check {
        name: "both-pairs-serve-the-same-pages",
        kind: Kind::Once,
        run: both_pairs_serve_the_same_pages,
    },
    Check {
        name: "control-requests-keep-their-order",
        kind: Kind::Styles,
        run: control_requests_keep_their_order,
    },
    Check {
        name: "small-queues",
        kind: Kind::Styles,
        run: small_queues,
    },
    Check {
        name: "fewer-queues",
        kind: Kind::Bare,
        run: fewer_queues,
    },
    Check {
        name: "indices-wrap",
        kind: Kind::Styles,
        run: indices_wrap,
    },
];

fn many_in_flight(bench: &mut Bench) -> Result {
    let at = Handle::dense(bench.swap_area(1024)?);
    let stamp = bench.next_stamps(SLOTS as u64);
    bench.fill_put_stage(SLOT_PAGES, stamp);
    let first = bench.ticket + 1;
    bench.ticket += SLOTS as u64;
    let header = |op: u8, slot: usize| RequestHeader {
        ticket: if op == op::PUT {
            first + slot as u64
        } else {
            0
        },
        // Far from each other, in an order of their own.
        ..at.header(op, spread(slot), 1)
    };
    for op in [op::PUT, op::GET] {
        let stage = if op == op::PUT {
            bench.areas.put
        } else {
            bench.areas.get
        };
        let ask = |slot: usize| Ask {
            data: Some(stage.page(slot)),
            ..Ask::plain(header(op, slot))
        };
        let queue = if op == op::PUT {
            put_queue(0)
        } else {
            get_queue(0)
        };
        for slot in 0..SLOTS {
            bench.enter(0, slot, &ask(slot));
        }
        let transport = bench.transport;
        bench.ring(queue).publish(transport);
        let mut seen = [false; SLOTS];
        for _ in 0..SLOTS {
            let used = bench.ring(queue).wait()?;
            let slot = (used.head / u32::from(SLOT_DESCRIPTORS)) as usize;
            ensure!(
                used.head % u32::from(SLOT_DESCRIPTORS) == 0 && seen.get(slot) == Some(&false),
                "used head {} twice or never offered",
                used.head
            );
            seen[slot] = true;
            bench.answer(slot, &ask(slot), used.bytes)?.complete(1)?;
        }
    }
    bench.check_get_stage(SLOT_PAGES, stamp)
}

/// An index for each slot, far from the other slots' and not in their order.
fn spread(slot: usize) -> u32 {
    (0..1024).step_by(13).nth(slot * 37 % SLOTS).unwrap_or(0)
}

fn both_pairs_serve_the_same_pages(bench: &mut Bench) -> Result {
    let at = Handle::dense(bench.swap_area(64)?);
    for pair in 0..PAIRS {
        let stamp = bench.next_stamps(8);
        bench.fill_put_stage(8, stamp);
        let ticket = bench.next_ticket();
        let put = Ask {
            data: Some(bench.areas.put.pages(0, 8)),
            ..Ask::plain(RequestHeader {
                ticket,
                ..at.header(op::PUT, 4, 8)
            })
        };
        bench.ask_on(pair, &put)?.complete(8)?;
        for other in 0..PAIRS {
            let get = Ask {
                data: Some(bench.areas.get.pages(0, 8)),
                split: Split::Pages,
                ..Ask::plain(at.header(op::GET, 4, 8))
            };
            bench.ask_on(other, &get)?.complete(8)?;
            bench
                .check_get_stage(8, stamp)
                .during(format_args!("put by pair {pair}, got by pair {other}"))?;
        }
    }
    Ok(())
}

fn control_requests_keep_their_order(bench: &mut Bench) -> Result {
    let pool = bench.next_pool();
    let create = dense(pool, pool_kind::PERSISTENT, 8);
    let of = |op| ControlRequest {
        op,
        pool,
        ..ControlRequest::default()
    };
    let (stat, destroy) = (of(control::POOL_STAT), of(control::POOL_DESTROY));
    let steps = [
        (stat, status::NO_POOL),
        (create, status::OK),
        (stat, status::OK),
        (create, status::OK),
        (destroy, status::OK),
        (stat, status::NO_POOL),
        (destroy, status::NO_POOL),
        (create, status::OK),
        (dense(pool, pool_kind::PERSISTENT, 9), status::EXISTS),
        (destroy, status::OK),
    ];
    let transport = bench.transport;
    let heads = (0..RING_SIZE).step_by(usize::from(SLOT_DESCRIPTORS));
    for (first, (slot, (request, _))) in heads.clone().zip(steps.iter().enumerate()) {
        let question = bench.question(slot).part(0, ControlRequest::SIZE);
        question.put(0, &request.to_bytes());
        let reply = bench.reply(slot).part(0, ControlResponse::SIZE);
        let ring = bench.ring(QUEUE_CONTROL);
        let mut chain = Chain::begin(ring, first);
        chain.readable(question);
        chain.writable(reply);
        let head = chain.end();
        ring.enter(head);
    }
    bench.ring(QUEUE_CONTROL).publish(transport);
    for (first, (slot, (_, expected))) in heads.zip(steps.iter().enumerate()) {
        let used = bench.ring(QUEUE_CONTROL).wait()?;
        same!(used.head, u32::from(first), "used head of request {slot}");
        same!(
            bench.reply(slot).read::<u8>(0),
            *expected,
            "status of request {slot}"
        );
    }
    Ok(())
}

fn small_queues(bench: &mut Bench) -> Result {
    let at = Handle::dense(bench.swap_area(64)?);
    let stamp = bench.store(at, 0, 8)?;
    let sizes: &[u16] = if bench.style.indirect {
        &[1, 2, 4]
    } else {
        &[4, 8]
    };
    for size in sizes {
        bench.set_up_sized(*size)?;
        bench.same_epoch()?;
        // More requests than descriptors, so that the ring goes round.
        for round in 0..6 {
            bench
                .serves(0, at, 20 + round)
                .during(format_args!("size {size}, round {round}"))?;
        }
        bench.expect(at, 0, 8, stamp)?;
    }
    Ok(())
}

/// A driver may use fewer pairs than there are.
fn fewer_queues(bench: &mut Bench) -> Result {
    bench.negotiate()?;
    for queue in [QUEUE_CONTROL, QUEUE_EVENT, get_queue(0), put_queue(0)] {
        bench.set_up_queue(usize::from(queue), RING_SIZE)?;
    }
    bench.transport.add_status(device_status::DRIVER_OK);
    bench.new_epoch()?;
    let at = Handle::dense(bench.swap_area(16)?);
    bench.serves(0, at, 3)
}

/// The rings' indices go once around their 16 bits: the same batch of gets that miss, again and again.
fn indices_wrap(bench: &mut Bench) -> Result {
    const BATCH: u16 = 64;
    const ROUNDS: u32 = (1 << 16) / BATCH as u32 + 2;
    let at = Handle::dense(bench.swap_area(16)?);
    let question = bench.question(0).part(0, RequestHeader::SIZE);
    question.put(0, &at.header(op::GET, 3, 1).to_bytes());
    let reply = bench.reply(0).part(0, ResponseHeader::SIZE + 1);
    let (page, transport) = (bench.areas.get.page(0), bench.transport);
    let queue = get_queue(1);
    let ring = bench.ring(queue);
    // Every entry of the ring stays as it is: the nth one always offers the chain of the nth head.
    for nth in 0..RING_SIZE {
        let head = nth % BATCH * SLOT_DESCRIPTORS;
        if nth < BATCH {
            let mut chain = Chain::begin(ring, head);
            chain.readable(question);
            chain.writable(reply);
            chain.push(Descriptor::writable(page));
            chain.end();
        }
        ring.available.write(4 + usize::from(nth) * 2, head);
    }
    let mut total: u32 = 0;
    for round in 0..ROUNDS {
        ring.enter_again(BATCH);
        ring.publish(transport);
        let deadline = Deadline::new();
        let mut done = 0;
        while done < BATCH {
            done += ring.skip_used();
            if deadline.is_over() {
                return fail!("round {round} of {ROUNDS}: {done} of {BATCH} used");
            }
        }
        same!(done, BATCH, "used in round {round}");
        total += u32::from(done);
    }
    ensure!(total > 1 << 16, "{total} requests");
    same!(
        (reply.read::<u8>(0), reply.read::<u8>(8)),
        (status::OK, result::MISS),
        "status and result"
    );
    let stamp = bench.store(at, 3, 1)?;
    let get = Ask {
        data: Some(page),
        ..Ask::plain(at.header(op::GET, 3, 1))
    };
    bench.ask_on(1, &get)?.complete(1)?;
    ensure!(
        bench.holds(page, Content::Stamp(stamp)),
        "the page after it"
    );
    Ok(())
}
