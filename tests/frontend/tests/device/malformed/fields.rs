// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Requests whose fields make no sense, in chains that are well-formed.

use tmem_abi::{ControlRequest, RequestHeader, op, status};
use tmem_frontend::{Request, pages_at};

use super::Arena;
use crate::guest::POOL;

#[test]
fn fields_that_make_no_sense_are_refused() {
    let mut arena = Arena::new();
    let good = arena.put_header();
    let ticket = good.ticket;
    let wrong = [
        ("op 0", RequestHeader { op: 0, ..good }, status::UNSUPPORTED),
        (
            "op 255",
            RequestHeader { op: 255, ..good },
            status::UNSUPPORTED,
        ),
        (
            "a get on the put queue",
            RequestHeader {
                op: op::GET,
                ticket: 0,
                ..good
            },
            status::UNSUPPORTED,
        ),
        (
            "an unknown flag",
            RequestHeader {
                flags: 0x80,
                ..good
            },
            status::UNSUPPORTED,
        ),
        (
            "an exclusive put",
            RequestHeader { flags: 2, ..good },
            status::UNSUPPORTED,
        ),
        (
            "no pages",
            RequestHeader { pages: 0, ..good },
            status::INVALID,
        ),
        (
            "257 pages",
            RequestHeader { pages: 257, ..good },
            status::INVALID,
        ),
        (
            "all pages",
            RequestHeader {
                pages: u32::MAX,
                ..good
            },
            status::INVALID,
        ),
        (
            "two pages, data of one",
            RequestHeader { pages: 2, ..good },
            status::INVALID,
        ),
        (
            "an index beyond 32 bits",
            RequestHeader {
                index: u32::MAX,
                pages: 2,
                ..good
            },
            status::INVALID,
        ),
        (
            "ticket 0",
            RequestHeader { ticket: 0, ..good },
            status::INVALID,
        ),
        (
            "a ticket too high",
            RequestHeader {
                ticket: 1 << 52,
                ..good
            },
            status::INVALID,
        ),
        (
            "no such pool",
            RequestHeader { pool: 4711, ..good },
            status::NO_POOL,
        ),
        (
            "a list with an index",
            RequestHeader { flags: 1, ..good },
            status::INVALID,
        ),
    ];
    for (what, header, expected) in wrong {
        arena.write_header(&header);
        assert_eq!(arena.offer(&arena.put_chain()), (8, expected), "{what}");
        arena.check(what);
    }
    // Bytes 2 and 3 belong to no field and must be zero.
    arena.write_header(&RequestHeader {
        ticket: ticket + 100,
        ..good
    });
    arena.broken.memory.write(arena.header + 2, &[1]).unwrap();
    assert_eq!(arena.offer(&arena.put_chain()), (8, status::INVALID));
    arena.check("a reserved byte");
}

#[test]
fn requests_on_the_wrong_queue_are_unsupported() {
    let mut arena = Arena::new();
    for op in [op::PUT, op::FLUSH, op::FLUSH_OBJECT, op::FLUSH_POOL] {
        let ticket = arena.broken.driver.ticket();
        let request = Request::run(op, POOL, 0, 1, ticket);
        let data = if op == op::PUT {
            vec![pages_at(arena.broken.put_stage, 1)]
        } else {
            vec![]
        };
        let pair = arena.broken.driver.pair(0);
        let done = pair.get.call(&request, &data).unwrap();
        assert_eq!(done.response.status, status::UNSUPPORTED);
        arena.check(&format!("op {op} on the get queue"));
    }
}

#[test]
fn control_requests_that_make_no_sense_are_refused() {
    let mut arena = Arena::new();
    let good = ControlRequest {
        op: tmem_abi::control::POOL_CREATE,
        pool: 50,
        kind: 1,
        layout: 1,
        object_pages: 16,
        ..Default::default()
    };
    let refused = |arena: &mut Arena, what: &str, bytes: &[u8]| {
        let status = arena.broken.driver.control_bytes(bytes).unwrap().status;
        assert!(
            [status::INVALID, status::UNSUPPORTED].contains(&status),
            "{what}: {status}"
        );
        arena.check(what);
    };
    for op in [0, 5, u32::MAX] {
        refused(&mut arena, "op", &ControlRequest { op, ..good }.to_bytes());
    }
    for kind in [0, 3, u16::MAX] {
        refused(
            &mut arena,
            "kind",
            &ControlRequest { kind, ..good }.to_bytes(),
        );
    }
    for layout in [0, 3, u16::MAX] {
        refused(
            &mut arena,
            "layout",
            &ControlRequest { layout, ..good }.to_bytes(),
        );
    }
    let empty = ControlRequest {
        object_pages: 0,
        ..good
    };
    refused(&mut arena, "no pages", &empty.to_bytes());
    let epoch = ControlRequest {
        epoch_low: 1,
        ..good
    };
    refused(&mut arena, "an epoch where none belongs", &epoch.to_bytes());
    let sparse = ControlRequest { layout: 2, ..good };
    refused(&mut arena, "pages of a sparse pool", &sparse.to_bytes());
    refused(&mut arena, "short", &good.to_bytes()[..39]);
    arena.broken.driver.control(&good).unwrap();
    arena.check("a good one at last");
}
