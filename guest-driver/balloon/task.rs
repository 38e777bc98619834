// SPDX-License-Identifier: GPL-2.0
//! The balloon's workqueue and its work.
//!
//! The queue makes progress when memory is short, because that is when the guest needs its pages
//! back. It is frozen before the system sleeps: a balloon that grew while the machine's state is being
//! written would take the memory that this needs.

use super::Balloon;
use crate::work::{Queue, Worker};
use kernel::{bindings, container_of};

/// The module's workqueue for balloons.
pub(crate) static BALLOONS: Queue = Queue::new(
    c"virtio_tmem_balloon",
    bindings::wq_flags_WQ_MEM_RECLAIM
        | bindings::wq_flags_WQ_FREEZABLE
        | bindings::wq_flags_WQ_UNBOUND,
);

/// # Safety
///
/// Called by the workqueue for the field `act` of a [`Balloon`].
pub(super) unsafe extern "C" fn run_act(work: *mut bindings::work_struct) {
    // SAFETY: as for this function; the balloon lives until its work was stopped.
    let balloon = unsafe { &*container_of!(Worker::of(work), Balloon, act) };
    balloon.act();
}

/// # Safety
///
/// Called by the workqueue for the field `tell` of a [`Balloon`].
pub(super) unsafe extern "C" fn run_tell(work: *mut bindings::work_struct) {
    // SAFETY: as for this function; the balloon lives until its work was stopped.
    let balloon = unsafe { &*container_of!(Worker::of(work), Balloon, tell) };
    balloon.report_figures();
}
