// SPDX-License-Identifier: GPL-2.0
//! What a hold of a request queue's lock leaves to be done without it.

use crate::{
    bio::BioList,
    ffi::{self, Virtqueue},
};

/// What is left to do once the lock is released.
pub(crate) struct After {
    notify: Option<Notify>,
    pub(crate) failed: BioList,
}

/// A notification that is due.
struct Notify(*mut Virtqueue);

impl After {
    pub(crate) fn new() -> Self {
        Self {
            notify: None,
            failed: BioList::new(),
        }
    }

    /// Has the device notified about `vq`.
    pub(crate) fn due(&mut self, vq: *mut Virtqueue) {
        self.notify = Some(Notify(vq));
    }

    /// Whether [`After::notify`] has something to do.
    pub(crate) fn notifies(&self) -> bool {
        self.notify.is_some()
    }

    /// Notifies the device, which is slow. False: it is broken.
    ///
    /// # Safety
    ///
    /// The virtqueue has not been deleted since the lock was released.
    pub(crate) unsafe fn notify(&mut self) -> bool {
        match self.notify.take() {
            // SAFETY: as for this function.
            Some(Notify(vq)) => unsafe { ffi::virtqueue_notify(vq) },
            None => true,
        }
    }
}
