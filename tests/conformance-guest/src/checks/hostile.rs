// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What no driver does. It may cost the request, or the queue; never another pool, another queue, or
//! the device once it has been reset.

mod chains;
mod control;
mod flight;
mod indirect;
mod kicks;
mod resets;
mod rings;

use super::Check;
use crate::bench::{Bench, Handle, PAIRS, UNTOUCHED, sparse};
use crate::memory::Region;
use crate::ring::Descriptor;
use crate::time::Deadline;
use crate::why::{Context, Result, ensure, same};
use crate::wire::{RequestHeader, ResponseHeader, get_queue, op, pool_kind, put_queue};

/// All hostile checks.
pub(super) const CHECKS: &[&[Check]] = &[
    chains::CHECKS,
    indirect::CHECKS,
    control::CHECKS,
    rings::CHECKS,
    flight::CHECKS,
    resets::CHECKS,
    kicks::CHECKS,
];

/// Pages of each pool that looks on.
const PAGES: u32 = 12;

/// Two pools that have nothing to do with what is done, and must not notice it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bystander {
    pools: [(Handle, u64); 2],
}

impl Bystander {
    /// Makes the pools and puts their pages.
    pub(super) fn new(bench: &mut Bench) -> Result<Self> {
        let swap = Handle::dense(bench.swap_area(64)?);
        let id = bench.next_pool();
        let file = Handle {
            pool: bench.create(&sparse(id, pool_kind::PERSISTENT))?,
            object: [3, 2, 1],
        };
        let pools = [
            (swap, bench.store(swap, 5, PAGES)?),
            (file, bench.store(file, 5, PAGES)?),
        ];
        Ok(Self { pools })
    }

    /// Resets the device and sets it up again; then everything must be as it was, and everything
    /// must work.
    pub(super) fn look(self, bench: &mut Bench) -> Result {
        bench.again().during(format_args!("afterwards"))?;
        for (at, stamp) in self.pools {
            bench
                .expect(at, 5, PAGES, stamp)
                .during(format_args!("afterwards, pool {}", at.pool))?;
            same!(
                bench.stat(at.pool)?.pages,
                u64::from(PAGES),
                "afterwards, pages of pool {}",
                at.pool
            );
            for pair in 0..PAIRS {
                bench
                    .serves(pair, at, 40)
                    .during(format_args!("afterwards, pair {pair}"))?;
            }
        }
        Ok(())
    }
}

/// What became of a bad chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It was used: with how many bytes, and with what in the place of the status.
    Used(u32, u8),
    /// The queue stands still.
    Stuck,
}

/// A PUT or GET of one page, piece by piece, to be spoilt.
#[derive(Clone, Copy, Debug)]
struct Victim {
    queue: u16,
    /// Header, page and answer in the order of the chain.
    pieces: [Region; 3],
    descriptors: [Descriptor; 3],
    answer: Region,
}

impl Victim {
    /// PUT of page `index`, of which nothing is expected afterwards.
    fn put(bench: &mut Bench, at: Handle, index: u32) -> Self {
        let header = RequestHeader {
            ticket: bench.next_ticket(),
            ..at.header(op::PUT, index, 1)
        };
        let stamp = bench.next_stamps(1);
        bench.fill_put_stage(1, stamp);
        let (question, answer) = Self::regions(bench, &header);
        let page = bench.areas.put.page(0);
        Self {
            queue: put_queue(0),
            pieces: [question, page, answer],
            descriptors: [
                Descriptor::readable(question).then(1),
                Descriptor::readable(page).then(2),
                Descriptor::writable(answer),
            ],
            answer,
        }
    }

    /// GET of page `index`.
    fn get(bench: &mut Bench, at: Handle, index: u32) -> Self {
        let (question, answer) = Self::regions(bench, &at.header(op::GET, index, 1));
        let page = bench.areas.get.page(0);
        Self {
            queue: get_queue(0),
            pieces: [question, answer, page],
            descriptors: [
                Descriptor::readable(question).then(1),
                Descriptor::writable(answer).then(2),
                Descriptor::writable(page),
            ],
            answer,
        }
    }

    fn regions(bench: &Bench, header: &RequestHeader) -> (Region, Region) {
        let question = bench.question(0).part(0, RequestHeader::SIZE);
        question.put(0, &header.to_bytes());
        (question, bench.reply(0).part(0, ResponseHeader::SIZE + 1))
    }

    /// Offers the descriptors as they are now, from descriptor 0 on.
    fn offer(&self, bench: &mut Bench) -> Result<Fate> {
        let table = bench.ring(self.queue).descriptors;
        for (nth, descriptor) in (0..).zip(self.descriptors) {
            descriptor.write(table, nth);
        }
        offer(bench, self.queue, 0, self.answer)
    }
}

/// Offers the chain at `head` and sees what becomes of it. A queue that stands still is set up again
/// together with the whole device.
fn offer(bench: &mut Bench, queue: u16, head: u16, answer: Region) -> Result<Fate> {
    answer.fill(UNTOUCHED);
    let transport = bench.transport;
    let ring = bench.ring(queue);
    ring.offer(transport, head);
    let Some(used) = ring.poll_until(Deadline::short()) else {
        bench.again()?;
        return Ok(Fate::Stuck);
    };
    ensure!(
        used.head == u32::from(head),
        "used head {} for {head}",
        used.head
    );
    Ok(Fate::Used(used.bytes, answer.read(0)))
}

/// Addresses where there is no memory for a byte, or for a page.
fn nowhere(bench: &Bench) -> [u64; 6] {
    let end = bench.memory_end;
    [end, end - 1, 1 << 46, 1 << 63, u64::MAX - 4095, u64::MAX]
}
