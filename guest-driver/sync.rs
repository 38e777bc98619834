// SPDX-License-Identifier: GPL-2.0
//! A spinlock that keeps interrupts off while it is held, and an event that tasks sleep on.
//!
//! Lock order in this module, outermost first: a request queue; a flush cluster; the flush engine's
//! dirty list or its parked writes. Around a flush cluster, swap may hold its own cluster lock and
//! a page-table lock. Nothing sleeps or ends a bio under one of these locks. The locks of the
//! control and event queues stand alone.

use crate::ffi;
use core::{
    cell::UnsafeCell,
    marker::PhantomData,
    ops::{Deref, DerefMut},
};
use kernel::{bindings, prelude::*, sync::LockClassKey, types::Opaque};

/// Data under a spinlock; see [`IrqLock::lock`].
pub(crate) struct IrqLock<T> {
    raw: Opaque<bindings::spinlock_t>,
    data: UnsafeCell<T>,
}

// SAFETY: the lock and its data go along together.
unsafe impl<T: Send> Send for IrqLock<T> {}
// SAFETY: the data is reached under the lock only.
unsafe impl<T: Send> Sync for IrqLock<T> {}

impl<T> IrqLock<T> {
    /// An open lock around `data`. Locks that are ever held together are of different classes
    /// (`static_lock_class!()`), so that a kernel with lockdep can check their order.
    pub(crate) fn new(data: T, class: Pin<&'static LockClassKey>) -> Self {
        let raw = Opaque::zeroed();
        // SAFETY: `raw` is ours. A spinlock holds no pointer to itself, so that it may be moved as
        // long as nobody holds it or waits for it, which its owner's `&mut` rules out. Name and class
        // are static.
        unsafe {
            bindings::__spin_lock_init(raw.get(), c"vtmem".as_ptr().cast(), class.as_ptr());
        }
        Self {
            raw,
            data: UnsafeCell::new(data),
        }
    }

    /// Spins until the lock is free; interrupts of this processor are off until the guard is gone.
    /// May be called in any context.
    pub(crate) fn lock(&self) -> IrqGuard<'_, T> {
        // SAFETY: `raw` was initialised by `new`.
        let flags = unsafe { ffi::vtmem_lock(self.raw.get()) };
        IrqGuard {
            lock: self,
            flags,
            _not_send: PhantomData,
        }
    }
}

/// The right to use the data of a lock.
#[must_use]
pub(crate) struct IrqGuard<'a, T> {
    lock: &'a IrqLock<T>,
    flags: usize,
    _not_send: PhantomData<*mut ()>,
}

impl<T> Deref for IrqGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the lock is held.
        unsafe { &*self.lock.data.get() }
    }
}

impl<T> DerefMut for IrqGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the lock is held, and the guard is borrowed for this use alone.
        unsafe { &mut *self.lock.data.get() }
    }
}

impl<T> Drop for IrqGuard<'_, T> {
    fn drop(&mut self) {
        // SAFETY: this guard holds the lock; `flags` is what locking gave.
        unsafe { ffi::vtmem_unlock(self.lock.raw.get(), self.flags) };
    }
}

/// Wakes sleeping tasks, one for each call of [`Event::wake`].
#[pin_data]
pub(crate) struct Event {
    #[pin]
    inner: Opaque<bindings::completion>,
}

// SAFETY: a completion may be used by any task.
unsafe impl Send for Event {}
// SAFETY: a completion serialises its users itself.
unsafe impl Sync for Event {}

impl Event {
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            inner <- Opaque::ffi_init(|slot: *mut bindings::completion| {
                // SAFETY: `slot` is valid for writing a completion, and is pinned.
                unsafe { bindings::init_completion(slot) };
            }),
        })
    }

    /// Lets one waiter go on, now or when it comes. May be called in any context.
    pub(crate) fn wake(&self) {
        // SAFETY: initialised by `new`.
        unsafe { bindings::complete(self.inner.get()) };
    }

    /// Sleeps until woken; false after `ms` milliseconds.
    pub(crate) fn wait(&self, ms: u32) -> bool {
        // SAFETY: initialised by `new`; the caller may sleep.
        unsafe {
            bindings::wait_for_completion_io_timeout(
                self.inner.get(),
                bindings::__msecs_to_jiffies(ms),
            ) != 0
        }
    }
}
