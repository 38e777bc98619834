// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Requests on the queue pairs, one at a time or several in flight.

use super::{Bench, SLOTS, STAGE_PAGES, UNTOUCHED, UNTOUCHED_BYTE};
use crate::content::Content;
use crate::memory::Region;
use crate::ring::{Chain, RING_SIZE};
use crate::why::{Result, ensure, fail, same};
use crate::wire::{RequestHeader, ResponseHeader, flag, get_queue, op, put_queue, result, status};

/// Descriptors that a slot has in a direct ring.
pub(crate) const SLOT_DESCRIPTORS: u16 = 4;
const _: () = assert!(SLOTS * SLOT_DESCRIPTORS as usize <= RING_SIZE as usize);

/// An object of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Handle {
    /// The pool.
    pub(crate) pool: u32,
    /// The object; all 0 in a dense pool.
    pub(crate) object: [u64; 3],
}

impl Handle {
    /// The one object of a dense pool.
    pub(crate) const fn dense(pool: u32) -> Self {
        Self {
            pool,
            object: [0; 3],
        }
    }

    /// The header of an operation on a run, without a ticket.
    pub(crate) fn header(self, op: u8, index: u32, pages: u32) -> RequestHeader {
        RequestHeader {
            op,
            pool: self.pool,
            object_low: self.object[0],
            object_middle: self.object[1],
            object_high: self.object[2],
            index,
            pages,
            ..RequestHeader::default()
        }
    }
}

/// How page data is cut into descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Split {
    /// All in one.
    Whole,
    /// A page in each.
    Pages,
    /// One, two, three, … pages.
    Growing,
}

/// A request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask<'a> {
    /// Its header.
    pub(crate) header: RequestHeader,
    /// Indices that follow the header.
    pub(crate) list: &'a [u32],
    /// Page data: read for PUT, written for GET.
    pub(crate) data: Option<Region>,
    /// How the data is cut.
    pub(crate) split: Split,
}

impl Ask<'_> {
    /// A request without list and data.
    pub(crate) const fn plain(header: RequestHeader) -> Self {
        Self {
            header,
            list: &[],
            data: None,
            split: Split::Whole,
        }
    }

    fn is_get(&self) -> bool {
        self.header.op == op::GET
    }

    /// Result bytes that an answer has.
    fn results(&self) -> usize {
        let listed = self.header.flags & flag::LIST != 0;
        match self.header.op {
            op::PUT | op::GET => self.header.pages as usize,
            op::FLUSH if listed => self.header.pages as usize,
            _ => 0,
        }
        .min(STAGE_PAGES)
    }

    /// The queue that the request belongs on.
    fn queue(&self, pair: u16) -> u16 {
        if self.is_get() {
            get_queue(pair)
        } else {
            put_queue(pair)
        }
    }
}

/// An answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answer {
    /// Fate of the request.
    pub(crate) status: u8,
    /// Pages stored, delivered or flushed.
    pub(crate) done: u32,
    results: [u8; STAGE_PAGES],
    count: usize,
}

impl Answer {
    /// Results of the pages.
    pub(crate) fn results(&self) -> &[u8] {
        &self.results[..self.count]
    }

    /// Fails unless the request was carried out for all of `pages` pages.
    pub(crate) fn complete(&self, pages: u32) -> Result {
        same!(self.status, status::OK, "status");
        if let Some(wrong) = self.results().iter().position(|r| *r != result::OK) {
            return fail!("page {wrong}: result {}", self.results[wrong]);
        }
        same!(self.done, pages, "pages done");
        Ok(())
    }

    /// Fails unless every page has this result.
    pub(crate) fn every(&self, expected: u8) -> Result {
        same!(self.status, status::OK, "status");
        if let Some(other) = self.results().iter().position(|r| *r != expected) {
            return fail!(
                "page {other}: result {}, expected {expected}",
                self.results[other]
            );
        }
        Ok(())
    }
}

impl Bench {
    /// Asks on a pair's queue and waits for the answer. Each pair has a slot of its own, so that what a
    /// check does to one of them does not spoil the other's requests.
    pub(crate) fn ask_on(&mut self, pair: u16, ask: &Ask<'_>) -> Result<Answer> {
        let slot = usize::from(pair);
        let head = self.enter(pair, slot, ask);
        let queue = ask.queue(pair);
        let transport = self.transport;
        self.ring(queue).publish(transport);
        let used = self.ring(queue).wait()?;
        same!(used.head, u32::from(head), "used head on queue {queue}");
        self.answer(slot, ask, used.bytes)
    }

    /// Asks on the first pair.
    pub(crate) fn ask(&mut self, ask: &Ask<'_>) -> Result<Answer> {
        self.ask_on(0, ask)
    }

    /// The status of the answer to a request that the device should refuse.
    pub(crate) fn ask_status(&mut self, ask: &Ask<'_>) -> Result<u8> {
        self.ask(ask).map(|answer| answer.status)
    }

    /// Enters the request of a slot into its ring, unseen by the device until the ring is published.
    /// Where several are in flight, each slot has four descriptors.
    pub(crate) fn enter(&mut self, pair: u16, slot: usize, ask: &Ask<'_>) -> u16 {
        let question = self.question(slot);
        question.put(0, &ask.header.to_bytes());
        for (nth, index) in ask.list.iter().enumerate() {
            question.write(RequestHeader::SIZE + nth * 4, *index);
        }
        let reply = self.reply(slot);
        let head_bytes = ResponseHeader::SIZE + ask.results();
        reply.part(0, head_bytes).fill(UNTOUCHED);
        let ring = self.ring(ask.queue(pair));
        let first = u16::try_from(slot).unwrap_or(0) * SLOT_DESCRIPTORS;
        let mut chain = Chain::begin(ring, first);
        chain.readable(question.part(0, RequestHeader::SIZE + ask.list.len() * 4));
        if !ask.is_get() {
            push_data(&mut chain, ask);
        }
        chain.writable(reply.part(0, head_bytes));
        if ask.is_get() {
            push_data(&mut chain, ask);
        }
        let head = chain.end();
        ring.enter(head);
        head
    }

    /// Reads the answer in a slot and holds it against what every answer must be.
    pub(crate) fn answer(&self, slot: usize, ask: &Ask<'_>, used: u32) -> Result<Answer> {
        let reply = self.reply(slot);
        let mut bytes = [0; ResponseHeader::SIZE];
        reply.take(0, &mut bytes);
        let header = ResponseHeader::from_bytes(&bytes);
        let mut answer = Answer {
            status: header.status,
            done: header.done,
            results: [UNTOUCHED_BYTE; STAGE_PAGES],
            count: 0,
        };
        let mut written = ResponseHeader::SIZE;
        if header.status == status::OK {
            answer.count = ask.results();
            reply.take(bytes.len(), &mut answer.results[..answer.count]);
            written += answer.count;
            if ask.is_get() {
                let last = answer.results().iter().rposition(|r| *r == result::OK);
                written += last.map_or(0, |last| (last + 1) * 4096);
            }
            if answer.count != 0 && ask.header.op != op::FLUSH {
                let done = answer
                    .results()
                    .iter()
                    .filter(|r| **r == result::OK)
                    .count();
                same!(header.done as usize, done, "pages done, by the results");
            }
        }
        ensure!(
            header.status != UNTOUCHED_BYTE,
            "used with {used} bytes and without an answer"
        );
        same!(
            used as usize,
            written,
            "used bytes of status {}",
            header.status
        );
        Ok(answer)
    }

    /// Puts pages that hold the stamps from `stamp` on, from the put stage.
    pub(crate) fn put(&mut self, at: Handle, index: u32, pages: u32, stamp: u64) -> Result<Answer> {
        self.fill_put_stage(pages, stamp);
        let ticket = self.next_ticket();
        self.ask(&Ask {
            header: RequestHeader {
                ticket,
                ..at.header(op::PUT, index, pages)
            },
            list: &[],
            data: Some(self.areas.put.pages(0, pages as usize)),
            split: Split::Whole,
        })
    }

    /// Like [`Bench::put`], and all pages must be stored.
    pub(crate) fn store(&mut self, at: Handle, index: u32, pages: u32) -> Result<u64> {
        let stamp = self.next_stamps(u64::from(pages));
        self.put(at, index, pages, stamp)?.complete(pages)?;
        Ok(stamp)
    }

    /// Stamps the first pages of the put stage.
    pub(crate) fn fill_put_stage(&self, pages: u32, stamp: u64) {
        for nth in 0..pages {
            let page = self.areas.put.page(nth as usize);
            self.template
                .make(Content::Stamp(stamp + u64::from(nth)), page);
        }
    }

    /// Gets pages into the get stage.
    pub(crate) fn get(&mut self, at: Handle, index: u32, pages: u32) -> Result<Answer> {
        self.ask(&Ask {
            header: at.header(op::GET, index, pages),
            list: &[],
            data: Some(self.areas.get.pages(0, pages as usize)),
            split: Split::Whole,
        })
    }

    /// Gets pages, which must be there and hold the stamps from `stamp` on.
    pub(crate) fn expect(&mut self, at: Handle, index: u32, pages: u32, stamp: u64) -> Result {
        self.get(at, index, pages)?.complete(pages)?;
        self.check_get_stage(pages, stamp)
    }

    /// Gets pages, which must not be there.
    pub(crate) fn expect_gone(&mut self, at: Handle, index: u32, pages: u32) -> Result {
        self.get(at, index, pages)?.every(result::MISS)
    }

    /// Fails unless the first pages of the get stage hold the stamps from `stamp` on.
    pub(crate) fn check_get_stage(&self, pages: u32, stamp: u64) -> Result {
        for nth in 0..pages {
            let page = self.areas.get.page(nth as usize);
            let content = Content::Stamp(stamp + u64::from(nth));
            ensure!(
                self.holds(page, content),
                "page {nth} of {pages} holds {:#x}, expected {content:?}",
                page.read::<u64>(0)
            );
        }
        Ok(())
    }

    /// FLUSH of a run; returns the pages done.
    pub(crate) fn flush(&mut self, at: Handle, index: u32, pages: u32) -> Result<u32> {
        self.flush_by(at.header(op::FLUSH, index, pages))
    }

    /// Any FLUSH without results; returns the pages done.
    pub(crate) fn flush_by(&mut self, header: RequestHeader) -> Result<u32> {
        let ticket = self.next_ticket();
        let answer = self.ask(&Ask::plain(RequestHeader { ticket, ..header }))?;
        same!(answer.status, status::OK, "status of a flush");
        Ok(answer.done)
    }

    /// Fails unless both queues of a pair serve: a page goes out, comes back, and is flushed.
    pub(crate) fn serves(&mut self, pair: u16, at: Handle, index: u32) -> Result {
        let page = usize::from(pair);
        let (out, back) = (self.areas.put.page(page), self.areas.get.page(page));
        let content = Content::Stamp(self.next_stamps(1));
        self.template.make(content, out);
        let ticket = self.next_ticket();
        let put = Ask {
            data: Some(out),
            ..Ask::plain(RequestHeader {
                ticket,
                ..at.header(op::PUT, index, 1)
            })
        };
        self.ask_on(pair, &put)?.complete(1)?;
        let get = Ask {
            data: Some(back),
            ..Ask::plain(at.header(op::GET, index, 1))
        };
        self.ask_on(pair, &get)?.complete(1)?;
        ensure!(
            self.holds(back, content),
            "pair {pair} delivered {:#x}, expected {content:?}",
            back.read::<u64>(0)
        );
        let ticket = self.next_ticket();
        let flush = Ask::plain(RequestHeader {
            ticket,
            ..at.header(op::FLUSH, index, 1)
        });
        self.ask_on(pair, &flush)?.complete(1)
    }
}

/// Adds the page data of a request, cut as it wants.
fn push_data(chain: &mut Chain, ask: &Ask<'_>) {
    let Some(data) = ask.data else { return };
    let pages = data.bytes() / 4096;
    let (mut at, mut take) = (0, 1);
    while at < pages {
        let now = match ask.split {
            Split::Whole => pages,
            Split::Pages => 1,
            Split::Growing => take,
        }
        .min(pages - at);
        let part = data.pages(at, now);
        if ask.is_get() {
            chain.writable(part);
        } else {
            chain.readable(part);
        }
        at += now;
        take += 1;
    }
}
