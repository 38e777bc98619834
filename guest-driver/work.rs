// SPDX-License-Identifier: GPL-2.0
//! The delayed work of a device, on a workqueue of this module that makes progress even when memory
//! is short.

use crate::{device::Device, ffi};
use kernel::{
    bindings, container_of,
    ffi::c_int,
    prelude::*,
    sync::atomic::{Atomic, Relaxed},
    types::Opaque,
};

/// The module's workqueue; null while there is none.
static QUEUE: Atomic<*mut bindings::workqueue_struct> = Atomic::new(core::ptr::null_mut());

/// The module's workqueue, from load to unload.
pub(crate) struct Workqueue(());

impl Workqueue {
    pub(crate) fn new() -> Result<Self> {
        let flags = bindings::wq_flags_WQ_MEM_RECLAIM | bindings::wq_flags_WQ_UNBOUND;
        // SAFETY: the format takes no arguments.
        let queue =
            unsafe { bindings::alloc_workqueue_noprof(c"virtio_tmem".as_ptr().cast(), flags, 0) };
        if queue.is_null() {
            return Err(ENOMEM);
        }
        QUEUE.store(queue, Relaxed);
        Ok(Self(()))
    }
}

impl Drop for Workqueue {
    fn drop(&mut self) {
        let queue = QUEUE.xchg(core::ptr::null_mut(), Relaxed);
        // SAFETY: it was allocated by `new`, and all devices, with their work, are gone.
        unsafe { bindings::destroy_workqueue(queue) };
    }
}

/// What a work item runs; see [`run_flushes`] and [`run_recovery`].
pub(crate) type Run = unsafe extern "C" fn(*mut bindings::work_struct);

/// A work item of a device.
#[pin_data]
pub(crate) struct Worker {
    #[pin]
    work: Opaque<bindings::delayed_work>,
}

// SAFETY: a work item may be used by any task.
unsafe impl Send for Worker {}
// SAFETY: workqueues serialise the users of a work item.
unsafe impl Sync for Worker {}

impl Worker {
    /// # Safety
    ///
    /// The worker is the field of a [`Device`] in an `Arc` that `run` expects, and the device is not
    /// freed before [`Worker::stop`] has returned.
    pub(crate) unsafe fn new(run: Run) -> impl PinInit<Self> {
        pin_init!(Self {
            work <- Opaque::ffi_init(|slot| {
                // SAFETY: `slot` is valid for a work item, and pinned.
                unsafe { ffi::vtmem_delayed_work_init(slot, run) };
            }),
        })
    }

    /// Runs the work in `ms` milliseconds, unless it is due anyway. Any context.
    pub(crate) fn run_in(&self, ms: u32) {
        let queue = QUEUE.load(Relaxed);
        // SAFETY: the workqueue lives as long as any device is bound; work of one that is not is
        // disabled, which makes this call do nothing.
        unsafe {
            bindings::queue_delayed_work_on(
                bindings::wq_misc_consts_WORK_CPU_UNBOUND as c_int,
                queue,
                self.work.get(),
                bindings::__msecs_to_jiffies(ms),
            );
        }
    }

    /// Runs the work now. Any context.
    pub(crate) fn run_now(&self) {
        let queue = QUEUE.load(Relaxed);
        // SAFETY: as in `run_in`.
        unsafe {
            bindings::mod_delayed_work_on(
                bindings::wq_misc_consts_WORK_CPU_UNBOUND as c_int,
                queue,
                self.work.get(),
                0,
            );
        }
    }

    /// Ends the work for good: it does not run when this returns, and never will.
    pub(crate) fn stop(&self) {
        // SAFETY: the work was initialised by `new`; the caller may sleep.
        unsafe { bindings::disable_delayed_work_sync(self.work.get()) };
    }
}

/// The worker that `work` is of.
///
/// # Safety
///
/// `work` is the first field of a `delayed_work` (asserted in shim.c), which is all of a `Worker`.
unsafe fn worker_of(work: *mut bindings::work_struct) -> *mut Worker {
    let work = Opaque::cast_from(work.cast::<bindings::delayed_work>().cast_const());
    // SAFETY: as for this function.
    unsafe { container_of!(work.cast_mut(), Worker, work) }
}

/// Runs [`Device::send_flushes`].
///
/// # Safety
///
/// Called by the workqueue for the field `worker` of a device.
pub(crate) unsafe extern "C" fn run_flushes(work: *mut bindings::work_struct) {
    // SAFETY: as for this function; the device lives until `stop` has returned.
    let device = unsafe { &*container_of!(worker_of(work), Device, worker) };
    device.send_flushes();
}

/// Runs [`Device::recover`].
///
/// # Safety
///
/// Called by the workqueue for the field `recovery` of a device.
pub(crate) unsafe extern "C" fn run_recovery(work: *mut bindings::work_struct) {
    // SAFETY: as for this function; the device lives until `stop` has returned.
    let device = unsafe { &*container_of!(worker_of(work), Device, recovery) };
    device.recover();
}
