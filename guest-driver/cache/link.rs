// SPDX-License-Identifier: GPL-2.0
//! A target's connection to a device: the pool it uses, who is using it, and how it is left.
//!
//! Whoever sends a request holds a [`User`] until its end. A link that is being left lets no new ones in;
//! once the last is gone, the pool can go, and a fresh one starts with a filter of which nothing is
//! taken over.

use super::target::Target;
use crate::{device::Device, ffi, pools::Pool, sync::IrqLock, wire};
use core::ptr::NonNull;
use kernel::{
    prelude::*,
    static_lock_class,
    sync::{
        atomic::{Atomic, Relaxed},
        Arc,
    },
};

/// A pool on a device.
pub(super) struct Attachment {
    pub(super) pool: Pool,
}

impl Attachment {
    pub(super) fn device(&self) -> &Arc<Device> {
        self.pool.device()
    }
}

struct State {
    attachment: Option<KBox<Attachment>>,
    users: u32,
    /// The attachment is to be left.
    leaving: bool,
    /// The next one may cache blocks of writes that have failed.
    trust: bool,
}

/// See the head of this file.
pub(super) struct Link {
    state: IrqLock<State>,
    /// Gets that the host has not answered.
    waiting: Atomic<u32>,
    /// When the host last answered a get, or the first of those was sent, in nanoseconds.
    since: Atomic<u64>,
}

impl Link {
    pub(super) fn new() -> Self {
        let state = State {
            attachment: None,
            users: 0,
            leaving: false,
            trust: false,
        };
        Self {
            state: IrqLock::new(state, static_lock_class!()),
            waiting: Atomic::new(0),
            since: Atomic::new(0),
        }
    }

    /// Connects; the caller has seen that nobody else does, and that there is no connection.
    pub(super) fn attach(&self, attachment: KBox<Attachment>) {
        self.state.lock().attachment = Some(attachment);
    }

    pub(super) fn is_attached(&self) -> bool {
        let state = self.state.lock();
        state.attachment.is_some() && !state.leaving
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.state.lock().leaving
    }

    /// From now on there are no new users. True: there are none at all.
    pub(super) fn leave(&self, trust: bool) -> bool {
        let mut state = self.state.lock();
        state.leaving = true;
        state.trust |= trust;
        state.users == 0
    }

    /// Takes what is to be left, once nobody uses it: the attachment, to be dropped in a context that may
    /// sleep, and whether failed writes are forgiven. The link can be used again after this.
    pub(super) fn take_left(&self) -> Option<(Option<KBox<Attachment>>, bool)> {
        let mut state = self.state.lock();
        if !state.leaving || state.users != 0 {
            return None;
        }
        state.leaving = false;
        let trust = core::mem::replace(&mut state.trust, false);
        Some((state.attachment.take(), trust))
    }

    /// A get has been sent.
    pub(super) fn asked(&self) {
        if self.waiting.fetch_add(1u32, Relaxed) == 0 {
            self.since.store(ffi::now_ns(), Relaxed);
        }
    }

    /// One has been answered.
    pub(super) fn answered(&self) {
        self.since.store(ffi::now_ns(), Relaxed);
        self.waiting.fetch_sub(1u32, Relaxed);
    }

    /// Whether the host owes answers for longer than `ns` nanoseconds.
    pub(super) fn is_stalled(&self, ns: u64) -> bool {
        self.waiting.load(Relaxed) != 0
            && ffi::now_ns().saturating_sub(self.since.load(Relaxed)) > ns
    }
}

/// The right to use a target and its attachment.
pub(super) struct User {
    target: NonNull<Target>,
    attachment: NonNull<Attachment>,
}

// SAFETY: target and attachment may be used by any task, and stay while there is a user.
unsafe impl Send for User {}

impl User {
    /// None: there is no connection, or it is being left.
    pub(super) fn new(target: &Target) -> Option<Self> {
        let mut state = target.link.state.lock();
        if state.leaving {
            return None;
        }
        let attachment = NonNull::from(&**state.attachment.as_ref()?);
        state.users = state.users.checked_add(1)?;
        Some(Self {
            target: NonNull::from(target),
            attachment,
        })
    }

    /// The head of a request for `pages` pages of the pool: from index `run` on, or listed.
    pub(super) fn header(&self, op: u8, run: Option<u32>, pages: u32) -> wire::RequestHeader {
        wire::RequestHeader {
            op,
            flags: if run.is_some() { 0 } else { wire::flag::LIST },
            pool: self.attachment().pool.id(),
            index: run.unwrap_or(0),
            pages,
            ..Default::default()
        }
    }

    pub(super) fn target(&self) -> &Target {
        // SAFETY: a target is not freed while it has a user.
        unsafe { self.target.as_ref() }
    }

    pub(super) fn attachment(&self) -> &Attachment {
        // SAFETY: an attachment stays in its box, and is not taken while there is a user.
        unsafe { self.attachment.as_ref() }
    }

    pub(super) fn device(&self) -> &Arc<Device> {
        self.attachment().device()
    }

    /// Another one.
    pub(super) fn again(&self) -> Option<Self> {
        let mut state = self.target().link.state.lock();
        state.users = state.users.checked_add(1)?;
        Some(Self {
            target: self.target,
            attachment: self.attachment,
        })
    }
}

impl Drop for User {
    fn drop(&mut self) {
        // SAFETY: this user is one until the count below says otherwise.
        let target = unsafe { self.target.as_ref() };
        let mut state = target.link.state.lock();
        state.users = state.users.saturating_sub(1);
        if state.users == 0 && state.leaving {
            // Under the lock: whoever frees the target takes it after this.
            target.care.run_now();
        }
    }
}
