// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The guest's part: control requests, events, tickets, and the request queues in pairs.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use tmem_abi::{
    ControlRequest, ControlResponse, Event, QUEUE_CONTROL, QUEUE_EVENT, VERSION, control,
    get_queue, pool_kind, pool_layout, put_queue, status,
};

use crate::{Connection, Error, GuestMemory, Options, Queue, RequestQueue, Result, Segment, WAIT};

/// Buffers that the driver keeps on the event queue.
const EVENT_BUFFERS: u16 = 8;

/// The device's answer to HELLO.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The device knew the epoch, and the pools are as they were.
    pub same_epoch: bool,
    /// Grant in pages.
    pub grant: u64,
    /// Highest ticket that the device has seen.
    pub ticket: u64,
    /// Pages that the guest's pools hold.
    pub held: u64,
}

/// A get and a put queue.
#[derive(Debug)]
pub struct Pair {
    /// For GET.
    pub get: RequestQueue,
    /// For PUT and FLUSH*.
    pub put: RequestQueue,
}

/// The pretended guest's driver.
#[derive(Debug)]
pub struct Driver {
    connection: Connection,
    memory: Arc<GuestMemory>,
    control: Queue,
    control_buffer: u64,
    events: Queue,
    event_buffers: Vec<(u16, u64)>,
    received: VecDeque<Event>,
    pairs: Vec<Option<Pair>>,
    tickets: Arc<AtomicU64>,
}

impl Driver {
    /// Connects with `slots` slots on each request queue; no HELLO yet.
    pub fn connect(
        socket: &Path,
        memory: &Arc<GuestMemory>,
        options: Options,
        slots: usize,
    ) -> Result<Self> {
        Self::over(Connection::establish(socket, memory, options)?, slots)
    }

    /// Drives the queues of an established connection.
    pub fn over(mut connection: Connection, slots: usize) -> Result<Self> {
        let memory = Arc::clone(connection.memory());
        let take = |connection: &mut Connection, index| {
            connection
                .take_queue(index)
                .ok_or(Error::NotOffered { what: "the queue" })
        };
        let control = take(&mut connection, QUEUE_CONTROL)?;
        let events = take(&mut connection, QUEUE_EVENT)?;
        let mut pairs = Vec::new();
        for pair in 0..connection.config().queue_pairs {
            if put_queue(pair) >= connection.queue_count() {
                break;
            }
            let get = take(&mut connection, get_queue(pair))?;
            let put = take(&mut connection, put_queue(pair))?;
            pairs.push(Some(Pair {
                get: RequestQueue::new(get, &memory, slots)?,
                put: RequestQueue::new(put, &memory, slots)?,
            }));
        }
        let control_buffer = memory.allocate(128, 64)?;
        let mut driver = Self {
            connection,
            memory,
            control,
            control_buffer,
            events,
            event_buffers: Vec::new(),
            received: VecDeque::new(),
            pairs,
            tickets: Arc::new(AtomicU64::new(1)),
        };
        driver.offer_event_buffers()?;
        Ok(driver)
    }

    fn offer_event_buffers(&mut self) -> Result<()> {
        for _ in 0..EVENT_BUFFERS {
            let address = self.memory.allocate(Event::SIZE, 16)?;
            self.offer_event_buffer(address)?;
        }
        self.events.notify()
    }

    fn offer_event_buffer(&mut self, address: u64) -> Result<()> {
        let segment = Segment::writable(address, u32::try_from(Event::SIZE).expect("16"));
        let head = self.events.ring().add(&[segment], false)?;
        self.event_buffers.push((head, address));
        Ok(())
    }

    /// Sends a control request and returns the answer, whatever its status.
    pub fn control(&mut self, request: &ControlRequest) -> Result<ControlResponse> {
        self.control_bytes(&request.to_bytes())
    }

    /// Sends any bytes as a control request.
    pub fn control_bytes(&mut self, request: &[u8]) -> Result<ControlResponse> {
        let answer = self.control_buffer + 64;
        self.memory.write(self.control_buffer, request)?;
        let readable = u32::try_from(request.len()).expect("at most 64");
        let writable = u32::try_from(ControlResponse::SIZE).expect("48");
        let chain = [
            Segment::readable(self.control_buffer, readable),
            Segment::writable(answer, writable),
        ];
        self.control.ring().add(&chain, false)?;
        self.control.notify()?;
        let used = self.control.wait_used()?;
        if used.length > writable {
            return Err(Error::UsedLength {
                used: used.length,
                room: writable,
            });
        }
        let mut bytes = [0; ControlResponse::SIZE];
        self.memory.read(answer, &mut bytes)?;
        Ok(ControlResponse::from_bytes(&bytes))
    }

    fn control_ok(
        &mut self,
        name: &'static str,
        request: &ControlRequest,
    ) -> Result<ControlResponse> {
        let response = self.control(request)?;
        if response.status == status::OK {
            Ok(response)
        } else {
            Err(Error::Status {
                request: name,
                status: response.status,
            })
        }
    }

    /// Begins with a boot epoch; tickets go on above those of the epoch.
    pub fn hello(&mut self, epoch: u128) -> Result<Hello> {
        let half = |shift: u32| {
            u64::try_from(epoch >> shift & u128::from(u64::MAX)).expect("masked to 64 bits")
        };
        let request = ControlRequest {
            op: control::HELLO,
            version: VERSION.into(),
            epoch_low: half(0),
            epoch_high: half(64),
            ..ControlRequest::default()
        };
        let response = self.control_ok("HELLO", &request)?;
        self.tickets
            .fetch_max(response.value + 1, Ordering::Relaxed);
        Ok(Hello {
            same_epoch: response.flags & tmem_abi::hello::SAME_EPOCH != 0,
            grant: response.pages,
            ticket: response.value,
            held: response.held,
        })
    }

    /// Makes a persistent pool of one object with `pages` indices.
    pub fn create_dense(&mut self, pool: u32, pages: u32) -> Result<()> {
        self.create(pool, pool_kind::PERSISTENT, pool_layout::DENSE, pages)
    }

    /// Makes a pool.
    pub fn create(&mut self, pool: u32, kind: u16, layout: u16, object_pages: u32) -> Result<()> {
        let op = control::POOL_CREATE;
        let request = ControlRequest {
            op,
            pool,
            kind,
            layout,
            object_pages,
            ..ControlRequest::default()
        };
        self.control_ok("POOL_CREATE", &request).map(drop)
    }

    /// Removes a pool.
    pub fn destroy(&mut self, pool: u32) -> Result<()> {
        let request = ControlRequest {
            op: control::POOL_DESTROY,
            pool,
            ..ControlRequest::default()
        };
        self.control_ok("POOL_DESTROY", &request).map(drop)
    }

    /// Reads a pool's counts.
    pub fn stat(&mut self, pool: u32) -> Result<ControlResponse> {
        let request = ControlRequest {
            op: control::POOL_STAT,
            pool,
            ..ControlRequest::default()
        };
        self.control_ok("POOL_STAT", &request)
    }

    /// The next event, if the device has sent one.
    pub fn poll_event(&mut self) -> Result<Option<Event>> {
        while let Some(used) = self.events.ring().pop_used()? {
            let id = used.head;
            let at = self
                .event_buffers
                .iter()
                .position(|(head, _)| *head == id)
                .ok_or_else(|| Error::NotInFlight { id: id.into() })?;
            let (_, address) = self.event_buffers.swap_remove(at);
            let mut bytes = [0; Event::SIZE];
            self.memory.read(address, &mut bytes)?;
            self.received.push_back(Event::from_bytes(&bytes));
            self.offer_event_buffer(address)?;
        }
        self.events.notify()?;
        Ok(self.received.pop_front())
    }

    /// Waits for an event of `kind`; others before it are dropped.
    pub fn wait_event(&mut self, kind: u32) -> Result<Event> {
        let start = Instant::now();
        loop {
            match self.poll_event()? {
                Some(event) if event.kind == kind => return Ok(event),
                Some(_) => {}
                None if start.elapsed() > WAIT => {
                    return Err(Error::Hang {
                        queue: QUEUE_EVENT,
                        waited: start.elapsed(),
                    });
                }
                None => std::thread::sleep(std::time::Duration::from_millis(1)),
            }
        }
    }

    /// A ticket for a PUT or FLUSH, taken at the moment of deciding on it.
    #[must_use]
    pub fn ticket(&self) -> u64 {
        self.tickets.fetch_add(1, Ordering::Relaxed)
    }

    /// The counter behind [`Self::ticket`], for threads that drive a pair of their own.
    #[must_use]
    pub fn tickets(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.tickets)
    }

    /// Number of pairs, taken ones included.
    #[must_use]
    pub fn pair_count(&self) -> usize {
        self.pairs.len()
    }

    /// A pair, to drive from this thread. It must not have been taken.
    pub fn pair(&mut self, index: usize) -> &mut Pair {
        self.pairs[index].as_mut().expect("the pair was taken")
    }

    /// Hands a pair out, to drive from another thread.
    pub fn take_pair(&mut self, index: usize) -> Option<Pair> {
        self.pairs.get_mut(index).and_then(Option::take)
    }

    /// Puts a pair back.
    pub fn return_pair(&mut self, index: usize, pair: Pair) {
        self.pairs[index] = Some(pair);
    }

    /// The event queue.
    pub const fn event_queue(&mut self) -> &mut Queue {
        &mut self.events
    }

    /// The connection below.
    pub const fn connection(&mut self) -> &mut Connection {
        &mut self.connection
    }

    /// Gives the connection back; the rings and what is in flight are forgotten.
    #[must_use]
    pub fn into_connection(self) -> Connection {
        self.connection
    }

    /// Guest memory.
    #[must_use]
    pub const fn memory(&self) -> &Arc<GuestMemory> {
        &self.memory
    }
}
