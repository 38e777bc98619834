// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Requests whose lengths do not add up, which a device must refuse.

use super::{Check, Kind};
use crate::bench::{Bench, Handle, UNTOUCHED};
use crate::memory::Region;
use crate::ring::{Chain, Descriptor};
use crate::why::{Context, Result, ensure, same};
use crate::wire::{RequestHeader, ResponseHeader, get_queue, op, put_queue, status};

pub(super) const CHECKS: &[Check] = &[
    Check {
        name: "refused-lengths",
        kind: Kind::Styles,
        run: refused_lengths,
    },
    Check {
        name: "no-room-for-an-answer",
        kind: Kind::Styles,
        run: no_room_for_an_answer,
    },
];

/// Pieces of a request: which lengths its header, data and answer have.
#[derive(Clone, Copy)]
struct Pieces {
    header: usize,
    data: &'static [usize],
    answer: usize,
}

fn refused_lengths(bench: &mut Bench) -> Result {
    const HEADER: usize = RequestHeader::SIZE;
    const ANSWER: usize = ResponseHeader::SIZE;
    let at = Handle::dense(bench.swap_area(64)?);
    let stamp = bench.store(at, 0, 16)?;
    let pieces = |header, data, answer| Pieces {
        header,
        data,
        answer,
    };
    for (what, pages, wrong) in [
        (
            "a short header",
            1,
            pieces(HEADER - 1, &[4096][..], ANSWER + 1),
        ),
        ("a header of a byte", 1, pieces(1, &[][..], ANSWER + 1)),
        ("no data", 1, pieces(HEADER, &[], ANSWER + 1)),
        (
            "a byte of data missing",
            1,
            pieces(HEADER, &[4095], ANSWER + 1),
        ),
        (
            "a byte of data too many",
            1,
            pieces(HEADER, &[4097], ANSWER + 1),
        ),
        (
            "a page too many",
            1,
            pieces(HEADER, &[4096, 4096], ANSWER + 1),
        ),
        ("a page missing", 3, pieces(HEADER, &[8192], ANSWER + 3)),
        (
            "a page over two descriptors",
            1,
            pieces(HEADER, &[2048, 2048], ANSWER + 1),
        ),
        (
            "pages that straddle",
            2,
            pieces(HEADER, &[4000, 4192], ANSWER + 2),
        ),
        (
            "data in the header's descriptor",
            1,
            pieces(HEADER + 16, &[4096], ANSWER + 1),
        ),
    ] {
        for op in [op::PUT, op::GET] {
            let answered = lengths(bench, at, op, pages, wrong)
                .during(format_args!("operation {op} with {what}"))?;
            same!(
                answered,
                status::INVALID,
                "operation {op} with {what}: status"
            );
        }
    }
    // No room for the results: nothing of the request may be carried out.
    for answer in [ANSWER, ANSWER + 1, ANSWER + 2] {
        let wrong = pieces(HEADER, &[3 * 4096], answer);
        same!(
            lengths(bench, at, op::PUT, 3, wrong)?,
            status::INVALID,
            "PUT of 3 pages with {answer} bytes for the answer"
        );
    }
    for (op, ticket) in [(op::FLUSH, 1 << 40), (op::FLUSH_POOL, 1 << 40)] {
        // Bytes after a request that has none.
        let header = RequestHeader {
            ticket,
            ..at.header(op, 0, u32::from(op == op::FLUSH))
        };
        let question = bench.question(0).part(0, HEADER + 4);
        question.write(HEADER, 0_u32);
        question.put(0, &header.to_bytes());
        let reply = bench.reply(0).part(0, ANSWER);
        let used = bench.exchange(put_queue(0), |chain| {
            chain.readable(question);
            chain.writable(reply);
        })?;
        same!(
            (used as usize, reply.read::<u8>(0)),
            (ANSWER, status::INVALID),
            "operation {op} with bytes after it"
        );
    }
    bench.expect(at, 0, 16, stamp)
}

/// Sends a PUT or GET of pieces; gives the status, which must come in an answer of 8 bytes.
fn lengths(bench: &mut Bench, at: Handle, op: u8, pages: u32, pieces: Pieces) -> Result<u8> {
    let header = RequestHeader {
        ticket: if op == op::PUT { 1 << 40 } else { 0 },
        ..at.header(op, 0, pages)
    };
    let question = bench.question(0);
    question.put(0, &header.to_bytes());
    let question = question.part(0, pieces.header);
    let reply = bench.reply(0).part(0, pieces.answer);
    reply.fill(UNTOUCHED);
    let stage = bench.areas.put;
    let queue = if op == op::PUT {
        put_queue(0)
    } else {
        get_queue(0)
    };
    let used = bench.exchange(queue, |chain| {
        chain.readable(question);
        if op == op::PUT {
            push_pieces(chain, stage, pieces.data, Descriptor::readable);
        }
        chain.writable(reply);
        if op == op::GET {
            push_pieces(chain, stage, pieces.data, Descriptor::writable);
        }
    })?;
    same!(used as usize, ResponseHeader::SIZE, "used bytes");
    Ok(reply.read(0))
}

fn push_pieces(
    chain: &mut Chain,
    stage: Region,
    lengths: &[usize],
    make: fn(Region) -> Descriptor,
) {
    let mut at = 0;
    for length in lengths {
        chain.push(make(stage.part(at, *length)));
        at += length;
    }
}

fn no_room_for_an_answer(bench: &mut Bench) -> Result {
    let at = Handle::dense(bench.swap_area(64)?);
    let stamp = bench.store(at, 0, 1)?;
    let header = RequestHeader {
        ticket: bench.next_ticket(),
        ..at.header(op::FLUSH, 0, 1)
    };
    let question = bench.question(0);
    question.put(0, &header.to_bytes());
    let question = question.part(0, RequestHeader::SIZE);
    for room in [0, 1, 7] {
        let reply = bench.reply(0).part(0, 8);
        reply.fill(UNTOUCHED);
        for queue in Bench::request_queues() {
            let used = bench.exchange(queue, |chain| {
                chain.readable(question);
                if room != 0 {
                    chain.writable(reply.part(0, room));
                }
            })?;
            same!(used, 0, "used bytes on queue {queue} with room for {room}");
            ensure!(reply.is_filled(UNTOUCHED), "an answer on queue {queue}");
        }
    }
    bench.expect(at, 0, 1, stamp)
}
