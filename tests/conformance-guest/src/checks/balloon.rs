// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The balloon queue and the report queue: what they take, and what they do where they are not in use.
//! The target is 0 as long as no administrator says otherwise, so a balloon's pages are refused.

use super::{Check, Kind};
use crate::bench::{Bench, UNTOUCHED, UNTOUCHED_BYTE};
use crate::memory::Region;
use crate::why::{Result, ensure, same};
use crate::wire::{
    BALLOON_RANGES_MAX, BalloonRange, BalloonRequest, BalloonResponse, BalloonStats, QUEUE_BALLOON,
    QUEUE_REPORT, balloon, balloon_result, capability, status,
};

pub(super) const CHECKS: &[Check] = &[
    Check {
        name: "balloon-queue",
        kind: Kind::Styles,
        run: balloon_queue,
    },
    Check {
        name: "report-queue",
        kind: Kind::Styles,
        run: report_queue,
    },
    Check {
        name: "balloon-refusals",
        kind: Kind::Once,
        run: refusals,
    },
];

const HEAD: usize = BalloonResponse::SIZE;

/// Asks on `queue`, and returns the used bytes, the answer, and the first result.
fn ask(
    bench: &mut Bench,
    queue: u16,
    question: Region,
    results: usize,
) -> Result<(usize, BalloonResponse, u8)> {
    let reply = bench.reply(0).part(0, HEAD + results);
    bench.reply(0).part(0, 64).fill(UNTOUCHED);
    let used = bench.exchange(queue, |chain| {
        chain.readable(question);
        chain.writable(reply);
    })?;
    let mut bytes = [0; HEAD];
    reply.take(0, &mut bytes);
    let first = if results == 0 {
        UNTOUCHED_BYTE
    } else {
        reply.read(HEAD)
    };
    Ok((used as usize, BalloonResponse::from_bytes(&bytes), first))
}

/// A request with ranges, one after another in guest memory.
fn request(bench: &Bench, op: u32, ranges: &[BalloonRange]) -> Region {
    let length = BalloonRequest::SIZE + ranges.len() * BalloonRange::SIZE;
    let question = bench.question(0).part(0, length);
    let count = u32::try_from(ranges.len()).unwrap_or(u32::MAX);
    question.put(0, &BalloonRequest { op, ranges: count }.to_bytes());
    for (nth, range) in ranges.iter().enumerate() {
        let at = BalloonRequest::SIZE + nth * BalloonRange::SIZE;
        question.put(at, &range.to_bytes());
    }
    question
}

fn page(of: Region) -> BalloonRange {
    BalloonRange {
        first: of.address() / 4096,
        pages: 1,
    }
}

/// A queue that is not in use says so, where it has room to.
fn is_not_in_use(bench: &mut Bench, queue: u16) -> Result {
    let question = request(bench, balloon::INFLATE, &[]);
    let (used, answer, _) = ask(bench, queue, question, 0)?;
    same!(
        (used, answer.status),
        (HEAD, status::UNSUPPORTED),
        "used bytes and status"
    );
    let used = bench.exchange(queue, |chain| chain.readable(question))?;
    same!(used, 0, "used bytes without room for a response");
    Ok(())
}

fn balloon_queue(bench: &mut Bench) -> Result {
    if bench.config.capabilities & capability::BALLOON == 0 {
        return is_not_in_use(bench, QUEUE_BALLOON);
    }
    let spare = bench.reply(1).part(0, 64);
    let outside = BalloonRange {
        first: u64::MAX - 1,
        pages: 1,
    };
    let ranges = [page(spare), outside];
    let question = request(bench, balloon::INFLATE, &ranges);
    let (used, answer, first) = ask(bench, QUEUE_BALLOON, question, 2)?;
    same!(
        (used, answer.status, answer.pages),
        (HEAD + 2, status::OK, 0),
        "used bytes, status, pages"
    );
    same!(first, balloon_result::OVER, "a page beyond the target");
    let question = request(bench, balloon::DEFLATE, &ranges);
    let (used, answer, _) = ask(bench, QUEUE_BALLOON, question, 0)?;
    same!(
        (used, answer.status, answer.pages),
        (HEAD, status::OK, 0),
        "used bytes, status, pages"
    );
    let length = BalloonRequest::SIZE + BalloonStats::SIZE;
    let question = bench.question(0).part(0, length);
    let head = BalloonRequest {
        op: balloon::STATS,
        ranges: 0,
    };
    question.put(0, &head.to_bytes());
    question.put(BalloonRequest::SIZE, &[0xff; BalloonStats::SIZE]);
    let (used, answer, _) = ask(bench, QUEUE_BALLOON, question, 0)?;
    same!(
        (used, answer.status),
        (HEAD, status::OK),
        "used bytes and status of statistics"
    );
    Ok(())
}

fn report_queue(bench: &mut Bench) -> Result {
    if bench.config.capabilities & capability::REPORTING == 0 {
        return is_not_in_use(bench, QUEUE_REPORT);
    }
    let end = bench.memory_end / 4096;
    let outside = [
        BalloonRange {
            first: end,
            pages: 1,
        },
        BalloonRange {
            first: end - 1,
            pages: 2,
        },
    ];
    for range in outside {
        let question = request(bench, balloon::REPORT, &[range]);
        let (used, answer, first) = ask(bench, QUEUE_REPORT, question, 1)?;
        same!(
            (used, answer.status, answer.pages),
            (HEAD + 1, status::OK, 0),
            "used bytes, status, pages"
        );
        same!(first, balloon_result::OUTSIDE, "result of {range:x?}");
    }
    Ok(())
}

fn refusals(bench: &mut Bench) -> Result {
    if bench.config.capabilities & capability::BALLOON == 0 {
        return Ok(());
    }
    let spare = page(bench.reply(1).part(0, 64));
    let none = BalloonRange { pages: 0, ..spare };
    let invalid = status::INVALID;
    let cases = [
        ("no ranges", request(bench, balloon::INFLATE, &[]), invalid),
        (
            "an unknown operation",
            request(bench, 0, &[]),
            status::UNSUPPORTED,
        ),
    ];
    for (what, question, wanted) in cases {
        // Both lie in the same place.
        let op = if wanted == invalid {
            balloon::INFLATE
        } else {
            77
        };
        question.put(0, &op.to_le_bytes());
        let (used, answer, _) = ask(bench, QUEUE_BALLOON, question, 0)?;
        same!((used, answer.status), (HEAD, wanted), "{what}");
    }
    let question = request(bench, balloon::REPORT, &[spare]);
    let (_, answer, _) = ask(bench, QUEUE_BALLOON, question, 1)?;
    same!(
        answer.status,
        status::UNSUPPORTED,
        "a report on the balloon queue"
    );
    let question = request(bench, balloon::INFLATE, &[none]);
    let (_, answer, _) = ask(bench, QUEUE_BALLOON, question, 1)?;
    same!(answer.status, invalid, "a range without pages");
    let question = request(bench, balloon::INFLATE, &[spare]);
    let (_, answer, _) = ask(bench, QUEUE_BALLOON, question, 0)?;
    same!(answer.status, invalid, "no room for the result");
    for (what, at, byte) in [
        ("a reserved byte of the request", 12, 1),
        ("a reserved byte of a range", BalloonRequest::SIZE + 12, 1),
        ("more ranges than there are", 4, 2),
    ] {
        let question = request(bench, balloon::INFLATE, &[spare]);
        question.put(at, &[byte]);
        let (_, answer, _) = ask(bench, QUEUE_BALLOON, question, 2)?;
        same!(answer.status, invalid, "{what}");
    }
    let question = request(bench, balloon::INFLATE, &[spare]);
    question.put(4, &(BALLOON_RANGES_MAX + 1).to_le_bytes());
    let (_, answer, _) = ask(bench, QUEUE_BALLOON, question, 1)?;
    same!(answer.status, invalid, "too many ranges");
    ensure!(
        bench.config.capabilities & capability::EVENTS != 0,
        "a balloon without events has no target"
    );
    Ok(())
}
