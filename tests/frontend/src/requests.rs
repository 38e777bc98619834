// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A request queue of the driver: many requests in flight, each in a slot of its own.

use std::collections::HashMap;
use std::sync::Arc;

use tmem_abi::{BATCH_PAGES_MAX, PAGE_SIZE, RequestHeader, ResponseHeader, flag, op};

use crate::{Error, GuestMemory, Queue, Result, Segment, Used};

/// Bytes for a header and the longest list.
const READABLE: usize = RequestHeader::SIZE + 4 * BATCH_PAGES_MAX as usize;
/// Bytes for a response and the most results.
const WRITABLE: usize = ResponseHeader::SIZE + BATCH_PAGES_MAX as usize;
/// What writable bytes hold before the device has written them.
const UNTOUCHED: u8 = 0xee;

/// What to ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// The header; with a list, `flags` and `pages` are set by [`Request::list`].
    pub header: RequestHeader,
    /// Indices of a listed request.
    pub indices: Vec<u32>,
}

impl Request {
    /// A run of pages of object 0.
    #[must_use]
    pub fn run(op: u8, pool: u32, index: u32, pages: u32, ticket: u64) -> Self {
        let header = RequestHeader {
            op,
            pool,
            index,
            pages,
            ticket,
            ..RequestHeader::default()
        };
        Self {
            header,
            indices: Vec::new(),
        }
    }

    /// Listed pages of object 0.
    #[must_use]
    pub fn list(op: u8, pool: u32, indices: &[u32], ticket: u64) -> Self {
        let pages = u32::try_from(indices.len()).expect("a short list");
        let mut request = Self::run(op, pool, 0, pages, ticket);
        request.header.flags = flag::LIST;
        request.indices = indices.to_vec();
        request
    }

    /// The same request for another object.
    #[must_use]
    pub const fn of_object(mut self, object: [u64; 3]) -> Self {
        self.header.object_low = object[0];
        self.header.object_middle = object[1];
        self.header.object_high = object[2];
        self
    }

    /// The same request with more flags.
    #[must_use]
    pub const fn with_flags(mut self, flags: u8) -> Self {
        self.header.flags |= flags;
        self
    }

    /// Results that the device owes: one a page where the operation has them.
    #[must_use]
    pub fn results(&self) -> usize {
        let listed = self.header.flags & flag::LIST != 0;
        match self.header.op {
            op::PUT | op::GET => self.header.pages as usize,
            op::FLUSH if listed => self.header.pages as usize,
            _ => 0,
        }
    }
}

/// How a request is cut into descriptors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// The chain goes into an indirect table.
    pub indirect: bool,
    /// Header, list, response and results are cut after every so many bytes; 0: not at all.
    pub cut: u32,
}

/// A finished request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completion {
    /// What [`RequestQueue::submit`] returned.
    pub token: u16,
    /// Bytes that the device says it wrote.
    pub used: u32,
    /// The response.
    pub response: ResponseHeader,
    /// A result a page, where the request has them.
    pub results: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    readable: u64,
    writable: u64,
}

#[derive(Debug)]
struct InFlight {
    slot: Slot,
    results: usize,
    room: u32,
}

/// One get or put queue with its slots.
#[derive(Debug)]
pub struct RequestQueue {
    queue: Queue,
    memory: Arc<GuestMemory>,
    free: Vec<Slot>,
    slots: usize,
    in_flight: HashMap<u16, InFlight>,
}

impl RequestQueue {
    /// Puts `slots` slots on a queue: the most requests in flight at one time.
    pub fn new(queue: Queue, memory: &Arc<GuestMemory>, slots: usize) -> Result<Self> {
        let mut free = Vec::new();
        for _ in 0..slots {
            free.push(Slot {
                readable: memory.allocate(READABLE, 64)?,
                writable: memory.allocate(WRITABLE, 64)?,
            });
        }
        let memory = Arc::clone(memory);
        Ok(Self {
            queue,
            memory,
            free,
            slots,
            in_flight: HashMap::new(),
        })
    }

    /// The queue below.
    pub const fn queue(&mut self) -> &mut Queue {
        &mut self.queue
    }

    /// Gives the queue back; what is in flight is forgotten.
    #[must_use]
    pub fn into_queue(self) -> Queue {
        self.queue
    }

    /// Requests in flight.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Whether another request finds a slot.
    #[must_use]
    pub fn has_slot(&self) -> bool {
        !self.free.is_empty()
    }

    /// Adds a request to the ring and returns its token; the device sees it after
    /// [`Self::notify`]. `data` names page data: guest address and bytes of each descriptor.
    pub fn submit(&mut self, request: &Request, data: &[(u64, u32)], shape: Shape) -> Result<u16> {
        let slot = self.free.pop().ok_or(Error::NoSlot { slots: self.slots })?;
        let added = self.add(slot, request, data, shape);
        if added.is_err() {
            self.free.push(slot);
        }
        added
    }

    fn add(
        &mut self,
        slot: Slot,
        request: &Request,
        data: &[(u64, u32)],
        shape: Shape,
    ) -> Result<u16> {
        let mut readable = Vec::from(request.header.to_bytes());
        for index in &request.indices {
            readable.extend(index.to_le_bytes());
        }
        self.memory.write(slot.readable, &readable)?;
        let results = request.results();
        let writable = ResponseHeader::SIZE + results;
        self.memory
            .write(slot.writable, &vec![UNTOUCHED; writable])?;

        let mut segments = Vec::new();
        let gets = request.header.op == op::GET;
        cut(
            &mut segments,
            Segment::readable(slot.readable, length(readable.len())),
            shape.cut,
        );
        if !gets {
            segments.extend(
                data.iter()
                    .map(|(at, bytes)| Segment::readable(*at, *bytes)),
            );
        }
        cut(
            &mut segments,
            Segment::writable(slot.writable, length(writable)),
            shape.cut,
        );
        if gets {
            segments.extend(
                data.iter()
                    .map(|(at, bytes)| Segment::writable(*at, *bytes)),
            );
        }
        let room = segments
            .iter()
            .filter(|s| s.writable)
            .map(|s| s.length)
            .sum();
        let token = self.queue.ring().add(&segments, shape.indirect)?;
        self.in_flight.insert(
            token,
            InFlight {
                slot,
                results,
                room,
            },
        );
        Ok(token)
    }

    /// Shows added requests to the device, with one kick at most.
    pub fn notify(&mut self) -> Result<()> {
        self.queue.notify()
    }

    /// Takes a finished request, if there is one.
    pub fn poll(&mut self) -> Result<Option<Completion>> {
        match self.queue.ring().pop_used()? {
            Some(used) => self.complete(used).map(Some),
            None => Ok(None),
        }
    }

    /// Waits for a finished request.
    pub fn wait(&mut self) -> Result<Completion> {
        let used = self.queue.wait_used()?;
        self.complete(used)
    }

    /// Submits one request and waits for it. Nothing else may be in flight on this queue.
    pub fn call(&mut self, request: &Request, data: &[(u64, u32)]) -> Result<Completion> {
        let shape = Shape {
            indirect: data.len() > 2,
            cut: 0,
        };
        let token = self.submit(request, data, shape)?;
        self.notify()?;
        let completion = self.wait()?;
        assert_eq!(
            completion.token, token,
            "call() needs a queue without requests in flight"
        );
        Ok(completion)
    }

    fn complete(&mut self, used: Used) -> Result<Completion> {
        let token = used.head;
        let done = self
            .in_flight
            .remove(&token)
            .ok_or_else(|| Error::NotInFlight { id: token.into() })?;
        self.free.push(done.slot);
        if used.length > done.room {
            return Err(Error::UsedLength {
                used: used.length,
                room: done.room,
            });
        }
        let mut bytes = vec![0; ResponseHeader::SIZE + done.results];
        self.memory.read(done.slot.writable, &mut bytes)?;
        let (head, results) = bytes.split_first_chunk().expect("longer than a response");
        let response = ResponseHeader::from_bytes(head);
        Ok(Completion {
            token,
            used: used.length,
            response,
            results: results.to_vec(),
        })
    }
}

/// Pages at `address`, as one descriptor's data.
#[must_use]
pub fn pages_at(address: u64, pages: u32) -> (u64, u32) {
    (address, pages * length(PAGE_SIZE))
}

fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("a short buffer")
}

/// Adds `segment`, cut after every `every` bytes.
fn cut(into: &mut Vec<Segment>, segment: Segment, every: u32) {
    let every = if every == 0 { segment.length } else { every };
    let mut at = 0;
    while at < segment.length {
        let bytes = every.min(segment.length - at);
        into.push(Segment {
            address: segment.address + u64::from(at),
            length: bytes,
            ..segment
        });
        at += bytes;
    }
}
