// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A virtqueue as the workers see it: the crate's vring, with a table of what is in flight, a mark
//! for a ring that its guest broke, and a kick that cannot end or block a worker.
//!
//! The vring's lock is held to take a batch and to use a few requests, never while a request
//! is served and never while a worker polls; so the control thread gets it when it wants it.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use parking_lot::Mutex;
use vhost_user_backend::{VringMutex, VringState, VringStateGuard, VringStateMutGuard, VringT};
use virtio_bindings::virtio_ring::VRING_AVAIL_F_NO_INTERRUPT;
use virtio_queue::{DescriptorChain, Error as QueueError, QueueOwnedT, QueueT};
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryAtomic, GuestMemoryMmap};

use super::inflight::{Generation, Inflight};
use super::record::{RingRecord, next_record};
use super::request::Malformed;

/// The guest's memory, which the front-end may replace at any time.
pub type Memory = GuestMemoryAtomic<GuestMemoryMmap>;

/// One descriptor chain over memory that is kept for as long as the batch lasts.
pub type Taken<'m> = DescriptorChain<&'m GuestMemoryMmap>;

/// A virtqueue. Clones are the same queue.
#[derive(Clone)]
pub struct Ring {
    vring: VringMutex<Memory>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    inflight: Inflight,
    broken: AtomicBool,
    /// The ring goes on after another back-end, which may have died before it interrupted the driver.
    resumed: AtomicBool,
    /// Where deferred requests are noted, if any can be.
    record: Option<RingRecord>,
    /// Requests that a dead worker had deferred, until they are taken up.
    adopted: Mutex<Option<(Generation, Vec<u16>)>>,
    has_adopted: AtomicBool,
}

/// Where to look, without any lock, for a request that was made available.
#[derive(Clone, Copy, Debug)]
pub struct PollPoint {
    index: GuestAddress,
    next: u16,
}

impl PollPoint {
    /// Something has been made available, or the ring cannot be read: either way, look closer.
    #[must_use]
    pub fn pending(&self, mem: &GuestMemoryMmap) -> bool {
        mem.load::<u16>(self.index, Ordering::Relaxed)
            .map_or(true, |index| u16::from_le(index) != self.next)
    }
}

impl Ring {
    /// Takes what is available, at most `into`'s length, and enters it as in flight. Takes nothing
    /// from a ring that is stopped, disabled or broken.
    ///
    /// # Errors
    /// What is wrong with the ring; it is broken from now on, until the front-end sets it up again.
    pub fn take<'m>(
        &self,
        mem: &'m GuestMemoryMmap,
        into: &mut [Option<Taken<'m>>],
    ) -> Result<(usize, Generation), Malformed> {
        let mut state = self.vring.get_mut();
        if self.shared.resumed.load(Ordering::Relaxed) && state.is_enabled() {
            self.shared.resumed.store(false, Ordering::Relaxed);
            // One interrupt too many is better than one too few. Without a descriptor nobody waits.
            let _ = state.signal_used_queue();
        }
        let room = into.len();
        let mut count = 0;
        let mut fault = None;
        if state.is_enabled() && !self.shared.broken.load(Ordering::Relaxed) {
            let queue = state.get_queue_mut();
            let (size, ready) = (queue.size(), queue.ready());
            let wanted = match queue.avail_idx(mem, Ordering::Acquire) {
                Ok(index) => usize::from(index.0.wrapping_sub(queue.next_avail())),
                Err(_) => 0,
            };
            match queue.iter(mem) {
                Ok(chains) => {
                    // In this order, or a chain too many would be taken and dropped.
                    for (place, chain) in into.iter_mut().zip(chains) {
                        if chain.head_index() >= size {
                            // It cannot even be given back: the used ring has no name for it.
                            fault = Some(Malformed::Head);
                            break;
                        }
                        *place = Some(chain);
                        count += 1;
                    }
                    if fault.is_none() && count < wanted.min(room) {
                        fault = Some(Malformed::RingAddress);
                    }
                }
                // The crate takes a ring at address 0 for none; a driver that puts it there and
                // makes requests available would keep its worker looking for ever.
                Err(QueueError::QueueNotReady) if !ready => {}
                Err(QueueError::InvalidAvailRingIndex) => fault = Some(Malformed::AvailIndex),
                Err(_) => fault = Some(Malformed::RingAddress),
            }
        }
        let heads = into[..count].iter().flatten().map(Taken::head_index);
        let generation = self.shared.inflight.take(heads);
        match fault {
            // What came before the fault is served; the fault is met again by the next take.
            Some(kind) if count == 0 => {
                self.break_down();
                Err(kind)
            }
            Some(_) if fault == Some(Malformed::Head) => {
                let queue = state.get_queue_mut();
                queue.set_next_avail(queue.next_avail().wrapping_sub(1));
                Ok((count, generation))
            }
            _ => Ok((count, generation)),
        }
    }

    /// Gives the oldest requests back to the driver: the head of each, and the bytes of its writable
    /// part that were written. Interrupts the driver if it wants that; one that does not say for
    /// which request it waits is interrupted before a `pause` only. Returns whether it was; nothing if
    /// somebody gave up waiting for the requests, which are then not given back.
    ///
    /// # Errors
    /// [`Malformed::RingAddress`] if the ring is not in guest memory; it is broken then.
    pub fn finish(
        &self,
        mem: &GuestMemoryMmap,
        generation: Generation,
        used: impl ExactSizeIterator<Item = (u16, u32)>,
        pause: bool,
    ) -> Result<Option<bool>, Malformed> {
        let mut state = self.vring.get_mut();
        let queue = state.get_queue_mut();
        let published = self.shared.inflight.finish(generation, used.len(), || {
            let mut broken = false;
            for (head, bytes) in used {
                broken |= queue.add_used(mem, head, bytes).is_err();
            }
            broken
        });
        match published {
            None => Ok(None),
            Some(true) => Err(self.break_down()),
            Some(false) if pause || queue.event_idx_enabled() => {
                self.notify(&mut state, mem).map(Some)
            }
            Some(false) => Ok(Some(false)),
        }
    }

    /// Lets others pass the oldest request, which has this head. False if it cannot be; then it has to be
    /// finished in its turn.
    #[must_use]
    pub fn defer(&self, generation: Generation, head: u16) -> bool {
        let state = self.vring.get_mut();
        let used_ring = state.get_queue().used_ring();
        // Without a record nobody comes after this process.
        let record = self.shared.record.as_ref();
        let note = || record.is_none_or(|record| record.defer(used_ring, head));
        self.shared.inflight.defer(generation, head, note)
    }

    /// Gives a deferred request back to the driver; otherwise as [`Ring::finish`]. `published` is called
    /// once the driver can see it, and before it is interrupted.
    ///
    /// # Errors
    /// As for [`Ring::finish`].
    pub fn finish_deferred(
        &self,
        mem: &GuestMemoryMmap,
        generation: Generation,
        (head, bytes): (u16, u32),
        published: impl FnOnce(),
    ) -> Result<Option<bool>, Malformed> {
        let mut state = self.vring.get_mut();
        let queue = state.get_queue_mut();
        let publish = || {
            if let Some(record) = &self.shared.record {
                record.answer(head, queue.next_used());
            }
            let broken = queue.add_used(mem, head, bytes).is_err();
            published();
            if let Some(record) = &self.shared.record {
                record.answered(head);
            }
            broken
        };
        let inflight = &self.shared.inflight;
        match inflight.finish_deferred(generation, head, publish) {
            None => Ok(None),
            Some(true) => Err(self.break_down()),
            Some(false) => self.notify(&mut state, mem).map(Some),
        }
    }

    /// The requests that a dead worker had deferred, once.
    #[must_use]
    pub fn take_adopted(&self) -> Option<(Generation, Vec<u16>)> {
        if !self.shared.has_adopted.load(Ordering::Relaxed) {
            return None;
        }
        self.shared.has_adopted.store(false, Ordering::Relaxed);
        self.shared.adopted.lock().take()
    }

    /// The table of descriptors and its size, to look a chain up by its head.
    #[must_use]
    pub fn table(&self) -> (GuestAddress, u16) {
        let state = self.vring.get_ref();
        let queue = state.get_queue();
        (GuestAddress(queue.desc_table()), queue.size())
    }

    /// The index under which the next request is given back.
    #[must_use]
    pub fn next_used(&self) -> u16 {
        self.vring.get_ref().get_queue().next_used()
    }

    /// Begins where the used ring ends. Requests are given back in order, so that is the first one
    /// that was not, whatever base the front-end names: the last back-end may have died, and some
    /// front-ends name the newest request then. Requests that were deferred are taken up first.
    fn resume(&self) {
        if self.vring.get_ref().get_queue().used_ring() == 0 {
            return;
        }
        // A ring outside guest memory is met again, and named, when it is looked at.
        if let Ok(used) = self.vring.queue_used_idx() {
            let deferred = self.adopt(used);
            self.vring.set_queue_next_avail(used.wrapping_add(deferred));
            self.vring.set_queue_next_used(used);
            self.shared.resumed.store(used != 0, Ordering::Relaxed);
        }
    }

    /// Takes up what a dead worker had deferred. Returns how many requests that are.
    fn adopt(&self, used: u16) -> u16 {
        let Some(record) = &self.shared.record else {
            return 0;
        };
        let (used_ring, size) = {
            let state = self.vring.get_ref();
            (state.get_queue().used_ring(), state.get_queue().size())
        };
        let heads = record.recall(used_ring, used);
        if heads.iter().any(|head| *head >= size) {
            // Of a ring of another size: the guest began anew, and has asked for none of them.
            record.clear();
            return 0;
        }
        // There are at most DEFERRED_MAX.
        let count = u16::try_from(heads.len()).unwrap_or(0);
        if count > 0 {
            let generation = self.shared.inflight.adopt(&heads);
            *self.shared.adopted.lock() = Some((generation, heads));
            self.shared.has_adopted.store(true, Ordering::Relaxed);
        }
        count
    }

    /// Puts the requests that were taken and not begun back into the ring.
    pub fn put_back(&self, generation: Generation) {
        let mut state = self.vring.get_mut();
        let count = self.shared.inflight.put_back(generation);
        let queue = state.get_queue_mut();
        queue.set_next_avail(queue.next_avail().wrapping_sub(count));
    }

    fn notify(
        &self,
        state: &mut VringState<Memory>,
        mem: &GuestMemoryMmap,
    ) -> Result<bool, Malformed> {
        let queue = state.get_queue_mut();
        let wanted = queue
            .needs_notification(mem)
            .map_err(|_| self.break_down())?;
        if !wanted || (!queue.event_idx_enabled() && no_interrupt(mem, queue.avail_ring())) {
            return Ok(false);
        }
        if state.get_call().is_none() {
            return Ok(false);
        }
        // An event descriptor that cannot be written is the front-end's affair; the driver polls
        // or waits, and nothing is lost in the ring.
        Ok(state.signal_used_queue().is_ok())
    }

    /// Tells the driver not to kick, as far as the ring has a way to say so.
    pub fn suppress_kicks(&self, mem: &GuestMemoryMmap) {
        let mut state = self.vring.get_mut();
        if self.usable(&state) {
            // If it cannot be written, the next take finds the same fault and says so.
            let _ = state.get_queue_mut().disable_notification(mem);
        }
    }

    /// Asks the driver to kick. Returns whether something was made available meanwhile.
    ///
    /// # Errors
    /// [`Malformed::RingAddress`] if the ring is not in guest memory; the ring is broken then.
    pub fn ask_for_kicks(&self, mem: &GuestMemoryMmap) -> Result<bool, Malformed> {
        let mut state = self.vring.get_mut();
        if !self.usable(&state) {
            return Ok(false);
        }
        state
            .get_queue_mut()
            .enable_notification(mem)
            .map_err(|_| self.break_down())
    }

    /// Where to poll, or nothing if the ring is stopped, disabled or broken.
    #[must_use]
    pub fn poll_point(&self) -> Option<PollPoint> {
        let state = self.vring.get_ref();
        if !self.usable(&state) {
            return None;
        }
        let queue = state.get_queue();
        Some(PollPoint {
            index: GuestAddress(queue.avail_ring()).checked_add(2)?,
            next: queue.next_avail(),
        })
    }

    /// Somebody waits for this ring to have nothing in flight.
    #[must_use]
    pub fn draining(&self) -> bool {
        self.shared.inflight.draining()
    }

    /// Waits until nothing of a ring that is no longer ready is in flight, at most for `deadline`.
    /// What is left then is put back into the ring, but for what was deferred, which is lost. Returns
    /// how much is put back, and how much lost.
    pub fn drain(&self, deadline: Duration) -> (usize, usize) {
        let left = self.shared.inflight.drain(deadline);
        if left != (0, 0) {
            let mut state = self.vring.get_mut();
            let queue = state.get_queue_mut();
            // At most TAKE_MAX are in flight.
            let count = u16::try_from(left.0).unwrap_or(u16::MAX);
            queue.set_next_avail(queue.next_avail().wrapping_sub(count));
        }
        if let Some(record) = &self.shared.record {
            record.clear();
        }
        left
    }

    /// The ring's guest broke it.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.shared.broken.load(Ordering::Relaxed)
    }

    fn usable(&self, state: &VringState<Memory>) -> bool {
        state.is_enabled() && state.get_queue().ready() && !self.is_broken()
    }

    fn break_down(&self) -> Malformed {
        self.shared.broken.store(true, Ordering::Relaxed);
        Malformed::RingAddress
    }

    fn mend(&self) {
        self.shared.broken.store(false, Ordering::Relaxed);
    }
}

/// The driver has set the flag that asks for no interrupts. The crate's queue does not look at it.
fn no_interrupt(mem: &GuestMemoryMmap, avail_ring: u64) -> bool {
    mem.load::<u16>(GuestAddress(avail_ring), Ordering::Relaxed)
        .is_ok_and(|flags| u32::from(u16::from_le(flags)) & VRING_AVAIL_F_NO_INTERRUPT != 0)
}

impl<'a> VringStateGuard<'a, Memory> for Ring {
    type G = MutexGuard<'a, VringState<Memory>>;
}

impl<'a> VringStateMutGuard<'a, Memory> for Ring {
    type G = MutexGuard<'a, VringState<Memory>>;
}

impl VringT<Memory> for Ring {
    fn new(mem: Memory, max_queue_size: u16) -> Result<Self, QueueError> {
        Ok(Self {
            vring: VringMutex::new(mem, max_queue_size)?,
            shared: Arc::new(Shared {
                record: next_record(),
                ..Shared::default()
            }),
        })
    }

    fn get_ref(&self) -> <Self as VringStateGuard<'_, Memory>>::G {
        self.vring.get_ref()
    }

    fn get_mut(&self) -> <Self as VringStateMutGuard<'_, Memory>>::G {
        self.vring.get_mut()
    }

    fn add_used(&self, desc_index: u16, len: u32) -> Result<(), QueueError> {
        self.vring.add_used(desc_index, len)
    }

    fn signal_used_queue(&self) -> io::Result<()> {
        self.vring.signal_used_queue()
    }

    fn enable_notification(&self) -> Result<bool, QueueError> {
        self.vring.enable_notification()
    }

    fn disable_notification(&self) -> Result<(), QueueError> {
        self.vring.disable_notification()
    }

    fn needs_notification(&self) -> Result<bool, QueueError> {
        self.vring.needs_notification()
    }

    fn set_enabled(&self, enabled: bool) {
        self.vring.set_enabled(enabled);
    }

    fn set_queue_info(
        &self,
        desc_table: u64,
        avail_ring: u64,
        used_ring: u64,
    ) -> Result<(), QueueError> {
        self.mend();
        self.vring.set_queue_info(desc_table, avail_ring, used_ring)
    }

    fn queue_next_avail(&self) -> u16 {
        self.vring.queue_next_avail()
    }

    fn set_queue_next_avail(&self, base: u16) {
        self.mend();
        self.vring.set_queue_next_avail(base);
    }

    fn set_queue_next_used(&self, idx: u16) {
        self.vring.set_queue_next_used(idx);
    }

    fn queue_used_idx(&self) -> Result<u16, QueueError> {
        self.vring.queue_used_idx()
    }

    fn set_queue_size(&self, num: u16) {
        self.vring.set_queue_size(num);
    }

    fn set_queue_event_idx(&self, enabled: bool) {
        self.vring.set_queue_event_idx(enabled);
    }

    fn set_queue_ready(&self, ready: bool) {
        self.mend();
        if ready {
            self.resume();
        }
        self.vring.set_queue_ready(ready);
    }

    fn set_kick(&self, file: Option<File>) {
        if let Some(file) = &file {
            // A blocking descriptor that has nothing to read would block its worker for good. If
            // this fails the descriptor is no file at all, and reading it fails as well.
            let _ = rustix::fs::fcntl_getfl(file).and_then(|flags| {
                rustix::fs::fcntl_setfl(file, flags | rustix::fs::OFlags::NONBLOCK)
            });
        }
        self.vring.set_kick(file);
    }

    fn read_kick(&self) -> io::Result<bool> {
        // An error here would end the worker thread without a word. Whether there is work is found
        // in the ring, whatever the descriptor says.
        let _ = self.vring.read_kick();
        Ok(self.vring.get_ref().is_enabled())
    }

    fn set_call(&self, file: Option<File>) {
        self.vring.set_call(file);
    }

    fn set_err(&self, file: Option<File>) {
        self.vring.set_err(file);
    }
}
