// SPDX-License-Identifier: GPL-2.0
//! One device: its queues, its flush engine, its disk, and the way of a request from a bio to its
//! end. Almost all of this is safe code on top
//! of the queue engine.

use crate::{
    bio::{Bio, BioList},
    control::{Control, Events},
    ffi,
    flush::{Flush, Schedule},
    request::{Answer, Job, POOL},
    ring::{Done, Shared},
    stats::Stats,
    vq::{Flushed, Queue},
    wire,
    work::Worker,
};
use kernel::{
    prelude::*,
    sync::{
        atomic::{Atomic, Relaxed},
        Arc,
    },
};

/// Time until the worker tries again when the put queue has no room for flushes.
const FLUSH_BUSY_MS: u32 = 1;
/// Time until it tries again when the host failed one.
const FLUSH_FAILED_MS: u32 = 100;

/// A get queue and a put queue.
pub(crate) struct Pair {
    pub(crate) get: Pin<KBox<Queue>>,
    pub(crate) put: Pin<KBox<Queue>>,
}

/// A device; alive as long as its driver is bound or its disk is open.
#[pin_data]
pub(crate) struct Device {
    pub(crate) control: Pin<KBox<Control>>,
    pub(crate) events: Events,
    pub(crate) pairs: KVec<Pair>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) flush: Flush,
    #[pin]
    pub(crate) worker: Worker,
    /// Writes that a task waits for are sent at once and polled for.
    pub(crate) synchronous: bool,
    pub(crate) flush_delay_ms: u32,
    /// The driver is unbound: nothing goes to the device any more.
    pub(crate) dead: Atomic<bool>,
}

impl Device {
    pub(crate) fn stats(&self) -> &Stats {
        &self.shared.stats
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.dead.load(Relaxed)
    }

    /// The queues of the processor that this runs on; there is at least one pair.
    fn pair(&self) -> Option<&Pair> {
        self.pairs
            .get(ffi::this_cpu().checked_rem(self.pairs.len())?)
    }

    /// Opens the device for requests: introduces the driver by `epoch`, and makes a pool for a disk
    /// of at most `pages` pages. Returns the disk's size in pages.
    pub(crate) fn begin(&self, epoch: (u64, u64), pages: u32) -> Result<u32> {
        let hello = self.command(
            "HELLO",
            &wire::ControlRequest {
                op: wire::control::HELLO,
                version: u32::from(wire::VERSION),
                epoch_low: epoch.0,
                epoch_high: epoch.1,
                ..Default::default()
            },
        )?;
        if hello.flags & wire::hello::SAME_EPOCH != 0 {
            self.shared.tickets.start_above(hello.value);
        }
        self.stats().grant_pages.set(hello.pages);
        let pages = u32::try_from(hello.pages).unwrap_or(u32::MAX).min(pages);
        if pages == 0 {
            pr_err!("the host grants no pages; give the guest a grant\n");
            return Err(ENOSPC);
        }
        self.command(
            "POOL_CREATE",
            &wire::ControlRequest {
                op: wire::control::POOL_CREATE,
                pool: POOL,
                kind: wire::pool_kind::PERSISTENT,
                layout: wire::pool_layout::DENSE,
                object_pages: pages,
                ..Default::default()
            },
        )?;
        Ok(pages)
    }

    /// Gives the pool back, if the host still listens.
    pub(crate) fn finish(&self) {
        let _ = self.command(
            "POOL_DESTROY",
            &wire::ControlRequest {
                op: wire::control::POOL_DESTROY,
                pool: POOL,
                ..Default::default()
            },
        );
    }

    fn command(&self, name: &str, request: &wire::ControlRequest) -> Result<wire::ControlResponse> {
        let response = self.control.command(request).inspect_err(|error| {
            pr_err!("the device does not answer {}: {:?}\n", name, error);
        })?;
        if response.status != wire::status::OK {
            pr_err!(
                "the device refuses {} with status {}\n",
                name,
                response.status
            );
            return Err(EIO);
        }
        Ok(response)
    }

    /// Sends reads; with `poll`, spins for a moment until they end.
    pub(crate) fn read(&self, bios: BioList, poll: bool) {
        let Some(pair) = self.pair() else {
            return bios.end_all(ffi::BLK_STS_IOERR);
        };
        if let Some(pending) = pair.get.submit(bios, poll) {
            pair.get.poll(pending, |done| self.complete(done));
        }
    }

    /// Sends writes and discards that have been admitted. May sleep if `throttle`, so that the
    /// host's pace is the writer's.
    pub(crate) fn write(&self, bios: BioList, poll: bool, throttle: bool) {
        let Some(pair) = self.pair() else {
            return bios.end_all(ffi::BLK_STS_IOERR);
        };
        if let Some(pending) = pair.put.submit(bios, poll) {
            pair.put.poll(pending, |done| self.complete(done));
        }
        if throttle {
            pair.put.throttle();
        }
    }

    /// Lets a write through the flush engine.
    pub(crate) fn admit(&self, bio: Bio) -> Option<Bio> {
        self.flush.admit(bio)
    }

    /// Does what is owed when a request has ended. Runs in any context, under no lock.
    pub(crate) fn complete(&self, done: Done) {
        let Done {
            job,
            answer,
            elapsed,
        } = done;
        let ok = answer.status == wire::status::OK;
        if !ok && ffi::may_log() {
            pr_err!("a request failed with status {}\n", answer.status);
        }
        match job {
            Job::Get(list) => {
                self.stats().get_latency.record(elapsed);
                self.end_each(list, &answer, ok, Self::end_get);
            }
            Job::Put(list) => self.end_each(list, &answer, ok, Self::end_put),
            Job::Discard(bio) => {
                if ok {
                    self.stats()
                        .pages_flushed
                        .add(u64::from(answer.done.min(bio.pages())));
                    bio.end(ffi::BLK_STS_OK);
                } else {
                    self.stats().errors.inc();
                    bio.end(ffi::BLK_STS_IOERR);
                }
            }
            Job::Flush(batch) => {
                if ok {
                    self.stats()
                        .pages_flushed
                        .add(u64::from(answer.done.min(batch.pages)));
                }
                let released = self.flush.end(batch, ok);
                if !ok {
                    self.worker.run_in(FLUSH_FAILED_MS);
                }
                self.resume(released);
            }
        }
    }

    /// Sends parked writes whose flush has ended; those that meet another one park again.
    fn resume(&self, mut parked: BioList) {
        let mut ready = BioList::new();
        while let Some(bio) = parked.pop() {
            if let Some(bio) = self.flush.admit(bio) {
                ready.push(bio);
            }
        }
        if !ready.is_empty() {
            self.write(ready, false, false);
        }
    }

    /// Ends each bio with the worst of its pages' results.
    fn end_each(
        &self,
        mut list: BioList,
        answer: &Answer,
        ok: bool,
        judge: fn(&Self, &Bio, u32, u8) -> u8,
    ) {
        let mut results = answer.results.iter();
        while let Some(bio) = list.pop() {
            let mut worst = ffi::BLK_STS_OK;
            for nth in 0..bio.pages() {
                // Without a result, and without a status, the page has failed.
                let result = results.next().filter(|_| ok);
                let status = judge(self, &bio, nth, *result.unwrap_or(&u8::MAX));
                if status != ffi::BLK_STS_OK {
                    worst = status;
                }
            }
            bio.end(worst);
        }
    }

    fn end_get(&self, bio: &Bio, nth: u32, result: u8) -> u8 {
        let stats = self.stats();
        match result {
            wire::result::OK => {
                stats.pages_got.inc();
                return ffi::BLK_STS_OK;
            }
            wire::result::MISS => {
                // A slot that was never written; whoever probes the disk reads such.
                stats.gets_missed.inc();
                stats.zero_filled.inc();
                bio.zero_page(nth);
                return ffi::BLK_STS_OK;
            }
            wire::result::CORRUPT => stats.corrupt.inc(),
            _ => stats.errors.inc(),
        }
        if ffi::may_log() {
            pr_err!(
                "get of page {} failed with result {}\n",
                bio.index().wrapping_add(nth),
                result
            );
        }
        ffi::BLK_STS_IOERR
    }

    fn end_put(&self, bio: &Bio, nth: u32, result: u8) -> u8 {
        let stats = self.stats();
        let status = match result {
            // STALE: a write that was sent later has come first; no order was asked for.
            wire::result::OK | wire::result::STALE => {
                stats.pages_put.inc();
                return ffi::BLK_STS_OK;
            }
            wire::result::REFUSED_FULL | wire::result::REFUSED_FROZEN => {
                stats.refused.inc();
                ffi::BLK_STS_NOSPC
            }
            _ => {
                stats.errors.inc();
                ffi::BLK_STS_IOERR
            }
        };
        if ffi::may_log() {
            pr_err!(
                "put of page {} failed with result {}\n",
                bio.index().wrapping_add(nth),
                result
            );
        }
        status
    }

    /// Swap has freed slot `index`. Any context.
    pub(crate) fn slot_freed(&self, index: u32) {
        if self.is_dead() {
            return;
        }
        match self.flush.notify(index) {
            Schedule::No => {}
            Schedule::Soon => self.worker.run_in(self.flush_delay_ms),
            Schedule::Now => self.worker.run_now(),
        }
    }

    /// The worker: sends flushes until none is left or there is no room.
    pub(crate) fn send_flushes(&self) {
        while !self.is_dead() {
            let Some(pair) = self.pair() else {
                return;
            };
            match pair.put.flush(|| {
                self.flush
                    .next_batch(&self.shared.limits, &self.shared.tickets)
            }) {
                Flushed::All => return,
                // SAFETY: the worker may sleep.
                Flushed::More => unsafe { ffi::vtmem_cond_resched() },
                Flushed::Busy(batch) => {
                    if let Some(batch) = batch {
                        let released = self.flush.end(batch, false);
                        self.resume(released);
                    }
                    self.worker.run_in(FLUSH_BUSY_MS);
                    return;
                }
            }
        }
    }

    /// An interrupt of queue `index`.
    pub(crate) fn interrupt(&self, index: u16) {
        match index {
            wire::QUEUE_CONTROL => self.control.interrupt(),
            wire::QUEUE_EVENT => self.events.interrupt(),
            _ => {
                let Some(at) = index.checked_sub(wire::QUEUE_REQUEST_FIRST) else {
                    return;
                };
                if let Some(pair) = self.pairs.get(usize::from(at / 2)) {
                    let queue = if at % 2 == 0 { &pair.get } else { &pair.put };
                    queue.interrupt(|done| self.complete(done));
                }
            }
        }
    }

    /// From now on reads and writes fail, and their virtqueues are not touched.
    pub(crate) fn kill_pairs(&self) {
        for pair in &self.pairs {
            pair.get.kill();
            pair.put.kill();
        }
    }

    /// From now on no virtqueue is touched.
    pub(crate) fn kill_queues(&self) {
        self.kill_pairs();
        self.control.kill();
        self.events.kill();
    }

    /// Fails what was in flight.
    ///
    /// # Safety
    ///
    /// The queues were killed, and the device reset. The virtqueues have not been deleted.
    pub(crate) unsafe fn drain_queues(&self) {
        for pair in &self.pairs {
            // SAFETY: as for this function.
            let (get, put) = unsafe { (pair.get.drain(), pair.put.drain()) };
            get.end_all(ffi::BLK_STS_IOERR);
            put.end_all(ffi::BLK_STS_IOERR);
        }
        self.flush.close().end_all(ffi::BLK_STS_IOERR);
        self.control.drain();
        self.events.drain();
    }
}
