// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Requests that the driver rewrites while the device works on them.

use crate::bench::{Ask, Bench, Handle, STAGE_PAGES, Split, UNTOUCHED};
use crate::checks::{Check, Kind};
use crate::content::Content;
use crate::ring::Descriptor;
use crate::time::Deadline;
use crate::why::{Context, Result, ensure, same};
use crate::wire::{BATCH_PAGES_MAX, RequestHeader, flag, op, put_queue, result, status};

pub(super) const CHECKS: &[Check] = &[
    Check {
        name: "headers-rewritten-in-flight",
        kind: Kind::Hostile,
        run: headers_rewritten_in_flight,
    },
    Check {
        name: "descriptors-rewritten-in-flight",
        kind: Kind::Hostile,
        run: descriptors_rewritten_in_flight,
    },
    Check {
        name: "pages-rewritten-in-flight",
        kind: Kind::Hostile,
        run: pages_rewritten_in_flight,
    },
];

/// Times that each kind is tried.
const ROUNDS: u32 = 30;
/// Pages of the request: enough to be under way for a while.
const PAGES: u32 = BATCH_PAGES_MAX;

/// A listed PUT of many pages, cut into as many descriptors, and the list.
fn long_put<'a>(bench: &mut Bench, at: Handle, list: &'a [u32]) -> Ask<'a> {
    Ask {
        header: RequestHeader {
            flags: flag::LIST,
            ticket: bench.next_ticket(),
            ..at.header(op::PUT, 0, PAGES)
        },
        list,
        data: Some(bench.areas.put.pages(0, STAGE_PAGES)),
        split: Split::Pages,
    }
}

/// The indices 0 to 255.
fn identity() -> [u32; STAGE_PAGES] {
    let mut list = [0; STAGE_PAGES];
    for (nth, index) in (0..).zip(list.iter_mut()) {
        *index = nth;
    }
    list
}

/// Publishes slot 0's request on the put queue and calls `spoil` until it is used. A queue that stands
/// still is set up again with the device.
fn spoil_until_used(bench: &mut Bench, mut spoil: impl FnMut(&mut Bench)) -> Result {
    let transport = bench.transport;
    bench.ring(put_queue(0)).publish(transport);
    let deadline = Deadline::short();
    while bench.ring(put_queue(0)).poll().is_none() {
        if deadline.is_over() {
            return bench.again();
        }
        spoil(bench);
    }
    Ok(())
}

fn headers_rewritten_in_flight(bench: &mut Bench) -> Result {
    let at = Handle::dense(bench.swap_area(PAGES)?);
    let list = identity();
    for _ in 0..ROUNDS {
        let ask = long_put(bench, at, &list);
        bench.enter(0, 0, &ask);
        spoil_until_used(bench, |bench| {
            let question = bench.question(0);
            let random = &mut bench.random;
            match random.below(5) {
                0 => question.write(0, random.pick(&[op::PUT, op::GET, op::FLUSH, 77])),
                1 => question.write(1, random.pick(&[0_u8, 1, 2, 255])),
                // Pages and index; the pool stays this check's own.
                2 => question.write(36, random.pick(&[0_u32, 1, 256, 257, u32::MAX])),
                3 => question.write(32, random.pick(&[0_u32, 1, u32::MAX])),
                _ => question.write(48 + random.below(256) as usize * 4, u32::MAX),
            }
        })?;
    }
    bench.serves(0, at, 3)
}

fn descriptors_rewritten_in_flight(bench: &mut Bench) -> Result {
    let at = Handle::dense(bench.swap_area(PAGES)?);
    let (list, end) = (identity(), bench.memory_end);
    for _ in 0..ROUNDS {
        let ask = long_put(bench, at, &list);
        bench.enter(0, 0, &ask);
        let (table, head) = {
            let ring = bench.ring(put_queue(0));
            (ring.table, ring.descriptors)
        };
        spoil_until_used(bench, |bench| {
            let random = &mut bench.random;
            let place = table.part(random.below(258) as usize * Descriptor::BYTES, 16);
            match random.below(6) {
                0 => place.write(0, random.pick(&[end, u64::MAX, 1 << 50])),
                1 => place.write(8, random.pick(&[0, 1, 4095, u32::MAX])),
                2 => place.write(12, random.pick(&[0_u16, 1, 4, 5, 0xffff])),
                3 => place.write(14, random.pick(&[0_u16, 1, 300, 0xffff])),
                4 => head.write(8, random.pick(&[0_u32, 16, 64, u32::MAX])),
                _ => head.write(0, random.pick(&[end, u64::MAX - 15])),
            }
        })?;
    }
    bench.serves(0, at, 3)
}

/// The page that is stored may be a mixture, by the guest's own doing; it is stored all the same, and
/// not taken for a damaged one later.
fn pages_rewritten_in_flight(bench: &mut Bench) -> Result {
    let at = Handle::dense(bench.swap_area(PAGES)?);
    let list = identity();
    for round in 0..ROUNDS {
        let ask = long_put(bench, at, &list);
        bench.enter(0, 0, &ask);
        spoil_until_used(bench, |bench| {
            let random = &mut bench.random;
            let page = bench.areas.put.page(random.below(PAGES) as usize);
            page.write(random.below(512) as usize * 8, random.next());
        })
        .during(format_args!("round {round}"))?;
        let answer = bench.get(at, 0, PAGES)?;
        same!(answer.status, status::OK, "status in round {round}");
        ensure!(
            answer.results().iter().all(|code| *code == result::OK),
            "round {round}: results {:?}",
            answer.results()
        );
    }
    // The stage was spoilt; one more request shows that pages are whole where they are left alone.
    bench.areas.get.page(0).write(0, UNTOUCHED);
    let stamp = bench.store(at, 0, 1)?;
    bench.get(at, 0, 1)?.complete(1)?;
    ensure!(
        bench.holds(bench.areas.get.page(0), Content::Stamp(stamp)),
        "the page after it"
    );
    Ok(())
}
