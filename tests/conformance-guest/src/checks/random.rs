// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Random requests against the oracle.

use super::{Check, Kind};
use crate::bench::{Ask, Bench, Handle, Split, UNTOUCHED, sparse};
use crate::content::Content;
use crate::oracle::Oracle;
use crate::why::{Context, Result, ensure, same};
use crate::wire::{RequestHeader, flag, op, pool_kind, result, status};

pub(super) const CHECKS: &[Check] = &[Check {
    name: "random-requests",
    kind: Kind::Styles,
    run: random_requests,
}];

/// Pages of each object.
const PAGES: u32 = 96;
/// An object's model.
type Model = Oracle<{ PAGES as usize }>;
/// Requests of a run.
const ROUNDS: u32 = 400;
/// Pages of a request.
const BATCH: u32 = 16;

/// What a run has met, so that a generator which misses something is found out.
#[derive(Debug, Default)]
struct Seen {
    hits: u32,
    misses: u32,
    stale: u32,
    bad: u32,
    flushed: u32,
    exclusive: u32,
}

fn random_requests(bench: &mut Bench) -> Result {
    let swap = Handle::dense(bench.swap_area(PAGES)?);
    let id = bench.next_pool();
    let file = Handle {
        pool: bench.create(&sparse(id, pool_kind::PERSISTENT))?,
        object: [
            bench.random.next(),
            bench.random.next(),
            bench.random.next(),
        ],
    };
    let mut oracles = [Model::new(swap), Model::new(file)];
    let mut seen = Seen::default();
    for round in 0..ROUNDS {
        let [first, second] = &mut oracles;
        let oracle = if bench.random.below(3) == 0 {
            second
        } else {
            first
        };
        step(bench, oracle, &mut seen).during(format_args!("round {round}"))?;
    }
    for oracle in &oracles {
        oracle.check(bench)?;
        let stat = bench.stat(oracle.handle().pool)?;
        same!(stat.pages, oracle.held(), "pages held");
        ensure!(
            stat.value <= oracle.same_filled(),
            "{} same-filled pages, at most {} are held",
            stat.value,
            oracle.same_filled()
        );
    }
    ensure!(
        seen.hits > 50
            && seen.misses > 50
            && seen.stale > 5
            && seen.bad > 0
            && seen.flushed > 50
            && seen.exclusive > 5,
        "the requests missed something: {seen:?}"
    );
    Ok(())
}

/// A random request, on a random pair.
fn step(bench: &mut Bench, oracle: &mut Model, seen: &mut Seen) -> Result {
    let pages = 1 + bench.random.below(BATCH);
    let listed = bench.random.below(2) == 0;
    // The sparse object takes indices beyond the model, so only the dense one is asked for them.
    let dense = oracle.handle().object == [0; 3];
    let reach = PAGES + if dense { 2 } else { 0 };
    let first = bench.random.below(reach - pages);
    let mut indices = [0; BATCH as usize];
    for (nth, index) in (0..).zip(indices.iter_mut()) {
        *index = if listed {
            bench.random.below(reach)
        } else {
            first + nth
        };
    }
    let indices = &indices[..pages as usize];
    let header = RequestHeader {
        flags: if listed { flag::LIST } else { 0 },
        ..oracle
            .handle()
            .header(0, if listed { 0 } else { first }, pages)
    };
    let list = if listed { indices } else { &[] };
    match bench.random.below(8) {
        0..=3 => put(bench, oracle, header, list, indices, seen),
        4..=6 => get(bench, oracle, header, list, indices, seen),
        _ => flush(bench, oracle, header, list, indices, seen),
    }
}

/// A new ticket, or now and then an older one.
fn ticket(bench: &mut Bench) -> u64 {
    if bench.ticket > 20 && bench.random.below(6) == 0 {
        return bench.ticket - u64::from(bench.random.below(20));
    }
    bench.next_ticket()
}

fn put(
    bench: &mut Bench,
    oracle: &mut Model,
    header: RequestHeader,
    list: &[u32],
    indices: &[u32],
    seen: &mut Seen,
) -> Result {
    let ticket = ticket(bench);
    let mut expected = [0; BATCH as usize];
    for (nth, index) in indices.iter().enumerate() {
        let content = if bench.random.below(5) == 0 {
            Content::Filled(u64::from(bench.random.below(3)))
        } else {
            Content::Stamp(bench.next_stamps(1))
        };
        bench.template.make(content, bench.areas.put.page(nth));
        let code = oracle.put(*index, content, ticket);
        expected[nth] = code;
        match code {
            result::STALE => seen.stale += 1,
            result::BAD_INDEX => seen.bad += 1,
            _ => {}
        }
    }
    let pair = bench.random_pair();
    let ask = Ask {
        header: RequestHeader {
            op: op::PUT,
            ticket,
            ..header
        },
        list,
        data: Some(bench.areas.put.pages(0, indices.len())),
        split: bench
            .random
            .pick(&[Split::Whole, Split::Pages, Split::Growing]),
    };
    let answer = bench.ask_on(pair, &ask)?;
    same!(answer.status, status::OK, "status of a PUT");
    same!(
        answer.results(),
        &expected[..indices.len()],
        "results of a PUT"
    );
    Ok(())
}

fn get(
    bench: &mut Bench,
    oracle: &mut Model,
    header: RequestHeader,
    list: &[u32],
    indices: &[u32],
    seen: &mut Seen,
) -> Result {
    let exclusive = bench.random.below(8) == 0;
    let stage = bench.areas.get.pages(0, indices.len());
    for nth in 0..indices.len() {
        stage.page(nth).write(0, UNTOUCHED);
    }
    let pair = bench.random_pair();
    let ask = Ask {
        header: RequestHeader {
            op: op::GET,
            flags: header.flags | if exclusive { flag::EXCLUSIVE } else { 0 },
            ..header
        },
        list,
        data: Some(stage),
        split: bench
            .random
            .pick(&[Split::Whole, Split::Pages, Split::Growing]),
    };
    let answer = bench.ask_on(pair, &ask)?;
    same!(answer.status, status::OK, "status of a GET");
    for (nth, (index, code)) in indices.iter().zip(answer.results()).enumerate() {
        oracle.check_page(bench, *index, *code, stage.page(nth))?;
        if *code == result::OK {
            seen.hits += 1;
        } else {
            seen.misses += 1;
        }
        if exclusive && *code == result::OK {
            seen.exclusive += 1;
            oracle.forget(*index);
        }
    }
    Ok(())
}

fn flush(
    bench: &mut Bench,
    oracle: &mut Model,
    header: RequestHeader,
    list: &[u32],
    indices: &[u32],
    seen: &mut Seen,
) -> Result {
    let ticket = ticket(bench);
    let (mut expected, mut done) = ([0; BATCH as usize], 0);
    for (nth, index) in indices.iter().enumerate() {
        let (code, was_there) = oracle.flush(*index, ticket);
        expected[nth] = code;
        done += u32::from(was_there);
    }
    seen.flushed += done;
    let pair = bench.random_pair();
    let ask = Ask {
        list,
        ..Ask::plain(RequestHeader {
            op: op::FLUSH,
            ticket,
            ..header
        })
    };
    let answer = bench.ask_on(pair, &ask)?;
    same!(answer.status, status::OK, "status of a FLUSH");
    if !list.is_empty() {
        same!(
            answer.results(),
            &expected[..indices.len()],
            "results of a FLUSH"
        );
    }
    same!(answer.done, done, "pages flushed");
    Ok(())
}
