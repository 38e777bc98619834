// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Pages go and come back: every batch size, every cut of a request into descriptors.

use tmem_abi::{BATCH_PAGES_MAX, PAGE_SIZE, op, result, status};
use tmem_frontend::{Driver, GuestMemory, Options, Random, Request, Shape, page_content, pages_at};

use crate::guest::{EPOCH, Guest, POOL, POOL_PAGES, SHAPES, check_get, check_put};
use crate::host::{Host, Settings};

/// Rings long enough for a full batch of scattered pages without an indirect table.
fn long_rings() -> Options {
    Options {
        queue_size: 1024,
        ..Options::default()
    }
}

#[test]
fn runs_of_every_batch_size_come_back_byte_for_byte() {
    let host = Host::start(&Settings {
        grant_pages: POOL_PAGES.into(),
        ..Settings::default()
    });
    let mut guest = Guest::join(&host.socket(0), long_rings());
    for pages in 1..=BATCH_PAGES_MAX {
        let tags: Vec<u64> = (0..u64::from(pages))
            .map(|at| u64::from(pages) << 16 | at)
            .collect();
        let index = pages * 100;
        guest.put_ok(index, &tags);
        guest.assert_pages(index, &tags);
        guest.assert_missing(index + pages, 1);
    }
}

#[test]
fn lists_of_every_batch_size_come_back_in_their_order() {
    let host = Host::start(&Settings {
        grant_pages: POOL_PAGES.into(),
        ..Settings::default()
    });
    let mut guest = Guest::join(&host.socket(0), long_rings());
    let mut random = Random::new(11);
    for pages in 1..=BATCH_PAGES_MAX {
        let base = random.below(POOL_PAGES / 2);
        // Scattered, descending, without repeats.
        let indices: Vec<u32> = (0..pages).rev().map(|at| base + at * 7).collect();
        let tags: Vec<u64> = indices
            .iter()
            .map(|i| u64::from(pages) << 32 | u64::from(*i))
            .collect();
        guest.stage(&tags);
        let ticket = guest.driver.ticket();
        let data = [pages_at(guest.put_stage, pages)];
        let done = guest.put_call(&Request::list(op::PUT, POOL, &indices, ticket), &data);
        check_put(&done, tags.len());
        assert_eq!(done.results, vec![result::OK; tags.len()]);

        guest.scrub(tags.len());
        let data = [pages_at(guest.get_stage, pages)];
        let done = guest.get_call(&Request::list(op::GET, POOL, &indices, 0), &data);
        check_get(&done, tags.len());
        for (at, tag) in tags.iter().enumerate() {
            assert!(
                guest.delivered(at) == page_content(*tag),
                "page {at} of {pages}"
            );
        }
    }
}

#[test]
fn pages_may_share_a_descriptor_or_have_one_each() {
    let host = Host::one();
    let mut guest = Guest::join(&host.socket(0), long_rings());
    let mut random = Random::new(tmem_frontend::seed("pages_may_share_a_descriptor"));
    for round in 0..60_u64 {
        let pages = 1 + random.below(BATCH_PAGES_MAX);
        let tags: Vec<u64> = (0..u64::from(pages)).map(|at| round << 32 | at).collect();
        guest.stage(&tags);
        guest.scrub(tags.len());
        for shape in SHAPES {
            let put = cut_pages(&mut random, guest.put_stage, pages);
            let get = cut_pages(&mut random, guest.get_stage, pages);
            let ticket = guest.driver.ticket();
            let pair = guest.driver.pair(0);
            let request = Request::run(op::PUT, POOL, 0, pages, ticket);
            pair.put.submit(&request, &put, shape).unwrap();
            pair.put.notify().unwrap();
            check_put(&pair.put.wait().unwrap(), tags.len());
            let request = Request::run(op::GET, POOL, 0, pages, 0);
            pair.get.submit(&request, &get, shape).unwrap();
            pair.get.notify().unwrap();
            check_get(&pair.get.wait().unwrap(), tags.len());
            for (at, tag) in tags.iter().enumerate() {
                assert!(
                    guest.delivered(at) == page_content(*tag),
                    "page {at} of {pages}, {shape:?}"
                );
            }
        }
    }
}

/// Cuts `pages` pages at `address` into descriptors of random numbers of pages.
fn cut_pages(random: &mut Random, address: u64, pages: u32) -> Vec<(u64, u32)> {
    let mut data = Vec::new();
    let mut at = 0;
    while at < pages {
        let some = 1 + random.below(pages - at);
        data.push(pages_at(address + u64::from(at) * PAGE_SIZE as u64, some));
        at += some;
    }
    data
}

#[test]
fn headers_lists_and_results_may_be_cut_anywhere() {
    let host = Host::one();
    let mut guest = Guest::join(&host.socket(0), long_rings());
    let indices = [5, 9, 2];
    for cut in 1..=60 {
        for indirect in [false, true] {
            let shape = Shape { indirect, cut };
            let tags = [1, 2, 3].map(|tag| u64::from(cut) << 8 | tag);
            guest.stage(&tags);
            guest.scrub(tags.len());
            let ticket = guest.driver.ticket();
            let (from, to) = (pages_at(guest.put_stage, 3), pages_at(guest.get_stage, 3));
            let pair = guest.driver.pair(0);
            let request = Request::list(op::PUT, POOL, &indices, ticket);
            pair.put.submit(&request, &[from], shape).unwrap();
            pair.put.notify().unwrap();
            check_put(&pair.put.wait().unwrap(), tags.len());
            let request = Request::list(op::GET, POOL, &indices, 0);
            pair.get.submit(&request, &[to], shape).unwrap();
            pair.get.notify().unwrap();
            check_get(&pair.get.wait().unwrap(), tags.len());
            for (at, tag) in tags.iter().enumerate() {
                assert!(
                    guest.delivered(at) == page_content(*tag),
                    "cut after {cut} bytes"
                );
            }
        }
    }
}

#[test]
fn page_data_that_straddles_descriptors_is_invalid_and_stores_nothing() {
    let host = Host::one();
    let mut guest = Guest::join(&host.socket(0), Options::default());
    let halves = [(guest.put_stage, 2048), (guest.put_stage + 2048, 2048)];
    let ticket = guest.driver.ticket();
    let done = guest.put_call(&Request::run(op::PUT, POOL, 3, 1, ticket), &halves);
    assert_eq!(done.response.status, status::INVALID);
    guest.assert_missing(3, 1);
    guest.assert_works(0);
}

#[test]
fn page_addresses_need_no_alignment() {
    let host = Host::one();
    let mut guest = Guest::join(&host.socket(0), Options::default());
    let (from, to) = (guest.put_stage + 1, guest.get_stage + 13);
    let content = page_content(77);
    guest.memory.write(from, &content).unwrap();
    let ticket = guest.driver.ticket();
    guest.put_call(
        &Request::run(op::PUT, POOL, 3, 1, ticket),
        &[pages_at(from, 1)],
    );
    let done = guest.get_call(&Request::run(op::GET, POOL, 3, 1, 0), &[pages_at(to, 1)]);
    check_get(&done, 1);
    let mut page = [0; PAGE_SIZE];
    guest.memory.read(to, &mut page).unwrap();
    assert_eq!(page, content);
}

#[test]
fn pages_lie_in_any_region_of_guest_memory() {
    let host = Host::one();
    let layout = vec![
        (0, 16 << 20),
        (1 << 30, 1 << 20),
        (1 << 32, 2 << 20),
        ((1 << 32) + (2 << 20), 1 << 20),
    ];
    let memory = GuestMemory::with_layout(&layout).unwrap();
    let mut guest = Guest::with_memory(&host.socket(0), Options::default(), EPOCH, &memory);
    // The first and last page of each region, and a run over the border of two that touch.
    let mut places = Vec::new();
    for (start, bytes) in &layout[1..] {
        places.push((*start, 1));
        places.push((start + *bytes as u64 - 4096, 1));
    }
    places.push(((1 << 32) + (2 << 20) - 4096, 2));
    for (number, (address, pages)) in (0_u32..).zip(places) {
        let tags: Vec<u64> = (0..u64::from(pages)).map(|at| address | at).collect();
        for (at, tag) in tags.iter().enumerate() {
            memory
                .write(address + (at * PAGE_SIZE) as u64, &page_content(*tag))
                .unwrap();
        }
        let ticket = guest.driver.ticket();
        let request = Request::run(op::PUT, POOL, number * 2, pages, ticket);
        let done = guest.put_call(&request, &[pages_at(address, pages)]);
        assert_eq!(
            done.results,
            vec![result::OK; tags.len()],
            "{pages} pages at {address:#x}"
        );
        guest.assert_pages(number * 2, &tags);
    }
}

#[test]
fn pages_of_one_repeated_word_come_back_too() {
    let host = Host::one();
    let mut guest = Guest::join(&host.socket(0), Options::default());
    for (index, byte) in [(0, 0x00), (1, 0xff), (2, 0x5a)] {
        guest
            .memory
            .write(guest.put_page(0), &[byte; PAGE_SIZE])
            .unwrap();
        let ticket = guest.driver.ticket();
        let data = [pages_at(guest.put_stage, 1)];
        guest.put_call(&Request::run(op::PUT, POOL, index, 1, ticket), &data);
        assert_eq!(guest.get(POOL, index, 1), [result::OK]);
        assert_eq!(guest.delivered(0), [byte; PAGE_SIZE]);
    }
    let stat = guest.driver.stat(POOL).unwrap();
    assert_eq!(
        (stat.pages, stat.value),
        (3, 3),
        "three pages, all same-filled"
    );
}

#[test]
fn a_driver_without_interrupts_polls_its_way_through() {
    let host = Host::one();
    let memory = GuestMemory::new(16 << 20).unwrap();
    let options = Options {
        call: false,
        event_idx: false,
        ..Options::default()
    };
    let mut driver = Driver::connect(&host.socket(0), &memory, options, 4).unwrap();
    driver.hello(EPOCH).unwrap();
    driver.create_dense(POOL, POOL_PAGES).unwrap();
    let mut guest = Guest::over(driver);
    for round in 0..200 {
        guest.put_ok(round, &[u64::from(round)]);
        guest.assert_pages(round, &[u64::from(round)]);
    }
}
