// SPDX-License-Identifier: GPL-2.0
//! The module's workqueues, and work that may be delayed.

use crate::{device::Device, ffi};
use kernel::{
    bindings, container_of,
    ffi::c_int,
    prelude::*,
    sync::{
        atomic::{Atomic, Relaxed},
        LockClassKey,
    },
    types::Opaque,
};

/// A workqueue of this module; there is none before [`Queue::start`], and after the end of what that
/// returns.
pub(crate) struct Queue {
    raw: Atomic<*mut bindings::workqueue_struct>,
    name: &'static CStr,
    flags: u32,
}

/// For devices' disks and clean caches. It makes progress even when memory is short.
pub(crate) static DEVICES: Queue = Queue::new(
    c"virtio_tmem",
    bindings::wq_flags_WQ_MEM_RECLAIM | bindings::wq_flags_WQ_UNBOUND,
);

impl Queue {
    pub(crate) const fn new(name: &'static CStr, flags: u32) -> Self {
        Self {
            raw: Atomic::new(core::ptr::null_mut()),
            name,
            flags,
        }
    }

    /// Called once, when the module is loaded.
    pub(crate) fn start(&'static self) -> Result<Started> {
        let name = self.name.as_ptr().cast();
        // SAFETY: the format takes no arguments.
        let queue = unsafe { bindings::alloc_workqueue_noprof(name, self.flags, 0) };
        if queue.is_null() {
            return Err(ENOMEM);
        }
        self.raw.store(queue, Relaxed);
        Ok(Started(self))
    }

    /// Null while there is none.
    pub(crate) fn raw(&self) -> *mut bindings::workqueue_struct {
        self.raw.load(Relaxed)
    }
}

/// A workqueue from load to unload.
pub(crate) struct Started(&'static Queue);

impl Drop for Started {
    fn drop(&mut self) {
        let queue = self.0.raw.xchg(core::ptr::null_mut(), Relaxed);
        // SAFETY: `start` allocated it. What is queued is done first; whoever queued it is gone.
        unsafe { bindings::destroy_workqueue(queue) };
    }
}

/// What a work item runs; see [`run_flushes`] and [`run_recovery`].
pub(crate) type Run = unsafe extern "C" fn(*mut bindings::work_struct);

/// A work item that may be delayed.
#[pin_data]
pub(crate) struct Worker {
    queue: &'static Queue,
    #[pin]
    work: Opaque<bindings::delayed_work>,
}

// SAFETY: a work item may be used by any task.
unsafe impl Send for Worker {}
// SAFETY: workqueues serialise the users of a work item.
unsafe impl Sync for Worker {}

impl Worker {
    /// `class` is this worker's alone (`static_lock_class!()`): one may wait for the end of another.
    ///
    /// # Safety
    ///
    /// The worker is the field that `run` expects, of something pinned that is not freed before
    /// [`Worker::stop`] has returned.
    pub(crate) unsafe fn new(
        queue: &'static Queue,
        run: Run,
        class: Pin<&'static LockClassKey>,
    ) -> impl PinInit<Self> {
        pin_init!(Self {
            queue,
            work <- Opaque::ffi_init(move |slot| {
                // SAFETY: `slot` is valid for a work item, and pinned; the class is static.
                unsafe { ffi::vtmem_delayed_work_init(slot, run, class.as_ptr()) };
            }),
        })
    }

    /// The worker of a work item.
    ///
    /// # Safety
    ///
    /// `work` was made by [`Worker::new`].
    pub(crate) unsafe fn of(work: *mut bindings::work_struct) -> *const Self {
        // `work` is the first field of a `delayed_work`, as asserted in shim.c.
        let work = Opaque::cast_from(work.cast::<bindings::delayed_work>().cast_const());
        // SAFETY: as for this function.
        unsafe { container_of!(work.cast_mut(), Self, work) }
    }

    /// Runs the work in `ms` milliseconds, unless it is due anyway. Any context.
    pub(crate) fn run_in(&self, ms: u32) {
        // SAFETY: the workqueue lives as long as anything has work for it; work that was stopped is
        // disabled, which makes this call do nothing.
        unsafe {
            bindings::queue_delayed_work_on(
                bindings::wq_misc_consts_WORK_CPU_UNBOUND as c_int,
                self.queue.raw(),
                self.work.get(),
                bindings::__msecs_to_jiffies(ms),
            );
        }
    }

    /// Runs the work now. Any context.
    pub(crate) fn run_now(&self) {
        // SAFETY: as in `run_in`.
        unsafe {
            bindings::mod_delayed_work_on(
                bindings::wq_misc_consts_WORK_CPU_UNBOUND as c_int,
                self.queue.raw(),
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

/// Runs [`Device::send_flushes`].
///
/// # Safety
///
/// Called by the workqueue for the field `worker` of a device.
pub(crate) unsafe extern "C" fn run_flushes(work: *mut bindings::work_struct) {
    // SAFETY: as for this function; the device lives until `stop` has returned.
    let device = unsafe { &*container_of!(Worker::of(work), Device, worker) };
    device.send_flushes();
}

/// Runs [`Device::recover`].
///
/// # Safety
///
/// Called by the workqueue for the field `recovery` of a device.
pub(crate) unsafe extern "C" fn run_recovery(work: *mut bindings::work_struct) {
    // SAFETY: as for this function; the device lives until `stop` has returned.
    let device = unsafe { &*container_of!(Worker::of(work), Device, recovery) };
    device.recover();
}
