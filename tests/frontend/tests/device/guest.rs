// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A guest of the tests: a driver with one pool and staging buffers, which checks every byte.

use std::path::Path;
use std::sync::Arc;

use tmem_abi::{PAGE_SIZE, ResponseHeader, flag, op, result, status};
use tmem_frontend::{
    Completion, Driver, GuestMemory, Options, Request, Result, Shape, page_content, pages_at,
};

/// The pool that a guest makes when it joins.
pub(crate) const POOL: u32 = 7;
/// Indices of that pool.
pub(crate) const POOL_PAGES: u32 = 1 << 16;
/// Boot epoch of guests that do not say otherwise.
pub(crate) const EPOCH: u128 = 0x0123_4567_89ab_cdef_0f1e_2d3c_4b5a_6978;
/// Pages in each staging buffer.
pub(crate) const STAGE: usize = 256;

/// A driver that has greeted the device, with its staging buffers.
pub(crate) struct Guest {
    pub(crate) driver: Driver,
    pub(crate) memory: Arc<GuestMemory>,
    pub(crate) put_stage: u64,
    pub(crate) get_stage: u64,
}

impl Guest {
    /// Connects with a memory of its own, greets, and makes [`POOL`].
    pub(crate) fn join(socket: &Path, options: Options) -> Self {
        Self::join_as(socket, options, EPOCH)
    }

    pub(crate) fn join_as(socket: &Path, options: Options, epoch: u128) -> Self {
        let memory = GuestMemory::new(32 << 20).unwrap();
        Self::with_memory(socket, options, epoch, &memory)
    }

    pub(crate) fn with_memory(
        socket: &Path,
        options: Options,
        epoch: u128,
        memory: &Arc<GuestMemory>,
    ) -> Self {
        let mut guest = Self::over(Driver::connect(socket, memory, options, 32).unwrap());
        guest.driver.hello(epoch).unwrap();
        guest.driver.create_dense(POOL, POOL_PAGES).unwrap();
        guest
    }

    /// Adds staging buffers to a driver, and does nothing else.
    pub(crate) fn over(driver: Driver) -> Self {
        let memory = Arc::clone(driver.memory());
        let put_stage = memory.allocate_pages(STAGE).unwrap();
        let get_stage = memory.allocate_pages(STAGE).unwrap();
        Self {
            driver,
            memory,
            put_stage,
            get_stage,
        }
    }

    /// Page `at` of the put stage.
    pub(crate) fn put_page(&self, at: usize) -> u64 {
        self.put_stage + (at * PAGE_SIZE) as u64
    }

    /// Page `at` of the get stage.
    pub(crate) fn get_page(&self, at: usize) -> u64 {
        self.get_stage + (at * PAGE_SIZE) as u64
    }

    /// Writes the contents of `tags` into the put stage.
    pub(crate) fn stage(&self, tags: &[u64]) {
        for (at, tag) in tags.iter().enumerate() {
            self.memory
                .write(self.put_page(at), &page_content(*tag))
                .unwrap();
        }
    }

    /// Overwrites the get stage, so that nothing old passes for a delivery.
    pub(crate) fn scrub(&self, pages: usize) {
        for at in 0..pages {
            self.memory
                .write(self.get_page(at), &[0xa5; PAGE_SIZE])
                .unwrap();
        }
    }

    /// The bytes of page `at` of the get stage.
    pub(crate) fn delivered(&self, at: usize) -> [u8; PAGE_SIZE] {
        let mut page = [0; PAGE_SIZE];
        self.memory.read(self.get_page(at), &mut page).unwrap();
        page
    }

    /// Any request on the put queue of pair 0.
    pub(crate) fn put_call(&mut self, request: &Request, data: &[(u64, u32)]) -> Completion {
        self.driver.pair(0).put.call(request, data).unwrap()
    }

    /// Any request on the get queue of pair 0.
    pub(crate) fn get_call(&mut self, request: &Request, data: &[(u64, u32)]) -> Completion {
        self.driver.pair(0).get.call(request, data).unwrap()
    }

    /// Puts a run whose pages have the contents of `tags`; returns the results.
    pub(crate) fn put(&mut self, pool: u32, index: u32, tags: &[u64]) -> Vec<u8> {
        let ticket = self.driver.ticket();
        self.put_with(pool, index, tags, ticket)
    }

    /// As [`Self::put`], with a ticket.
    pub(crate) fn put_with(&mut self, pool: u32, index: u32, tags: &[u64], ticket: u64) -> Vec<u8> {
        self.stage(tags);
        let pages = u32::try_from(tags.len()).unwrap();
        let request = Request::run(op::PUT, pool, index, pages, ticket);
        let done = self.put_call(&request, &[pages_at(self.put_stage, pages)]);
        check_put(&done, tags.len());
        done.results
    }

    /// Puts a run, and every page must be stored.
    pub(crate) fn put_ok(&mut self, index: u32, tags: &[u64]) {
        assert_eq!(self.put(POOL, index, tags), vec![result::OK; tags.len()]);
    }

    /// Gets a run into the get stage and returns the results.
    pub(crate) fn get(&mut self, pool: u32, index: u32, pages: u32) -> Vec<u8> {
        self.scrub(pages as usize);
        let request = Request::run(op::GET, pool, index, pages, 0);
        let done = self.get_call(&request, &[pages_at(self.get_stage, pages)]);
        check_get(&done, pages as usize);
        done.results
    }

    /// Gets a run, and every page must have the content of its tag.
    pub(crate) fn assert_pages(&mut self, index: u32, tags: &[u64]) {
        let results = self.get(POOL, index, u32::try_from(tags.len()).unwrap());
        for (at, tag) in tags.iter().enumerate() {
            assert_eq!(results[at], result::OK, "page {} of run {index}", at);
            assert!(
                self.delivered(at) == page_content(*tag),
                "page {at} of run {index}: bytes"
            );
        }
    }

    /// Gets a run, and no page may be there; the buffers stay as they were.
    pub(crate) fn assert_missing(&mut self, index: u32, pages: u32) {
        assert_eq!(
            self.get(POOL, index, pages),
            vec![result::MISS; pages as usize]
        );
        for at in 0..pages as usize {
            assert_eq!(
                self.delivered(at),
                [0xa5; PAGE_SIZE],
                "a miss touched the buffer"
            );
        }
    }

    /// Flushes a run and returns how many pages went.
    pub(crate) fn flush(&mut self, index: u32, pages: u32) -> u32 {
        let ticket = self.driver.ticket();
        let done = self.put_call(&Request::run(op::FLUSH, POOL, index, pages, ticket), &[]);
        assert_eq!(done.response.status, status::OK);
        done.response.done
    }

    /// Gets one page with EXCLUSIVE.
    pub(crate) fn get_exclusive(&mut self, index: u32) -> u8 {
        self.scrub(1);
        let request = Request::run(op::GET, POOL, index, 1, 0).with_flags(flag::EXCLUSIVE);
        let done = self.get_call(&request, &[pages_at(self.get_stage, 1)]);
        check_get(&done, 1);
        done.results[0]
    }

    /// Proves that the device works for this guest: a put and a get through pair `pair`.
    pub(crate) fn assert_works(&mut self, pair: usize) {
        let index = POOL_PAGES - 1 - u32::try_from(pair).unwrap();
        let tag = self.driver.ticket();
        self.stage(&[tag]);
        self.scrub(1);
        let (from, to) = (self.put_stage, self.get_stage);
        let put = Request::run(op::PUT, POOL, index, 1, tag);
        let get = Request::run(op::GET, POOL, index, 1, 0);
        let queues = self.driver.pair(pair);
        let done = queues.put.call(&put, &[pages_at(from, 1)]).unwrap();
        assert_eq!(
            (done.response.status, &done.results[..]),
            (status::OK, &[result::OK][..])
        );
        let done = queues.get.call(&get, &[pages_at(to, 1)]).unwrap();
        assert_eq!(
            (done.response.status, &done.results[..]),
            (status::OK, &[result::OK][..])
        );
        assert!(
            self.delivered(0) == page_content(tag),
            "pair {pair} returned other bytes"
        );
    }
}

/// The response to a put of `pages` pages adds up.
pub(crate) fn check_put(done: &Completion, pages: usize) {
    assert_eq!(done.response.status, status::OK);
    assert_eq!(done.used as usize, ResponseHeader::SIZE + pages);
    assert_eq!(done.response.done as usize, count(&done.results));
}

/// The response to a get of `pages` pages adds up.
pub(crate) fn check_get(done: &Completion, pages: usize) {
    assert_eq!(done.response.status, status::OK);
    assert_eq!(done.response.done as usize, count(&done.results));
    let last = done
        .results
        .iter()
        .rposition(|r| *r == result::OK)
        .map_or(0, |at| at + 1);
    assert_eq!(
        done.used as usize,
        ResponseHeader::SIZE + pages + last * PAGE_SIZE
    );
}

fn count(results: &[u8]) -> usize {
    results
        .iter()
        .filter(|result| **result == result::OK)
        .count()
}

/// Both shapes of a chain.
pub(crate) const SHAPES: [Shape; 2] = [
    Shape {
        indirect: false,
        cut: 0,
    },
    Shape {
        indirect: true,
        cut: 0,
    },
];

/// Sends nothing, to check that `result` is an error of the kind that a broken connection gives.
pub(crate) fn is_refused<T>(result: &Result<T>) -> bool {
    matches!(result, Err(tmem_frontend::Error::Message { .. }))
}
