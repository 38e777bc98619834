// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The balloon queue and the report queue, with chains as a guest may write them.

use tmem_abi::{
    BalloonRange, BalloonRequest, BalloonResponse, BalloonStats, balloon, balloon_result, event,
    status,
};
use tmem_admin_api::{Op, RequestStatus};
use vhost_user_backend::VhostUserBackend;
use vm_memory::{Bytes, GuestAddress, GuestMemoryAtomic};

use super::{DATA, MEMORY, Queue, Rig, readable, writable};
use crate::device::request::Malformed;

const OK: u8 = balloon_result::OK;
const FIRST: u64 = DATA / 4096;

fn range(first: u64, pages: u32) -> BalloonRange {
    BalloonRange { first, pages }
}

/// A rig whose guest is to keep all but `pages` pages.
fn rig(pages: u64) -> Rig {
    let rig = Rig::ready();
    let memory = GuestMemoryAtomic::new(rig.mem.clone());
    rig.device.update_memory(memory).unwrap();
    let keep = MEMORY / 4096 - pages;
    rig.station
        .balloon
        .set(|setting| setting.size_pages = Some(keep));
    rig
}

/// The bytes of a request.
fn request(op: u32, ranges: &[BalloonRange]) -> Vec<u8> {
    let count = u32::try_from(ranges.len()).unwrap();
    let mut bytes = BalloonRequest { op, ranges: count }.to_bytes().to_vec();
    bytes.extend(ranges.iter().flat_map(BalloonRange::to_bytes));
    bytes
}

/// Sends bytes with room for `results`. Returns the answer and the results, or nothing if there was none.
fn send(
    rig: &mut Rig,
    queue: Queue,
    bytes: &[u8],
    results: u32,
) -> Option<(BalloonResponse, Vec<u8>)> {
    let asked = rig.room(bytes);
    let answer = rig.room(&[0xee; 300]);
    let length = u32::try_from(bytes.len()).unwrap();
    let pieces = [readable(asked, length), writable(answer, 16 + results)];
    let used = rig.send(queue, &pieces);
    let head = rig.bytes(answer, 16).try_into().unwrap();
    let results = rig.bytes(answer + 16, (used as usize).saturating_sub(16));
    (used != 0).then(|| (BalloonResponse::from_bytes(&head), results))
}

fn inflate(rig: &mut Rig, ranges: &[BalloonRange]) -> (u64, Vec<u8>) {
    let room = u32::try_from(ranges.len()).unwrap();
    let bytes = request(balloon::INFLATE, ranges);
    let (answer, results) = send(rig, Queue::Balloon, &bytes, room).unwrap();
    assert_eq!(answer.status, status::OK);
    (answer.pages, results)
}

fn held(rig: &Rig) -> u64 {
    rig.station.balloon.show("vm0", true).held_pages
}

#[test]
fn pages_that_the_driver_lets_go_read_as_zeroes_and_are_held() {
    let mut rig = rig(16);
    rig.mem
        .write_slice(&[7; 4 * 4096], GuestAddress(DATA))
        .unwrap();
    let (pages, results) = inflate(&mut rig, &[range(FIRST, 1), range(FIRST + 2, 2)]);
    assert_eq!((pages, results), (3, vec![OK; 2]));
    let first = |page: u64| rig.bytes(DATA + page * 4096, 1)[0];
    assert_eq!([first(0), first(1), first(2), first(3)], [0, 7, 0, 0]);
    assert_eq!(held(&rig), 3);
    let bytes = request(balloon::DEFLATE, &[range(FIRST + 2, 2)]);
    let (answer, _) = send(&mut rig, Queue::Balloon, &bytes, 0).unwrap();
    assert_eq!((answer.status, answer.pages), (status::OK, 2));
    assert_eq!(held(&rig), 1);
    let asked = &rig.stats().requests[&Op::BalloonInflate];
    assert_eq!(asked[&RequestStatus::Ok], 1);
}

#[test]
fn each_range_is_judged_by_itself() {
    let mut rig = rig(4);
    let end = MEMORY / 4096;
    let ranges = [
        range(FIRST, 3),
        range(end, 1),
        range(end - 1, 2),
        range(FIRST + 8, 4),
        range(0, u32::MAX),
        range(FIRST + 20, 1),
    ];
    let (pages, results) = inflate(&mut rig, &ranges);
    let (outside, over) = (balloon_result::OUTSIDE, balloon_result::OVER);
    // What is outside takes room until it is found to be.
    assert_eq!(results, [OK, outside, over, over, over, over]);
    assert_eq!((pages, held(&rig)), (3, 3));
}

#[test]
fn reports_free_pages_and_are_held_by_nobody() {
    let mut rig = rig(0);
    rig.mem
        .write_slice(&[7; 2 * 4096], GuestAddress(DATA))
        .unwrap();
    let bytes = request(balloon::REPORT, &[range(FIRST, 1), range(MEMORY / 4096, 1)]);
    let (answer, results) = send(&mut rig, Queue::Report, &bytes, 2).unwrap();
    assert_eq!(
        (answer.pages, results),
        (1, vec![OK, balloon_result::OUTSIDE])
    );
    assert_eq!(
        (rig.bytes(DATA, 1)[0], rig.bytes(DATA + 4096, 1)[0]),
        (0, 7)
    );
    assert_eq!(held(&rig), 0);
    let counts = rig.station.balloon.show("vm0", true).counts;
    assert_eq!((counts.reported_pages, counts.inflated_pages), (1, 0));
}

#[test]
fn malformed_requests_change_nothing_and_are_counted() {
    let mut rig = rig(16);
    rig.mem.write_slice(&[7; 4096], GuestAddress(DATA)).unwrap();
    let page = range(FIRST, 1);
    let good = request(balloon::INFLATE, &[page]);
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        bytes
    };
    let many = vec![page; 257];
    let invalid = status::INVALID;
    let mut long = good.clone();
    long.push(0);
    let mut stats = request(balloon::STATS, &[]);
    stats.extend([0; BalloonStats::SIZE - 1]);
    let cases = [
        (good[..31].to_vec(), invalid, Malformed::Length),
        (good[..16].to_vec(), invalid, Malformed::Length),
        (good[..7].to_vec(), invalid, Malformed::Length),
        (long, invalid, Malformed::Length),
        (stats, invalid, Malformed::Length),
        (with(15, 1), invalid, Malformed::Reserved),
        (with(31, 1), invalid, Malformed::Reserved),
        (with(4, 2), invalid, Malformed::Length),
        (request(balloon::INFLATE, &[]), invalid, Malformed::Pages),
        (
            request(balloon::DEFLATE, &[range(1, 0)]),
            invalid,
            Malformed::Pages,
        ),
        (
            request(balloon::DEFLATE, &[range(u64::MAX, 2)]),
            invalid,
            Malformed::Pages,
        ),
        (request(balloon::STATS, &[page]), invalid, Malformed::Pages),
        (request(balloon::INFLATE, &many), invalid, Malformed::Pages),
        (
            request(balloon::REPORT, &[page]),
            status::UNSUPPORTED,
            Malformed::Op,
        ),
        (request(0, &[page]), status::UNSUPPORTED, Malformed::Op),
        (
            request(u32::MAX, &[page]),
            status::UNSUPPORTED,
            Malformed::Op,
        ),
    ];
    for (bytes, wanted, kind) in cases {
        let before = rig.malformed(kind);
        let (answer, results) = send(&mut rig, Queue::Balloon, &bytes, 257).unwrap();
        assert_eq!((answer.status, answer.pages), (wanted, 0), "{bytes:?}");
        assert!(results.is_empty());
        assert_eq!(rig.malformed(kind), before + 1, "{bytes:?}");
    }
    let (answer, _) = send(&mut rig, Queue::Balloon, &good, 0).unwrap();
    assert_eq!(answer.status, status::INVALID, "no room for the result");
    let (answer, _) = send(&mut rig, Queue::Report, &good, 1).unwrap();
    assert_eq!(answer.status, status::UNSUPPORTED);
    assert_eq!(rig.bytes(DATA, 1), [7]);
    assert_eq!(held(&rig), 0);
}

#[test]
fn chains_that_cannot_be_answered_are_used_empty() {
    let mut rig = rig(16);
    let good = request(balloon::INFLATE, &[range(FIRST, 1)]);
    let at = rig.room(&good);
    for queue in [Queue::Balloon, Queue::Report] {
        assert_eq!(rig.send(queue, &[readable(at, 32)]), 0);
        assert_eq!(rig.send(queue, &[readable(at, 32), writable(DATA, 15)]), 0);
        assert_eq!(
            rig.send(queue, &[readable(at, 32), writable(MEMORY, 17)]),
            0
        );
    }
    // The request was carried out before its answer was found to have no place.
    assert_eq!(held(&rig), 1);
    let (answer, _) = send(&mut rig, Queue::Balloon, &good, 1).unwrap();
    assert_eq!((answer.status, held(&rig)), (status::OK, 2));
}

#[test]
fn before_hello_nothing_is_freed() {
    let mut rig = Rig::new();
    rig.mem.write_slice(&[7], GuestAddress(DATA)).unwrap();
    for (queue, op) in [
        (Queue::Balloon, balloon::INFLATE),
        (Queue::Report, balloon::REPORT),
    ] {
        let bytes = request(op, &[range(FIRST, 1)]);
        let (answer, _) = send(&mut rig, queue, &bytes, 1).unwrap();
        assert_eq!(answer.status, status::NOT_READY);
    }
    assert_eq!(rig.bytes(DATA, 1), [7]);
}

#[test]
fn after_hello_the_driver_is_told_its_target_and_an_interval() {
    let mut rig = rig(9);
    let mut told = Vec::new();
    while !rig.device.told() {
        let buffer = rig.room(&[0; 16]);
        assert_eq!(rig.send(Queue::Event, &[writable(buffer, 16)]), 16);
        let event = tmem_abi::Event::from_bytes(&rig.bytes(buffer, 16).try_into().unwrap());
        told.push((event.kind, event.value));
    }
    // Set by `rig` after the HELLO, in the place of what had waited since then.
    let wanted = [
        (event::GRANT, 512),
        (event::STATS, 1000),
        (event::BALLOON, 9),
    ];
    assert_eq!(told, wanted);
}

/// What a guest has in its balloon it may still name as a buffer: that costs nobody else anything.
#[test]
fn a_page_of_the_balloon_is_a_buffer_like_any_other() {
    let mut rig = rig(16);
    inflate(&mut rig, &[range(FIRST, 2)]);
    let bytes = rig.room(&super::header(tmem_abi::op::PUT, 0, 1, 1).to_bytes());
    let answer = rig.room(&[0xee; 16]);
    let put = [
        readable(bytes, 48),
        readable(DATA, 4096),
        writable(answer, 9),
    ];
    assert_eq!(rig.send(Queue::Put, &put), 9);
    assert_eq!(rig.bytes(answer + 8, 1), [tmem_abi::result::OK]);
    let bytes = rig.room(&super::header(tmem_abi::op::GET, 0, 1, 0).to_bytes());
    let get = [
        readable(bytes, 48),
        writable(answer, 9),
        writable(DATA + 4096, 4096),
    ];
    assert_eq!(rig.send(Queue::Get, &get), 9 + 4096);
}
