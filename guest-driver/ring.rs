// SPDX-License-Identifier: GPL-2.0
//! What a request queue has under its lock: the virtqueue, the request slots, and the bios that wait
//! for them. All unsafe use of request virtqueues is in this file.
//!
//! A ring is open, paused or dead. While the device is being reset it is paused: requests keep their
//! slots, new bios wait, and the virtqueue is not touched. [`Ring::open`] then gives it another
//! virtqueue, and the first thing that goes in is what was in flight, with its old tickets. A dead ring
//! fails everything. A ring whose virtqueue turns out to be broken pauses itself, and says so.

use crate::{
    after::After,
    bio::BioList,
    ffi::{self, Virtqueue},
    request::{Answer, Chain, FrameBox, Job, Limits, Request, Tickets, EXTRA_DESCRIPTORS},
    stats::Stats,
};
use core::ptr;
use kernel::{
    bindings,
    ffi::c_void,
    prelude::*,
    sync::{atomic::Atomic, Arc},
};

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
    /// A virtqueue is broken: the device wants a reset.
    pub(crate) wounded: Atomic<bool>,
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

#[derive(Clone, Copy, PartialEq)]
enum State {
    Open,
    Paused,
    Dead,
}

struct Slot {
    frame: FrameBox,
    /// Some while the device has the frame, or is to have it again.
    job: Option<Job>,
    ticket: u64,
    /// Pages of guest memory that the request keeps busy.
    busy: u32,
    started: u64,
    /// Counts the requests that have ended here.
    sequence: u32,
}

/// The inside of a queue; see the head of this file.
pub(crate) struct Ring {
    /// Null while the device has no virtqueues.
    vq: *mut Virtqueue,
    state: State,
    /// The virtqueue has refused work.
    broken: bool,
    slots: KVec<Slot>,
    /// Bits of slots that are not in use.
    free: u64,
    /// Bits of slots whose request has to be sent again.
    unsent: u64,
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
}

// SAFETY: whoever has the ring may use the virtqueue, in any context.
unsafe impl Send for Ring {}

impl Ring {
    /// Takes over `vq`.
    ///
    /// # Safety
    ///
    /// `vq` stays valid until [`Ring::pause`] or [`Ring::kill`], and for [`Ring::detach`]; nobody else
    /// uses it.
    pub(crate) unsafe fn new(vq: *mut Virtqueue, limits: &Limits) -> Result<Self> {
        // SAFETY: the virtqueue is valid.
        let size = unsafe { ffi::virtqueue_get_vring_size(vq) } as usize;
        let count = size.clamp(1, SLOTS_MAX);
        let mut slots = KVec::with_capacity(count, GFP_KERNEL)?;
        for _ in 0..count {
            let slot = Slot {
                frame: FrameBox::new()?,
                job: None,
                ticket: 0,
                busy: 0,
                started: 0,
                sequence: 0,
            };
            slots.push(slot, GFP_KERNEL)?;
        }
        let entries = limits.segments.wrapping_add(EXTRA_DESCRIPTORS);
        let all = u64::MAX >> (SLOTS_MAX.wrapping_sub(count) & 63);
        Ok(Self {
            vq,
            state: State::Open,
            broken: false,
            slots,
            free: all,
            unsent: 0,
            all,
            busy: 0,
            table: KVec::from_elem(bindings::scatterlist::default(), entries, GFP_KERNEL)?,
            waiting: BioList::new(),
            sleepers: 0,
            pollers: 0,
        })
    }

    /// From now on the virtqueue is not touched, and requests fail.
    pub(crate) fn kill(&mut self) {
        self.state = State::Dead;
    }

    /// From now on the virtqueue is not touched, and requests wait.
    pub(crate) fn pause(&mut self) {
        if self.state == State::Open {
            self.state = State::Paused;
        }
    }

    /// Goes on with another virtqueue. [`Ring::pump`] sends what has to be sent again.
    ///
    /// # Safety
    ///
    /// As for [`Ring::new`]; the old virtqueue was detached, and the device is ready.
    pub(crate) unsafe fn open(&mut self, vq: *mut Virtqueue) {
        self.vq = vq;
        self.broken = false;
        if self.state == State::Paused {
            self.state = State::Open;
        }
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.state == State::Dead
    }

    pub(crate) fn is_open(&self) -> bool {
        self.state == State::Open
    }

    /// Whether the virtqueue has refused work since it was last asked.
    pub(crate) fn take_broken(&mut self) -> bool {
        core::mem::take(&mut self.broken)
    }

    /// Whether more than one in `share` slots is free.
    pub(crate) fn has_spare(&self, share: u32) -> bool {
        self.free.count_ones() > self.all.count_ones().checked_div(share).unwrap_or(0)
    }

    /// Whether so much memory is in flight that nothing is to be added.
    pub(crate) fn is_full(&self) -> bool {
        self.busy >= PAGES_BUSY_MAX
    }

    /// Sends what has to be sent again, and what waits, as far as slots, pages and the ring go. The
    /// last new request sent is returned.
    pub(crate) fn pump(&mut self, shared: &Shared, after: &mut After) -> Option<Pending> {
        match self.state {
            State::Open => {}
            State::Paused => return None,
            State::Dead => {
                after.failed.append(self.waiting.take());
                return None;
            }
        }
        let mut last = None;
        let again = self.replay(shared);
        while self.unsent == 0 && self.free != 0 && !self.is_full() {
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
        if again || last.is_some() {
            self.kick(after);
        }
        last
    }

    /// Sends again what was in flight when the device was reset. Returns whether there was any.
    fn replay(&mut self, shared: &Shared) -> bool {
        let mut any = false;
        while self.unsent != 0 && self.state == State::Open {
            let nth = self.unsent.trailing_zeros() as usize;
            // The job leaves its slot only while it is formed.
            let Some(slot) = self.slots.get_mut(nth) else {
                break;
            };
            let ticket = slot.ticket;
            let Some(job) = slot.job.take() else {
                break;
            };
            let added = self.add(nth, &job, ticket, shared);
            if let Some(slot) = self.slots.get_mut(nth) {
                slot.job = Some(job);
            }
            match added {
                Ok(()) => self.unsent &= !(1 << (nth & 63)),
                Err(Refusal::Later) => break,
                // It was formed before; an idle ring without room for it is broken.
                Err(Refusal::Never) => {
                    self.break_down();
                    break;
                }
            }
            shared.stats.replayed.inc();
            any = true;
        }
        any
    }

    /// Puts one request into the ring; [`Ring::kick`] tells the device.
    pub(crate) fn start<R: Request>(
        &mut self,
        request: R,
        shared: &Shared,
    ) -> Result<Pending, (R, Refusal)> {
        match self.state {
            State::Dead => return Err((request, Refusal::Never)),
            State::Open if self.unsent == 0 => {}
            State::Open | State::Paused => return Err((request, Refusal::Later)),
        }
        let nth = self.free.trailing_zeros() as usize;
        let Some(sequence) = self.slots.get(nth).map(|slot| slot.sequence) else {
            return Err((request, Refusal::Later));
        };
        let form = request.form();
        let ticket = form.ticket(&shared.tickets);
        let busy = form.busy_pages();
        if let Err(refusal) = self.add(nth, &request, ticket, shared) {
            return Err((request, refusal));
        }
        let job: Job = request.into();
        match &job {
            Job::Put(_) => shared.stats.put_batches.inc(),
            Job::Get(_) => shared.stats.get_requests.inc(),
            Job::Discard(_) | Job::Flush(_) => shared.stats.flush_requests.inc(),
            Job::Call(_) => {}
        }
        let started = ffi::now_ns();
        if let Some(slot) = self.slots.get_mut(nth) {
            slot.job = Some(job);
            slot.ticket = ticket;
            slot.busy = busy;
            slot.started = started;
        }
        self.busy = self.busy.saturating_add(busy);
        self.free &= !(1 << (nth & 63));
        Ok(Pending {
            slot: nth,
            sequence,
            started,
        })
    }

    /// Forms a request in slot `nth` and adds it to the virtqueue.
    fn add<R: Request>(
        &mut self,
        nth: usize,
        request: &R,
        ticket: u64,
        shared: &Shared,
    ) -> Result<(), Refusal> {
        let slot = self.slots.get_mut(nth).ok_or(Refusal::Never)?;
        let Chain { split } = slot
            .frame
            .fill(&request.form(), ticket, &shared.limits, &mut self.table)
            .ok_or(Refusal::Never)?;
        let table = self.table.as_mut_ptr();
        // SAFETY: the ring is open, so that its virtqueue is valid; the table's entries from 0 and
        // from `split` are two ended lists; what they point to stays until the request ends.
        let error =
            unsafe { ffi::vtmem_vq_add(self.vq, table, table.wrapping_add(split), token_of(nth)) };
        if error == 0 {
            return Ok(());
        }
        if error != ENOSPC.to_errno() && error != ENOMEM.to_errno() {
            self.break_down();
            return Err(Refusal::Later);
        }
        // Without a request in flight nobody would come back to this one.
        if self.all & !self.free & !self.unsent != 0 {
            Err(Refusal::Later)
        } else {
            Err(Refusal::Never)
        }
    }

    /// The virtqueue is of no use until the device has been reset.
    fn break_down(&mut self) {
        self.broken = true;
        self.pause();
    }

    /// Makes a notification due, if the device wants one for the requests added.
    pub(crate) fn kick(&mut self, after: &mut After) {
        if self.vq.is_null() {
            return;
        }
        // SAFETY: the virtqueue is valid, as requests were added to it under this hold of the lock.
        if unsafe { ffi::virtqueue_kick_prepare(self.vq) } {
            after.due(self.vq);
        }
    }

    /// Takes one answer from the ring and frees its slot.
    pub(crate) fn take_done(&mut self) -> Option<Done> {
        if self.state != State::Open {
            return None;
        }
        // SAFETY: the ring is open.
        unsafe { self.take_answer() }
    }

    /// As [`Ring::take_done`], from a paused ring.
    ///
    /// # Safety
    ///
    /// The virtqueue is valid or null.
    pub(crate) unsafe fn take_answer(&mut self) -> Option<Done> {
        if self.vq.is_null() {
            return None;
        }
        loop {
            let mut len = 0;
            // SAFETY: as for this function. It hands back only tokens that it still held.
            let token = unsafe { ffi::virtqueue_get_buf(self.vq, &mut len) };
            let nth = slot_of(token)?;
            let Some(slot) = self.slots.get_mut(nth) else {
                continue;
            };
            let Some(job) = slot.job.take() else {
                continue;
            };
            let answer = slot.frame.answer();
            let elapsed = ffi::now_ns().wrapping_sub(slot.started);
            self.release(nth);
            return Some(Done {
                job,
                answer,
                elapsed,
            });
        }
    }

    /// Slot `nth` is free again.
    fn release(&mut self, nth: usize) {
        if let Some(slot) = self.slots.get_mut(nth) {
            slot.sequence = slot.sequence.wrapping_add(1);
            self.busy = self.busy.saturating_sub(slot.busy);
        }
        self.free |= 1 << (nth & 63);
        self.unsent &= self.all & !self.free;
    }

    /// Whether the request of `pending` has ended, or never will.
    pub(crate) fn is_over(&self, pending: &Pending) -> bool {
        let sequence = self.slots.get(pending.slot).map(|slot| slot.sequence);
        self.is_dead() || sequence != Some(pending.sequence)
    }

    /// Asks the device for no interrupts. A hint.
    pub(crate) fn disable_interrupts(&mut self) {
        if self.is_open() {
            // SAFETY: the ring is open.
            unsafe { ffi::virtqueue_disable_cb(self.vq) };
        }
    }

    /// Asks for interrupts. False: answers have come in the meantime, for which there may be none.
    pub(crate) fn enable_interrupts(&mut self) -> bool {
        // SAFETY: the ring is open.
        !self.is_open() || unsafe { ffi::virtqueue_enable_cb(self.vq) }
    }

    /// Takes all requests back from a virtqueue that is about to be deleted; they keep their slots,
    /// and will be sent again.
    ///
    /// # Safety
    ///
    /// The ring is not open, and its device has been reset, so that it writes to no page any more. The
    /// virtqueue has not been deleted.
    pub(crate) unsafe fn detach(&mut self) {
        if !self.vq.is_null() {
            // SAFETY: as for this function.
            while !unsafe { ffi::virtqueue_detach_unused_buf(self.vq) }.is_null() {}
        }
        self.vq = ptr::null_mut();
        self.unsent = self.all & !self.free;
    }

    /// Takes a request that was detached out of its slot: any that cannot be sent again, or just any
    /// if the ring is dead.
    pub(crate) fn take_lost(&mut self) -> Option<Job> {
        let dead = self.is_dead();
        let mut lost = self.unsent;
        while lost != 0 {
            let nth = lost.trailing_zeros() as usize;
            lost &= lost.wrapping_sub(1);
            let Some(slot) = self.slots.get_mut(nth) else {
                continue;
            };
            if slot.job.as_ref().is_some_and(|job| dead || !job.replays()) {
                let job = slot.job.take();
                self.release(nth);
                return job;
            }
        }
        None
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
