// SPDX-License-Identifier: GPL-2.0
//! The control queue, one request at a time, and the event queue.
//!
//! While the device is being reset the control queue is closed, and a command that was under way ends
//! with `EAGAIN`. It opens in two steps: first for the one who introduces the driver anew, then for all.

use crate::{
    ffi::{self, Virtqueue},
    stats::Stats,
    sync::{Event, IrqLock},
    wire,
};
use core::ptr;
use kernel::{
    bindings, new_mutex,
    prelude::*,
    static_lock_class,
    sync::{Arc, Mutex},
    types::Opaque,
};

/// How long the device may take to answer a control request.
const TIMEOUT_MS: u32 = 10_000;
/// Buffers for events.
const EVENT_BUFFERS: usize = 16;

/// A control request and its answer.
#[repr(C)]
struct Exchange {
    request: [u8; wire::ControlRequest::SIZE],
    response: [u8; wire::ControlResponse::SIZE],
}

/// Who may send control requests.
#[derive(Clone, Copy, PartialEq, PartialOrd)]
pub(crate) enum Gate {
    /// Nobody, ever.
    Dead,
    /// Nobody, until the device has been reset.
    Closed,
    /// Whoever introduces the driver to the device.
    Opening,
    Open,
}

/// The virtqueue of control requests.
struct Ring {
    /// Null while the device has no virtqueues.
    vq: *mut Virtqueue,
    /// The device has the exchange.
    busy: bool,
    /// A reset took the exchange back without an answer.
    aborted: bool,
    gate: Gate,
}

// SAFETY: the virtqueue is used under its lock only.
unsafe impl Send for Ring {}

/// The control queue.
#[pin_data]
pub(crate) struct Control {
    ring: IrqLock<Ring>,
    #[pin]
    answered: Event,
    /// Held for the length of a request.
    #[pin]
    exchange: Mutex<KBox<Opaque<Exchange>>>,
}

impl Control {
    /// Takes over `vq`.
    ///
    /// # Safety
    ///
    /// `vq` stays valid until [`Control::shut`] has returned.
    pub(crate) unsafe fn new(vq: *mut Virtqueue) -> Result<Pin<KBox<Self>>> {
        let exchange = KBox::new(Opaque::zeroed(), GFP_KERNEL)?;
        let ring = Ring {
            vq,
            busy: false,
            aborted: false,
            gate: Gate::Opening,
        };
        KBox::pin_init(
            pin_init!(Self {
                ring: IrqLock::new(ring, static_lock_class!()),
                answered <- Event::new(),
                exchange <- new_mutex!(exchange),
            }),
            GFP_KERNEL,
        )
    }

    /// Sends a request and sleeps until its answer. `opening` tells that the caller introduces the
    /// driver. `EAGAIN`: the device is being reset. `ETIMEDOUT`: no answer; the queue is then of no use
    /// until the device is reset. `EIO`: the ring is broken or its owner gone.
    pub(crate) fn command(
        &self,
        request: &wire::ControlRequest,
        opening: bool,
    ) -> Result<wire::ControlResponse> {
        let exchange = self.exchange.lock();
        let mut table = [bindings::scatterlist::default(); 2];
        let [out, input] = &mut table;
        {
            let mut ring = self.ring.lock();
            let least = if opening { Gate::Opening } else { Gate::Open };
            if ring.gate == Gate::Dead {
                return Err(EIO);
            } else if ring.gate < least || ring.busy {
                return Err(EAGAIN);
            }
            // Of an exchange that nobody waited for any more.
            ring.aborted = false;
            let frame = exchange.get();
            // SAFETY: the device does not have the exchange, and its mutex is held. It is heap
            // memory that lives until the queue is dead.
            let error = unsafe {
                (*frame).request = request.to_bytes();
                (*frame).response = [u8::MAX; wire::ControlResponse::SIZE];
                ffi::vtmem_sg_buffer(
                    out,
                    (&raw mut (*frame).request).cast(),
                    wire::ControlRequest::SIZE as u32,
                );
                ffi::vtmem_sg_end(out);
                ffi::vtmem_sg_buffer(
                    input,
                    (&raw mut (*frame).response).cast(),
                    wire::ControlResponse::SIZE as u32,
                );
                ffi::vtmem_sg_end(input);
                ffi::vtmem_vq_add(ring.vq, out, input, frame.cast())
            };
            if error != 0 {
                return Err(EIO);
            }
            ring.busy = true;
            // SAFETY: as above. Control requests are rare: the device is told under the lock.
            unsafe {
                if ffi::virtqueue_kick_prepare(ring.vq) {
                    let _ = ffi::virtqueue_notify(ring.vq);
                }
            }
        }
        loop {
            let in_time = self.answered.wait(TIMEOUT_MS);
            let mut ring = self.ring.lock();
            if core::mem::take(&mut ring.aborted) {
                return Err(EAGAIN);
            }
            if !ring.busy {
                break;
            }
            if !in_time {
                // A late answer would be taken for that of the next request.
                ring.gate = ring.gate.min_with(Gate::Closed);
                return Err(ETIMEDOUT);
            }
        }
        // SAFETY: the device has given the exchange back.
        let response = unsafe { (&raw const (*exchange.get()).response).read_volatile() };
        Ok(wire::ControlResponse::from_bytes(&response))
    }

    /// Serves an interrupt.
    pub(crate) fn interrupt(&self) {
        let mut ring = self.ring.lock();
        if ring.gate < Gate::Opening {
            return;
        }
        let mut len = 0;
        // SAFETY: the virtqueue is not dead, and used under its lock.
        while !unsafe { ffi::virtqueue_get_buf(ring.vq, &mut len) }.is_null() {
            ring.busy = false;
            self.answered.wake();
        }
    }

    /// Lets nobody use the virtqueue until it is resumed, or, with [`Gate::Dead`], ever.
    pub(crate) fn shut(&self, gate: Gate) {
        let mut ring = self.ring.lock();
        ring.gate = ring.gate.min_with(gate);
    }

    /// Takes the exchange back from a device that has been reset.
    pub(crate) fn drain(&self) {
        let mut ring = self.ring.lock();
        if !ring.vq.is_null() {
            // SAFETY: the virtqueue exists until the caller deletes it, and nobody else uses it.
            while !unsafe { ffi::virtqueue_detach_unused_buf(ring.vq) }.is_null() {}
        }
        ring.vq = ptr::null_mut();
        if core::mem::take(&mut ring.busy) {
            ring.aborted = true;
            self.answered.wake();
        }
    }

    /// Goes on with another virtqueue, for whoever introduces the driver.
    ///
    /// # Safety
    ///
    /// As for [`Control::new`]; the old virtqueue was drained.
    pub(crate) unsafe fn resume(&self, vq: *mut Virtqueue) {
        let mut ring = self.ring.lock();
        ring.vq = vq;
        if ring.gate == Gate::Closed {
            ring.gate = Gate::Opening;
        }
    }

    /// Lets everybody send requests.
    pub(crate) fn open(&self) {
        let mut ring = self.ring.lock();
        if ring.gate == Gate::Opening {
            ring.gate = Gate::Open;
        }
    }
}

impl Gate {
    fn min_with(self, other: Self) -> Self {
        if other < self {
            other
        } else {
            self
        }
    }
}

struct EventRing {
    /// Null while the device has no virtqueues.
    vq: *mut Virtqueue,
    buffers: KBox<[Opaque<[u8; wire::Event::SIZE]>; EVENT_BUFFERS]>,
    paused: bool,
}

// SAFETY: the virtqueue is used under its lock only.
unsafe impl Send for EventRing {}

/// The event queue.
pub(crate) struct Events {
    ring: IrqLock<EventRing>,
    stats: Arc<Stats>,
}

impl Events {
    /// Takes over `vq`.
    ///
    /// # Safety
    ///
    /// `vq` stays valid until [`Events::pause`] has returned.
    pub(crate) unsafe fn new(vq: *mut Virtqueue, stats: Arc<Stats>) -> Result<Self> {
        let buffers = KBox::new([const { Opaque::zeroed() }; EVENT_BUFFERS], GFP_KERNEL)?;
        Ok(Self {
            ring: IrqLock::new(
                EventRing {
                    vq,
                    buffers,
                    paused: false,
                },
                static_lock_class!(),
            ),
            stats,
        })
    }

    /// Gives the device all buffers; once after each reset, when it is ready.
    pub(crate) fn post_all(&self) {
        let mut ring = self.ring.lock();
        if ring.paused {
            return;
        }
        for nth in 0..EVENT_BUFFERS {
            ring.post(nth);
        }
        ring.kick();
    }

    /// Serves an interrupt: records and logs each event, and hands it to `each`, under a lock.
    pub(crate) fn interrupt(&self, each: impl Fn(&wire::Event)) {
        let mut ring = self.ring.lock();
        if ring.paused {
            return;
        }
        let mut seen = false;
        loop {
            let mut len = 0;
            // SAFETY: the virtqueue is not dead, and used under its lock.
            let token = unsafe { ffi::virtqueue_get_buf(ring.vq, &mut len) };
            let Some(nth) = token.addr().checked_sub(1) else {
                break;
            };
            seen = true;
            if let Some(buffer) = ring.buffers.get(nth) {
                // SAFETY: the device has given the buffer back.
                let bytes = unsafe { buffer.get().read_volatile() };
                if len as usize >= wire::Event::SIZE {
                    let event = wire::Event::from_bytes(&bytes);
                    self.record(&event);
                    each(&event);
                }
            }
            ring.post(nth);
        }
        if seen {
            ring.kick();
        }
    }

    fn record(&self, event: &wire::Event) {
        self.stats.events.inc();
        match event.kind {
            wire::event::GRANT => {
                let before = self.stats.grant_pages.get();
                self.stats.grant_pages.set(event.value);
                if before != event.value && ffi::may_log() {
                    pr_info!("the host's grant is now {} pages\n", event.value);
                }
            }
            wire::event::HEALTH => {
                self.stats.health.set(event.value);
                if ffi::may_log() {
                    match event.value {
                        wire::health::OK => pr_info!("the host is well\n"),
                        wire::health::DEGRADED => pr_warn!("the host is degraded\n"),
                        wire::health::ENDING => pr_warn!("the host is about to end\n"),
                        value => pr_warn!("the host tells of an unknown health, {}\n", value),
                    }
                }
            }
            // A later version may tell more.
            _ => {}
        }
    }

    /// Lets nobody use the virtqueue until it is resumed.
    pub(crate) fn pause(&self) {
        self.ring.lock().paused = true;
    }

    /// Takes the buffers back from a device that has been reset.
    pub(crate) fn drain(&self) {
        let mut ring = self.ring.lock();
        if !ring.vq.is_null() {
            // SAFETY: the virtqueue exists until the caller deletes it, and nobody else uses it.
            while !unsafe { ffi::virtqueue_detach_unused_buf(ring.vq) }.is_null() {}
        }
        ring.vq = ptr::null_mut();
    }

    /// Goes on with another virtqueue; [`Events::post_all`] comes next.
    ///
    /// # Safety
    ///
    /// As for [`Events::new`]; the old virtqueue was drained.
    pub(crate) unsafe fn resume(&self, vq: *mut Virtqueue) {
        let mut ring = self.ring.lock();
        ring.vq = vq;
        ring.paused = false;
    }
}

impl EventRing {
    /// Gives the device buffer `nth`. If that fails, there is one buffer less.
    fn post(&mut self, nth: usize) {
        let Some(buffer) = self.buffers.get(nth) else {
            return;
        };
        let mut entry = bindings::scatterlist::default();
        // SAFETY: the device does not have the buffer, which is heap memory that lives until the
        // queue is dead; the virtqueue is used under its lock.
        unsafe {
            ffi::vtmem_sg_buffer(&mut entry, buffer.get().cast(), wire::Event::SIZE as u32);
            ffi::vtmem_sg_end(&mut entry);
            let token = ptr::without_provenance_mut(nth.wrapping_add(1));
            ffi::vtmem_vq_add(self.vq, ptr::null_mut(), &mut entry, token);
        }
    }

    fn kick(&mut self) {
        // SAFETY: the virtqueue is used under its lock.
        unsafe {
            if ffi::virtqueue_kick_prepare(self.vq) {
                let _ = ffi::virtqueue_notify(self.vq);
            }
        }
    }
}
