// SPDX-License-Identifier: GPL-2.0
//! Who has how much: pages on the host that pools reserve, and guest memory that calls keep pinned.
//!
//! A pool reserves its limit when it is made, so that a put within it is not refused for lack of
//! room: for a persistent pool out of what the guest's disks leave of the grant, for an ephemeral
//! one out of a number that the module's parameter sets. What a pool reserved comes back when the host
//! has forgotten its pages, not before.
//!
//! The memory of a call is pinned from its beginning until the device has given it back, which may be
//! after the death of the task. Both each opener and all of them together have a bound on it.

use super::{abi, ffi};
use crate::{device::Device, module_parameters, wire};
use core::borrow::Borrow;
use kernel::{
    bindings,
    prelude::*,
    sync::{
        atomic::{Atomic, Full, Relaxed},
        Arc,
    },
};

/// Devices have numbers below this.
pub(super) const DEVICES: u32 = 64;
/// An opener that may not exceed limits gets one in so many pages of what there is.
const SHARE: u64 = 2;
/// Pages that one opener's calls may have pinned: two of the largest calls.
const PINNED_OPENER: u64 = 2 * abi::CALL_PAGES_MAX as u64;
/// The calls of all openers may have one in so many pages of the guest's memory pinned.
const PINNED_SHARE: u64 = 16;

/// A number of pages that may not pass a bound.
pub(super) struct Tally(Atomic<u64>);

impl Tally {
    pub(super) const fn new() -> Self {
        Self(Atomic::new(0))
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }

    fn take(&self, pages: u64, bound: u64) -> bool {
        let mut now = self.0.load(Relaxed);
        loop {
            let then = now.saturating_add(pages);
            if then > bound {
                return false;
            }
            match self.0.cmpxchg(now, then, Full) {
                Ok(_) => return true,
                Err(other) => now = other,
            }
        }
    }

    fn give_back(&self, pages: u64) {
        self.0.fetch_sub(pages, Full);
    }
}

/// What pools have reserved of a device.
pub(super) struct Account {
    pub(super) persistent: Tally,
    pub(super) ephemeral: Tally,
}

static ACCOUNTS: [Account; DEVICES as usize] = [const {
    Account {
        persistent: Tally::new(),
        ephemeral: Tally::new(),
    }
}; DEVICES as usize];

static PINNED: Tally = Tally::new();

/// The account of a device.
pub(super) fn of(number: u32) -> Result<&'static Account> {
    ACCOUNTS.get(number as usize).ok_or(ENODEV)
}

/// Pages that the persistent pools of all programs may reserve.
pub(super) fn persistent_pages(device: &Device) -> u64 {
    device.programs_pages
}

/// Pages that the ephemeral pools of all programs may reserve, on each device.
pub(super) fn ephemeral_pages() -> u64 {
    // Before Linux 7.3 the parameter gives a reference, and a copy since.
    fn mib(value: impl Borrow<u64>) -> u64 {
        *value.borrow()
    }
    mib(module_parameters::programs_cache_mib.value()).saturating_mul(1 << (20 - wire::PAGE_SHIFT))
}

/// What one opener has: of pools that it made, of calls that it made.
pub(super) struct Opener {
    persistent: Tally,
    ephemeral: Tally,
    pinned: Tally,
}

impl Opener {
    pub(super) const fn new() -> Self {
        Self {
            persistent: Tally::new(),
            ephemeral: Tally::new(),
            pinned: Tally::new(),
        }
    }

    fn reserved(&self, ephemeral: bool) -> &Tally {
        if ephemeral {
            &self.ephemeral
        } else {
            &self.persistent
        }
    }

    /// Pages that are pinned by the opener's calls.
    pub(super) fn pinned(&self) -> u64 {
        self.pinned.get()
    }
}

/// Pages that a pool has reserved.
pub(super) struct Reservation {
    of_all: &'static Tally,
    opener: Arc<Opener>,
    ephemeral: bool,
    pages: u64,
}

impl Reservation {
    /// Reserves `pages` of device `number`; `ENOSPC` if that would be too many.
    pub(super) fn new(
        device: &Device,
        number: u32,
        opener: &Arc<Opener>,
        ephemeral: bool,
        pages: u32,
    ) -> Result<Self> {
        let account = of(number)?;
        let (of_all, all) = if ephemeral {
            (&account.ephemeral, ephemeral_pages())
        } else {
            (&account.persistent, persistent_pages(device))
        };
        let share = if ffi::may_exceed() { all } else { all / SHARE };
        let pages = u64::from(pages);
        if !opener.reserved(ephemeral).take(pages, share) {
            return Err(ENOSPC);
        }
        if !of_all.take(pages, all) {
            opener.reserved(ephemeral).give_back(pages);
            return Err(ENOSPC);
        }
        Ok(Self {
            of_all,
            opener: opener.clone(),
            ephemeral,
            pages,
        })
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.of_all.give_back(self.pages);
        self.opener.reserved(self.ephemeral).give_back(self.pages);
    }
}

/// Pages that a call may keep pinned.
pub(super) struct Pinning {
    opener: Arc<Opener>,
    pages: u64,
}

impl Pinning {
    /// Takes `pages` out of both bounds, which may have to be waited for. `EINTR`: a signal came first.
    pub(super) fn new(opener: &Arc<Opener>, pages: u32) -> Result<Self> {
        let pages = u64::from(pages);
        let all = (ffi::ram_pages() / PINNED_SHARE).max(PINNED_OPENER);
        loop {
            if opener.pinned.take(pages, PINNED_OPENER) {
                if PINNED.take(pages, all) {
                    return Ok(Self {
                        opener: opener.clone(),
                        pages,
                    });
                }
                opener.pinned.give_back(pages);
            }
            if ffi::signalled() {
                return Err(EINTR);
            }
            // SAFETY: the caller may sleep.
            unsafe { bindings::msleep_interruptible(1) };
        }
    }
}

impl Pinning {
    /// So many pages.
    pub(super) fn pages(&self) -> usize {
        self.pages as usize
    }
}

impl Drop for Pinning {
    fn drop(&mut self) {
        PINNED.give_back(self.pages);
        self.opener.pinned.give_back(self.pages);
    }
}
