// SPDX-License-Identifier: GPL-2.0
//! The balloon's workqueue and its work.
//!
//! The queue makes progress when memory is short, because that is when the guest needs its pages
//! back. It is frozen before the system sleeps: a balloon that grew while the machine's state is being
//! written would take the memory that this needs.

use super::{ffi, Balloon};
use kernel::{
    bindings,
    ffi::c_int,
    prelude::*,
    sync::atomic::{Atomic, Relaxed},
    types::Opaque,
};

/// The module's workqueue for balloons; null while there is none.
static QUEUE: Atomic<*mut bindings::workqueue_struct> = Atomic::new(core::ptr::null_mut());

/// The workqueue, from load to unload.
pub(crate) struct Workqueue(());

impl Workqueue {
    pub(crate) fn new() -> Result<Self> {
        let flags = bindings::wq_flags_WQ_MEM_RECLAIM
            | bindings::wq_flags_WQ_FREEZABLE
            | bindings::wq_flags_WQ_UNBOUND;
        // SAFETY: the format takes no arguments.
        let queue = unsafe {
            bindings::alloc_workqueue_noprof(c"virtio_tmem_balloon".as_ptr().cast(), flags, 0)
        };
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

/// Work of a balloon that may be delayed.
#[pin_data]
pub(super) struct Task {
    #[pin]
    work: Opaque<bindings::delayed_work>,
}

// SAFETY: a work item may be used by any task.
unsafe impl Send for Task {}
// SAFETY: workqueues serialise the users of a work item.
unsafe impl Sync for Task {}

impl Task {
    /// # Safety
    ///
    /// The task is a field of a [`Balloon`], `run` gets to that field from the work that it is
    /// given, and the balloon is not freed before [`Task::stop`] has returned.
    pub(super) unsafe fn new(
        run: unsafe extern "C" fn(*mut bindings::work_struct),
    ) -> impl PinInit<Self> {
        pin_init!(Self {
            work <- Opaque::ffi_init(move |slot| {
                // SAFETY: `slot` is valid for a work item, and pinned.
                unsafe { ffi::vtmem_balloon_work_init(slot, run) };
            }),
        })
    }

    /// The task of a work item.
    ///
    /// # Safety
    ///
    /// `work` is the work of a task.
    pub(super) unsafe fn of(work: *mut bindings::work_struct) -> *const Self {
        // `work` is the first field of a `delayed_work`, as asserted in balloon_shim.c.
        let work = Opaque::cast_from(work.cast::<bindings::delayed_work>().cast_const());
        // SAFETY: as for this function.
        unsafe { kernel::container_of!(work.cast_mut(), Self, work) }
    }

    /// Runs the work in `ms` milliseconds, or earlier if it is due earlier. Any context.
    pub(super) fn run_in(&self, ms: u32) {
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
    pub(super) fn run_now(&self) {
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
    pub(super) fn stop(&self) {
        // SAFETY: the work was initialised by `new`; the caller may sleep.
        unsafe { bindings::disable_delayed_work_sync(self.work.get()) };
    }
}

/// # Safety
///
/// Called by the workqueue for the field `act` of a [`Balloon`].
pub(super) unsafe extern "C" fn run_act(work: *mut bindings::work_struct) {
    // SAFETY: as for this function; the balloon lives until its tasks were stopped.
    let balloon = unsafe { &*kernel::container_of!(Task::of(work), Balloon, act) };
    balloon.act();
}

/// # Safety
///
/// Called by the workqueue for the field `tell` of a [`Balloon`].
pub(super) unsafe extern "C" fn run_tell(work: *mut bindings::work_struct) {
    // SAFETY: as for this function; the balloon lives until its tasks were stopped.
    let balloon = unsafe { &*kernel::container_of!(Task::of(work), Balloon, tell) };
    balloon.report_figures();
}
