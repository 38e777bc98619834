// SPDX-License-Identifier: GPL-2.0
//! One device: its queues, its disks' flush engines, and the way of a request from a bio to its end.
//! Almost all of this is safe code on top of the queue engine.

use crate::{
    balloon::Balloon,
    bio::{Bio, BioList},
    control::{Control, Events, Gate},
    ffi,
    flush::{Batch, Flush, Schedule},
    lifecycle::Life,
    pools::Pools,
    request::{Answer, Job},
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
        Arc, Mutex,
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
    /// None if the device has no use for one.
    pub(crate) balloon: Option<Pin<KBox<Balloon>>>,
    pub(crate) pairs: KVec<Pair>,
    pub(crate) shared: Arc<Shared>,
    /// The freed slots of each disk.
    pub(crate) areas: KVec<Flush>,
    #[pin]
    pub(crate) pools: Pools,
    /// Sends flushes.
    #[pin]
    pub(crate) worker: Worker,
    /// Sets the device up anew.
    #[pin]
    pub(crate) recovery: Worker,
    #[pin]
    pub(crate) life: Mutex<Life>,
    /// Pages of the grant that are kept out of the disks, for programs' persistent pools.
    pub(crate) programs_pages: u64,
    /// What the device can do: bits of [`wire::capability`].
    pub(crate) capabilities: u64,
    /// Writes that a task waits for are sent at once and polled for.
    pub(crate) synchronous: bool,
    pub(crate) flush_delay_ms: u32,
    /// The driver is unbound, or has given the device up: nothing goes to it any more.
    pub(crate) dead: Atomic<bool>,
    /// The host has forgotten pages of the disks: one that it does not have may have been written.
    pub(crate) lost: Atomic<bool>,
    /// Somebody has asked for a reset of the device.
    pub(crate) asked: Atomic<bool>,
    /// The next reset is to overlook the answers that are in the rings, as if those were broken.
    pub(crate) overlook: Atomic<bool>,
}

impl Device {
    pub(crate) fn stats(&self) -> &Stats {
        &self.shared.stats
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.dead.load(Relaxed)
    }

    /// Number of the pair of queues of the processor that this runs on.
    pub(crate) fn this_pair(&self) -> usize {
        ffi::this_cpu().checked_rem(self.pairs.len()).unwrap_or(0)
    }

    /// The queues of the processor that this runs on; there is at least one pair.
    fn pair(&self) -> Option<&Pair> {
        self.pairs.get(self.this_pair())
    }

    /// Has the device reset if a virtqueue has turned out to be broken. Cheap.
    pub(crate) fn look_after(&self) {
        if self.shared.wounded.load(Relaxed) {
            self.recovery.run_in(0);
        }
    }

    /// Opens the device for requests: introduces the driver by `epoch`, and makes the pools of its
    /// disks, of at most `pages` pages each. Returns the pages that they have.
    pub(crate) fn begin(&self, epoch: (u64, u64), pages: u32) -> Result<u32> {
        let hello = self.hello(epoch)?;
        if hello.flags & wire::hello::SAME_EPOCH != 0 && hello.held > 0 {
            self.sweep_pools();
        }
        let disks = self.areas.len() as u64;
        let granted = hello
            .pages
            .saturating_sub(self.programs_pages)
            .checked_div(disks)
            .unwrap_or(0);
        let pages = u32::try_from(granted).unwrap_or(u32::MAX).min(pages);
        if pages == 0 {
            pr_err!("the host grants no pages; give the guest a grant\n");
            return Err(ENOSPC);
        }
        for area in 0..self.areas.len() as u32 {
            self.make_disk_pool(area, pages)?;
        }
        self.control.open();
        Ok(pages)
    }

    /// Introduces the driver by `epoch`.
    pub(crate) fn hello(&self, epoch: (u64, u64)) -> Result<wire::ControlResponse> {
        let hello = wire::ControlRequest {
            op: wire::control::HELLO,
            version: u32::from(wire::VERSION),
            epoch_low: epoch.0,
            epoch_high: epoch.1,
            ..Default::default()
        };
        let answer = self.command("HELLO", &hello, Gate::Opening)?;
        if answer.flags & wire::hello::SAME_EPOCH != 0 {
            self.shared.tickets.start_above(answer.value);
        }
        self.stats().grant_pages.set(answer.pages);
        Ok(answer)
    }

    /// Sends reads; with `poll`, spins for a moment until they end.
    pub(crate) fn read(&self, bios: BioList, poll: bool) {
        let Some(pair) = self.pair() else {
            return bios.end_all(ffi::BLK_STS_IOERR);
        };
        if let Some(pending) = pair.get.submit(bios, poll) {
            pair.get.poll(&pending, |done| self.complete(done));
        }
        self.look_after();
    }

    /// Sends writes and discards that have been admitted. May sleep if `throttle`, so that the
    /// host's pace is the writer's.
    pub(crate) fn write(&self, bios: BioList, poll: bool, throttle: bool) {
        let Some(pair) = self.pair() else {
            return bios.end_all(ffi::BLK_STS_IOERR);
        };
        if let Some(pending) = pair.put.submit(bios, poll) {
            pair.put.poll(&pending, |done| self.complete(done));
        }
        self.look_after();
        if throttle {
            pair.put.throttle();
        }
    }

    /// Lets a write through the flush engine.
    pub(crate) fn admit(&self, bio: Bio) -> Option<Bio> {
        match self.areas.get(bio.area() as usize) {
            Some(area) => area.admit(bio),
            None => Some(bio),
        }
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
                self.end_flush(batch, ok);
                if !ok {
                    self.worker.run_in(FLUSH_FAILED_MS);
                }
            }
            Job::Call(call) => call.end(Some(&answer)),
        }
    }

    /// Ends a flush of freed slots, and lets go on what waited for it.
    fn end_flush(&self, batch: Batch, flushed: bool) {
        if let Some(area) = self.areas.get(batch.area as usize) {
            self.resume(area.end(batch, flushed));
        }
    }

    /// Does what is owed for a request that will never be answered.
    pub(crate) fn lose(&self, job: Job) {
        match job {
            Job::Call(call) => call.end(None),
            // The device is gone, and its pools with it.
            Job::Flush(_) => {}
            Job::Put(_) | Job::Get(_) | Job::Discard(_) => {
                let bios = job.into_bios();
                self.stats().errors.add(u64::from(bios.pages()));
                bios.end_all(ffi::BLK_STS_IOERR);
            }
        }
    }

    /// Sends parked writes whose flush has ended; those that meet another one park again.
    fn resume(&self, mut parked: BioList) {
        let mut ready = BioList::new();
        while let Some(bio) = parked.pop() {
            if let Some(bio) = self.admit(bio) {
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
            // It may have been written before the host forgot all; zeroes would be a lie.
            wire::result::MISS if self.lost.load(Relaxed) => stats.gets_missed.inc(),
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

    /// Swap has freed slot `index` of disk `area`. Any context.
    pub(crate) fn slot_freed(&self, area: u32, index: u32) {
        let Some(area) = self.areas.get(area as usize).filter(|_| !self.is_dead()) else {
            return;
        };
        match area.notify(index) {
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
            let sent = pair.put.flush(|| {
                self.areas
                    .iter()
                    .find_map(|area| area.next_batch(&self.shared.limits, &self.shared.tickets))
            });
            self.look_after();
            match sent {
                Flushed::All => return,
                // SAFETY: the worker may sleep.
                Flushed::More => unsafe { ffi::vtmem_cond_resched() },
                Flushed::Busy(batch) => {
                    if let Some(batch) = batch {
                        self.end_flush(batch, false);
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
            wire::QUEUE_EVENT => self.events.interrupt(|event| {
                if let Some(balloon) = &self.balloon {
                    balloon.event(event);
                }
            }),
            wire::QUEUE_BALLOON | wire::QUEUE_REPORT => {
                if let Some(balloon) = &self.balloon {
                    balloon.interrupt(index);
                }
            }
            _ => {
                let Some(at) = index.checked_sub(wire::QUEUE_REQUEST_FIRST) else {
                    return;
                };
                if let Some(pair) = self.pairs.get(usize::from(at / 2)) {
                    let queue = if at % 2 == 0 { &pair.get } else { &pair.put };
                    queue.interrupt(|done| self.complete(done));
                    self.look_after();
                }
            }
        }
    }
}
