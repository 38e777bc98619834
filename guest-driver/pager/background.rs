// SPDX-License-Identifier: GPL-2.0
//! The workqueue for what nobody waits for: the end of pools whose owner is gone, and of transfers whose
//! task was killed.

use core::ptr;
use kernel::{
    bindings,
    prelude::*,
    sync::atomic::{Atomic, Relaxed},
    sync::Arc,
    workqueue::{HasWork, Queue, WorkItem},
};

/// The queue; null while there is none.
static QUEUE: Atomic<*mut bindings::workqueue_struct> = Atomic::new(ptr::null_mut());

/// The queue, from load to unload. Dropped when no device is bound any more, so that nothing is on
/// its way that could still end here.
pub(crate) struct Background(());

impl Background {
    /// Called once, before anything is opened.
    pub(crate) fn new() -> Result<Self> {
        let flags = bindings::wq_flags_WQ_UNBOUND;
        let name = c"virtio_tmem_pager".as_ptr().cast();
        // SAFETY: the format takes no arguments.
        let queue = unsafe { bindings::alloc_workqueue_noprof(name, flags, 0) };
        if queue.is_null() {
            return Err(ENOMEM);
        }
        QUEUE.store(queue, Relaxed);
        Ok(Self(()))
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let queue = QUEUE.xchg(ptr::null_mut(), Relaxed);
        // SAFETY: it was allocated by `new`. What is queued is done first.
        unsafe { bindings::destroy_workqueue(queue) };
    }
}

/// Has `item` run in the background, where it may sleep. Any context. An item is run once at most.
pub(super) fn run<T>(item: Arc<T>)
where
    T: WorkItem<Pointer = Arc<T>> + HasWork<T> + Send + Sync + 'static,
{
    let queue = QUEUE.load(Relaxed);
    if queue.is_null() {
        return;
    }
    // SAFETY: the queue lives as long as anything can be opened or is on its way.
    let queue = unsafe { Queue::from_raw(queue) };
    // Queued already: then the reference goes here, and that of the queue later.
    let _ = queue.enqueue::<Arc<T>, 0>(item);
}
