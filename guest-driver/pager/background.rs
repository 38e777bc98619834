// SPDX-License-Identifier: GPL-2.0
//! The workqueue for what nobody waits for: the end of pools whose owner is gone, and of transfers whose
//! task was killed.

use crate::work;
use kernel::{
    bindings,
    sync::Arc,
    workqueue::{HasWork, Queue, WorkItem},
};

/// It ends when no device is bound any more, so that nothing is on its way that could still come here.
pub(crate) static BACKGROUND: work::Queue =
    work::Queue::new(c"virtio_tmem_pager", bindings::wq_flags_WQ_UNBOUND);

/// Has `item` run in the background, where it may sleep. Any context. An item is run once at most.
pub(super) fn run<T>(item: Arc<T>)
where
    T: WorkItem<Pointer = Arc<T>> + HasWork<T> + Send + Sync + 'static,
{
    let queue = BACKGROUND.raw();
    if queue.is_null() {
        return;
    }
    // SAFETY: the queue lives as long as anything can be opened or is on its way.
    let queue = unsafe { Queue::from_raw(queue) };
    // Queued already: then the reference goes here, and that of the queue later.
    let _ = queue.enqueue::<Arc<T>, 0>(item);
}
