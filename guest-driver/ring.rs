// SPDX-License-Identifier: GPL-2.0
//! What a request queue has under its lock: the virtqueue, the request slots, and the bios that wait
//! for them. All unsafe use of request virtqueues is in this file.

use crate::{
    bio::BioList,
    ffi::{self, Virtqueue},
    request::{Answer, Chain, FrameBox, Job, Limits, Tickets, EXTRA_DESCRIPTORS},
    stats::Stats,
};
use core::ptr;
use kernel::{bindings, ffi::c_void, prelude::*, sync::Arc};

/// Request slots of a queue: bits of a `u64`.
const SLOTS_MAX: usize = 64;
/// With so many pages in flight (16 MiB) no more are sent: a small guest must not have all of its
/// memory on the way out, where it is of no use to anybody.
const PAGES_BUSY_MAX: u32 = 4096;

/// What the queues of a device have in common.
pub(crate) struct Shared {
    pub(crate) limits: Limits,
    pub(crate) tickets: Tickets,
    pub(crate) stats: Arc<Stats>,
    /// For how long a task polls, in nanoseconds; 0: not at all.
    pub(crate) poll_ns: u64,
}

/// A request that has ended, and what is left to do for it.
pub(crate) struct Done {
    pub(crate) job: Job,
    pub(crate) answer: Answer,
    /// Nanoseconds from its entry into the ring.
    pub(crate) elapsed: u64,
}

/// A request in flight, for whoever waits for it.
pub(crate) struct Pending {
    slot: usize,
    sequence: u32,
    /// When it went into the ring, in nanoseconds.
    pub(crate) started: u64,
}

/// Why a request did not go into the ring.
pub(crate) enum Refusal {
    /// No room; a request in flight will make some.
    Later,
    /// It cannot be sent.
    Never,
}

/// What is left to do once the lock is released.
pub(crate) struct After {
    notify: Option<Notify>,
    pub(crate) failed: BioList,
}

/// A notification that is due.
struct Notify(*mut Virtqueue);

impl After {
    pub(crate) fn new() -> Self {
        Self {
            notify: None,
            failed: BioList::new(),
        }
    }

    /// Whether [`After::notify`] has something to do.
    pub(crate) fn notifies(&self) -> bool {
        self.notify.is_some()
    }

    /// Notifies the device, which is slow.
    ///
    /// # Safety
    ///
    /// The virtqueue has not been deleted since the lock was released.
    pub(crate) unsafe fn notify(&mut self) {
        if let Some(Notify(vq)) = self.notify.take() {
            // SAFETY: as for this function. False tells that the device is broken, which the next
            // request will find out.
            let _ = unsafe { ffi::virtqueue_notify(vq) };
        }
    }
}

struct Slot {
    frame: FrameBox,
    /// Some while the device has the frame.
    job: Option<Job>,
    started: u64,
    /// Counts the requests that have ended here.
    sequence: u32,
}

/// The inside of a queue; see the head of this file.
pub(crate) struct Ring {
    vq: *mut Virtqueue,
    slots: KVec<Slot>,
    /// Bits of slots that are not in use.
    free: u64,
    /// Bits of all slots.
    all: u64,
    /// Pages in flight.
    busy: u32,
    /// Descriptors of the request that is being formed.
    table: KVec<bindings::scatterlist>,
    /// Bios that wait for a slot.
    pub(crate) waiting: BioList,
    /// Tasks that sleep until nothing waits.
    pub(crate) sleepers: u32,
    /// Tasks that poll.
    pub(crate) pollers: u32,
    dead: bool,
}

// SAFETY: whoever has the ring may use the virtqueue, in any context.
unsafe impl Send for Ring {}

impl Ring {
    /// Takes over `vq`.
    ///
    /// # Safety
    ///
    /// `vq` stays valid until [`Ring::kill`], and for [`Ring::drain`]; nobody else uses it.
    pub(crate) unsafe fn new(vq: *mut Virtqueue, limits: &Limits) -> Result<Self> {
        // SAFETY: the virtqueue is valid.
        let size = unsafe { ffi::virtqueue_get_vring_size(vq) } as usize;
        let count = size.clamp(1, SLOTS_MAX);
        let mut slots = KVec::with_capacity(count, GFP_KERNEL)?;
        for _ in 0..count {
            let slot = Slot {
                frame: FrameBox::new()?,
                job: None,
                started: 0,
                sequence: 0,
            };
            slots.push(slot, GFP_KERNEL)?;
        }
        let entries = limits.segments.wrapping_add(EXTRA_DESCRIPTORS);
        let all = u64::MAX >> (SLOTS_MAX.wrapping_sub(count) & 63);
        Ok(Self {
            vq,
            slots,
            free: all,
            all,
            busy: 0,
            table: KVec::from_elem(bindings::scatterlist::default(), entries, GFP_KERNEL)?,
            waiting: BioList::new(),
            sleepers: 0,
            pollers: 0,
            dead: false,
        })
    }

    /// From now on the virtqueue is not touched, and requests fail.
    pub(crate) fn kill(&mut self) {
        self.dead = true;
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.dead
    }

    /// Whether more than one in `share` slots is free.
    pub(crate) fn has_spare(&self, share: u32) -> bool {
        self.free.count_ones() > self.all.count_ones().checked_div(share).unwrap_or(0)
    }

    /// Sends what waits, as far as slots, pages and the ring go. The last request sent is returned.
    pub(crate) fn pump(&mut self, shared: &Shared, after: &mut After) -> Option<Pending> {
        if self.dead {
            after.failed.append(self.waiting.take());
            return None;
        }
        let mut last = None;
        while self.free != 0 && self.busy < PAGES_BUSY_MAX {
            let Some(job) = Job::gather(&mut self.waiting, &shared.limits) else {
                break;
            };
            match self.start(job, shared) {
                Ok(pending) => last = Some(pending),
                Err((job, Refusal::Later)) => {
                    let mut bios = job.into_bios();
                    bios.append(self.waiting.take());
                    self.waiting = bios;
                    break;
                }
                Err((job, Refusal::Never)) => after.failed.append(job.into_bios()),
            }
        }
        if last.is_some() {
            self.kick(after);
        }
        last
    }

    /// Puts one request into the ring; [`Ring::kick`] tells the device.
    pub(crate) fn start(&mut self, job: Job, shared: &Shared) -> Result<Pending, (Job, Refusal)> {
        if self.dead {
            return Err((job, Refusal::Never));
        }
        let nth = self.free.trailing_zeros() as usize;
        let Some(slot) = self.slots.get_mut(nth) else {
            return Err((job, Refusal::Later));
        };
        let Some(Chain { split }) = slot.frame.fill(&job, &shared.tickets, &mut self.table) else {
            return Err((job, Refusal::Never));
        };
        let table = self.table.as_mut_ptr();
        // SAFETY: the virtqueue is not dead; the table's entries from 0 and from `split` are two
        // ended lists; what they point to stays until the request ends.
        let error =
            unsafe { ffi::vtmem_vq_add(self.vq, table, table.wrapping_add(split), token_of(nth)) };
        if error != 0 {
            // Without a request in flight nobody would come back to this one.
            let full = error == ENOSPC.to_errno() || error == ENOMEM.to_errno();
            let refusal = if full && self.free != self.all {
                Refusal::Later
            } else {
                Refusal::Never
            };
            return Err((job, refusal));
        }
        match &job {
            Job::Put(_) => shared.stats.put_batches.inc(),
            Job::Get(_) => shared.stats.get_requests.inc(),
            Job::Discard(_) | Job::Flush(_) => shared.stats.flush_requests.inc(),
        }
        let started = ffi::now_ns();
        self.busy = self.busy.saturating_add(job.busy_pages());
        slot.job = Some(job);
        slot.started = started;
        self.free &= !(1 << (nth & 63));
        Ok(Pending {
            slot: nth,
            sequence: slot.sequence,
            started,
        })
    }

    /// Makes a notification due, if the device wants one for the requests added.
    pub(crate) fn kick(&mut self, after: &mut After) {
        // SAFETY: the virtqueue is not dead, as requests were added to it just now.
        if unsafe { ffi::virtqueue_kick_prepare(self.vq) } {
            after.notify = Some(Notify(self.vq));
        }
    }

    /// Takes one answer from the ring and frees its slot.
    pub(crate) fn take_done(&mut self) -> Option<Done> {
        if self.dead {
            return None;
        }
        loop {
            let mut len = 0;
            // SAFETY: the virtqueue is not dead. It hands back only tokens that it still held.
            let token = unsafe { ffi::virtqueue_get_buf(self.vq, &mut len) };
            let nth = slot_of(token)?;
            let Some(slot) = self.slots.get_mut(nth) else {
                continue;
            };
            let Some(job) = slot.job.take() else {
                continue;
            };
            slot.sequence = slot.sequence.wrapping_add(1);
            self.busy = self.busy.saturating_sub(job.busy_pages());
            self.free |= 1 << (nth & 63);
            return Some(Done {
                job,
                answer: slot.frame.answer(),
                elapsed: ffi::now_ns().wrapping_sub(slot.started),
            });
        }
    }

    /// Whether the request of `pending` has ended, or never will.
    pub(crate) fn is_over(&self, pending: &Pending) -> bool {
        let sequence = self.slots.get(pending.slot).map(|slot| slot.sequence);
        self.dead || sequence != Some(pending.sequence)
    }

    /// Asks the device for no interrupts. A hint.
    pub(crate) fn disable_interrupts(&mut self) {
        if !self.dead {
            // SAFETY: the virtqueue is not dead.
            unsafe { ffi::virtqueue_disable_cb(self.vq) };
        }
    }

    /// Asks for interrupts. False: answers have come in the meantime, for which there may be none.
    pub(crate) fn enable_interrupts(&mut self) -> bool {
        // SAFETY: the virtqueue is not dead.
        self.dead || unsafe { ffi::virtqueue_enable_cb(self.vq) }
    }

    /// Takes back everything that was sent or waits; answers that have come are lost.
    ///
    /// # Safety
    ///
    /// The ring is dead, and its device has been reset, so that it writes to no page any more. The
    /// virtqueue has not been deleted.
    pub(crate) unsafe fn drain(&mut self) -> BioList {
        // SAFETY: as for this function.
        while !unsafe { ffi::virtqueue_detach_unused_buf(self.vq) }.is_null() {}
        let mut bios = BioList::new();
        for slot in self.slots.iter_mut() {
            if let Some(job) = slot.job.take() {
                bios.append(job.into_bios());
            }
        }
        self.free = self.all;
        self.busy = 0;
        bios.append(self.waiting.take());
        bios
    }
}

/// The ring's name for slot `nth`: not null, and never followed.
fn token_of(nth: usize) -> *mut c_void {
    ptr::without_provenance_mut(nth.wrapping_add(1))
}

/// The slot of a token; None for null.
fn slot_of(token: *mut c_void) -> Option<usize> {
    token.addr().checked_sub(1)
}
