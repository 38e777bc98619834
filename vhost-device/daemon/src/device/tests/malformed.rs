// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Everything that a driver can get wrong, and what it costs.

use tmem_abi::{RequestHeader, flag, op, result, status};

use super::*;

/// Sends a PUT's chain with `header`, `data` and `response` as they are. Returns the used length and
/// the status.
fn send(header: &RequestHeader, data: &[Piece], response_bytes: u32) -> (Rig, u32, u8) {
    let mut rig = Rig::ready();
    let request = rig.room(&header.to_bytes());
    let response = rig.room(&[0xee; 300]);
    let mut pieces = vec![readable(request, 48)];
    pieces.extend(data);
    pieces.push(writable(response, response_bytes));
    let used = rig.send(Queue::Put, &pieces);
    let status = rig.bytes(response, 1)[0];
    (rig, used, status)
}

/// The chain is answered with `wanted`, is counted as `kind`, and has touched nothing.
#[track_caller]
fn rejected(header: &RequestHeader, data: &[Piece], wanted: u8, kind: Malformed) {
    let (mut rig, used, status) = send(header, data, 300);
    assert_eq!((used, status), (8, wanted));
    assert_eq!(rig.malformed(kind), 1, "{:?}", rig.stats().malformed);
    let pool = rig.station.guest.pools()[0].stats();
    assert_eq!((pool.pages, pool.puts), (0, 0));
    still_works(&mut rig);
}

/// The queue serves the next request.
#[track_caller]
fn still_works(rig: &mut Rig) {
    let request = rig.room(&header(op::PUT, 0, 1, 1).to_bytes());
    let response = rig.room(&[0xee; 9]);
    let pieces = [
        readable(request, 48),
        readable(DATA, 4096),
        writable(response, 9),
    ];
    assert_eq!(rig.send(Queue::Put, &pieces), 9);
    assert_eq!(rig.bytes(response, 9)[8], result::OK);
}

/// The queue stands still until it is set up again; the pair's other queue is served.
#[track_caller]
fn broken(rig: &mut Rig, kind: Malformed) {
    rig.kick(Queue::Put);
    rig.kick(Queue::Put);
    assert!(rig.ring(Queue::Put).is_broken());
    assert_eq!(
        rig.malformed(kind),
        1,
        "counted once: {:?}",
        rig.stats().malformed
    );
    assert!(rig.used(Queue::Put).is_empty());
    let request = rig.room(&header(op::GET, 0, 1, 0).to_bytes());
    let response = rig.room(&[0xee; 9]);
    let pieces = [
        readable(request, 48),
        writable(response, 9),
        writable(DATA, 4096),
    ];
    assert_eq!(rig.send(Queue::Get, &pieces), 9);
    assert_eq!(rig.bytes(response, 9)[8], result::MISS);
}

const PAGE: [Piece; 1] = [Piece {
    addr: DATA,
    len: 4096,
    flags: 0,
}];

#[test]
fn an_unknown_operation_or_one_of_another_queue_is_unsupported() {
    for op in [0, op::GET, 6, 255] {
        rejected(
            &header(op, 0, 1, 1),
            &PAGE,
            status::UNSUPPORTED,
            Malformed::Op,
        );
    }
}

#[test]
fn an_unknown_flag_or_one_of_another_operation_is_unsupported() {
    for flags in [4, 0x80, flag::EXCLUSIVE] {
        let header = RequestHeader {
            flags,
            ..header(op::PUT, 0, 1, 1)
        };
        rejected(&header, &PAGE, status::UNSUPPORTED, Malformed::Flag);
    }
    let header = RequestHeader {
        flags: flag::LIST,
        ..header(op::FLUSH_POOL, 0, 0, 1)
    };
    rejected(&header, &[], status::UNSUPPORTED, Malformed::Flag);
}

#[test]
fn reserved_bytes_that_are_set_are_invalid() {
    for at in [2, 3] {
        let mut rig = Rig::ready();
        let mut bytes = header(op::PUT, 0, 1, 1).to_bytes();
        bytes[at] = 1;
        let request = rig.room(&bytes);
        let response = rig.room(&[0xee; 9]);
        let pieces = [readable(request, 48), PAGE[0], writable(response, 9)];
        assert_eq!(rig.send(Queue::Put, &pieces), 8);
        assert_eq!(rig.bytes(response, 1), [status::INVALID]);
        assert_eq!(rig.malformed(Malformed::Reserved), 1);
    }
}

#[test]
fn page_counts_out_of_range_are_invalid() {
    for (index, pages) in [(0, 0), (0, 257), (u32::MAX, 2), (0, u32::MAX)] {
        let header = header(op::PUT, index, pages, 1);
        rejected(&header, &PAGE, status::INVALID, Malformed::Pages);
    }
    let listed = |index, pages| RequestHeader {
        flags: flag::LIST,
        ..header(op::FLUSH, index, pages, 1)
    };
    rejected(&listed(1, 1), &[], status::INVALID, Malformed::Pages);
    rejected(&listed(0, 257), &[], status::INVALID, Malformed::Pages);
    rejected(
        &header(op::FLUSH_OBJECT, 1, 0, 1),
        &[],
        status::INVALID,
        Malformed::Pages,
    );
    rejected(
        &header(op::FLUSH_POOL, 0, 1, 1),
        &[],
        status::INVALID,
        Malformed::Pages,
    );
}

#[test]
fn tickets_out_of_range_are_invalid() {
    for ticket in [0, 1 << 52, u64::MAX] {
        let header = header(op::PUT, 0, 1, ticket);
        rejected(&header, &PAGE, status::INVALID, Malformed::Ticket);
    }
}

#[test]
fn lengths_that_do_not_add_up_are_invalid() {
    let header = header(op::PUT, 0, 2, 1);
    for data in [
        vec![],
        vec![readable(DATA, 4096)],
        vec![readable(DATA, 3 * 4096)],
        vec![readable(DATA, 0xffff_0000)],
        vec![readable(DATA, 8192), readable(DATA, 1)],
    ] {
        rejected(&header, &data, status::INVALID, Malformed::Length);
    }
    rejected(
        &super::header(op::FLUSH, 0, 1, 1),
        &PAGE,
        status::INVALID,
        Malformed::Length,
    );
}

#[test]
fn a_chain_of_more_bytes_than_any_may_have_is_silence() {
    let (mut rig, used, status) = send(&header(op::PUT, 0, 2, 1), &[readable(DATA, u32::MAX)], 10);
    assert_eq!((used, status), (0, 0xee));
    assert_eq!(rig.malformed(Malformed::Chain), 1);
    still_works(&mut rig);
}

#[test]
fn a_page_over_two_descriptors_is_invalid() {
    let header = header(op::PUT, 0, 2, 1);
    let data = [readable(DATA, 4097), readable(DATA + 4097, 4095)];
    rejected(&header, &data, status::INVALID, Malformed::Split);
}

#[test]
fn a_list_that_is_cut_short_is_invalid() {
    let header = RequestHeader {
        flags: flag::LIST,
        ..header(op::FLUSH, 0, 3, 1)
    };
    rejected(
        &header,
        &[readable(DATA, 11)],
        status::INVALID,
        Malformed::Length,
    );
}

#[test]
fn a_header_outside_guest_memory_or_too_short_is_invalid() {
    for (piece, kind) in [
        (readable(MEMORY - 8, 48), Malformed::Address),
        (readable(u64::MAX - 8, 48), Malformed::Address),
        (readable(DATA, 47), Malformed::Length),
    ] {
        let mut rig = Rig::ready();
        let response = rig.room(&[0xee; 9]);
        assert_eq!(rig.send(Queue::Put, &[piece, writable(response, 9)]), 8);
        assert_eq!(rig.bytes(response, 1), [status::INVALID]);
        assert_eq!(rig.malformed(kind), 1);
    }
}

#[test]
fn no_room_for_results_is_invalid_and_no_room_for_a_status_is_silence() {
    let (rig, used, status) = send(&header(op::PUT, 0, 1, 1), &PAGE, 8);
    assert_eq!((used, status), (8, status::INVALID));
    assert_eq!(rig.malformed(Malformed::Length), 1);
    let (mut rig, used, status) = send(&header(op::PUT, 0, 1, 1), &PAGE, 7);
    assert_eq!((used, status), (0, 0xee));
    assert_eq!(rig.malformed(Malformed::Response), 1);
    still_works(&mut rig);
}

#[test]
fn a_response_outside_guest_memory_is_silence() {
    let mut rig = Rig::ready();
    let request = rig.room(&header(op::PUT, 0, 1, 1).to_bytes());
    let pieces = [readable(request, 48), PAGE[0], writable(MEMORY, 9)];
    assert_eq!(rig.send(Queue::Put, &pieces), 0);
    assert_eq!(rig.malformed(Malformed::Address), 1);
    still_works(&mut rig);
}

#[test]
fn a_readable_descriptor_after_a_writable_one_is_silence() {
    let mut rig = Rig::ready();
    let request = rig.room(&header(op::PUT, 0, 1, 1).to_bytes());
    let pieces = [readable(request, 48), writable(request, 9), PAGE[0]];
    assert_eq!(rig.send(Queue::Put, &pieces), 0);
    assert_eq!(rig.malformed(Malformed::Order), 1);
    still_works(&mut rig);
}

#[test]
fn a_loop_ends_and_is_silence() {
    let mut rig = Rig::ready();
    for next in [0, 1] {
        rig.write_descriptor(Queue::Put.base(), 0, Descriptor::new(DATA, 48, NEXT, 1));
        rig.write_descriptor(Queue::Put.base(), 1, Descriptor::new(DATA, 48, NEXT, next));
        rig.offer(Queue::Put, 0);
        rig.kick(Queue::Put);
        assert_eq!(rig.used(Queue::Put), [(0, 0)]);
    }
    assert_eq!(rig.malformed(Malformed::Chain), 2);
    rig.next_descriptor = 0;
    still_works(&mut rig);
}

#[test]
fn a_chain_that_leaves_its_table_is_silence() {
    let mut rig = Rig::ready();
    let next = Descriptor::new(DATA, 48, NEXT, QUEUE);
    rig.write_descriptor(Queue::Put.base(), 0, next);
    rig.offer(Queue::Put, 0);
    rig.kick(Queue::Put);
    assert_eq!(rig.used(Queue::Put), [(0, 0)]);
    assert_eq!(rig.malformed(Malformed::Chain), 1);
    rig.next_descriptor = 0;
    still_works(&mut rig);
}

#[test]
fn bad_indirect_tables_are_silence() {
    let table = 0x18_0000;
    for (addr, len) in [
        (table, 0),
        (table, 17),
        (MEMORY, 16),
        (u64::MAX, 32),
        (table, 32),
    ] {
        let mut rig = Rig::ready();
        // A table in a table, too.
        rig.write_descriptor(table, 0, Descriptor::new(table, 32, INDIRECT, 0));
        let piece = Piece {
            addr,
            len,
            flags: INDIRECT,
        };
        assert_eq!(rig.send(Queue::Put, &[piece]), 0);
        assert_eq!(rig.malformed(Malformed::Chain), 1, "{addr:#x} {len}");
        still_works(&mut rig);
    }
}

#[test]
fn a_chain_without_end_in_a_large_table_is_cut_off() {
    let mut rig = Rig::ready();
    let table = DATA;
    for index in 0..2000 {
        rig.write_descriptor(table, index, Descriptor::new(DATA, 1, NEXT, index + 1));
    }
    let piece = Piece {
        addr: table,
        len: 2000 * 16,
        flags: INDIRECT,
    };
    assert_eq!(rig.send(Queue::Put, &[piece]), 0);
    assert_eq!(rig.malformed(Malformed::Long), 1);
    still_works(&mut rig);
}

#[test]
fn an_index_that_jumps_breaks_its_queue_alone() {
    let mut rig = Rig::ready();
    rig.set_available(Queue::Put, QUEUE + 1);
    broken(&mut rig, Malformed::AvailIndex);
}

#[test]
fn a_head_outside_the_table_breaks_its_queue_alone() {
    let mut rig = Rig::ready();
    rig.offer(Queue::Put, QUEUE);
    broken(&mut rig, Malformed::Head);
}

#[test]
fn what_came_before_a_bad_head_is_served() {
    let mut rig = Rig::ready();
    let request = rig.room(&header(op::PUT, 0, 1, 1).to_bytes());
    let response = rig.room(&[0xee; 9]);
    let pieces = [readable(request, 48), PAGE[0], writable(response, 9)];
    let head = rig.link(Queue::Put, &pieces);
    rig.offer(Queue::Put, head);
    rig.offer(Queue::Put, u16::MAX);
    rig.kick(Queue::Put);
    assert_eq!(rig.used(Queue::Put), [(u32::from(head), 9)]);
    assert!(rig.ring(Queue::Put).is_broken());
    assert_eq!(rig.malformed(Malformed::Head), 1);
}

#[test]
fn rings_outside_guest_memory_break_their_queue_alone() {
    for (desc, avail, used) in [
        (0x1000, MEMORY, 0x3000),
        (0x1000, u64::MAX - 1, 0x3000),
        (0x1000, 0, 0x3000),
    ] {
        let mut rig = Rig::ready();
        rig.ring(Queue::Put)
            .set_queue_info(desc, avail, used)
            .unwrap();
        broken(&mut rig, Malformed::RingAddress);
    }
    let mut rig = Rig::ready();
    let queue = Queue::Put;
    rig.ring(queue)
        .set_queue_info(queue.base(), queue.avail(), MEMORY)
        .unwrap();
    broken(&mut rig, Malformed::RingAddress);
}

#[test]
fn a_broken_queue_works_again_after_a_reset() {
    let mut rig = Rig::ready();
    rig.set_available(Queue::Put, QUEUE + 1);
    broken(&mut rig, Malformed::AvailIndex);
    rig.set_available(Queue::Put, 0);
    rig.ring(Queue::Put).set_queue_ready(false);
    rig.device.stop_vring(4).unwrap();
    rig.ring(Queue::Put).set_queue_next_avail(0);
    rig.ring(Queue::Put).set_queue_ready(true);
    still_works(&mut rig);
}
