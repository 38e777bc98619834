// SPDX-License-Identifier: GPL-2.0
//! Free page reporting: the host may have the memory behind pages that the guest's kernel has free,
//! without the balloon.
//!
//! The kernel takes free blocks aside, 32 at a time, calls [`Balloon::report`], and has them free again
//! when that returns. One driver of the system can be called so. If there is a virtio-balloon that
//! does it, or could when its driver comes, this one keeps away: the other would fail to start at all.
//!
//! Reports have a virtqueue of their own, so that they do not wait for the balloon, nor it for them, and
//! nothing is allocated for them but the ring's own indirect table, for which there is a way without.

use super::{ffi, Balloon};
use crate::{ffi::VirtioDevice, wire};
use core::ptr;
use kernel::{
    bindings,
    error::to_result,
    ffi::{c_int, c_uint, c_void},
    prelude::*,
};

/// Values of the figure `reporting`.
const NO: u64 = 0;
const YES: u64 = 1;
const ELSEWHERE: u64 = 2;

/// The registration with the kernel; null without one.
pub(super) struct Reporting(*mut c_void);

// SAFETY: the registration may be ended by any task.
unsafe impl Send for Reporting {}

impl Reporting {
    pub(super) const NONE: Self = Self(ptr::null_mut());

    pub(super) fn is_on(&self) -> bool {
        !self.0.is_null()
    }

    /// Ends the registration. No report is under way when this returns; may sleep.
    pub(super) fn stop(&mut self) {
        let registration = core::mem::replace(&mut self.0, ptr::null_mut());
        if !registration.is_null() {
            // SAFETY: it was registered, and is not any more.
            unsafe { ffi::vtmem_balloon_reporting_stop(registration) };
        }
    }
}

impl Balloon {
    /// Registers with the kernel, unless somebody else does this already.
    ///
    /// # Safety
    ///
    /// `vdev` is a device on the virtio bus. The registration is stopped before the balloon is freed.
    pub(super) unsafe fn start_reporting(&self, vdev: *mut VirtioDevice) -> Reporting {
        self.figures.reporting.set(NO);
        // SAFETY: no conditions.
        if unsafe { ffi::vtmem_balloon_poisons() } {
            // A page that the host freed would not hold the pattern any more.
            pr_notice!("free pages are not reported: the kernel poisons them\n");
            return Reporting::NONE;
        }
        let mut registration = ptr::null_mut();
        // SAFETY: as for this function.
        let result = if unsafe { ffi::vtmem_balloon_beside(vdev) } {
            Err(EBUSY)
        } else {
            let owner = ptr::from_ref(self).cast_mut().cast();
            // SAFETY: as for this function.
            to_result(unsafe { ffi::vtmem_balloon_reporting_start(owner, &mut registration) })
        };
        match result {
            Ok(()) => {
                self.figures.reporting.set(YES);
                Reporting(registration)
            }
            Err(error) if error == EBUSY => {
                self.figures.reporting.set(ELSEWHERE);
                pr_info!("free pages are not reported here: another balloon has it\n");
                Reporting::NONE
            }
            Err(error) => {
                pr_warn!("free pages are not reported: {:?}\n", error);
                Reporting::NONE
            }
        }
    }

    /// Reports free blocks. An error leaves them to be reported later.
    ///
    /// # Safety
    ///
    /// `sg` is a list of `entries` entries of whole pages, which are free and in nobody's reach.
    unsafe fn report(&self, mut sg: *mut bindings::scatterlist, entries: u32) -> Result {
        let mut turn = self.report_line.turn();
        let mut pages_all = 0u64;
        for _ in 0..entries {
            if sg.is_null() {
                break;
            }
            let mut pages = 0;
            // SAFETY: `sg` is an entry of the list.
            let first = unsafe { ffi::vtmem_balloon_sg(sg, &mut pages) };
            if !turn.add(first, pages) {
                break;
            }
            pages_all = pages_all.wrapping_add(u64::from(pages));
            // SAFETY: as above.
            sg = unsafe { ffi::vtmem_balloon_sg_next(sg) };
        }
        let response = turn.send(wire::balloon::REPORT)?;
        self.figures.reported.add(pages_all);
        if response.status == wire::status::OK {
            self.figures
                .reported_freed
                .add(response.pages.min(pages_all));
        }
        // What the host does not free now it would not free the next time either.
        Ok(())
    }
}

/// # Safety
///
/// Called by balloon_shim.c for the balloon that registered, as for [`Balloon::report`].
#[no_mangle]
unsafe extern "C" fn vtmem_balloon_report(
    owner: *mut c_void,
    sg: *mut bindings::scatterlist,
    entries: c_uint,
) -> c_int {
    // SAFETY: the balloon lives until the registration was stopped.
    let balloon = unsafe { &*owner.cast::<Balloon>() };
    // SAFETY: as for this function.
    match unsafe { balloon.report(sg, entries) } {
        Ok(()) => 0,
        Err(error) => error.to_errno(),
    }
}
