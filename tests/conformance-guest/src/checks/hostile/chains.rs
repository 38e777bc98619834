// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Chains that loop, lie, or lead out of memory.

use super::{Fate, Victim, nowhere, offer};
use crate::bench::{Bench, Handle, UNTOUCHED, UNTOUCHED_BYTE};
use crate::checks::{Check, Kind};
use crate::ring::{Descriptor, NEXT, WRITE};
use crate::why::{Result, ensure};
use crate::wire::{RequestHeader, ResponseHeader, op, put_queue, result, status};

pub(super) const CHECKS: &[Check] = &[
    Check {
        name: "addresses-outside-of-memory",
        kind: Kind::Hostile,
        run: addresses_outside_of_memory,
    },
    Check {
        name: "wrong-directions",
        kind: Kind::Hostile,
        run: wrong_directions,
    },
    Check {
        name: "chains-that-loop",
        kind: Kind::Hostile,
        run: chains_that_loop,
    },
    Check {
        name: "next-outside-of-the-table",
        kind: Kind::Hostile,
        run: next_outside_of_the_table,
    },
    Check {
        name: "lengths-of-nothing-and-everything",
        kind: Kind::Hostile,
        run: lengths_of_nothing_and_everything,
    },
    Check {
        name: "overlapping-buffers",
        kind: Kind::Hostile,
        run: overlapping_buffers,
    },
    Check {
        name: "one-chain-offered-twice",
        kind: Kind::Hostile,
        run: one_chain_offered_twice,
    },
    Check {
        name: "random-descriptors",
        kind: Kind::Hostile,
        run: random_descriptors,
    },
];

/// Bytes of an answer with one result.
const ANSWER: u32 = 9;
const _: () = assert!(ANSWER as usize == ResponseHeader::SIZE + 1);

fn addresses_outside_of_memory(bench: &mut Bench) -> Result {
    let at = Handle::dense(bench.swap_area(64)?);
    bench.store(at, 1, 1)?;
    for wrong in nowhere(bench) {
        for part in 0..3 {
            for is_put in [true, false] {
                let mut victim = if is_put {
                    Victim::put(bench, at, 0)
                } else {
                    Victim::get(bench, at, 1)
                };
                victim.descriptors[part].address = wrong;
                let fate = victim.offer(bench)?;
                let is_answer = victim.pieces[part] == victim.answer;
                let is_header = part == 0;
                let allowed = match fate {
                    Fate::Stuck => true,
                    // Nowhere to answer to.
                    Fate::Used(bytes, _) if is_answer => bytes == 0,
                    Fate::Used(bytes, code) if is_header => (bytes, code) == (8, status::INVALID),
                    // The page alone is lost: its result says so.
                    Fate::Used(bytes, code) => {
                        (bytes, code) == (ANSWER, status::OK)
                            && victim.answer.read::<u8>(8) == result::IO_ERROR
                    }
                };
                ensure!(
                    allowed,
                    "descriptor {part} of a {} at {wrong:#x}: {fate:?}",
                    if is_put { "PUT" } else { "GET" }
                );
            }
        }
    }
    Ok(())
}

fn wrong_directions(bench: &mut Bench) -> Result {
    let at = Handle::dense(bench.swap_area(64)?);
    bench.store(at, 1, 1)?;
    for part in 0..3 {
        for is_put in [true, false] {
            let mut victim = if is_put {
                Victim::put(bench, at, 0)
            } else {
                Victim::get(bench, at, 1)
            };
            victim.descriptors[part].flags ^= WRITE;
            let turned = victim.pieces[part];
            let before = turned.read::<u64>(0);
            let fate = victim.offer(bench)?;
            if let Fate::Used(bytes, code) = fate {
                ensure!(
                    bytes <= 8 && code != status::OK,
                    "descriptor {part} turned: {fate:?}"
                );
            }
            let readable = victim.descriptors[part].flags & WRITE == 0;
            ensure!(
                !readable || turned == victim.answer || turned.read::<u64>(0) == before,
                "descriptor {part}, made readable, was written"
            );
            ensure!(
                !readable || turned != victim.answer || turned.read::<u8>(0) == UNTOUCHED_BYTE,
                "an answer that is readable was written"
            );
        }
    }
    Ok(())
}

fn chains_that_loop(bench: &mut Bench) -> Result {
    let at = Handle::dense(bench.swap_area(64)?);
    for (from, to) in [(0, 0), (1, 1), (1, 0), (2, 0), (2, 1), (2, 2)] {
        let mut victim = Victim::put(bench, at, 0);
        victim.descriptors[from] = victim.descriptors[from].then(to);
        let fate = victim.offer(bench)?;
        ensure!(
            matches!(fate, Fate::Stuck | Fate::Used(0, UNTOUCHED_BYTE)),
            "descriptor {from} followed by {to}: {fate:?}"
        );
    }
    Ok(())
}

fn next_outside_of_the_table(bench: &mut Bench) -> Result {
    let at = Handle::dense(bench.swap_area(64)?);
    for next in [256, 257, 1024, 0x8000, u16::MAX] {
        let mut victim = Victim::put(bench, at, 0);
        victim.descriptors[1].next = next;
        let fate = victim.offer(bench)?;
        ensure!(
            matches!(fate, Fate::Stuck | Fate::Used(0, UNTOUCHED_BYTE)),
            "next {next}: {fate:?}"
        );
    }
    Ok(())
}

fn lengths_of_nothing_and_everything(bench: &mut Bench) -> Result {
    let at = Handle::dense(bench.swap_area(64)?);
    bench.store(at, 1, 1)?;
    for length in [0, 1, 1 << 20, 1 << 31, 0xffff_f000, u32::MAX] {
        for part in 0..3 {
            for is_put in [true, false] {
                let mut victim = if is_put {
                    Victim::put(bench, at, 0)
                } else {
                    Victim::get(bench, at, 1)
                };
                victim.descriptors[part].length = length;
                let guard = bench.areas.get.page(1);
                guard.fill(UNTOUCHED);
                let fate = victim.offer(bench)?;
                if let Fate::Used(bytes, code) = fate {
                    // A PUT may have more room for its answer than it needs.
                    let fine = is_put && part == 2 && length > ANSWER && bytes == ANSWER;
                    ensure!(
                        bytes <= 8 && code != status::OK || fine,
                        "descriptor {part} of {length} bytes: {fate:?}"
                    );
                }
                ensure!(
                    guard.is_filled(UNTOUCHED),
                    "descriptor {part} of {length} bytes: written beyond the page"
                );
            }
        }
    }
    // Chains of nothing.
    for flags in [0, WRITE] {
        let queue = put_queue(0);
        let empty = Descriptor {
            flags,
            ..Descriptor::default()
        };
        empty.write(bench.ring(queue).descriptors, 0);
        let answer = bench.reply(0).part(0, 8);
        let fate = offer(bench, queue, 0, answer)?;
        ensure!(
            matches!(fate, Fate::Stuck | Fate::Used(0, _)),
            "an empty descriptor: {fate:?}"
        );
    }
    Ok(())
}

/// Buffers may share memory: that spoils their contents and nothing else.
fn overlapping_buffers(bench: &mut Bench) -> Result {
    let at = Handle::dense(bench.swap_area(64)?);
    bench.store(at, 1, 1)?;
    for (first, second) in [(0, 1), (0, 2), (1, 2)] {
        for is_put in [true, false] {
            let mut victim = if is_put {
                Victim::put(bench, at, 0)
            } else {
                Victim::get(bench, at, 1)
            };
            victim.descriptors[second].address = victim.descriptors[first].address;
            victim.offer(bench)?;
        }
    }
    // Into the rings themselves: the queue's own descriptors, as a page to be got.
    let mut victim = Victim::get(bench, at, 1);
    victim.descriptors[2].address = bench.ring(victim.queue).descriptors.address();
    victim.offer(bench)?;
    Ok(())
}

fn one_chain_offered_twice(bench: &mut Bench) -> Result {
    let at = Handle::dense(bench.swap_area(64)?);
    let stamp = bench.store(at, 1, 1)?;
    let victim = Victim::get(bench, at, 1);
    let transport = bench.transport;
    let ring = bench.ring(victim.queue);
    for (nth, descriptor) in (0..).zip(victim.descriptors) {
        descriptor.write(ring.descriptors, nth);
    }
    for _ in 0..100 {
        ring.enter(0);
    }
    ring.publish(transport);
    // Every offer is an offer; all are answered, unless the queue stands still.
    let mut used = 0;
    while used < 100
        && bench
            .ring(victim.queue)
            .poll_until(crate::time::Deadline::short())
            .is_some()
    {
        used += 1;
    }
    if used == 100 {
        bench.check_get_stage(1, stamp)?;
    }
    Ok(())
}

fn random_descriptors(bench: &mut Bench) -> Result {
    let at = Handle::dense(bench.swap_area(64)?);
    let end = bench.memory_end;
    for round in 0..200 {
        let mut header = RequestHeader {
            flags: bench.random.pick(&[0, 0, 1, 2, 4]),
            ticket: bench.next_ticket(),
            ..at.header(
                bench.random.pick(&[op::PUT, op::GET, op::FLUSH, 0, 9]),
                0,
                1,
            )
        };
        header.pages = bench.random.below(4);
        header.index = bench.random.below(70);
        let queue = bench.random.pick(&[3, 4]);
        let (question, reply) = (bench.question(0), bench.reply(0).part(0, 64));
        question.put(0, &header.to_bytes());
        let page = bench.areas.get.page(0);
        for nth in 0..8 {
            let descriptor = Descriptor {
                address: match bench.random.below(6) {
                    0 => question.address(),
                    1 => reply.address(),
                    2 | 3 => page.address(),
                    4 => end - u64::from(bench.random.below(8192)),
                    _ => bench.random.next() | 1 << 40,
                },
                length: bench
                    .random
                    .pick(&[0, 1, 8, 9, 48, 49, 4096, 8192, 0xffff_ffff]),
                flags: bench
                    .random
                    .pick(&[0, NEXT, NEXT, NEXT, NEXT | WRITE, WRITE, 5, 4, 0xffff]),
                next: bench.random.pick(&[1, 2, 3, 4, 5, 6, 7, 300]),
            };
            // What the device might be made to write lies in pages of this check's alone.
            let safe = descriptor.length <= 8192;
            let descriptor = if safe {
                descriptor
            } else {
                Descriptor {
                    address: bench.random.next() | 1 << 40,
                    ..descriptor
                }
            };
            descriptor.write(bench.ring(queue).descriptors, nth);
        }
        let fate = offer(bench, queue, 0, reply)?;
        if let Fate::Used(bytes, _) = fate {
            ensure!(bytes <= 8 * 8192, "round {round}: {fate:?}");
        }
    }
    Ok(())
}
