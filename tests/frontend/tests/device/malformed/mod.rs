// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A guest that breaks every rule of the ring and of the requests harms itself at most.
//!
//! After each wrong thing a second guest works, and where the ring was not destroyed the first one
//! does too, on the same queue.

mod chains;
mod fields;
mod rings;

use tmem_abi::{RequestHeader, op, status};
use tmem_frontend::{Options, Queue, RawDescriptor, Segment, flags};

use crate::guest::{Guest, POOL};
use crate::host::{Host, Settings};

const NEXT: u16 = flags::NEXT;
const WRITE: u16 = flags::WRITE;
const INDIRECT: u16 = flags::INDIRECT;
/// Bytes of a header and of a response with one result.
const HEADER: u32 = 48;
const ANSWER: u32 = 9;

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
