// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The load: a closed loop that keeps a number of requests in flight, and a check of every page.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tmem_abi::PAGE_SIZE;
use tmem_frontend::{Random, page_content};

use super::target::{BATCH, DEPTH, Format, Op, Target};
use crate::floors::per_second;
use crate::{Error, Result};

/// How a load asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Requests in flight.
    pub(crate) depth: usize,
    /// Pages of each request.
    pub(crate) pages: usize,
    /// The pages of a request have consecutive indices; otherwise random ones.
    pub(crate) run: bool,
}

/// One timed pass.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Pass {
    /// Pages a second.
    pub(crate) rate: f64,
    /// Median time of a request, in seconds; of passes with one request in flight only.
    pub(crate) median: Option<f64>,
    /// Requests made.
    pub(crate) requests: u64,
}

/// The pages of one server, what they should hold, and the guest's buffers.
pub(crate) struct Load<F: Format> {
    target: Target<F>,
    random: Random,
    put_buffers: u64,
    get_buffers: u64,
    buffers: u32,
    /// By index: generation of the buffers from which it was last put.
    written: Vec<u64>,
    generation: u64,
}

impl<F: Format> Load<F> {
    /// Prepares `pages` indices and `buffers` pages of guest memory for each direction, and puts
    /// every page once.
    pub(crate) fn new(target: Target<F>, pages: u32, buffers: u32) -> Result<Self> {
        let fail = Error::frontend(F::NAME);
        let count = buffers as usize;
        let put_buffers = target.memory().allocate_pages(count).map_err(&fail)?;
        let get_buffers = target.memory().allocate_pages(count).map_err(&fail)?;
        let mut load = Self {
            target,
            random: Random::new(7),
            put_buffers,
            get_buffers,
            buffers,
            written: vec![0; pages as usize],
            generation: 0,
        };
        load.refill()?;
        load.sweep(Op::Put, |_, _, _| Ok(()))?;
        load.written.fill(load.generation);
        Ok(load)
    }

    /// Fills the buffers of puts with contents that were never there.
    pub(crate) fn refill(&mut self) -> Result<()> {
        self.generation += 1;
        for buffer in 0..self.buffers {
            let content = page_content(tag(self.generation, buffer));
            self.target
                .memory()
                .write(self.address(Op::Put, buffer), &content)
                .map_err(Error::frontend(F::NAME))?;
        }
        Ok(())
    }

    fn address(&self, op: Op, buffer: u32) -> u64 {
        let base = if op == Op::Put {
            self.put_buffers
        } else {
            self.get_buffers
        };
        base + u64::from(buffer) * PAGE_SIZE as u64
    }

    /// Keeps `shape.depth` requests in flight for `time`.
    pub(crate) fn run(&mut self, op: Op, shape: Shape, time: Duration) -> Result<Pass> {
        let mut histogram = Histogram::<u64>::new(3).expect("3 digits are allowed");
        let (mut in_flight, mut requests, mut pages) = (0, 0, 0);
        let start = Instant::now();
        let mut sent = start;
        let mut running = true;
        let mut indices = Vec::with_capacity(BATCH);
        let mut addresses = Vec::with_capacity(BATCH);
        while running || in_flight > 0 {
            while running && in_flight < shape.depth {
                self.choose(op, shape, &mut indices, &mut addresses);
                self.target.submit(op, &indices, &addresses)?;
                in_flight += 1;
            }
            self.target.notify(op)?;
            let (written, generation) = (&mut self.written, self.generation);
            self.target.collect(op, |done| {
                in_flight -= 1;
                requests += 1;
                pages += done.len() as u64;
                if op == Op::Put {
                    for index in done {
                        written[*index as usize] = generation;
                    }
                }
            })?;
            let now = Instant::now();
            if shape.depth == 1 {
                let nanoseconds = u64::try_from((now - sent).as_nanos()).unwrap_or(u64::MAX);
                histogram.record(nanoseconds).expect("the histogram grows");
                sent = now;
            }
            running = now - start < time;
        }
        #[expect(clippy::cast_precision_loss, reason = "nanoseconds of one request")]
        let median = histogram.value_at_quantile(0.5) as f64 / 1e9;
        Ok(Pass {
            rate: per_second(pages, start),
            median: (shape.depth == 1).then_some(median),
            requests,
        })
    }

    /// Random indices with their buffers. A page is always put from the same buffer, so that its
    /// content follows from the generation whatever order the server works in.
    fn choose(&mut self, op: Op, shape: Shape, indices: &mut Vec<u32>, addresses: &mut Vec<u64>) {
        indices.clear();
        addresses.clear();
        let pages = u32::try_from(self.written.len()).expect("indices are 32 bits");
        let length = u32::try_from(shape.pages).expect("a small batch");
        let first = self.random.below(pages - length + 1);
        for at in 0..length {
            let index = if shape.run {
                first + at
            } else {
                self.random.below(pages)
            };
            indices.push(index);
            addresses.push(self.address(op, index % self.buffers));
        }
    }

    /// Gets every page and compares it, byte by byte, with what was last put there.
    pub(crate) fn verify(&mut self) -> Result<()> {
        let written = self.written.clone();
        let buffers = self.buffers;
        self.sweep(Op::Get, |memory, index, address| {
            let mut page = [0; PAGE_SIZE];
            memory
                .read(address, &mut page)
                .map_err(Error::frontend(F::NAME))?;
            let expected = page_content(tag(written[index as usize], index % buffers));
            if page == expected {
                Ok(())
            } else {
                Err(Error::Mismatch {
                    what: F::NAME,
                    index,
                })
            }
        })
    }

    /// Goes through all pages once, in runs, and shows each to `check` while its buffer is current.
    fn sweep(
        &mut self,
        op: Op,
        check: impl Fn(&tmem_frontend::GuestMemory, u32, u64) -> Result<()>,
    ) -> Result<()> {
        let pages = u32::try_from(self.written.len()).expect("indices are 32 bits");
        let all: Vec<u32> = (0..pages).collect();
        for group in all.chunks(BATCH * DEPTH) {
            let mut in_flight = 0;
            for run in group.chunks(BATCH) {
                let addresses: Vec<u64> = run
                    .iter()
                    .map(|index| self.address(op, index % self.buffers))
                    .collect();
                if op == Op::Get {
                    for address in &addresses {
                        // What was there before must not pass for what the server delivers.
                        self.target
                            .memory()
                            .write(*address, &[0; PAGE_SIZE])
                            .map_err(Error::frontend(F::NAME))?;
                    }
                }
                self.target.submit(op, run, &addresses)?;
                in_flight += 1;
            }
            self.target.notify(op)?;
            while in_flight > 0 {
                self.target.collect(op, |_| in_flight -= 1)?;
            }
            for index in group {
                check(
                    self.target.memory(),
                    *index,
                    self.address(op, index % self.buffers),
                )?;
            }
        }
        Ok(())
    }
}

/// Content of a buffer in a generation.
fn tag(generation: u64, buffer: u32) -> u64 {
    generation << 32 | u64::from(buffer)
}
