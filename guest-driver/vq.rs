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
//! Answers are taken by interrupts, and by tasks that poll for theirs (`poll.rs`); while someone
//! polls, the device is asked for no interrupts.

use crate::{
    bio::BioList,
    ffi::{self, Virtqueue},
    flush::Batch,
    poll::Patience,
    request::Job,
    ring::{After, Done, Pending, Refusal, Ring, Shared},
    sync::{Event, IrqLock},
};
use kernel::{
    bindings,
    prelude::*,
    sync::{
        atomic::{Acquire, Atomic, Relaxed, Release},
        Arc,
    },
};

/// Flushes of freed slots leave one in so many slots to reads and writes.
const FLUSH_SPARES: u32 = 4;
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
    /// `vq` is used by nobody else, and stays valid until [`Queue::kill`] has returned, and for
    /// [`Queue::drain`].
    pub(crate) unsafe fn new(vq: *mut Virtqueue, shared: Arc<Shared>) -> Result<Pin<KBox<Self>>> {
        // SAFETY: as for this function.
        let ring = unsafe { Ring::new(vq, &shared.limits) }?;
        let patience = Patience::new(shared.poll_ns);
        KBox::pin_init(
            pin_init!(Self {
                ring: IrqLock::new(ring),
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
                if ring.is_dead() || !ring.has_spare(FLUSH_SPARES) {
                    result = Flushed::Busy(None);
                    break;
                }
                let Some(batch) = select() else {
                    result = Flushed::All;
                    break;
                };
                match ring.start(Job::Flush(batch), &self.shared) {
                    Ok(_) => sent = true,
                    Err((Job::Flush(batch), Refusal::Later | Refusal::Never)) => {
                        result = Flushed::Busy(Some(batch));
                        break;
                    }
                    Err(_) => break,
                }
            }
            if sent {
                ring.kick(after);
            }
            result
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
            result
        };
        if after.notifies() {
            self.shared.stats.kicks.inc();
            // SAFETY: `notifying`, which was counted up under the lock, keeps the virtqueue.
            unsafe { after.notify() };
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

    /// Lets nobody use the virtqueue any more. Returns once nobody does; may sleep.
    pub(crate) fn kill(&self) {
        let sleepers = {
            let mut ring = self.ring.lock();
            ring.kill();
            core::mem::take(&mut ring.sleepers)
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

    /// Takes back everything that was sent or waits.
    ///
    /// # Safety
    ///
    /// The queue was killed, and its device reset. The virtqueue has not been deleted.
    pub(crate) unsafe fn drain(&self) -> BioList {
        // SAFETY: as for this function.
        unsafe { self.ring.lock().drain() }
    }
}
