// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Two pairs at the same pages at the same time: tickets decide, and no get sees half a put.

use super::{Check, Kind};
use crate::bench::{Ask, Bench, Handle};
use crate::content::Content;
use crate::why::{Result, ensure, same};
use crate::wire::{RequestHeader, get_queue, op, put_queue, result, status};

pub(super) const CHECKS: &[Check] = &[
    Check {
        name: "racing-puts-obey-tickets",
        kind: Kind::Once,
        run: racing_puts_obey_tickets,
    },
    Check {
        name: "racing-get-sees-one-put",
        kind: Kind::Once,
        run: racing_get_sees_one_put,
    },
];

/// Races of each kind.
const ROUNDS: u32 = 25;
/// Pages of each request.
const PAGES: u32 = 32;

/// A PUT of pages of the stage from `first` on.
fn put(bench: &mut Bench, at: Handle, first: u32) -> Ask<'static> {
    let ticket = bench.next_ticket();
    Ask {
        data: Some(bench.areas.put.pages(first as usize, PAGES as usize)),
        ..Ask::plain(RequestHeader {
            ticket,
            ..at.header(op::PUT, 0, PAGES)
        })
    }
}

/// Publishes both requests as near to each other as can be.
fn publish(bench: &mut Bench, queues: [u16; 2]) {
    let transport = bench.transport;
    for queue in queues {
        bench.ring(queue).publish(transport);
    }
}

fn racing_puts_obey_tickets(bench: &mut Bench) -> Result {
    let at = Handle::dense(bench.swap_area(64)?);
    for round in 0..ROUNDS {
        let stamp = bench.next_stamps(u64::from(2 * PAGES));
        bench.fill_put_stage(2 * PAGES, stamp);
        let asks = [put(bench, at, 0), put(bench, at, PAGES)];
        // The later ticket goes to either pair, and is published first or last.
        let pairs = if round % 2 == 0 { [0, 1] } else { [1, 0] };
        for (slot, (ask, pair)) in asks.iter().zip(pairs).enumerate() {
            bench.enter(pair, slot, ask);
        }
        let queues = [put_queue(0), put_queue(1)];
        publish(bench, queues);
        for (slot, (ask, pair)) in asks.iter().zip(pairs).enumerate() {
            let used = bench.ring(put_queue(pair)).wait()?;
            let answer = bench.answer(slot, ask, used.bytes)?;
            same!(answer.status, status::OK, "status in round {round}");
            for code in answer.results() {
                ensure!(
                    *code == result::OK || slot == 0 && *code == result::STALE,
                    "round {round}: result {code} of the PUT with ticket {}",
                    ask.header.ticket
                );
            }
        }
        bench.expect(at, 0, PAGES, stamp + u64::from(PAGES))?;
    }
    Ok(())
}

fn racing_get_sees_one_put(bench: &mut Bench) -> Result {
    let at = Handle::dense(bench.swap_area(64)?);
    let mut old = bench.store(at, 0, PAGES)?;
    for round in 0..ROUNDS {
        let new = bench.next_stamps(u64::from(PAGES));
        bench.fill_put_stage(PAGES, new);
        let asks = [
            put(bench, at, 0),
            Ask {
                data: Some(bench.areas.get.pages(0, PAGES as usize)),
                ..Ask::plain(at.header(op::GET, 0, PAGES))
            },
        ];
        bench.enter(0, 0, &asks[0]);
        bench.enter(1, 1, &asks[1]);
        publish(bench, [put_queue(0), get_queue(1)]);
        let used = bench.ring(put_queue(0)).wait()?;
        bench.answer(0, &asks[0], used.bytes)?.complete(PAGES)?;
        let used = bench.ring(get_queue(1)).wait()?;
        bench.answer(1, &asks[1], used.bytes)?.complete(PAGES)?;
        for nth in 0..PAGES {
            let page = bench.areas.get.page(nth as usize);
            let contents = [old, new].map(|stamp| Content::Stamp(stamp + u64::from(nth)));
            ensure!(
                contents
                    .into_iter()
                    .any(|content| bench.holds(page, content)),
                "round {round}: page {nth} is neither the old nor the new one"
            );
        }
        old = new;
    }
    Ok(())
}
