// SPDX-License-Identifier: GPL-2.0
//! The queue engine: one [`Queue`] around each request virtqueue.
//!
//! A queue has a fixed set of request slots, allocated at the start. Bios wait in a list; whoever
//! adds to the list, or takes an answer from the ring, moves as many as fit from the list into
//! slots and into the ring (`Ring::pump`). So nobody has to sleep for a slot or for room in the
//! ring, nothing is lost, and there is always somebody to come: as long as a bio waits, a request
//! is in flight. A request never has more descriptors than the ring, so that it fits an idle ring
//! even when there is no memory for an indirect table.
//!
//! Calls of other users than the disk do not wait here; they are sent at once or handed back.
//!
//! Answers are taken by interrupts, and by tasks that poll for theirs (`poll.rs`); while someone
//! polls, the device is asked for no interrupts.

use crate::{
    after::After,
    bio::BioList,
    call::{is_get, Call},
    ffi::{self, Virtqueue},
    flush::Batch,
    poll::Patience,
    request::Job,
    ring::{Done, Pending, Refusal, Ring, Shared},
    sync::{Event, IrqLock},
};
use kernel::{
    bindings,
    prelude::*,
    static_lock_class,
    sync::{
        atomic::{Acquire, Atomic, Relaxed, Release},
        Arc,
    },
};

/// Flushes of freed slots leave one in so many slots to reads and writes.
const FLUSH_SPARES: u32 = 4;
/// Calls leave one in so many.
const CALL_SPARES: u32 = 8;
/// Flush requests in the ring for one hold of the lock.
const FLUSH_BURST: usize = 8;
/// How long a writer sleeps at a time for others' requests to end.
const THROTTLE_MS: u32 = 100;

/// How far [`Queue::flush`] came.
pub(crate) enum Flushed {
    /// There was nothing more to send.
    All,
    /// Call again.
    More,
    /// No room; call again later. The batch, if any, was not sent.
    Busy(Option<Batch>),
}

/// A request virtqueue and its slots.
#[pin_data]
pub(crate) struct Queue {
    ring: IrqLock<Ring>,
    /// Nothing waits for a slot any more.
    #[pin]
    space: Event,
    /// Notifications under way; the virtqueue is not deleted before there are none.
    notifying: Atomic<i32>,
    pub(crate) patience: Patience,
    pub(crate) shared: Arc<Shared>,
}

impl Queue {
    /// Takes over `vq`.
    ///
    /// # Safety
    ///
    /// `vq` is used by nobody else, and stays valid until [`Queue::pause`] or [`Queue::kill`] has
    /// returned, and for [`Queue::harvest`] and [`Queue::detach`].
    pub(crate) unsafe fn new(vq: *mut Virtqueue, shared: Arc<Shared>) -> Result<Pin<KBox<Self>>> {
        // SAFETY: as for this function.
        let ring = unsafe { Ring::new(vq, &shared.limits) }?;
        let patience = Patience::new(shared.poll_ns);
        KBox::pin_init(
            pin_init!(Self {
                ring: IrqLock::new(ring, static_lock_class!()),
                space <- Event::new(),
                notifying: Atomic::new(0),
                patience,
                shared,
            }),
            GFP_KERNEL,
        )
    }

    /// Sends `bios`, which are all of kinds that this queue carries, as soon as there is room.
    /// Never sleeps. With `poll`, returns what the caller then has to give to [`Queue::poll`].
    pub(crate) fn submit(&self, bios: BioList, poll: bool) -> Option<Pending> {
        let poll = poll && self.patience.pays(&self.shared.stats);
        let pending = self.locked(|ring, after| {
            let count = bios.count();
            ring.waiting.append(bios);
            let pending = ring.pump(&self.shared, after).filter(|_| poll);
            let waiting = ring.waiting.count().min(count);
            self.shared.stats.slots_waited.add(u64::from(waiting));
            if pending.is_some() {
                ring.disable_interrupts();
                ring.pollers = ring.pollers.wrapping_add(1);
            }
            pending
        });
        pending
    }

    /// Sends up to [`FLUSH_BURST`] of the batches that `select` gives. Never sleeps.
    pub(crate) fn flush(&self, mut select: impl FnMut() -> Option<Batch>) -> Flushed {
        self.locked(|ring, after| {
            let mut sent = false;
            let mut result = Flushed::More;
            for _ in 0..FLUSH_BURST {
                if !ring.is_open() {
                    // Whoever opens the ring again runs the worker.
                    result = Flushed::All;
                    break;
                }
                if !ring.has_spare(FLUSH_SPARES) {
                    result = Flushed::Busy(None);
                    break;
                }
                let Some(batch) = select() else {
                    result = Flushed::All;
                    break;
                };
                match ring.start(batch, &self.shared) {
                    Ok(_) => sent = true,
                    Err((batch, Refusal::Later | Refusal::Never)) => {
                        result = Flushed::Busy(Some(batch));
                        break;
                    }
                }
            }
            if sent {
                ring.kick(after);
            }
            result
        })
    }

    /// Sends from the front of `calls` what there is room for, as far as they belong on this queue, with
    /// one notification for all. What is left stays in order. Returns the last one sent and how many
    /// they were, and why the next was not sent. Never sleeps.
    pub(crate) fn call_all(
        &self,
        calls: &mut KVec<KBox<dyn Call>>,
        get: bool,
    ) -> (Option<(Pending, u64)>, Option<Refusal>) {
        self.locked(|ring, after| {
            let mut last = None;
            let mut sent = 0u64;
            let mut refusal = None;
            while calls.first().is_some_and(|call| is_get(&**call) == get) {
                if Self::is_crowded(ring) {
                    refusal = Some(Refusal::Later);
                    break;
                }
                let Ok(call) = calls.remove(0) else {
                    break;
                };
                match ring.start(call, &self.shared) {
                    Ok(pending) => last = Some(pending),
                    Err((call, why)) => {
                        // There is room: it was taken from here.
                        let _ = calls.insert_within_capacity(0, call);
                        refusal = Some(why);
                        break;
                    }
                }
                sent = sent.wrapping_add(1);
            }
            if last.is_some() {
                ring.kick(after);
            }
            (last.map(|pending| (pending, sent)), refusal)
        })
    }

    /// Whether calls would be in the way of the disks.
    fn is_crowded(ring: &Ring) -> bool {
        let free = ring.waiting.is_empty() && ring.has_spare(CALL_SPARES) && !ring.is_full();
        !free && !ring.is_dead()
    }

    /// Sends `call`, or gives it back. Never sleeps.
    pub(crate) fn call(&self, call: KBox<dyn Call>) -> Result<Pending, (KBox<dyn Call>, Refusal)> {
        self.locked(|ring, after| {
            if Self::is_crowded(ring) {
                return Err((call, Refusal::Later));
            }
            let pending = ring.start(call, &self.shared)?;
            ring.kick(after);
            Ok(pending)
        })
    }

    /// Calls `each` with the ring, and does what is left after it without the lock.
    fn locked<R>(&self, each: impl FnOnce(&mut Ring, &mut After) -> R) -> R {
        let mut after = After::new();
        let result = {
            let mut ring = self.ring.lock();
            let result = each(&mut ring, &mut after);
            if after.notifies() {
                self.notifying.add(1, Relaxed);
            }
            if ring.take_broken() {
                self.shared.wounded.store(true, Relaxed);
            }
            result
        };
        if after.notifies() {
            self.shared.stats.kicks.inc();
            // SAFETY: `notifying`, which was counted up under the lock, keeps the virtqueue.
            if !unsafe { after.notify() } {
                self.shared.wounded.store(true, Relaxed);
            }
            self.notifying.fetch_sub(1, Release);
        }
        if !after.failed.is_empty() {
            let pages = u64::from(after.failed.pages());
            self.shared.stats.errors.add(pages);
            after.failed.end_all(ffi::BLK_STS_IOERR);
        }
        result
    }

    /// Takes one answer from the ring, lets the next bios in, and has a look at the ring.
    pub(crate) fn reap_and<R>(&self, look: impl FnOnce(&Ring) -> R) -> (Option<Done>, R) {
        self.locked(|ring, after| {
            let done = ring.take_done();
            if done.is_some() {
                ring.pump(&self.shared, after);
                if ring.waiting.is_empty() {
                    for _ in 0..core::mem::take(&mut ring.sleepers) {
                        self.space.wake();
                    }
                }
            }
            (done, look(ring))
        })
    }

    /// Takes all answers from the ring.
    pub(crate) fn reap_all(&self, mut complete: impl FnMut(Done)) {
        while let (Some(done), ()) = self.reap_and(|_| ()) {
            complete(done);
        }
    }

    /// Serves an interrupt; `complete` gets every request that has ended.
    pub(crate) fn interrupt(&self, mut complete: impl FnMut(Done)) {
        self.shared.stats.interrupts.inc();
        loop {
            self.ring.lock().disable_interrupts();
            self.reap_all(&mut complete);
            if self.listen(false) {
                return;
            }
        }
    }

    /// Asks for interrupts unless someone polls; with `leave`, the caller polls no more. False:
    /// answers have come in the meantime, and have to be taken.
    pub(crate) fn listen(&self, leave: bool) -> bool {
        let mut ring = self.ring.lock();
        if leave {
            ring.pollers = ring.pollers.saturating_sub(1);
        }
        ring.pollers > 0 || ring.enable_interrupts()
    }

    /// Sleeps until no bio waits for a slot, so that a writer does not outrun the host for ever.
    pub(crate) fn throttle(&self) {
        loop {
            {
                let mut ring = self.ring.lock();
                if ring.is_dead() || ring.waiting.is_empty() {
                    return;
                }
                ring.sleepers = ring.sleepers.saturating_add(1);
            }
            // A wake-up that comes after the time is over wakes the next sleeper early, no more.
            self.space.wait(THROTTLE_MS);
        }
    }

    /// Sleeps until there may be room for a call, `ms` milliseconds at most.
    pub(crate) fn wait_for_room(&self, ms: u32) {
        {
            let mut ring = self.ring.lock();
            if ring.is_dead() || (ring.is_open() && !Self::is_crowded(&ring)) {
                return;
            }
            ring.sleepers = ring.sleepers.saturating_add(1);
        }
        self.space.wait(ms);
    }

    /// Begins to poll for a request that was sent without the intention to. False: it has ended.
    pub(crate) fn begin_poll(&self, pending: &Pending) -> bool {
        let mut ring = self.ring.lock();
        if ring.is_over(pending) {
            return false;
        }
        ring.disable_interrupts();
        ring.pollers = ring.pollers.wrapping_add(1);
        true
    }

    /// Lets nobody use the virtqueue any more, and fails what is sent from now on. Returns once
    /// nobody does; may sleep.
    pub(crate) fn kill(&self) {
        self.ring.lock().kill();
        self.quiesce();
    }

    /// Lets nobody use the virtqueue until [`Queue::open`]; what is sent from now on waits. Returns
    /// once nobody does; may sleep.
    pub(crate) fn pause(&self) {
        self.ring.lock().pause();
        self.quiesce();
    }

    fn quiesce(&self) {
        let sleepers = core::mem::take(&mut self.ring.lock().sleepers);
        for _ in 0..sleepers {
            self.space.wake();
        }
        // A notification is announced under the lock, so that all that are still to come are seen.
        while self.notifying.load(Acquire) != 0 {
            // SAFETY: the caller may sleep.
            unsafe { bindings::msleep(1) };
        }
    }

    /// Takes the answers that came before the device was reset.
    ///
    /// # Safety
    ///
    /// The queue was paused or killed, and its device reset. The virtqueue has not been deleted.
    pub(crate) unsafe fn harvest(&self, mut complete: impl FnMut(Done)) {
        loop {
            // SAFETY: as for this function.
            let done = unsafe { self.ring.lock().take_answer() };
            match done {
                Some(done) => complete(done),
                None => return,
            }
        }
    }

    /// Takes back what the device had not answered; `lost` gets what can't be sent again, which is
    /// everything if the queue was killed.
    ///
    /// # Safety
    ///
    /// As for [`Queue::harvest`].
    pub(crate) unsafe fn detach(&self, lost: impl FnMut(Job)) {
        // SAFETY: as for this function.
        unsafe { self.ring.lock().detach() };
        self.give_up(lost);
    }

    /// Hands out the requests that wait to be sent again and never will be, and fails the bios that
    /// wait for a slot if the queue was killed.
    pub(crate) fn give_up(&self, mut lost: impl FnMut(Job)) {
        loop {
            let job = self.ring.lock().take_lost();
            match job {
                Some(job) => lost(job),
                None => break,
            }
        }
        self.locked(|ring, after| ring.pump(&self.shared, after));
    }

    /// Goes on with a virtqueue of the device that was set up anew; sends again what was in flight.
    ///
    /// # Safety
    ///
    /// As for [`Queue::new`]; the device is ready, and was introduced to this driver.
    pub(crate) unsafe fn open(&self, vq: *mut Virtqueue) {
        self.locked(|ring, after| {
            // SAFETY: as for this function.
            unsafe { ring.open(vq) };
            ring.pump(&self.shared, after)
        });
    }
}
