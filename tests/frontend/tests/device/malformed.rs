// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A guest that breaks every rule of the ring and of the requests harms itself at most.
//!
//! After each wrong thing a second guest works, and where the ring was not destroyed the first one
//! does too, on the same queue.

use std::time::Duration;

use tmem_abi::{RequestHeader, ResponseHeader, op, status};
use tmem_frontend::{Options, Queue, RawDescriptor, Request, Segment, flags, pages_at};

use crate::guest::{Guest, POOL, POOL_PAGES};
use crate::host::{Host, Settings};

const NEXT: u16 = flags::NEXT;
const WRITE: u16 = flags::WRITE;
const INDIRECT: u16 = flags::INDIRECT;
/// Bytes of a header and of a response with one result.
const HEADER: u32 = 48;
const ANSWER: u32 = 9;

/// Two guests on one host, and buffers for raw chains of the first.
struct Arena {
    host: Host,
    broken: Guest,
    bystander: Guest,
    header: u64,
    answer: u64,
    table: u64,
}

impl Arena {
    fn new() -> Self {
        let host = Host::start(&Settings {
            guests: 2,
            ..Settings::default()
        });
        let mut broken = Guest::join(&host.socket(0), Options::default());
        let bystander = Guest::join(&host.socket(1), Options::default());
        let memory = std::sync::Arc::clone(&broken.memory);
        let [header, answer, table] = [4096, 4096, 8192].map(|n| memory.allocate(n, 64).unwrap());
        broken.put_ok(0, &[1]);
        Self {
            host,
            broken,
            bystander,
            header,
            answer,
            table,
        }
    }

    /// Writes the header of a request.
    fn write_header(&self, header: &RequestHeader) {
        self.broken
            .memory
            .write(self.header, &header.to_bytes())
            .unwrap();
        self.broken.memory.write(self.answer, &[0xee; 64]).unwrap();
    }

    /// A put of page 3 from the put stage, well-formed until someone breaks it.
    fn put_header(&self) -> RequestHeader {
        let ticket = self.broken.driver.ticket();
        RequestHeader {
            op: op::PUT,
            pool: POOL,
            index: 3,
            pages: 1,
            ticket,
            ..Default::default()
        }
    }

    /// The well-formed chain for [`Self::put_header`].
    fn put_chain(&self) -> Vec<RawDescriptor> {
        chain(&[
            Segment::readable(self.header, HEADER),
            Segment::readable(self.broken.put_stage, 4096),
            Segment::writable(self.answer, ANSWER),
        ])
    }

    fn put_queue(&mut self) -> &mut Queue {
        self.broken.driver.pair(0).put.queue()
    }

    /// Places raw descriptors, with `next` counted within the chain, makes the first available, and
    /// returns what the device said: the used length and the status byte.
    fn offer(&mut self, descriptors: &[RawDescriptor]) -> (u32, u8) {
        let answer = self.answer;
        let ring = self.put_queue().ring();
        let places = ring.raw_reserve(descriptors.len()).unwrap();
        for (at, descriptor) in descriptors.iter().enumerate() {
            let mut placed = *descriptor;
            placed.next = places
                .get(usize::from(placed.next))
                .copied()
                .unwrap_or(placed.next);
            ring.raw_descriptor(places[at], placed);
        }
        ring.raw_available(places[0]);
        self.put_queue().notify().unwrap();
        let used = self.put_queue().wait_used().unwrap();
        assert_eq!(used.head, places[0]);
        let mut status = [0];
        self.broken.memory.read(answer, &mut status).unwrap();
        (used.length, status[0])
    }

    /// Neither guest has come to harm: page 3 was never stored, and both still work.
    fn check(&mut self, what: &str) {
        println!("{what}");
        self.broken.assert_missing(3, 1);
        self.broken.assert_pages(0, &[1]);
        self.broken.assert_works(0);
        self.broken.assert_works(1);
        self.bystander.assert_works(0);
    }
}

/// Descriptors of a well-formed chain.
fn chain(segments: &[Segment]) -> Vec<RawDescriptor> {
    (0..)
        .zip(segments)
        .map(|(at, segment)| {
            let last = usize::from(at) + 1 == segments.len();
            RawDescriptor {
                address: segment.address,
                length: segment.length,
                flags: if segment.writable { WRITE } else { 0 } | if last { 0 } else { NEXT },
                next: if last { 0 } else { at + 1 },
            }
        })
        .collect()
}

#[test]
fn the_chain_that_the_others_break_is_well_formed() {
    let mut arena = Arena::new();
    arena.broken.stage(&[33]);
    arena.write_header(&arena.put_header());
    assert_eq!(arena.offer(&arena.put_chain()), (ANSWER, status::OK));
    arena.broken.assert_pages(3, &[33]);
}

#[test]
fn addresses_outside_of_memory_cost_the_request() {
    let mut arena = Arena::new();
    let end = arena.broken.memory.end();
    for wrong in [end, end - 8, u64::MAX, u64::MAX - 4095, 1 << 63] {
        for part in 0..3 {
            arena.write_header(&arena.put_header());
            let mut descriptors = arena.put_chain();
            descriptors[part].address = wrong;
            let (used, status) = arena.offer(&descriptors);
            match part {
                0 => assert_eq!((used, status), (8, status::INVALID)),
                // A page buffer that is not there is a result of that page.
                1 => assert_eq!((used, status), (ANSWER, status::OK)),
                _ => assert_eq!((used, status), (0, 0xee)),
            }
            if part == 2 {
                // Whether the page was stored before the answer failed is not told; forget it.
                arena.broken.flush(3, 1);
            }
            arena.check(&format!("part {part} at {wrong:#x}"));
        }
    }
}

#[test]
fn chains_that_loop_end() {
    let mut arena = Arena::new();
    arena.write_header(&arena.put_header());
    let mut itself = arena.put_chain();
    itself[1].next = 1;
    assert_eq!(arena.offer(&itself), (0, 0xee));
    let mut back = arena.put_chain();
    back[2].flags |= NEXT;
    back[2].next = 0;
    assert_eq!(arena.offer(&back), (0, 0xee));
    arena.check("loops");
}

#[test]
fn a_next_index_outside_of_the_table_is_not_followed() {
    let mut arena = Arena::new();
    for next in [256, 257, u16::MAX] {
        arena.write_header(&arena.put_header());
        let mut descriptors = arena.put_chain();
        descriptors[1].next = next;
        assert_eq!(arena.offer(&descriptors), (0, 0xee));
        arena.check(&format!("next {next}"));
    }
}

#[test]
fn wrong_directions_are_refused() {
    let mut arena = Arena::new();
    for (what, part, flips) in [
        ("readable answer", 2, WRITE),
        ("writable page", 1, WRITE),
        ("writable header", 0, WRITE),
    ] {
        arena.write_header(&arena.put_header());
        let mut descriptors = arena.put_chain();
        descriptors[part].flags ^= flips;
        let (used, _) = arena.offer(&descriptors);
        assert!(used <= 8, "{what}: {used} bytes");
        arena.check(what);
    }
}

#[test]
fn chains_that_are_too_short_are_refused() {
    let mut arena = Arena::new();
    let segments = |arena: &Arena, header, page, answer| {
        chain(&[
            Segment::readable(arena.header, header),
            Segment::readable(arena.broken.put_stage, page),
            Segment::writable(arena.answer, answer),
        ])
    };
    for (header, page, answer) in [
        (HEADER - 1, 4096, ANSWER),
        (HEADER, 4095, ANSWER),
        (HEADER, 4096, ANSWER - 1),
        (HEADER, 4096, 7),
        (HEADER, 4096, 0),
        (HEADER, 0, ANSWER),
        (0, 4096, ANSWER),
        (HEADER, 8192, ANSWER),
        (u32::MAX, 4096, ANSWER),
        (HEADER, u32::MAX, ANSWER),
        (HEADER, 0xffff_f000, ANSWER),
    ] {
        arena.write_header(&arena.put_header());
        let (used, status) = arena.offer(&segments(&arena, header, page, answer));
        if header == 0 {
            // The first bytes of the page are taken for the header, and make no sense.
            assert_eq!(used, 8);
            assert!(
                [status::INVALID, status::UNSUPPORTED].contains(&status),
                "status {status}"
            );
        } else if u32::MAX == header.max(page) {
            // Longer than 4 GiB altogether; a ring walker may stop there.
            assert!([(0, 0xee), (8, status::INVALID)].contains(&(used, status)), "{used} {status}");
        } else if answer < 8 {
            assert_eq!((used, status), (0, 0xee), "no room for a response");
        } else {
            assert_eq!(
                (used, status),
                (8, status::INVALID),
                "{header} {page} {answer}"
            );
        }
        arena.check(&format!(
            "{header} + {page} bytes to read, {answer} to write"
        ));
    }
    // A header alone, an answer alone, and nothing but an empty descriptor.
    for descriptors in [
        chain(&[Segment::readable(arena.header, HEADER)]),
        chain(&[Segment::writable(arena.answer, ANSWER)]),
        chain(&[Segment::readable(arena.header, 0)]),
    ] {
        arena.write_header(&arena.put_header());
        let (used, _) = arena.offer(&descriptors);
        assert!(used <= 8);
        arena.check("a single descriptor");
    }
}

#[test]
fn a_huge_writable_length_is_bounded_by_what_was_asked() {
    let mut arena = Arena::new();
    arena.write_header(&arena.put_header());
    let mut descriptors = arena.put_chain();
    descriptors[2].length = u32::MAX;
    let (used, status) = arena.offer(&descriptors);
    assert!(used <= ANSWER, "{used} bytes");
    if status == status::OK {
        arena.broken.flush(3, 1);
    }
    arena.check("a huge answer");
}

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
fn indirect_tables_that_break_the_rules_are_refused() {
    let mut arena = Arena::new();
    let write_table = |arena: &Arena, descriptors: &[RawDescriptor]| {
        for (at, descriptor) in (0_u64..).zip(descriptors) {
            arena
                .broken
                .memory
                .write(arena.table + at * 16, &descriptor.to_bytes())
                .unwrap();
        }
    };
    let table = arena.table;
    let indirect = |address, length| RawDescriptor {
        address,
        length,
        flags: INDIRECT,
        next: 0,
    };
    // An indirect table inside an indirect table.
    arena.write_header(&arena.put_header());
    let mut inner = arena.put_chain();
    inner[1] = RawDescriptor {
        next: 2,
        flags: INDIRECT | NEXT,
        ..indirect(table, 48)
    };
    write_table(&arena, &inner);
    assert_eq!(arena.offer(&[indirect(table, 48)]), (0, 0xee));
    arena.check("indirect in indirect");
    // A loop inside a table, and a next beyond it.
    for next in [0, 1, 3, 100, u16::MAX] {
        arena.write_header(&arena.put_header());
        let mut inner = arena.put_chain();
        inner[1].next = next;
        write_table(&arena, &inner);
        assert_eq!(
            arena.offer(&[indirect(table, 48)]),
            (0, 0xee),
            "next {next}"
        );
        arena.check(&format!("indirect with next {next}"));
    }
    // Tables of a wrong length, or nowhere.
    write_table(&arena, &arena.put_chain());
    let end = arena.broken.memory.end();
    for (address, length) in [
        (table, 0),
        (table, 15),
        (table, 47),
        (table, u32::MAX),
        (table, 1 << 20),
        (end, 48),
        (end - 16, 48),
        (u64::MAX - 15, 48),
    ] {
        arena.write_header(&arena.put_header());
        let (used, _) = arena.offer(&[indirect(address, length)]);
        // A table that is longer than its chain is no mistake.
        if used > 8 {
            arena.broken.flush(3, 1);
        }
        arena.check(&format!("a table of {length} bytes at {address:#x}"));
    }
    // INDIRECT and NEXT together.
    arena.write_header(&arena.put_header());
    let mut both = [indirect(table, 48), arena.put_chain()[2]];
    both[0].flags |= NEXT;
    both[0].next = 1;
    let (used, _) = arena.offer(&both);
    if used > 8 {
        arena.broken.flush(3, 1);
    }
    arena.check("indirect with next");
}

#[test]
fn control_requests_that_make_no_sense_are_refused() {
    let mut arena = Arena::new();
    let good = tmem_abi::ControlRequest {
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
        refused(
            &mut arena,
            "op",
            &tmem_abi::ControlRequest { op, ..good }.to_bytes(),
        );
    }
    for kind in [0, 3, u16::MAX] {
        refused(
            &mut arena,
            "kind",
            &tmem_abi::ControlRequest { kind, ..good }.to_bytes(),
        );
    }
    for layout in [0, 3, u16::MAX] {
        refused(
            &mut arena,
            "layout",
            &tmem_abi::ControlRequest { layout, ..good }.to_bytes(),
        );
    }
    let empty = tmem_abi::ControlRequest {
        object_pages: 0,
        ..good
    };
    refused(&mut arena, "no pages", &empty.to_bytes());
    let epoch = tmem_abi::ControlRequest {
        epoch_low: 1,
        ..good
    };
    refused(&mut arena, "an epoch where none belongs", &epoch.to_bytes());
    let sparse = tmem_abi::ControlRequest { layout: 2, ..good };
    refused(&mut arena, "pages of a sparse pool", &sparse.to_bytes());
    refused(&mut arena, "short", &good.to_bytes()[..39]);
    arena.broken.driver.control(&good).unwrap();
    arena.check("a good one at last");
}

/// Breaks the ring itself, then shows that the other queue pair, the other guest, and the same
/// guest after a reconnect all work.
fn after_a_broken_ring(mut break_it: impl FnMut(&mut Arena)) {
    let mut arena = Arena::new();
    break_it(&mut arena);
    arena.bystander.assert_works(0);
    arena.broken.assert_works(1);
    let Arena {
        host,
        broken,
        mut bystander,
        ..
    } = arena;
    drop(broken);
    let mut again = Guest::join(&host.socket(0), Options::default());
    again.assert_pages(0, &[1]);
    again.assert_works(0);
    bystander.assert_works(1);
}

#[test]
fn an_available_index_that_jumps_breaks_that_queue_at_most() {
    for jump in [257, 1000, 0x8000, u16::MAX] {
        after_a_broken_ring(|arena| {
            let queue = arena.put_queue();
            let index = queue.ring().next_available();
            queue.ring().raw_available_index(index.wrapping_add(jump));
            queue.kick().unwrap();
        });
    }
}

#[test]
fn a_head_outside_of_the_table_breaks_that_queue_at_most() {
    for head in [256, 4096, u16::MAX] {
        after_a_broken_ring(|arena| {
            let queue = arena.put_queue();
            queue.ring().raw_available(head);
            queue.notify().unwrap();
            queue.kick().unwrap();
        });
    }
}

#[test]
fn the_same_head_twice_is_served_or_refused_but_no_more() {
    after_a_broken_ring(|arena| {
        arena.write_header(&arena.put_header());
        let chain = arena.put_chain();
        let ring = arena.put_queue().ring();
        let places = ring.raw_reserve(chain.len()).unwrap();
        for (at, descriptor) in chain.iter().enumerate() {
            let next = places
                .get(usize::from(descriptor.next))
                .copied()
                .unwrap_or(0);
            ring.raw_descriptor(
                places[at],
                RawDescriptor {
                    next,
                    ..*descriptor
                },
            );
        }
        for _ in 0..5 {
            ring.raw_available(places[0]);
        }
        let queue = arena.put_queue();
        queue.notify().unwrap();
        queue.wait_used().unwrap();
    });
}

#[test]
fn a_used_index_written_by_the_guest_harms_nobody_else() {
    for jump in [1, 100, 0x8000] {
        after_a_broken_ring(|arena| {
            let queue = arena.put_queue();
            let index = queue.ring().next_used();
            queue.ring().raw_used_index(index.wrapping_add(jump));
            queue.kick().unwrap();
            // The device may overwrite it with its own count at the next request.
            queue.set_limit(Duration::from_millis(200));
        });
    }
}

#[test]
fn a_storm_of_kicks_without_requests_is_harmless() {
    let mut arena = Arena::new();
    for _ in 0..10_000 {
        arena.put_queue().kick().unwrap();
    }
    arena.check("kicks");
}

#[test]
fn chains_on_the_event_queue_that_are_wrong_are_used_or_left() {
    let mut arena = Arena::new();
    let memory_end = arena.broken.memory.end();
    let segments = [
        Segment::readable(arena.header, 16),
        Segment::writable(arena.answer, 0),
        Segment::writable(arena.answer, 8),
        Segment::writable(memory_end, 16),
        Segment::writable(u64::MAX - 8, 16),
    ];
    for segment in segments {
        arena
            .broken
            .driver
            .event_queue()
            .ring()
            .add(&[segment], false)
            .unwrap();
        arena.broken.driver.event_queue().notify().unwrap();
        // Every HELLO makes an event, which the device must try to deliver.
        arena.broken.driver.hello(crate::guest::EPOCH).unwrap();
        arena.check(&format!("{segment:?} for an event"));
    }
}

#[test]
fn random_bytes_in_rings_are_survived() {
    let mut random = tmem_frontend::Random::new(tmem_frontend::seed("random_bytes_in_rings"));
    let mut arena = Arena::new();
    for round in 0..40 {
        let mut header = arena.put_header();
        header.op = u8::try_from(random.below(7)).unwrap();
        header.flags = u8::try_from(random.below(5)).unwrap();
        header.pages = random.below(4);
        header.index = POOL_PAGES / 2 + random.below(100);
        arena.write_header(&header);
        let length = 1 + random.below(6) as usize;
        let descriptors: Vec<RawDescriptor> = (0..length)
            .map(|_| RawDescriptor {
                address: match random.below(4) {
                    0 => arena.header,
                    1 => arena.answer,
                    2 => arena.table,
                    _ => random.next_u64(),
                },
                length: random.below(5000),
                flags: u16::try_from(random.below(8)).unwrap(),
                next: u16::try_from(random.below(7)).unwrap(),
            })
            .collect();
        let room: u64 = descriptors.iter().map(|d| u64::from(d.length)).sum();
        let (used, _) = arena.offer(&descriptors);
        assert!(
            u64::from(used) <= room.max(ResponseHeader::SIZE as u64),
            "round {round}"
        );
        arena.bystander.assert_works(0);
        arena.broken.assert_works(1);
    }
}
