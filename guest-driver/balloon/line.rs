// SPDX-License-Identifier: GPL-2.0
//! The balloon's virtqueues: one request at a time, and a sleep until its answer.
//!
//! Whoever sends a request has handed pages to the host, which frees them some time before it
//! answers. So a request that is in the ring is waited for until it is answered or the device has
//! been reset, however long that takes; giving up earlier could let the host free a page that is
//! in use again.

use crate::{
    ffi::{self, Virtqueue},
    sync::{Event, IrqLock},
    wire,
};
use core::ptr;
use kernel::{
    bindings, new_mutex,
    prelude::*,
    static_lock_class,
    sync::{lock::mutex::MutexBackend, lock::Guard, Mutex},
    types::Opaque,
};

/// Most ranges of a request.
pub(super) const RANGES_MAX: usize = wire::BALLOON_RANGES_MAX as usize;
/// What answers are filled with beforehand: neither a status nor a result, so that a device that
/// writes nothing has told nothing.
const UNANSWERED: u8 = u8::MAX;
/// How long a task sleeps at a time. Tasks that sleep for minutes are complained of.
const WAIT_MS: u32 = 10_000;

/// A request and its answer, as they lie in memory.
#[repr(C)]
struct Exchange {
    request: [u8; wire::BalloonRequest::SIZE],
    body: [[u8; wire::BalloonRange::SIZE]; RANGES_MAX],
    response: [u8; wire::BalloonResponse::SIZE],
    results: [u8; RANGES_MAX],
}

const _: () = assert!(wire::BalloonStats::SIZE <= RANGES_MAX * wire::BalloonRange::SIZE);
const _: () = assert!(wire::BalloonStats::SIZE % wire::BalloonRange::SIZE == 0);

struct Ring {
    /// Null between a reset and what follows it.
    vq: *mut Virtqueue,
    /// The device has the exchange.
    busy: bool,
    /// The device was reset before it answered.
    lost: bool,
    /// The virtqueue must not be touched.
    closed: bool,
}

// SAFETY: the virtqueue is used under its lock only.
unsafe impl Send for Ring {}

/// A virtqueue of requests with ranges.
#[pin_data]
pub(super) struct Line {
    ring: IrqLock<Ring>,
    /// Woken once for each request that was sent.
    #[pin]
    ended: Event,
    /// Held for the length of a request.
    #[pin]
    exchange: Mutex<KBox<Opaque<Exchange>>>,
    /// Memory for the descriptors must not come from the allocator's reserves.
    frugal: bool,
}

impl Line {
    /// Takes over `vq`.
    ///
    /// # Safety
    ///
    /// `vq` stays valid until [`Line::pause`] has returned, and for [`Line::drain`].
    pub(super) unsafe fn new(vq: *mut Virtqueue, frugal: bool) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            ring: IrqLock::new(
                Ring {
                    vq,
                    busy: false,
                    lost: false,
                    closed: false,
                },
                static_lock_class!(),
            ),
            ended <- Event::new(),
            exchange <- new_mutex!(KBox::new(Opaque::zeroed(), GFP_KERNEL)?),
            frugal,
        }? Error)
    }

    /// Waits for the turn to send a request. May sleep as long as a request takes.
    pub(super) fn turn(&self) -> Turn<'_> {
        Turn {
            line: self,
            exchange: self.exchange.lock(),
            ranges: 0,
        }
    }

    /// The same if nobody else sends.
    pub(super) fn try_turn(&self) -> Option<Turn<'_>> {
        Some(Turn {
            line: self,
            exchange: self.exchange.try_lock()?,
            ranges: 0,
        })
    }

    /// Serves an interrupt.
    pub(super) fn interrupt(&self) {
        let mut ring = self.ring.lock();
        if ring.closed {
            return;
        }
        let mut len = 0;
        // SAFETY: the virtqueue may be used, and is under its lock.
        while !unsafe { ffi::virtqueue_get_buf(ring.vq, &mut len) }.is_null() {
            if core::mem::take(&mut ring.busy) {
                self.ended.wake();
            }
        }
    }

    /// Lets nobody touch the virtqueue any more. A request in flight is still waited for.
    pub(super) fn pause(&self) {
        self.ring.lock().closed = true;
    }

    /// Ends the request that a device which has been reset did not answer.
    pub(super) fn drain(&self) {
        let mut ring = self.ring.lock();
        let vq = core::mem::replace(&mut ring.vq, ptr::null_mut());
        if !vq.is_null() {
            // SAFETY: the virtqueue exists until the caller deletes it, and nobody else uses it.
            while !unsafe { ffi::virtqueue_detach_unused_buf(vq) }.is_null() {}
        }
        if core::mem::take(&mut ring.busy) {
            ring.lost = true;
            self.ended.wake();
        }
    }

    /// Goes on with a new virtqueue.
    ///
    /// # Safety
    ///
    /// As for [`Line::new`]; the line was drained.
    pub(super) unsafe fn resume(&self, vq: *mut Virtqueue) {
        let mut ring = self.ring.lock();
        ring.vq = vq;
        ring.closed = false;
    }
}

/// The right to send requests on a line.
pub(super) struct Turn<'a> {
    line: &'a Line,
    exchange: Guard<'a, KBox<Opaque<Exchange>>, MutexBackend>,
    ranges: usize,
}

impl Turn<'_> {
    /// Adds a range to the request; false when it has as many as it can.
    pub(super) fn add(&mut self, first: u64, pages: u32) -> bool {
        // SAFETY: the device does not have the exchange while it is not being sent, and the mutex
        // is held.
        let exchange = unsafe { &mut *self.exchange.get() };
        let Some(to) = exchange.body.get_mut(self.ranges) else {
            return false;
        };
        *to = wire::BalloonRange { first, pages }.to_bytes();
        self.ranges = self.ranges.wrapping_add(1);
        true
    }

    /// Sends the ranges as `op`, one of [`wire::balloon`]; the answer if the device gave one.
    /// Otherwise it does not, and will not, touch the pages.
    pub(super) fn send(&mut self, op: u32) -> Result<wire::BalloonResponse> {
        let ranges = core::mem::take(&mut self.ranges);
        let results = if op == wire::balloon::DEFLATE {
            0
        } else {
            ranges
        };
        let request = wire::BalloonRequest {
            op,
            ranges: ranges as u32,
        };
        let body = ranges.wrapping_mul(wire::BalloonRange::SIZE);
        self.exchange(&request, body, results)
    }

    /// Sends statistics.
    pub(super) fn send_stats(&mut self, stats: &wire::BalloonStats) -> Result {
        {
            // SAFETY: as in `add`.
            let exchange = unsafe { &mut *self.exchange.get() };
            let bytes = stats.to_bytes();
            for (to, from) in exchange
                .body
                .iter_mut()
                .zip(bytes.chunks_exact(wire::BalloonRange::SIZE))
            {
                if let Ok(from) = from.try_into() {
                    *to = from;
                }
            }
        }
        let request = wire::BalloonRequest {
            op: wire::balloon::STATS,
            ranges: 0,
        };
        let response = self.exchange(&request, wire::BalloonStats::SIZE, 0)?;
        if response.status == wire::status::OK {
            Ok(())
        } else {
            Err(EIO)
        }
    }

    /// The host's verdict on range `nth` of the request that was sent last.
    pub(super) fn result(&self, nth: usize) -> u8 {
        let exchange = self.exchange.get();
        // SAFETY: the exchange is alive; a host that still writes to it can only change which
        // byte is copied.
        let results = unsafe { &raw const (*exchange).results };
        if nth < RANGES_MAX {
            // SAFETY: as above, and `nth` is inside the array.
            unsafe { results.cast::<u8>().wrapping_add(nth).read_volatile() }
        } else {
            UNANSWERED
        }
    }

    fn exchange(
        &mut self,
        request: &wire::BalloonRequest,
        body: usize,
        results: usize,
    ) -> Result<wire::BalloonResponse> {
        let frame = self.exchange.get();
        let mut table = [bindings::scatterlist::default(); 2];
        let [out, input] = &mut table;
        {
            let mut ring = self.line.ring.lock();
            if ring.closed || ring.busy {
                return Err(EAGAIN);
            }
            // SAFETY: the device does not have the exchange, whose mutex is held. It is heap memory
            // that lives until the line is dropped, which is after the device's last reset. Request
            // and body follow each other without a gap, as do response and results.
            let error = unsafe {
                (*frame).request = request.to_bytes();
                (*frame).response = [UNANSWERED; wire::BalloonResponse::SIZE];
                (*frame).results = [UNANSWERED; RANGES_MAX];
                ffi::vtmem_sg_buffer(
                    out,
                    frame.cast(),
                    wire::BalloonRequest::SIZE.wrapping_add(body) as u32,
                );
                ffi::vtmem_sg_end(out);
                ffi::vtmem_sg_buffer(
                    input,
                    (&raw mut (*frame).response).cast(),
                    wire::BalloonResponse::SIZE.wrapping_add(results) as u32,
                );
                ffi::vtmem_sg_end(input);
                if self.line.frugal {
                    super::ffi::vtmem_balloon_vq_add(ring.vq, out, input, frame.cast())
                } else {
                    ffi::vtmem_vq_add(ring.vq, out, input, frame.cast())
                }
            };
            if error != 0 {
                return Err(EIO);
            }
            ring.busy = true;
            ring.lost = false;
            // SAFETY: the virtqueue may be used. These requests are rare: the device is told under
            // the lock, so that no notification is under way once a line is paused.
            unsafe {
                if ffi::virtqueue_kick_prepare(ring.vq) {
                    let _ = ffi::virtqueue_notify(ring.vq);
                }
            }
        }
        while !self.line.ended.wait(WAIT_MS) {}
        if self.line.ring.lock().lost {
            return Err(EAGAIN);
        }
        // SAFETY: the device has given the exchange back.
        let response = unsafe { (&raw const (*frame).response).read_volatile() };
        Ok(wire::BalloonResponse::from_bytes(&response))
    }
}
