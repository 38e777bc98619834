// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Tickets, and the flushes that they order.

use super::{Check, Kind};
use crate::bench::{Answer, Ask, Bench, Handle, Split, sparse};
use crate::why::{Result, same};
use crate::wire::{RequestHeader, TICKET_LIMIT, flag, op, pool_kind, result, status};

pub(super) const CHECKS: &[Check] = &[
    Check {
        name: "late-put-is-stale",
        kind: Kind::Styles,
        run: late_put_is_stale,
    },
    Check {
        name: "late-flush-is-stale",
        kind: Kind::Styles,
        run: late_flush_is_stale,
    },
    Check {
        name: "replay-is-carried-out-again",
        kind: Kind::Once,
        run: replay_is_carried_out_again,
    },
    Check {
        name: "ticket-bounds",
        kind: Kind::Once,
        run: ticket_bounds,
    },
    Check {
        name: "flush-of-runs",
        kind: Kind::Styles,
        run: flush_of_runs,
    },
    Check {
        name: "flush-of-lists",
        kind: Kind::Styles,
        run: flush_of_lists,
    },
    Check {
        name: "flush-of-an-object",
        kind: Kind::Styles,
        run: flush_of_an_object,
    },
    Check {
        name: "flush-of-a-pool",
        kind: Kind::Styles,
        run: flush_of_a_pool,
    },
    Check {
        name: "every-bit-of-an-object-counts",
        kind: Kind::Once,
        run: every_bit_of_an_object_counts,
    },
];

/// PUT of one page with this ticket and stamp.
fn put(bench: &mut Bench, at: Handle, index: u32, ticket: u64, stamp: u64) -> Result<Answer> {
    bench.fill_put_stage(1, stamp);
    bench.ask(&Ask {
        header: RequestHeader {
            ticket,
            ..at.header(op::PUT, index, 1)
        },
        list: &[],
        data: Some(bench.areas.put.page(0)),
        split: Split::Whole,
    })
}

/// A flush with this ticket.
fn flush(bench: &mut Bench, header: RequestHeader, ticket: u64) -> Result<Answer> {
    bench.ask(&Ask::plain(RequestHeader { ticket, ..header }))
}

/// FLUSH of listed pages with this ticket.
fn flush_list(bench: &mut Bench, at: Handle, list: &[u32], ticket: u64) -> Result<Answer> {
    let pages = u32::try_from(list.len()).unwrap_or(0);
    bench.ask(&Ask {
        list,
        ..Ask::plain(RequestHeader {
            flags: flag::LIST,
            ticket,
            ..at.header(op::FLUSH, 0, pages)
        })
    })
}

fn late_put_is_stale(bench: &mut Bench) -> Result {
    let at = Handle::dense(bench.swap_area(16)?);
    let stamp = bench.next_stamps(3);
    put(bench, at, 4, 100, stamp)?.complete(1)?;
    put(bench, at, 4, 99, stamp + 1)?.every(result::STALE)?;
    bench.expect(at, 4, 1, stamp)?;
    put(bench, at, 4, 101, stamp + 2)?.complete(1)?;
    bench.expect(at, 4, 1, stamp + 2)?;
    // In one request, page by page.
    let first = bench.next_stamps(3);
    bench.fill_put_stage(3, first);
    let answer = bench.ask(&Ask {
        header: RequestHeader {
            ticket: 50,
            ..at.header(op::PUT, 3, 3)
        },
        list: &[],
        data: Some(bench.areas.put.pages(0, 3)),
        split: Split::Whole,
    })?;
    same!(
        answer.results(),
        [result::OK, result::STALE, result::OK],
        "results"
    );
    bench.ticket = 101;
    let answer = bench.hello()?;
    same!(answer.value, 101, "highest ticket");
    Ok(())
}

fn late_flush_is_stale(bench: &mut Bench) -> Result {
    let at = Handle::dense(bench.swap_area(16)?);
    let stamp = bench.next_stamps(2);
    put(bench, at, 0, 10, stamp)?.complete(1)?;
    put(bench, at, 1, 20, stamp + 1)?.complete(1)?;
    for header in [
        at.header(op::FLUSH, 0, 16),
        at.header(op::FLUSH_OBJECT, 0, 0),
        at.header(op::FLUSH_POOL, 0, 0),
    ] {
        flush(bench, header, 9)?.complete(0)?;
    }
    let answer = flush_list(bench, at, &[2, 1, 0], 15)?;
    same!(
        answer.results(),
        [result::OK, result::STALE, result::OK],
        "results"
    );
    same!(answer.done, 1, "pages flushed");
    bench.expect_gone(at, 0, 1)?;
    bench.expect(at, 1, 1, stamp + 1)?;
    flush(bench, at.header(op::FLUSH, 0, 16), 20)?.complete(1)?;
    bench.expect_gone(at, 0, 16)?;
    bench.ticket = 20;
    Ok(())
}

fn replay_is_carried_out_again(bench: &mut Bench) -> Result {
    let at = Handle::dense(bench.swap_area(16)?);
    let stamp = bench.next_stamps(1);
    for _ in 0..3 {
        put(bench, at, 5, 7, stamp)?.complete(1)?;
    }
    bench.expect(at, 5, 1, stamp)?;
    same!(bench.stat(at.pool)?.pages, 1, "pages held");
    flush(bench, at.header(op::FLUSH, 5, 1), 8)?.complete(1)?;
    flush(bench, at.header(op::FLUSH, 5, 1), 8)?.complete(0)?;
    bench.expect_gone(at, 5, 1)?;
    bench.ticket = 8;
    Ok(())
}

fn ticket_bounds(bench: &mut Bench) -> Result {
    let at = Handle::dense(bench.swap_area(16)?);
    let stamp = bench.store(at, 0, 4)?;
    for ticket in [0, TICKET_LIMIT, TICKET_LIMIT + 1, u64::MAX] {
        let answer = put(bench, at, 0, ticket, stamp + 9)?;
        same!(
            answer.status,
            status::INVALID,
            "PUT with ticket {ticket:#x}"
        );
        for header in [
            at.header(op::FLUSH, 0, 1),
            at.header(op::FLUSH_OBJECT, 0, 0),
            at.header(op::FLUSH_POOL, 0, 0),
        ] {
            same!(
                flush(bench, header, ticket)?.status,
                status::INVALID,
                "operation {} with ticket {ticket:#x}",
                header.op
            );
        }
    }
    let get = Ask {
        data: Some(bench.areas.get.page(0)),
        ..Ask::plain(RequestHeader {
            ticket: 1,
            ..at.header(op::GET, 0, 1)
        })
    };
    same!(
        bench.ask_status(&get)?,
        status::INVALID,
        "GET with a ticket"
    );
    bench.expect(at, 0, 4, stamp)?;
    let last = bench.next_stamps(1);
    put(bench, at, 9, TICKET_LIMIT - 1, last)?.complete(1)?;
    bench.expect(at, 9, 1, last)?;
    bench.ticket = TICKET_LIMIT - 1;
    same!(bench.hello()?.value, TICKET_LIMIT - 1, "highest ticket");
    // The next epoch begins anew.
    bench.new_epoch()?;
    bench.ticket = 0;
    Ok(())
}

fn flush_of_runs(bench: &mut Bench) -> Result {
    let at = Handle::dense(bench.swap_area(512)?);
    let stamp = bench.store(at, 100, 200)?;
    same!(
        bench.flush(at, 0, 100)?,
        0,
        "pages of a run that is not there"
    );
    same!(bench.flush(at, 150, 1)?, 1, "one page");
    same!(bench.flush(at, 140, 20)?, 19, "pages of a run with a hole");
    bench.expect(at, 100, 40, stamp)?;
    bench.expect_gone(at, 140, 20)?;
    bench.expect(at, 160, 140, stamp + 60)?;
    same!(bench.flush(at, 0, 512)?, 180, "all pages");
    bench.expect_gone(at, 100, 200)?;
    // A run may be longer than the object, to the last index there is.
    let stamp = bench.store(at, 511, 1)?;
    bench.expect(at, 511, 1, stamp)?;
    same!(bench.flush(at, 0, u32::MAX)?, 1, "the longest run");
    same!(bench.flush(at, u32::MAX, 1)?, 0, "the last index");
    Ok(())
}

fn flush_of_lists(bench: &mut Bench) -> Result {
    let at = Handle::dense(bench.swap_area(512)?);
    let stamp = bench.store(at, 0, 256)?;
    let mut list = [0; 256];
    for (nth, index) in (0..).zip(list.iter_mut()) {
        *index = nth * 2;
    }
    let ticket = bench.next_ticket();
    let answer = flush_list(bench, at, &list, ticket)?;
    answer.every(result::OK)?;
    same!(answer.done, 128, "pages flushed");
    for index in [0, 2, 128, 254] {
        bench.expect_gone(at, index, 1)?;
        bench.expect(at, index + 1, 1, stamp + u64::from(index) + 1)?;
    }
    let ticket = bench.next_ticket();
    let answer = flush_list(bench, at, &[511, 512, 1, u32::MAX, 1], ticket)?;
    same!(
        answer.results(),
        [
            result::OK,
            result::BAD_INDEX,
            result::OK,
            result::BAD_INDEX,
            result::OK
        ],
        "results"
    );
    same!(answer.done, 1, "pages flushed, with a page twice");
    Ok(())
}

fn flush_of_an_object(bench: &mut Bench) -> Result {
    let id = bench.next_pool();
    let pool = bench.create(&sparse(id, pool_kind::PERSISTENT))?;
    let of = |n| Handle {
        pool,
        object: [n, 0, 0],
    };
    let first = bench.store(of(1), 0, 20)?;
    bench.store(of(2), 0, 20)?;
    let far = bench.store(of(1), u32::MAX - 9, 10)?;
    same!(
        bench.flush_by(of(2).header(op::FLUSH_OBJECT, 0, 0))?,
        20,
        "pages of the object"
    );
    same!(
        bench.flush_by(of(3).header(op::FLUSH_OBJECT, 0, 0))?,
        0,
        "pages of no object"
    );
    bench.expect_gone(of(2), 0, 20)?;
    bench.expect(of(1), 0, 20, first)?;
    bench.expect(of(1), u32::MAX - 9, 10, far)?;
    same!(
        bench.flush_by(of(1).header(op::FLUSH_OBJECT, 0, 0))?,
        30,
        "pages of the other object"
    );
    same!(bench.stat(pool)?.pages, 0, "pages held");
    Ok(())
}

fn flush_of_a_pool(bench: &mut Bench) -> Result {
    let id = bench.next_pool();
    let pool = bench.create(&sparse(id, pool_kind::PERSISTENT))?;
    let other = Handle::dense(bench.swap_area(32)?);
    let stamp = bench.store(other, 0, 32)?;
    let of = |n| Handle {
        pool,
        object: [0, n, 0],
    };
    for n in 0..5 {
        bench.store(of(n), 7, 3)?;
    }
    same!(
        bench.flush_by(Handle::dense(pool).header(op::FLUSH_POOL, 0, 0))?,
        15,
        "pages of the pool"
    );
    for n in 0..5 {
        bench.expect_gone(of(n), 7, 3)?;
    }
    bench.expect(other, 0, 32, stamp)?;
    same!(
        bench.flush_by(other.header(op::FLUSH_POOL, 0, 0))?,
        32,
        "pages of the dense pool"
    );
    bench.expect_gone(other, 0, 32)
}

fn every_bit_of_an_object_counts(bench: &mut Bench) -> Result {
    let id = bench.next_pool();
    let pool = bench.create(&sparse(id, pool_kind::PERSISTENT))?;
    // One object for every third bit, each with one page of its own at the same index.
    let first = bench.next_stamps(64);
    let of = |bit: u32| {
        let mut object = [0; 3];
        object[bit as usize / 64] = 1 << (bit % 64);
        Handle { pool, object }
    };
    for nth in 0..64 {
        bench
            .put(of(nth * 3 + nth % 3), 9, 1, first + u64::from(nth))?
            .complete(1)?;
    }
    for nth in 0..64 {
        bench.expect(of(nth * 3 + nth % 3), 9, 1, first + u64::from(nth))?;
    }
    bench.expect_gone(
        Handle {
            pool,
            object: [0; 3],
        },
        9,
        1,
    )
}
