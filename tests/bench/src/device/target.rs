// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A server under load: slots on one or two rings, and what a request looks like on each.

use std::sync::Arc;

use tmem_frontend::{Connection, GuestMemory, Queue, Segment, Wait};

use crate::{Error, Result};

/// What a load asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    /// Fetch pages.
    Get,
    /// Store pages.
    Put,
}

/// The wire format of a server: how a request is written, and how its answer is read.
pub(crate) trait Format {
    /// Who the server is.
    const NAME: &'static str;
    /// Bytes before the page data.
    const HEADER: usize;
    /// Writes the header of a request for `indices` into `header` and says how many bytes it has.
    fn header(&mut self, op: Op, indices: &[u32], header: &mut [u8]) -> usize;
    /// Writable bytes of the answer to a request for `pages` pages.
    fn answer(&self, pages: usize) -> u32;
    /// Whether the answer's bytes stand before the page data of a get.
    const ANSWER_FIRST: bool;
    /// The status in the answer's first bytes if it is not success.
    fn failure(&self, answer: &[u8], pages: usize) -> Option<u8>;
}

/// A connected server with `Slot`s for requests in flight.
pub(crate) struct Target<F: Format> {
    format: F,
    memory: Arc<GuestMemory>,
    gets: Queue,
    /// `None` where gets and puts share a ring.
    puts: Option<Queue>,
    free: Vec<u16>,
    slots: Vec<Slot>,
    /// By head of a chain: the slot, for each ring.
    by_head: Vec<u16>,
    segments: Vec<Segment>,
    /// Keeps the socket open.
    _connection: Connection,
}

#[derive(Clone, Debug, Default)]
struct Slot {
    header: u64,
    answer: u64,
    indices: Vec<u32>,
}

/// The most pages in a request of the benchmark.
pub(crate) const BATCH: usize = 32;
/// The most requests in flight.
pub(crate) const DEPTH: usize = 32;

impl<F: Format> Target<F> {
    /// Loads `gets` and `puts` of an established connection.
    pub(crate) fn new(
        format: F,
        connection: Connection,
        gets: Queue,
        puts: Option<Queue>,
    ) -> Result<Self> {
        let fail = Error::frontend(F::NAME);
        let memory = Arc::clone(connection.memory());
        let mut slots = Vec::new();
        for _ in 0..DEPTH {
            let header = memory.allocate(F::HEADER, 64).map_err(&fail)?;
            let answer = memory.allocate(64, 64).map_err(&fail)?;
            slots.push(Slot {
                header,
                answer,
                indices: Vec::with_capacity(BATCH),
            });
        }
        let free = (0..u16::try_from(DEPTH).expect("a small depth"))
            .rev()
            .collect();
        let ring_size = usize::from(connection.options().queue_size);
        Ok(Self {
            format,
            memory,
            gets,
            puts,
            free,
            slots,
            by_head: vec![0; ring_size],
            segments: Vec::with_capacity(BATCH + 2),
            _connection: connection,
        })
    }

    /// Chooses how the client waits, on all rings.
    pub(crate) fn set_wait(&mut self, wait: Wait) {
        self.gets.set_wait(wait);
        if let Some(puts) = &mut self.puts {
            puts.set_wait(wait);
        }
    }

    fn queue(&mut self, op: Op) -> &mut Queue {
        match (&mut self.puts, op) {
            (Some(puts), Op::Put) => puts,
            _ => &mut self.gets,
        }
    }

    /// Adds a request for `indices`, whose page data is at `buffers`; [`Self::notify`] shows it.
    pub(crate) fn submit(&mut self, op: Op, indices: &[u32], buffers: &[u64]) -> Result<()> {
        let fail = Error::frontend(F::NAME);
        let slot_index = self.free.pop().expect("the load keeps to the depth");
        let slot = &mut self.slots[usize::from(slot_index)];
        slot.indices.clear();
        slot.indices.extend_from_slice(indices);
        let mut header = [0; 256];
        let bytes = self.format.header(op, indices, &mut header);
        self.memory
            .write(slot.header, &header[..bytes])
            .map_err(&fail)?;
        let bytes = u32::try_from(bytes).expect("a short header");
        let answer = Segment::writable(slot.answer, self.format.answer(indices.len()));
        let page = u32::try_from(tmem_abi::PAGE_SIZE).expect("4096");

        self.segments.clear();
        self.segments.push(Segment::readable(slot.header, bytes));
        let answer_first = F::ANSWER_FIRST && op == Op::Get;
        if answer_first {
            self.segments.push(answer);
        }
        self.segments.extend(buffers.iter().map(|address| Segment {
            address: *address,
            length: page,
            writable: op == Op::Get,
        }));
        if !answer_first {
            self.segments.push(answer);
        }
        let segments = std::mem::take(&mut self.segments);
        let head = self.queue(op).ring().add(&segments, true).map_err(&fail)?;
        self.segments = segments;
        self.by_head[usize::from(head)] = slot_index;
        Ok(())
    }

    /// Shows what was submitted to the server.
    pub(crate) fn notify(&mut self, op: Op) -> Result<()> {
        self.queue(op).notify().map_err(Error::frontend(F::NAME))
    }

    /// Waits for one answer, takes all that are there, and hands each one's indices to `done`.
    pub(crate) fn collect(&mut self, op: Op, mut done: impl FnMut(&[u32])) -> Result<()> {
        let fail = Error::frontend(F::NAME);
        let mut used = Some(self.queue(op).wait_used().map_err(&fail)?);
        while let Some(one) = used {
            let slot_index = self.by_head[usize::from(one.head)];
            let slot = &self.slots[usize::from(slot_index)];
            let mut answer = [0; 64];
            let bytes = self.format.answer(slot.indices.len()) as usize;
            self.memory
                .read(slot.answer, &mut answer[..bytes])
                .map_err(&fail)?;
            if let Some(status) = self.format.failure(&answer[..bytes], slot.indices.len()) {
                return Err(Error::Status {
                    what: F::NAME,
                    status,
                });
            }
            done(&slot.indices);
            self.free.push(slot_index);
            used = self.queue(op).ring().pop_used().map_err(&fail)?;
        }
        Ok(())
    }

    /// Guest memory of the pretended guest.
    pub(crate) const fn memory(&self) -> &Arc<GuestMemory> {
        &self.memory
    }
}
