// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Random requests, many in flight and finished in any order, against a model with every byte.
//!
//! The model keeps for each page what it holds. A page in flight is left alone, with one exception:
//! a put may overtake a flush of the same page that has an older ticket, and must win whichever is
//! carried out first. The queues are worked on in random turns, and now and then the guest
//! disconnects and comes back.

use std::collections::{BTreeMap, HashSet};

use tmem_abi::{PAGE_SIZE, flag, op, result, status};
use tmem_frontend::{
    Completion, Driver, Options, Random, Request, Shape, Style, Wait, page_content, pages_at, seed,
};

use crate::guest::{EPOCH, Guest, POOL, POOL_PAGES, check_get, check_put};
use crate::host::{Host, Settings};

/// Indices that the requests fall on; few, so that they meet.
const INDICES: u32 = 300;
/// Pages that the guest may hold: fewer than indices, so that some puts are refused.
pub(crate) const GRANT: u64 = 200;
/// Requests in flight at one time.
const DEPTH: usize = 24;
/// Pages of the largest request.
const PAGES: u32 = 8;
/// Requests of a run.
const STEPS: usize = 6_000;

/// Rings that [`DEPTH`] requests fit into however they are cut.
pub(crate) fn rings() -> Options {
    Options {
        queue_size: 512,
        ..Options::default()
    }
}

/// What a request in flight will do, once it is answered.
#[derive(Debug)]
enum Pending {
    Put {
        indices: Vec<u32>,
        tags: Vec<u64>,
        ticket: u64,
        stage: usize,
        room: u64,
    },
    Get {
        indices: Vec<u32>,
        exclusive: bool,
        stage: usize,
    },
    Flush {
        indices: Vec<u32>,
        ticket: u64,
    },
}

/// A page that the device holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Held {
    tag: u64,
    ticket: u64,
}

pub(crate) struct Oracle {
    random: Random,
    pages: BTreeMap<u32, Held>,
    /// Pages of puts and gets in flight.
    busy: HashSet<u32>,
    /// Pages of flushes in flight.
    flushing: HashSet<u32>,
    /// Of these, pages that a put has overtaken.
    overtaken: HashSet<u32>,
    next_tag: u64,
    pending: BTreeMap<(usize, bool, u16), Pending>,
    stages: Vec<usize>,
    /// Pages of puts in flight, and of all puts ever sent.
    putting: u64,
    sent: u64,
    /// Pages delivered, missed, refused, stale, flushed, overtaken: each must have happened.
    seen: [u64; 6],
}

#[test]
fn random_requests_agree_with_a_plain_model() {
    let host = Host::start(&Settings {
        grant_pages: GRANT,
        ..Settings::default()
    });
    let random = Random::new(seed("random_requests_agree_with_a_plain_model"));
    let mut guest = Guest::join(&host.socket(0), rings());
    let mut oracle = Oracle::new(random);
    for step in 0..STEPS {
        oracle.step(&mut guest);
        if step % 1500 == 1499 {
            oracle.drain(&mut guest);
            oracle.check_everything(&mut guest);
            guest = oracle.reconnect(guest, &host);
        }
    }
    oracle.drain(&mut guest);
    oracle.check_everything(&mut guest);
    println!(
        "delivered, missed, refused, stale, flushed, overtaken: {:?}",
        oracle.seen
    );
    assert!(
        oracle.seen.iter().all(|count| *count > 0),
        "the run met too little: {:?}",
        oracle.seen
    );
}

impl Oracle {
    /// Of a device that holds nothing.
    pub(crate) fn new(random: Random) -> Self {
        Self {
            random,
            pages: BTreeMap::new(),
            busy: HashSet::new(),
            flushing: HashSet::new(),
            overtaken: HashSet::new(),
            next_tag: 1,
            pending: BTreeMap::new(),
            stages: (0..DEPTH).collect(),
            putting: 0,
            sent: 0,
            seen: [0; 6],
        }
    }

    /// Pages delivered, missed, refused, stale, flushed, overtaken.
    pub(crate) const fn seen(&self) -> [u64; 6] {
        self.seen
    }

    /// Sends something, or takes answers, or both.
    pub(crate) fn step(&mut self, guest: &mut Guest) {
        let pair = self.random.below(2) as usize;
        match self.random.below(10) {
            0..4 => self.put(guest, pair),
            4..8 => self.get(guest, pair),
            _ => self.flush(guest, pair),
        }
        if self.random.one_in(3) {
            let pair = guest.driver.pair(pair);
            pair.put.notify().unwrap();
            pair.get.notify().unwrap();
        }
        // A flush needs no stage, but it takes a slot.
        while self.stages.is_empty() || self.pending.len() >= DEPTH {
            self.drain_some(guest);
        }
    }

    /// Indices for a request: pages that nothing in flight touches, or with `overtake` a flush.
    fn choose(&mut self, overtake: bool) -> Vec<u32> {
        let wanted = 1 + self.random.below(PAGES);
        let mut indices = Vec::new();
        for _ in 0..wanted {
            let index = self.random.below(INDICES);
            let free = overtake || !self.flushing.contains(&index);
            if free && !self.busy.contains(&index) && !indices.contains(&index) {
                indices.push(index);
            }
        }
        indices
    }

    fn shape(&mut self) -> Shape {
        Shape {
            indirect: self.random.one_in(2),
            cut: self.random.below(3) * 20,
        }
    }

    fn put(&mut self, guest: &mut Guest, pair: usize) {
        let indices = self.choose(true);
        if indices.is_empty() {
            return;
        }
        for index in &indices {
            self.busy.insert(*index);
            if self.flushing.contains(index) {
                self.overtaken.insert(*index);
                self.seen[5] += 1;
            }
        }
        let stage = self.stages.pop().unwrap();
        let ticket = guest.driver.ticket();
        let tags: Vec<u64> = indices.iter().map(|_| self.tag()).collect();
        let mut data = Vec::new();
        for (at, tag) in tags.iter().enumerate() {
            let address = guest.put_page(stage * PAGES as usize + at);
            guest.memory.write(address, &page_content(*tag)).unwrap();
            data.push(pages_at(address, 1));
        }
        let request = Request::list(op::PUT, POOL, &indices, ticket);
        let shape = self.shape();
        let token = guest
            .driver
            .pair(pair)
            .put
            .submit(&request, &data, shape)
            .unwrap();
        // Pages that may have been sent in all when this put is answered, while all of them fit.
        let room = GRANT + self.sent - (self.pages.len() as u64 + self.putting).min(GRANT);
        self.putting += tags.len() as u64;
        self.sent += tags.len() as u64;
        let pending = Pending::Put {
            indices,
            tags,
            ticket,
            stage,
            room,
        };
        self.pending.insert((pair, true, token), pending);
    }

    fn tag(&mut self) -> u64 {
        self.next_tag += 1;
        self.next_tag
    }

    fn get(&mut self, guest: &mut Guest, pair: usize) {
        let indices = self.choose(false);
        if indices.is_empty() {
            return;
        }
        self.busy.extend(&indices);
        let stage = self.stages.pop().unwrap();
        let first = stage * PAGES as usize;
        let data: Vec<_> = (0..indices.len())
            .map(|at| pages_at(guest.get_page(first + at), 1))
            .collect();
        for (address, _) in &data {
            guest.memory.write(*address, &[0xa5; PAGE_SIZE]).unwrap();
        }
        let exclusive = self.random.one_in(5);
        let flags = if exclusive { flag::EXCLUSIVE } else { 0 };
        let request = Request::list(op::GET, POOL, &indices, 0).with_flags(flags);
        let shape = self.shape();
        let token = guest
            .driver
            .pair(pair)
            .get
            .submit(&request, &data, shape)
            .unwrap();
        self.pending.insert(
            (pair, false, token),
            Pending::Get {
                indices,
                exclusive,
                stage,
            },
        );
    }

    /// A flush whose ticket may be older than the pages that it meets.
    fn flush(&mut self, guest: &mut Guest, pair: usize) {
        let indices = self.choose(false);
        if indices.is_empty() {
            return;
        }
        self.flushing.extend(&indices);
        let newest = guest.driver.ticket();
        let ticket = if self.random.one_in(3) {
            newest.saturating_sub(40).max(1)
        } else {
            newest
        };
        let request = Request::list(op::FLUSH, POOL, &indices, ticket);
        let shape = self.shape();
        let token = guest
            .driver
            .pair(pair)
            .put
            .submit(&request, &[], shape)
            .unwrap();
        self.pending
            .insert((pair, true, token), Pending::Flush { indices, ticket });
    }

    /// Waits for one answer at least, and takes those that are there.
    fn drain_some(&mut self, guest: &mut Guest) {
        for number in 0..2 {
            let pair = guest.driver.pair(number);
            pair.put.notify().unwrap();
            pair.get.notify().unwrap();
        }
        let (pair, puts) = {
            let (pair, puts, _) = self.pending.keys().next().expect("something is in flight");
            (*pair, *puts)
        };
        let wait = if self.random.one_in(2) {
            Wait::Spin
        } else {
            Wait::Sleep
        };
        let queues = guest.driver.pair(pair);
        let queue = if puts {
            &mut queues.put
        } else {
            &mut queues.get
        };
        queue.queue().set_wait(wait);
        let done = queue.wait().unwrap();
        self.answered(guest, pair, puts, &done);
        loop {
            let queues = guest.driver.pair(pair);
            let queue = if puts {
                &mut queues.put
            } else {
                &mut queues.get
            };
            let Some(done) = queue.poll().unwrap() else {
                break;
            };
            self.answered(guest, pair, puts, &done);
        }
    }

    pub(crate) fn drain(&mut self, guest: &mut Guest) {
        while !self.pending.is_empty() {
            self.drain_some(guest);
        }
        assert!(
            self.busy.is_empty() && self.flushing.is_empty(),
            "all requests are answered"
        );
    }

    fn answered(&mut self, guest: &Guest, pair: usize, puts: bool, done: &Completion) {
        let pending = self.pending.remove(&(pair, puts, done.token));
        match pending.expect("an answer to a request in flight") {
            Pending::Put {
                indices,
                tags,
                ticket,
                stage,
                room,
            } => {
                check_put(done, indices.len());
                self.putting -= tags.len() as u64;
                for ((index, tag), result) in indices.iter().zip(tags).zip(&done.results) {
                    self.put_result(*index, Held { tag, ticket }, *result, room);
                }
                self.release(&indices, stage);
            }
            Pending::Get {
                indices,
                exclusive,
                stage,
            } => {
                check_get(done, indices.len());
                for (at, (index, result)) in indices.iter().zip(&done.results).enumerate() {
                    let bytes = guest.delivered(stage * PAGES as usize + at);
                    self.get_result(*index, exclusive, *result, &bytes);
                }
                self.release(&indices, stage);
            }
            Pending::Flush { indices, ticket } => {
                assert_eq!(done.response.status, status::OK);
                for (index, result) in indices.iter().zip(&done.results) {
                    self.flush_result(*index, ticket, *result);
                }
            }
        }
    }

    /// Pages of a put or get are free again, and so is its place in the stages.
    fn release(&mut self, indices: &[u32], stage: usize) {
        for index in indices {
            self.busy.remove(index);
        }
        self.stages.push(stage);
    }

    /// A put may be refused only if it, what the guest held when it was sent, and all puts in flight
    /// with it do not fit into the grant together: if more than `room` pages were sent by now.
    fn put_result(&mut self, index: u32, new: Held, result: u8, room: u64) {
        match result {
            result::OK => {
                self.pages.insert(index, new);
            }
            result::REFUSED_FULL => {
                assert!(
                    self.sent > room,
                    "page {index} was refused within the grant"
                );
                self.pages.remove(&index);
                self.seen[2] += 1;
            }
            other => panic!("put of page {index}: result {other}"),
        }
    }

    fn get_result(&mut self, index: u32, exclusive: bool, result: u8, bytes: &[u8; PAGE_SIZE]) {
        match (self.pages.get(&index), result) {
            (Some(held), result::OK) => {
                assert!(
                    *bytes == page_content(held.tag),
                    "page {index} has other bytes"
                );
                self.seen[0] += 1;
                if exclusive {
                    self.pages.remove(&index);
                }
            }
            (None, result::MISS) => {
                assert_eq!(*bytes, [0xa5; PAGE_SIZE], "a miss touched the buffer");
                self.seen[1] += 1;
            }
            (model, result) => panic!("get of page {index}: result {result}, model {model:?}"),
        }
    }

    fn flush_result(&mut self, index: u32, ticket: u64, result: u8) {
        self.flushing.remove(&index);
        let overtaken = self.overtaken.remove(&index);
        let newer = self
            .pages
            .get(&index)
            .is_some_and(|held| held.ticket > ticket);
        if overtaken {
            // Before the put it took the old page, after it nothing; the put's answer decides.
            assert!(
                [result::OK, result::STALE].contains(&result),
                "an overtaken flush of {index}"
            );
            if !newer {
                self.pages.remove(&index);
            }
        } else if newer {
            assert_eq!(result, result::STALE, "a late flush of page {index}");
            self.seen[3] += 1;
        } else {
            assert_eq!(result, result::OK, "a flush of page {index}");
            self.pages.remove(&index);
            self.seen[4] += 1;
        }
    }

    /// Every index, held or not, and the count.
    pub(crate) fn check_everything(&mut self, guest: &mut Guest) {
        for index in 0..INDICES {
            match self.pages.get(&index) {
                Some(held) => guest.assert_pages(index, &[held.tag]),
                None => guest.assert_missing(index, 1),
            }
        }
        let stat = guest.driver.stat(POOL).unwrap();
        assert_eq!(stat.pages, self.pages.len() as u64);
        assert!(stat.pages <= GRANT);
    }

    /// Vanishes and comes back, as the other VMM.
    fn reconnect(&mut self, guest: Guest, host: &Host) -> Guest {
        drop(guest);
        let style = if self.random.one_in(2) {
            Style::Qemu
        } else {
            Style::CloudHypervisor
        };
        let options = Options {
            style,
            event_idx: self.random.one_in(2),
            ..rings()
        };
        let memory = tmem_frontend::GuestMemory::new(32 << 20).unwrap();
        let mut driver = Driver::connect(&host.socket(0), &memory, options, 32).unwrap();
        let hello = driver.hello(EPOCH).unwrap();
        assert!(hello.same_epoch);
        assert_eq!(hello.held, self.pages.len() as u64);
        let newest = self
            .pages
            .values()
            .map(|held| held.ticket)
            .max()
            .unwrap_or(0);
        assert!(
            hello.ticket >= newest,
            "tickets must go on above those that are held"
        );
        driver.create_dense(POOL, POOL_PAGES).unwrap();
        Guest::over(driver)
    }
}
