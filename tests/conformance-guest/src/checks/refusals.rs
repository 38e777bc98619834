// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Requests that a device must refuse, with the status that it must refuse them with, and untouched
//! pages afterwards.

use super::{Check, Kind};
use crate::bench::{Ask, Bench, Handle, UNTOUCHED, dense, sparse};
use crate::why::{Context, Result, ensure, same};
use crate::wire::{
    RequestHeader, ResponseHeader, flag, get_queue, op, pool_kind, put_queue, result, status,
};

pub(super) const CHECKS: &[Check] = &[
    Check {
        name: "refused-headers",
        kind: Kind::Styles,
        run: refused_headers,
    },
    Check {
        name: "bad-indices",
        kind: Kind::Styles,
        run: bad_indices,
    },
    Check {
        name: "unknown-pools",
        kind: Kind::Once,
        run: unknown_pools,
    },
];

fn refused_headers(bench: &mut Bench) -> Result {
    let at = Handle::dense(bench.swap_area(64)?);
    let stamp = bench.store(at, 0, 16)?;
    let put = RequestHeader {
        ticket: bench.next_ticket(),
        ..at.header(op::PUT, 0, 1)
    };
    let get = at.header(op::GET, 0, 1);
    let flush = RequestHeader {
        op: op::FLUSH,
        ..put
    };
    let object = RequestHeader {
        op: op::FLUSH_OBJECT,
        pages: 0,
        ..put
    };
    let pool = RequestHeader {
        op: op::FLUSH_POOL,
        pages: 0,
        ..put
    };
    let most = bench.config.batch_pages;
    let (unsupported, invalid) = (status::UNSUPPORTED, status::INVALID);
    let (gets, puts) = (get_queue(0), put_queue(0));
    let with = |header, op| RequestHeader { op, ..header };
    let flagged = |header, flags| RequestHeader { flags, ..header };
    for (what, queue, header, expected) in [
        ("no operation", puts, with(put, 0), unsupported),
        ("operation 6", puts, with(put, 6), unsupported),
        ("operation 255", puts, with(put, 255), unsupported),
        ("operation 0 to get", gets, with(get, 0), unsupported),
        ("GET on the put queue", puts, get, unsupported),
        ("PUT on the get queue", gets, put, unsupported),
        ("FLUSH on the get queue", gets, flush, unsupported),
        ("FLUSH_OBJECT on the get queue", gets, object, unsupported),
        ("FLUSH_POOL on the get queue", gets, pool, unsupported),
        (
            "PUT EXCLUSIVE",
            puts,
            flagged(put, flag::EXCLUSIVE),
            unsupported,
        ),
        ("PUT with flag 4", puts, flagged(put, 4), unsupported),
        ("PUT with all flags", puts, flagged(put, 0xff), unsupported),
        ("GET with flag 4", gets, flagged(get, 4), unsupported),
        ("GET with flag 128", gets, flagged(get, 128), unsupported),
        (
            "FLUSH EXCLUSIVE",
            puts,
            flagged(flush, flag::EXCLUSIVE),
            unsupported,
        ),
        (
            "FLUSH_OBJECT LIST",
            puts,
            flagged(object, flag::LIST),
            unsupported,
        ),
        (
            "FLUSH_POOL LIST",
            puts,
            flagged(pool, flag::LIST),
            unsupported,
        ),
        (
            "PUT of no pages",
            puts,
            RequestHeader { pages: 0, ..put },
            invalid,
        ),
        (
            "GET of no pages",
            gets,
            RequestHeader { pages: 0, ..get },
            invalid,
        ),
        (
            "FLUSH of no pages",
            puts,
            RequestHeader { pages: 0, ..flush },
            invalid,
        ),
        (
            "PUT of too many",
            puts,
            RequestHeader {
                pages: most + 1,
                ..put
            },
            invalid,
        ),
        (
            "GET of too many",
            gets,
            RequestHeader {
                pages: most + 1,
                ..get
            },
            invalid,
        ),
        (
            "PUT of the most there is",
            puts,
            RequestHeader {
                pages: u32::MAX,
                ..put
            },
            invalid,
        ),
        (
            "GET of the most there is",
            gets,
            RequestHeader {
                pages: u32::MAX,
                ..get
            },
            invalid,
        ),
        (
            "PUT beyond 32 bits",
            puts,
            RequestHeader {
                index: u32::MAX,
                pages: 2,
                ..put
            },
            invalid,
        ),
        (
            "GET beyond 32 bits",
            gets,
            RequestHeader {
                index: u32::MAX,
                pages: 2,
                ..get
            },
            invalid,
        ),
        (
            "FLUSH beyond 32 bits",
            puts,
            RequestHeader {
                index: 2,
                pages: u32::MAX,
                ..flush
            },
            invalid,
        ),
        (
            "PUT LIST with index",
            puts,
            RequestHeader {
                index: 1,
                ..flagged(put, flag::LIST)
            },
            invalid,
        ),
        (
            "GET LIST with index",
            gets,
            RequestHeader {
                index: 1,
                ..flagged(get, flag::LIST)
            },
            invalid,
        ),
        (
            "FLUSH_OBJECT with pages",
            puts,
            RequestHeader { pages: 1, ..object },
            invalid,
        ),
        (
            "FLUSH_OBJECT with index",
            puts,
            RequestHeader { index: 1, ..object },
            invalid,
        ),
        (
            "FLUSH_POOL with pages",
            puts,
            RequestHeader { pages: 1, ..pool },
            invalid,
        ),
        (
            "FLUSH_POOL with index",
            puts,
            RequestHeader { index: 1, ..pool },
            invalid,
        ),
    ] {
        refused(bench, queue, &header.to_bytes(), expected).during(format_args!("{what}"))?;
    }
    for (at, queue, header) in [
        (2, puts, put),
        (3, puts, flush),
        (2, gets, get),
        (3, gets, get),
    ] {
        let mut bytes = header.to_bytes();
        bytes[at] = 1;
        refused(bench, queue, &bytes, invalid)
            .during(format_args!("operation {} with byte {at}", header.op))?;
    }
    bench.expect(at, 0, 16, stamp)
}

/// Sends a header with a page of data where its operation has some; it must be refused.
fn refused(
    bench: &mut Bench,
    queue: u16,
    header: &[u8; RequestHeader::SIZE],
    expected: u8,
) -> Result {
    let data = bench.areas.put.page(0);
    let question = bench.question(0);
    question.put(0, header);
    // What a list of one page would be.
    question.write(RequestHeader::SIZE, 0_u32);
    let words = usize::from(header[1] & flag::LIST != 0);
    let question = question.part(0, RequestHeader::SIZE + words * 4);
    let reply = bench.reply(0).part(0, ResponseHeader::SIZE + 1);
    reply.fill(UNTOUCHED);
    let used = bench.exchange(queue, |chain| {
        chain.readable(question);
        if header[0] == op::PUT {
            chain.readable(data);
        }
        chain.writable(reply);
        if header[0] == op::GET {
            chain.writable(data);
        }
    })?;
    same!(reply.read::<u8>(0), expected, "status");
    same!(used as usize, ResponseHeader::SIZE, "used bytes");
    same!(reply.read::<u32>(4), 0, "pages done");
    Ok(())
}

fn bad_indices(bench: &mut Bench) -> Result {
    let at = Handle::dense(bench.swap_area(64)?);
    let stamp = bench.next_stamps(4);
    let answer = bench.put(at, 62, 4, stamp)?;
    same!(
        answer.results(),
        [result::OK, result::OK, result::BAD_INDEX, result::BAD_INDEX],
        "PUT over the end"
    );
    bench.areas.get.pages(0, 4).fill(UNTOUCHED);
    let answer = bench.get(at, 62, 4)?;
    same!(
        answer.results(),
        [result::OK, result::OK, result::BAD_INDEX, result::BAD_INDEX],
        "GET over the end"
    );
    bench.check_get_stage(2, stamp)?;
    ensure!(
        bench.areas.get.pages(2, 2).is_filled(UNTOUCHED),
        "a buffer of a bad index was written"
    );
    bench
        .get(at, u32::MAX, 1)?
        .every(result::BAD_INDEX)
        .during(format_args!("GET of the last index"))?;
    // A dense pool has object 0 only.
    for object in [[1, 0, 0], [0, 1, 0], [0, 0, 1 << 63]] {
        let other = Handle { object, ..at };
        for answer in [bench.put(other, 0, 1, stamp)?, bench.get(other, 0, 1)?] {
            ensure!(
                answer.status != status::OK || answer.results() == [result::BAD_INDEX],
                "object {object:x?}: status {}, results {:?}",
                answer.status,
                answer.results()
            );
        }
        same!(
            bench.flush_by(other.header(op::FLUSH_OBJECT, 0, 0))?,
            0,
            "pages flushed of object {object:x?}"
        );
    }
    same!(bench.flush(at, 60, 100)?, 2, "pages flushed over the end");
    same!(bench.stat(at.pool)?.pages, 0, "pages held");
    Ok(())
}

fn unknown_pools(bench: &mut Bench) -> Result {
    let id = bench.swap_area(64)?;
    let stamp = bench.store(Handle::dense(id), 0, 1)?;
    for pool in [0, id + 1, id ^ 1 << 31, u32::MAX] {
        let at = Handle::dense(pool);
        same!(
            bench.put(at, 0, 1, 1)?.status,
            status::NO_POOL,
            "PUT, {pool}"
        );
        same!(bench.get(at, 0, 1)?.status, status::NO_POOL, "GET, {pool}");
        for (op, pages) in [(op::FLUSH, 1), (op::FLUSH_OBJECT, 0), (op::FLUSH_POOL, 0)] {
            let ask = Ask::plain(RequestHeader {
                ticket: bench.next_ticket(),
                ..at.header(op, 0, pages)
            });
            same!(bench.ask_status(&ask)?, status::NO_POOL, "{op}, {pool}");
        }
    }
    // Any id that the driver chooses is an id.
    for pool in [0, u32::MAX] {
        bench.create(&dense(pool, pool_kind::PERSISTENT, 4))?;
        let stamp = bench.store(Handle::dense(pool), 0, 4)?;
        bench.expect(Handle::dense(pool), 0, 4, stamp)?;
    }
    bench.create(&sparse(1 << 31, pool_kind::PERSISTENT))?;
    bench.expect(Handle::dense(id), 0, 1, stamp)
}
