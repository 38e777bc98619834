// SPDX-License-Identifier: GPL-2.0
//! A transfer on its way: cut into requests, all of which are in flight together.
//!
//! A [`Flight`] owns all that a transfer needs: the pinned memory, the indices, a reference to its
//! pool. Each request on its way ([`Part`]) keeps the flight, and so does the task that waits. Parts
//! end in any context, usually that of an interrupt, and only note down what the device said. Whoever
//! is last of parts and task lets the memory go: the task, unless it has been killed, in which case
//! a work item does. So nothing that the device may still write to is ever given back early.

use super::{
    abi, background, ffi,
    part::Part,
    pins::Pins,
    pool::{Op, Pool, Run},
};
use crate::{call::Call, device::Device, ring::Refusal, sync::IrqLock};
use kernel::{
    bindings,
    prelude::*,
    static_lock_class,
    sync::{
        atomic::{Acquire, Atomic, Full, Relaxed},
        Arc,
    },
    types::Opaque,
    workqueue::{impl_has_work, new_work, Work, WorkItem},
};

/// What the requests of a flight carry.
pub(super) enum Cargo {
    /// The index of each page. Requests carry as many as they can.
    Pages(KVec<u32>),
    /// A flush of more pages than are listed one by one: a request for each run.
    Runs,
}

/// What is given back at the end of a flight, by a task that may sleep.
pub(super) struct Baggage {
    pub(super) pool: Arc<Pool>,
    pub(super) pins: Option<Pins>,
}

/// What changes while a flight is on its way.
pub(super) struct Log {
    /// One for each page, or for each run of [`Cargo::Runs`].
    pub(super) results: KVec<u8>,
    /// Some until the flight is over.
    pub(super) baggage: Option<Baggage>,
}

/// A transfer; see the head of this file.
#[pin_data]
pub(super) struct Flight {
    pub(super) op: Op,
    /// The pool's id on the host.
    pub(super) pool: u32,
    pub(super) runs: KVec<Run>,
    pub(super) cargo: Cargo,
    pub(super) log: IrqLock<Log>,
    /// Parts on their way, and the task.
    owners: Atomic<i32>,
    /// Told each time when the task is the only owner.
    #[pin]
    landed: Opaque<bindings::completion>,
    #[pin]
    leftover: Work<Flight>,
}

// SAFETY: all fields may be used by any task; a completion serialises its users itself.
unsafe impl Send for Flight {}
// SAFETY: as above.
unsafe impl Sync for Flight {}

impl_has_work! {
    impl HasWork<Self> for Flight { self.leftover }
}

impl WorkItem for Flight {
    type Pointer = Arc<Self>;

    /// What a killed task has left over.
    fn run(flight: Arc<Self>) {
        flight.unload();
    }
}

impl Flight {
    /// A flight for `runs` of the host's pool `pool`, without memory yet.
    pub(super) fn new(op: Op, pool: u32, runs: KVec<Run>, cargo: Cargo) -> Result<Arc<Self>> {
        let positions = match &cargo {
            Cargo::Pages(indices) => indices.len(),
            Cargo::Runs => runs.len(),
        };
        let log = Log {
            // What is never sent has failed and changed nothing.
            results: KVec::from_elem(abi::result::IO_ERROR, positions, GFP_KERNEL)?,
            baggage: None,
        };
        Ok(Arc::pin_init(
            pin_init!(Self {
                op,
                pool,
                runs,
                cargo,
                log: IrqLock::new(log, static_lock_class!()),
                owners: Atomic::new(1),
                landed <- Opaque::ffi_init(|slot: *mut bindings::completion| {
                    // SAFETY: `slot` is valid for writing a completion, and is pinned.
                    unsafe { bindings::init_completion(slot) };
                }),
                leftover <- new_work!("tmem_flight"),
            }),
            GFP_KERNEL,
        )?)
    }

    /// Sends all parts and waits for their ends; once, after [`Pool::begin`]. `EINTR`: the task has
    /// been killed; what is on its way ends without it. `ENODEV`: the device is gone, and nothing was
    /// sent.
    pub(super) fn fly(self: &Arc<Self>, device: &Device, baggage: Baggage) -> Result<KVec<u8>> {
        self.log.lock().baggage = Some(baggage);
        let sent = self.send(device);
        if sent == Err(EINTR) || !self.wait() {
            if self.owners.fetch_sub(1, Full) == 1 {
                self.unload();
            }
            return Err(EINTR);
        }
        self.unload();
        sent?;
        Ok(core::mem::take(&mut self.log.lock().results))
    }

    /// Sends all parts, and polls for the last one. An error other than `EINTR`: nothing was sent.
    fn send(self: &Arc<Self>, device: &Device) -> Result {
        let mut calls = KVec::new();
        let mut at = 0;
        while let Some(part) = Part::cut(self, at, &device.shared.limits) {
            at = part.end_position();
            calls.push(KBox::new(part, GFP_KERNEL)? as KBox<dyn Call>, GFP_KERNEL)?;
        }
        let all = calls.len();
        loop {
            match device.call_all(&mut calls, true) {
                None => return Ok(()),
                Some(Refusal::Later) if ffi::killed() => return Err(EINTR),
                Some(Refusal::Later) => device.wait_for_room(self.op.uses_put_queue()),
                Some(Refusal::Never) if calls.len() == all => return Err(ENODEV),
                // The results of what was not sent say so.
                Some(Refusal::Never) => return Ok(()),
            }
        }
    }

    /// Sleeps until no part is on its way; false: the task was killed before.
    fn wait(&self) -> bool {
        while self.owners.load(Acquire) != 1 {
            // SAFETY: the completion was initialised by `new`; the caller may sleep.
            if unsafe { bindings::wait_for_completion_killable(self.landed.get()) } != 0 {
                return false;
            }
        }
        true
    }

    /// One more part is on its way.
    pub(super) fn board(&self) {
        self.owners.add(1, Relaxed);
    }

    /// A part is over. Any context.
    pub(super) fn leave(self: &Arc<Self>) {
        match self.owners.fetch_sub(1, Full) {
            // The task is left. The completion is the flight's, which the caller keeps.
            // SAFETY: it was initialised by `new`.
            2 => unsafe { bindings::complete(self.landed.get()) },
            // Nobody is left.
            1 => background::run(self.clone()),
            _ => {}
        }
    }

    /// Gives back memory and pool; by the last owner, who may sleep.
    fn unload(&self) {
        let mut log = self.log.lock();
        let baggage = log.baggage.take();
        let mut results = core::mem::take(&mut log.results);
        drop(log);
        let Some(Baggage { pool, pins }) = baggage else {
            return;
        };
        // The memory first: it is the program's again before anybody is told.
        drop(pins);
        if self.op == Op::Flush && matches!(self.cargo, Cargo::Pages(_)) {
            fold(&self.runs, &mut results);
        }
        pool.end(self.op, self.runs.iter().copied(), &mut results);
        self.log.lock().results = results;
    }
}

/// Makes one result for each run out of one for each page: the first that is not OK.
fn fold(runs: &[Run], results: &mut KVec<u8>) {
    let mut from = 0usize;
    for (nth, run) in runs.iter().enumerate() {
        let end = from.saturating_add(run.pages as usize);
        let bad = results
            .get(from..end)
            .and_then(|pages| pages.iter().find(|page| **page != abi::result::OK).copied());
        if let Some(result) = results.get_mut(nth) {
            *result = bad.unwrap_or(abi::result::OK);
        }
        from = end;
    }
    results.truncate(runs.len());
}
