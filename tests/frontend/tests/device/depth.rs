// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Many requests in flight, on several pairs at once.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use tmem_abi::{PAGE_SIZE, op, result};
use tmem_frontend::{
    GuestMemory, Options, Pair, Random, Request, RequestQueue, Shape, Style, Wait, page_content,
    pages_at,
};

use crate::guest::{EPOCH, Guest, POOL, POOL_PAGES, SHAPES, check_get, check_put};
use crate::host::{Host, Settings};

/// Requests in flight on one queue.
const DEPTH: u32 = 32;
/// Pages in each request.
const PAGES: u32 = 4;

#[test]
fn a_queue_filled_to_its_depth_loses_nothing() {
    let host = Host::one();
    for wait in [Wait::Spin, Wait::Sleep] {
        let memory = GuestMemory::new(64 << 20).unwrap();
        let mut guest = Guest::with_memory(&host.socket(0), Options::default(), EPOCH, &memory);
        let tickets = guest.driver.tickets();
        let mut pair = guest.driver.take_pair(0).unwrap();
        for queue in [&mut pair.get, &mut pair.put] {
            queue.queue().set_wait(wait);
        }
        fill_and_check(&memory, &mut pair, 0, &tickets, 20);
    }
}

#[test]
fn pairs_work_at_the_same_time_from_their_own_threads() {
    const PAIRS: u16 = 4;
    let host = Host::start(&Settings {
        queue_pairs: PAIRS,
        ..Settings::default()
    });
    let options = Options {
        style: Style::CloudHypervisor,
        ..Options::default()
    };
    let memory = GuestMemory::new(64 << 20).unwrap();
    let mut guest = Guest::with_memory(&host.socket(0), options, EPOCH, &memory);
    let tickets = guest.driver.tickets();
    thread::scope(|scope| {
        for number in 0..u32::from(PAIRS) {
            let mut pair = guest.driver.take_pair(number as usize).unwrap();
            let (memory, tickets) = (&memory, &tickets);
            scope.spawn(move || fill_and_check(memory, &mut pair, number, tickets, 20));
        }
    });
    let pages = u64::from(PAIRS) * u64::from(DEPTH * PAGES);
    assert_eq!(guest.driver.stat(POOL).unwrap().pages, pages);
}

/// Fills both queues of a pair to their depth, `rounds` times, on indices of the pair's own.
fn fill_and_check(
    memory: &Arc<GuestMemory>,
    pair: &mut Pair,
    number: u32,
    tickets: &AtomicU64,
    rounds: u64,
) {
    let pages = DEPTH * PAGES;
    let from = memory.allocate_pages(pages as usize).unwrap();
    let to = memory.allocate_pages(pages as usize).unwrap();
    let base = number * pages;
    let at = |start: u64, page: u32| start + u64::from(page) * PAGE_SIZE as u64;
    for round in 0..rounds {
        let tag = |page: u32| round << 40 | u64::from(number) << 32 | u64::from(page);
        for page in 0..pages {
            memory
                .write(at(from, page), &page_content(tag(page)))
                .unwrap();
            memory.write(at(to, page), &[0; PAGE_SIZE]).unwrap();
        }
        let shape = SHAPES[usize::from(round % 2 == 1)];
        in_flight(&mut pair.put, |queue, slot| {
            let ticket = tickets.fetch_add(1, Ordering::Relaxed);
            let request = Request::run(op::PUT, POOL, base + slot * PAGES, PAGES, ticket);
            queue
                .submit(&request, &[pages_at(at(from, slot * PAGES), PAGES)], shape)
                .unwrap()
        });
        in_flight(&mut pair.get, |queue, slot| {
            let request = Request::run(op::GET, POOL, base + slot * PAGES, PAGES, 0);
            queue
                .submit(&request, &[pages_at(at(to, slot * PAGES), PAGES)], shape)
                .unwrap()
        });
        for page in 0..pages {
            let mut bytes = [0; PAGE_SIZE];
            memory.read(at(to, page), &mut bytes).unwrap();
            assert!(
                bytes == page_content(tag(page)),
                "pair {number}, round {round}, page {page}"
            );
        }
    }
}

/// Submits [`DEPTH`] requests with one kick and waits for all.
fn in_flight(queue: &mut RequestQueue, mut submit: impl FnMut(&mut RequestQueue, u32) -> u16) {
    let mut waiting: HashMap<u16, u32> =
        (0..DEPTH).map(|slot| (submit(queue, slot), slot)).collect();
    queue.notify().unwrap();
    while !waiting.is_empty() {
        let done = queue.wait().unwrap();
        waiting
            .remove(&done.token)
            .expect("each request is answered once");
        assert_eq!(done.results, vec![result::OK; PAGES as usize]);
    }
}

#[test]
fn a_get_is_answered_while_long_puts_are_under_way() {
    let host = Host::one();
    let options = Options {
        queue_size: 1024,
        ..Options::default()
    };
    let mut guest = Guest::join(&host.socket(0), options);
    guest.put_ok(60_000, &[6]);
    let tags: Vec<u64> = (0..256).collect();
    guest.stage(&tags);
    let data = [pages_at(guest.put_stage, 256)];
    for _ in 0..20 {
        for batch in 0..16 {
            let ticket = guest.driver.ticket();
            let put = Request::run(op::PUT, POOL, batch * 256, 256, ticket);
            guest
                .driver
                .pair(0)
                .put
                .submit(&put, &data, Shape::default())
                .unwrap();
        }
        guest.driver.pair(0).put.notify().unwrap();
        guest.assert_pages(60_000, &[6]);
        while guest.driver.pair(0).put.in_flight() > 0 {
            check_put(&guest.driver.pair(0).put.wait().unwrap(), 256);
        }
    }
}

#[test]
fn indices_of_the_rings_wrap_around() {
    let host = Host::one();
    let options = Options {
        queue_size: 8,
        ..Options::default()
    };
    let mut guest = Guest::join(&host.socket(0), options);
    guest.put_ok(0, &[9]);
    let data = [pages_at(guest.get_stage, 1)];
    let get = Request::run(op::GET, POOL, 0, 1, 0);
    guest.driver.pair(0).get.queue().set_wait(Wait::Spin);
    for _ in 0..(1 << 16) / 2 + 100 {
        let queue = &mut guest.driver.pair(0).get;
        for _ in 0..2 {
            queue
                .submit(
                    &get,
                    &data,
                    Shape {
                        indirect: true,
                        cut: 0,
                    },
                )
                .unwrap();
        }
        queue.notify().unwrap();
        for _ in 0..2 {
            check_get(&queue.wait().unwrap(), 1);
        }
    }
    guest.assert_pages(0, &[9]);
}

#[test]
fn random_depths_and_waits_mix() {
    let host = Host::start(&Settings {
        poll_us: 0,
        ..Settings::default()
    });
    let mut guest = Guest::join(&host.socket(0), Options::default());
    let mut random = Random::new(tmem_frontend::seed("random_depths_and_waits_mix"));
    let tags: Vec<u64> = (0..256).collect();
    guest.put_ok(POOL_PAGES - 256, &tags);
    for _ in 0..500 {
        let wait = if random.one_in(2) {
            Wait::Spin
        } else {
            Wait::Sleep
        };
        let depth = 1 + random.below(DEPTH);
        let to = guest.get_stage;
        let queue = &mut guest.driver.pair(0).get;
        queue.queue().set_wait(wait);
        for slot in 0..depth {
            let get = Request::run(op::GET, POOL, POOL_PAGES - 256 + slot, 1, 0);
            let data = [pages_at(to + u64::from(slot) * PAGE_SIZE as u64, 1)];
            queue
                .submit(
                    &get,
                    &data,
                    Shape {
                        indirect: true,
                        cut: 0,
                    },
                )
                .unwrap();
            if random.one_in(4) {
                queue.notify().unwrap();
            }
        }
        queue.notify().unwrap();
        for _ in 0..depth {
            check_get(&queue.wait().unwrap(), 1);
        }
        let slot = random.below(depth) as usize;
        assert!(guest.delivered(slot) == page_content(slot as u64));
    }
}
