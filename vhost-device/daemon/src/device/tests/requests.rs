// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Requests that follow the rules.

use tmem_abi::{RequestHeader, flag, op, result, status};
use tmem_admin_api::{Op, PageResult};

use super::*;

/// What came of a request: used length, status, done, results.
type Answer = (u32, u8, u32, Vec<u8>);

impl Rig {
    /// Fills the nth page of the data area.
    fn fill(&self, nth: u64, byte: u8) {
        // Not all the same, or it would take no frame.
        let page: Vec<u8> = (0..4096u32).map(|at| at.to_le_bytes()[0] ^ byte).collect();
        let at = GuestAddress(DATA + nth * 4096);
        self.mem.write_slice(&page, at).unwrap();
    }

    fn page(&self, nth: u64) -> Vec<u8> {
        self.bytes(DATA + nth * 4096, 4096)
    }

    /// Sends `header` with page data in `data`, on the queue that it belongs on.
    fn request(&mut self, header: &RequestHeader, list: &[u32], data: &[Piece]) -> Answer {
        let queue = if header.op == op::GET {
            Queue::Get
        } else {
            Queue::Put
        };
        let mut bytes = header.to_bytes().to_vec();
        bytes.extend(list.iter().flat_map(|index| index.to_le_bytes()));
        let with_results = data.len() + list.len() != 0;
        let results = if with_results { header.pages } else { 0 };
        let request = self.room(&bytes);
        let response = self.room(&[0xee; 8 + 256]);
        let mut pieces = vec![readable(request, u32::try_from(bytes.len()).unwrap())];
        if queue == Queue::Put {
            pieces.extend(data);
        }
        pieces.push(writable(response, 8 + results));
        if queue == Queue::Get {
            pieces.extend(data.iter().map(|piece| writable(piece.addr, piece.len)));
        }
        let used = self.send(queue, &pieces);
        let bytes = self.bytes(response, 8 + results as usize);
        let done = u32::from_le_bytes(bytes[4..8].try_into().unwrap());
        (used, bytes[0], done, bytes[8..].to_vec())
    }

    fn run(&mut self, op: u8, index: u32, pages: u32, ticket: u64) -> Answer {
        self.request(
            &header(op, index, pages, ticket),
            &[],
            &[readable(DATA, pages * 4096)],
        )
    }
}

#[test]
fn a_page_comes_back_as_it_was_put() {
    let mut rig = Rig::ready();
    rig.fill(0, 0x5a);
    let put = rig.page(0);
    assert_eq!(
        rig.run(op::PUT, 5, 1, 1),
        (9, status::OK, 1, vec![result::OK])
    );
    rig.fill(0, 0);
    assert_eq!(
        rig.run(op::GET, 5, 1, 0),
        (9 + 4096, status::OK, 1, vec![result::OK])
    );
    assert_eq!(rig.page(0), put);
    rig.engine.self_check();
}

#[test]
fn a_page_that_is_not_there_leaves_the_buffer_alone() {
    let mut rig = Rig::ready();
    rig.fill(0, 0x11);
    let before = rig.page(0);
    assert_eq!(
        rig.run(op::GET, 5, 1, 0),
        (9, status::OK, 0, vec![result::MISS])
    );
    assert_eq!(rig.page(0), before);
}

#[test]
fn the_largest_batch_in_one_descriptor_and_in_as_many_as_pages() {
    let mut rig = Rig::ready();
    for nth in 0..256 {
        rig.fill(nth, u8::try_from(nth).unwrap());
    }
    let all = rig.bytes(DATA, 256 * 4096);
    let put = rig.run(op::PUT, 10, 256, 1);
    assert_eq!(put, (8 + 256, status::OK, 256, vec![result::OK; 256]));
    // As an indirect table, since the queue itself is shorter.
    rig.mem
        .write_slice(&vec![0; 256 * 4096], GuestAddress(DATA))
        .unwrap();
    let request = rig.room(&header(op::GET, 10, 256, 0).to_bytes());
    let response = rig.room(&[0xee; 8 + 256]);
    let mut pieces = vec![readable(request, 48), writable(response, 8 + 256)];
    pieces.extend((0..256).map(|nth| writable(DATA + nth * 4096, 4096)));
    let table = 0x18_0000;
    for (nth, piece) in (0..).zip(&pieces) {
        let last = usize::from(nth) + 1 == pieces.len();
        let flags = piece.flags | if last { 0 } else { NEXT };
        rig.write_descriptor(
            table,
            nth,
            Descriptor::new(piece.addr, piece.len, flags, nth + 1),
        );
    }
    let indirect = Piece {
        addr: table,
        len: u32::try_from(pieces.len() * 16).unwrap(),
        flags: INDIRECT,
    };
    assert_eq!(rig.send(Queue::Get, &[indirect]), 8 + 256 + 256 * 4096);
    assert_eq!(rig.bytes(DATA, 256 * 4096), all);
}

#[test]
fn a_request_may_be_cut_anywhere_but_in_its_pages() {
    let mut rig = Rig::ready();
    rig.fill(0, 0x77);
    let page = rig.page(0);
    let request = rig.room(&header(op::PUT, 1, 1, 1).to_bytes());
    let response = rig.room(&[0xee; 9]);
    let mut pieces: Vec<_> = (0..48).map(|at| readable(request + at, 1)).collect();
    pieces.push(readable(request, 0));
    pieces.push(readable(DATA, 4096));
    pieces.extend((0..9).map(|at| writable(response + at, 1)));
    assert_eq!(rig.send(Queue::Put, &pieces), 9);
    assert_eq!(rig.bytes(response, 9), [0, 0, 0, 0, 1, 0, 0, 0, 0]);
    rig.fill(0, 0);
    rig.run(op::GET, 1, 1, 0);
    assert_eq!(rig.page(0), page);
}

#[test]
fn a_list_is_handled_in_its_order() {
    let mut rig = Rig::ready();
    rig.fill(0, 1);
    rig.fill(1, 2);
    rig.fill(2, 3);
    let data = [readable(DATA, 2 * 4096), readable(DATA + 2 * 4096, 4096)];
    let put = RequestHeader {
        flags: flag::LIST,
        ..header(op::PUT, 0, 3, 1)
    };
    let answer = rig.request(&put, &[9, 299, 300], &data);
    let results = vec![result::OK, result::OK, result::BAD_INDEX];
    assert_eq!(answer, (8 + 3, status::OK, 2, results));
    let second = rig.page(1);
    let get = RequestHeader {
        flags: flag::LIST,
        ..header(op::GET, 0, 2, 0)
    };
    let answer = rig.request(&get, &[299, 8], &[readable(DATA, 2 * 4096)]);
    assert_eq!(
        answer,
        (8 + 2 + 4096, status::OK, 1, vec![result::OK, result::MISS])
    );
    assert_eq!(rig.page(0), second);
    let flush = RequestHeader {
        flags: flag::LIST,
        ..header(op::FLUSH, 0, 3, 2)
    };
    let answer = rig.request(&flush, &[9, 8, 300], &[]);
    assert_eq!(
        answer,
        (
            8 + 3,
            status::OK,
            1,
            vec![result::OK, result::OK, result::BAD_INDEX]
        )
    );
}

#[test]
fn an_exclusive_get_forgets_the_page() {
    let mut rig = Rig::ready();
    rig.fill(0, 9);
    rig.run(op::PUT, 0, 1, 1);
    let get = RequestHeader {
        flags: flag::EXCLUSIVE,
        ..header(op::GET, 0, 1, 0)
    };
    let data = [readable(DATA, 4096)];
    assert_eq!(rig.request(&get, &[], &data).3, [result::OK]);
    assert_eq!(rig.request(&get, &[], &data).3, [result::MISS]);
}

#[test]
fn a_late_flush_spares_a_newer_page() {
    let mut rig = Rig::ready();
    rig.fill(0, 9);
    rig.run(op::PUT, 4, 1, 10);
    let flush = RequestHeader {
        flags: flag::LIST,
        ..header(op::FLUSH, 0, 1, 9)
    };
    assert_eq!(rig.request(&flush, &[4], &[]).3, [result::STALE]);
    assert_eq!(rig.run(op::PUT, 4, 1, 9).3, [result::STALE]);
    assert_eq!(rig.run(op::GET, 4, 1, 0).3, [result::OK]);
    assert_eq!(rig.stats().pages_of(Op::Flush, PageResult::Stale), 1);
}

#[test]
fn flushes_say_how_many_pages_went() {
    let mut rig = Rig::ready();
    for nth in 0..20 {
        rig.fill(nth, 3);
    }
    rig.run(op::PUT, 0, 20, 1);
    // The longest run there is ends in time, whatever the pool holds.
    assert_eq!(
        rig.request(&header(op::FLUSH, 15, u32::MAX, 2), &[], &[]).1,
        status::INVALID
    );
    let rest = header(op::FLUSH, 15, u32::MAX - 14, 2);
    assert_eq!(rig.request(&rest, &[], &[]), (8, status::OK, 5, vec![]));
    assert_eq!(
        rig.request(&header(op::FLUSH_OBJECT, 0, 0, 1), &[], &[]).2,
        15
    );
    rig.run(op::PUT, 0, 20, 3);
    assert_eq!(
        rig.request(&header(op::FLUSH_POOL, 0, 0, 4), &[], &[]).2,
        20
    );
    rig.engine.self_check();
}

#[test]
fn a_put_beyond_the_grant_is_refused_page_by_page() {
    let mut rig = Rig::new();
    let hello = ControlRequest {
        op: op_hello(),
        version: 1,
        ..ControlRequest::default()
    };
    rig.control(&hello);
    let create = ControlRequest {
        op: tmem_abi::control::POOL_CREATE,
        pool: POOL,
        kind: pool_kind::PERSISTENT,
        layout: pool_layout::SPARSE,
        ..ControlRequest::default()
    };
    rig.control(&create);
    for first in [0, 256] {
        assert_eq!(rig.run(op::PUT, first, 256, 1).2, 256);
    }
    let answer = rig.run(op::PUT, 511, 3, 2);
    let full = result::REFUSED_FULL;
    assert_eq!(answer, (11, status::OK, 1, vec![result::OK, full, full]));
}

fn op_hello() -> u32 {
    tmem_abi::control::HELLO
}

#[test]
fn page_data_outside_guest_memory_costs_that_page_alone() {
    let mut rig = Rig::ready();
    rig.fill(0, 1);
    let data = [
        readable(DATA, 4096),
        readable(MEMORY - 100, 4096),
        readable(u64::MAX - 8191, 8192),
        readable(DATA, 4096),
    ];
    let (ok, bad) = (result::OK, result::IO_ERROR);
    let answer = rig.request(&header(op::PUT, 0, 5, 1), &[], &data);
    assert_eq!(answer, (8 + 5, status::OK, 2, vec![ok, bad, bad, bad, ok]));
    rig.run(op::PUT, 1, 1, 2);
    let answer = rig.request(&header(op::GET, 0, 5, 0), &[], &data);
    let results = vec![ok, bad, result::MISS, result::MISS, ok];
    assert_eq!(answer, (8 + 5 + 5 * 4096, status::OK, 2, results));
}

#[test]
fn a_queue_full_of_requests_is_served_in_one_go() {
    let mut rig = Rig::ready();
    rig.fill(0, 5);
    rig.run(op::PUT, 3, 1, 1);
    let (mut heads, mut responses) = (vec![], vec![]);
    let request = rig.room(&header(op::GET, 3, 1, 0).to_bytes());
    for nth in 0..u64::from(QUEUE / 3) {
        let response = HEADS - 0x1000 + nth * 16;
        let pieces = [
            readable(request, 48),
            writable(response, 9),
            writable(DATA + nth * 4096, 4096),
        ];
        let head = rig.link(Queue::Get, &pieces);
        rig.offer(Queue::Get, head);
        heads.push(u32::from(head));
        responses.push(response);
    }
    rig.kick(Queue::Put);
    let used: Vec<u32> = rig.used(Queue::Get).iter().map(|used| used.0).collect();
    assert_eq!(
        used, heads,
        "in the order in which they were made available"
    );
    for response in responses {
        assert_eq!(rig.bytes(response, 1), [status::OK]);
    }
}

#[test]
fn a_stopped_ring_is_left_alone_and_goes_on_where_it_was() {
    let mut rig = Rig::ready();
    rig.fill(0, 5);
    let request = rig.room(&header(op::PUT, 3, 1, 1).to_bytes());
    let response = rig.room(&[0xee; 9]);
    let pieces = [
        readable(request, 48),
        readable(DATA, 4096),
        writable(response, 9),
    ];
    let head = rig.link(Queue::Put, &pieces);
    rig.offer(Queue::Put, head);
    rig.ring(Queue::Put).set_enabled(false);
    rig.kick(Queue::Put);
    assert!(rig.used(Queue::Put).is_empty());
    rig.ring(Queue::Put).set_enabled(true);
    rig.ring(Queue::Put).set_queue_ready(false);
    rig.device.stop_vring(4).unwrap();
    rig.kick(Queue::Put);
    assert!(rig.used(Queue::Put).is_empty());
    rig.ring(Queue::Put).set_queue_ready(true);
    rig.kick(Queue::Put);
    assert_eq!(rig.used(Queue::Put), [(u32::from(head), 9)]);
}

#[test]
fn an_ending_device_refuses_puts_and_serves_gets() {
    let mut rig = Rig::ready();
    rig.fill(0, 5);
    rig.run(op::PUT, 3, 1, 1);
    rig.device.set_ending();
    assert_eq!(rig.run(op::PUT, 3, 1, 2).1, status::SHUTTING_DOWN);
    assert_eq!(rig.run(op::GET, 3, 1, 0).3, [result::OK]);
    let flush = rig.request(&header(op::FLUSH, 3, 1, 3), &[], &[]);
    assert_eq!((flush.1, flush.2), (status::OK, 1));
}
