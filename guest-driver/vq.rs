// SPDX-License-Identifier: GPL-2.0
//! The queue engine: one [`Queue`] around each request virtqueue.
//!
//! A queue has a fixed set of request slots, allocated at the start. Bios wait in a list; whoever
//! adds to the list, or takes an answer from the ring, moves as many as fit from the list into
//! slots and into the ring ([`State::pump`]). So nobody has to sleep for a slot or for room in the
//! ring, nothing is lost, and there is always somebody to come: as long as a bio waits, a request
//! is in flight. A request never has more descriptors than the ring, so that it fits an idle ring
//! even when there is no memory for an indirect table.
//!
//! Answers are taken by interrupts, and by tasks that poll for theirs; while someone polls, the
//! device is asked for no interrupts.

use crate::{
    bio::BioList,
    ffi::{self, Virtqueue},
    flush::Batch,
    request::{Answer, Chain, FrameBox, Job, Limits, Tickets, EXTRA_DESCRIPTORS},
    stats::Stats,
    sync::{Event, IrqLock},
};
use core::ptr;
use kernel::{
    bindings,
    ffi::c_void,
    prelude::*,
    processor::cpu_relax,
    sync::{
        atomic::{Acquire, Atomic, Relaxed, Release},
        Arc,
    },
};

/// Request slots of a queue: bits of a `u64`.
const SLOTS_MAX: usize = 64;
/// Flushes of freed slots leave this share of the slots to reads and writes.
const SLOTS_FLUSH_SPARES: u32 = 4;
/// Flush requests in the ring for one hold of the lock.
const FLUSH_BURST: usize = 8;
/// When polling has not paid lately, one GET in so many polls all the same, to see if it does again.
const POLL_PROBE: u64 = 64;
/// How long a writer sleeps at a time for others' requests to end.
const THROTTLE_MS: u32 = 100;

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
    /// Nanoseconds from its start.
    pub(crate) elapsed: u64,
}

/// A request in flight, for whoever waits for it.
pub(crate) struct Pending {
    slot: usize,
    sequence: u32,
    started: u64,
}

/// How far [`Queue::flush`] came.
pub(crate) enum Flushed {
    /// There was nothing more to send.
    All,
    /// Call again.
    More,
    /// No room; call again later. The batch, if any, was not sent.
    Busy(Option<Batch>),
}

struct Slot {
    frame: FrameBox,
    /// Some while the device has the frame.
    job: Option<Job>,
    started: u64,
    /// Counts the requests that have ended here.
    sequence: u32,
}

struct State {
    vq: *mut Virtqueue,
    slots: KVec<Slot>,
    /// Bits of slots that are not in use.
    free: u64,
    /// Bits of all slots.
    all: u64,
    table: KVec<bindings::scatterlist>,
    waiting: BioList,
    /// Tasks that sleep until nothing waits.
    sleepers: u32,
    /// Tasks that poll.
    pollers: u32,
    /// The virtqueue must not be touched any more.
    dead: bool,
}

// SAFETY: the virtqueue is used under the queue's lock only.
unsafe impl Send for State {}

/// What is left to do once the lock is released.
struct After {
    notify: Option<*mut Virtqueue>,
    failed: BioList,
}

/// A request virtqueue and its slots.
#[pin_data]
pub(crate) struct Queue {
    state: IrqLock<State>,
    #[pin]
    space: Event,
    /// Notifications under way; the virtqueue is not deleted before there are none.
    notifying: Atomic<i32>,
    /// Moving average of what polls took, in nanoseconds.
    poll_average: Atomic<u64>,
    /// GETs that did not poll.
    unpolled: Atomic<u64>,
    shared: Arc<Shared>,
}

impl Queue {
    /// Takes over `vq`.
    ///
    /// # Safety
    ///
    /// `vq` stays valid until [`Queue::kill`] has returned.
    pub(crate) unsafe fn new(vq: *mut Virtqueue, shared: Arc<Shared>) -> Result<Pin<KBox<Self>>> {
        // SAFETY: the virtqueue is valid.
        let ring = unsafe { ffi::virtqueue_get_vring_size(vq) } as usize;
        let count = ring.clamp(1, SLOTS_MAX);
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
        let entries = shared.limits.segments.wrapping_add(EXTRA_DESCRIPTORS);
        let table = KVec::from_elem(bindings::scatterlist::default(), entries, GFP_KERNEL)?;
        let all = u64::MAX >> (SLOTS_MAX.wrapping_sub(count) & 63);
        let state = State {
            vq,
            slots,
            free: all,
            all,
            table,
            waiting: BioList::new(),
            sleepers: 0,
            pollers: 0,
            dead: false,
        };
        KBox::pin_init(
            pin_init!(Self {
                state: IrqLock::new(state),
                space <- Event::new(),
                notifying: Atomic::new(0),
                poll_average: Atomic::new(0),
                unpolled: Atomic::new(0),
                shared,
            }),
            GFP_KERNEL,
        )
    }

    /// Sends `bios`, which are all of kinds that this queue carries, as soon as there is room.
    /// Never sleeps. With `poll`, returns what [`Queue::poll`] can poll for.
    pub(crate) fn submit(&self, bios: BioList, poll: bool) -> Option<Pending> {
        let mut after = After::new();
        let poll = poll && self.poll_pays();
        let mut state = self.state.lock();
        let count = bios.count();
        state.waiting.append(bios);
        let pending = state.pump(&self.shared, &mut after);
        let waiting = state.waiting.count().min(count);
        self.shared.stats.slots_waited.add(u64::from(waiting));
        let pending = pending.filter(|_| poll);
        if pending.is_some() {
            if state.pollers == 0 {
                // SAFETY: `pump` has just used the virtqueue, so that it is not dead.
                unsafe { ffi::virtqueue_disable_cb(state.vq) };
            }
            state.pollers = state.pollers.wrapping_add(1);
        }
        self.announce(&after);
        drop(state);
        self.finish(after);
        pending
    }

    /// Sends up to [`FLUSH_BURST`] of the batches that `select` gives.
    pub(crate) fn flush(&self, mut select: impl FnMut() -> Option<Batch>) -> Flushed {
        let mut after = After::new();
        let mut state = self.state.lock();
        let mut result = Flushed::More;
        for _ in 0..FLUSH_BURST {
            let slots = state.all.count_ones();
            if state.dead || state.free.count_ones() <= slots / SLOTS_FLUSH_SPARES {
                result = Flushed::Busy(None);
                break;
            }
            let Some(batch) = select() else {
                result = Flushed::All;
                break;
            };
            if let Err((Job::Flush(batch), _)) = state.start(Job::Flush(batch), &self.shared) {
                result = Flushed::Busy(Some(batch));
                break;
            }
            self.shared.stats.flush_requests.inc();
            after.notify = Some(state.vq);
        }
        after.ask();
        self.announce(&after);
        drop(state);
        self.finish(after);
        result
    }

    /// Takes one answer from the ring, and lets the next bios in.
    fn reap(&self) -> Option<Done> {
        let mut after = After::new();
        let mut state = self.state.lock();
        let done = state.take_done();
        if done.is_some() {
            self.refill(&mut state, &mut after);
        }
        drop(state);
        self.finish(after);
        done
    }

    /// After a slot has become free.
    fn refill(&self, state: &mut State, after: &mut After) {
        state.pump(&self.shared, after);
        if state.waiting.is_empty() {
            for _ in 0..core::mem::take(&mut state.sleepers) {
                self.space.wake();
            }
        }
        self.announce(after);
    }

    /// Serves an interrupt; `complete` gets every request that has ended.
    pub(crate) fn interrupt(&self, mut complete: impl FnMut(Done)) {
        self.shared.stats.interrupts.inc();
        loop {
            {
                let state = self.state.lock();
                if state.dead {
                    return;
                }
                // SAFETY: the virtqueue is valid while the queue is not dead.
                unsafe { ffi::virtqueue_disable_cb(state.vq) };
            }
            while let Some(done) = self.reap() {
                complete(done);
            }
            if self.enable_interrupts(false) {
                return;
            }
        }
    }

    /// Asks for interrupts unless someone polls, after `leave`, who does no more. False: answers
    /// came in the meantime, and have to be taken first.
    fn enable_interrupts(&self, leave: bool) -> bool {
        let mut state = self.state.lock();
        if leave {
            state.pollers = state.pollers.saturating_sub(1);
        }
        // SAFETY: the virtqueue is valid while the queue is not dead.
        state.dead || state.pollers > 0 || unsafe { ffi::virtqueue_enable_cb(state.vq) }
    }

    /// Whether polls have paid lately, or it is time to try one again.
    fn poll_pays(&self) -> bool {
        let limit = self.shared.poll_ns;
        if limit == 0 {
            return false;
        }
        if self.poll_average.load(Relaxed) <= limit {
            return true;
        }
        let probe = self.unpolled.fetch_add(1u64, Relaxed) % POLL_PROBE == POLL_PROBE - 1;
        if !probe {
            self.shared.stats.polls_skipped.inc();
        }
        probe
    }

    /// Polls for a request of this queue until it ends or the time is over; `complete` gets it, and
    /// any other that ends meanwhile.
    ///
    /// Not inlined, to keep answers off the stack of writers, who may come from deep inside reclaim.
    #[inline(never)]
    pub(crate) fn poll(&self, pending: Pending, mut complete: impl FnMut(Done)) {
        let limit = self.shared.poll_ns;
        let hit = loop {
            let (done, over) = self.look(&pending);
            let idle = done.is_none();
            if let Some(done) = done {
                complete(done);
            }
            if over {
                break true;
            }
            if idle {
                cpu_relax();
            }
            if ffi::now_ns().wrapping_sub(pending.started) > limit {
                break false;
            }
        };
        let took = if hit {
            self.shared.stats.polls_hit.inc();
            ffi::now_ns().wrapping_sub(pending.started)
        } else {
            self.shared.stats.polls_missed.inc();
            limit.saturating_mul(2)
        };
        // Concurrent updates may lose one another; an average can bear it.
        let average = self.poll_average.load(Relaxed);
        self.poll_average.store(
            average.wrapping_sub(average / 8).wrapping_add(took / 8),
            Relaxed,
        );
        let mut leave = true;
        while !self.enable_interrupts(leave) {
            leave = false;
            while let Some(done) = self.reap() {
                complete(done);
            }
        }
    }

    /// One look at the ring: an answer, and whether the request of `pending` has ended.
    fn look(&self, pending: &Pending) -> (Option<Done>, bool) {
        let mut after = After::new();
        let mut state = self.state.lock();
        let done = state.take_done();
        if done.is_some() {
            self.refill(&mut state, &mut after);
        }
        let sequence = state.slots.get(pending.slot).map(|slot| slot.sequence);
        let over = state.dead || sequence != Some(pending.sequence);
        drop(state);
        self.finish(after);
        (done, over)
    }

    /// Sleeps until no bio waits for a slot, so that a writer does not outrun the host for ever.
    pub(crate) fn throttle(&self) {
        loop {
            {
                let mut state = self.state.lock();
                if state.dead || state.waiting.is_empty() {
                    return;
                }
                state.sleepers = state.sleepers.saturating_add(1);
            }
            // A wake-up that comes after the time is over wakes the next sleeper early, no more.
            self.space.wait(THROTTLE_MS);
        }
    }

    /// Under the lock: promises a notification, so that [`Queue::kill`] waits for it.
    fn announce(&self, after: &After) {
        if after.notify.is_some() {
            self.notifying.add(1, Relaxed);
        }
    }

    /// Without the lock: does what is left.
    fn finish(&self, after: After) {
        if let Some(vq) = after.notify {
            self.shared.stats.kicks.inc();
            // SAFETY: `notifying` keeps the virtqueue from being deleted. False tells that the
            // device is broken, which the next request will find out.
            let _ = unsafe { ffi::virtqueue_notify(vq) };
            self.notifying.fetch_sub(1, Release);
        }
        if !after.failed.is_empty() {
            self.shared
                .stats
                .errors
                .add(u64::from(after.failed.pages()));
            after.failed.end_all(ffi::BLK_STS_IOERR);
        }
    }

    /// Lets nobody use the virtqueue any more. Returns once nobody does; may sleep.
    pub(crate) fn kill(&self) {
        let sleepers = {
            let mut state = self.state.lock();
            state.dead = true;
            core::mem::take(&mut state.sleepers)
        };
        for _ in 0..sleepers {
            self.space.wake();
        }
        // A notification is announced under the lock, so that all that are still to come are seen.
        while self.notifying.load(Acquire) != 0 {
            // SAFETY: the caller may sleep.
            unsafe { bindings::msleep(1) };
        }
    }

    /// Takes back everything that was sent or waits; answers that have come are lost. For a dead
    /// queue whose device has been reset, so that it writes to no page any more.
    pub(crate) fn drain(&self) -> BioList {
        let mut state = self.state.lock();
        let vq = state.vq;
        // SAFETY: the virtqueue exists until the caller deletes it, and nobody else uses it.
        while !unsafe { ffi::virtqueue_detach_unused_buf(vq) }.is_null() {}
        let mut bios = BioList::new();
        for slot in state.slots.iter_mut() {
            if let Some(job) = slot.job.take() {
                bios.append(job.into_bios());
            }
        }
        state.free = state.all;
        bios.append(state.waiting.take());
        bios
    }
}

impl State {
    /// Sends what waits, as far as slots and the ring go. The last request sent is returned.
    fn pump(&mut self, shared: &Shared, after: &mut After) -> Option<Pending> {
        if self.dead {
            after.failed.append(self.waiting.take());
            return None;
        }
        let mut last = None;
        while self.free != 0 {
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
            after.notify = Some(self.vq);
            after.ask();
        }
        last
    }

    /// Puts one request into the ring.
    fn start(&mut self, job: Job, shared: &Shared) -> Result<Pending, (Job, Refusal)> {
        let nth = self.free.trailing_zeros() as usize;
        let Some(slot) = self.slots.get_mut(nth) else {
            return Err((job, Refusal::Later));
        };
        let Some(Chain { split }) = slot.frame.fill(&job, &shared.tickets, &mut self.table) else {
            return Err((job, Refusal::Never));
        };
        let table = self.table.as_mut_ptr();
        // SAFETY: the virtqueue is not dead, and used under its lock; the table's entries from 0
        // and from `split` are two ended lists; what they point to stays until the request ends.
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
            Job::Discard(_) => shared.stats.flush_requests.inc(),
            Job::Flush(_) => {}
        }
        let started = ffi::now_ns();
        slot.job = Some(job);
        slot.started = started;
        self.free &= !(1 << (nth & 63));
        Ok(Pending {
            slot: nth,
            sequence: slot.sequence,
            started,
        })
    }

    /// Takes one answer from the ring and frees its slot.
    fn take_done(&mut self) -> Option<Done> {
        if self.dead {
            return None;
        }
        loop {
            let mut len = 0;
            // SAFETY: the virtqueue is not dead, and used under its lock. The ring hands back only
            // tokens that it was given and still held.
            let token = unsafe { ffi::virtqueue_get_buf(self.vq, &mut len) };
            let nth = slot_of(token)?;
            let Some(slot) = self.slots.get_mut(nth) else {
                continue;
            };
            let Some(job) = slot.job.take() else {
                continue;
            };
            slot.sequence = slot.sequence.wrapping_add(1);
            self.free |= 1 << (nth & 63);
            return Some(Done {
                job,
                answer: slot.frame.answer(),
                elapsed: ffi::now_ns().wrapping_sub(slot.started),
            });
        }
    }
}

/// Why a request did not go into the ring.
enum Refusal {
    /// No room; a request in flight will make some.
    Later,
    /// It cannot be sent.
    Never,
}

impl After {
    fn new() -> Self {
        Self {
            notify: None,
            failed: BioList::new(),
        }
    }

    /// Under the lock: drops the notification if the device does not want one.
    fn ask(&mut self) {
        self.notify = self.notify.filter(|&vq| {
            // SAFETY: requests were added to the virtqueue under this hold of the lock.
            unsafe { ffi::virtqueue_kick_prepare(vq) }
        });
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
