// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Chains that loop, lie, or lead out of memory.

use tmem_abi::{ResponseHeader, status};
use tmem_frontend::{RawDescriptor, Segment};

use super::{ANSWER, Arena, HEADER, INDIRECT, NEXT, WRITE, chain};
use crate::guest::POOL_PAGES;

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
            assert!(
                [(0, 0xee), (8, status::INVALID)].contains(&(used, status)),
                "{used} {status}"
            );
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
