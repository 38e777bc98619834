// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The signals that end the daemon: blocked in every thread, waited for in the main one.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{FromRawFd, OwnedFd};

/// A set of blocked signals.
#[derive(Clone, Copy)]
pub struct Blocked(libc::sigset_t);

/// Blocks SIGTERM, SIGINT and SIGHUP in this thread and those that it starts later.
///
/// # Errors
/// The kernel's.
pub fn block() -> io::Result<Blocked> {
    let mut set = MaybeUninit::uninit();
    // SAFETY: The pointer is to memory of the right type; the call initializes it.
    let emptied = unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    check(emptied, io::Error::last_os_error)?;
    // SAFETY: sigemptyset has initialized it.
    let mut set = unsafe { set.assume_init() };
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
        // SAFETY: The set is initialized and the signal exists.
        let added = unsafe { libc::sigaddset(&raw mut set, signal) };
        check(added, io::Error::last_os_error)?;
    }
    // SAFETY: The set is initialized, and no old mask is asked for.
    let blocked =
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
    check(blocked, || io::Error::from_raw_os_error(blocked))?;
    Ok(Blocked(set))
}

/// A descriptor that is readable once one of the blocked signals has arrived.
///
/// # Errors
/// The kernel's.
pub fn descriptor(blocked: &Blocked) -> io::Result<OwnedFd> {
    let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
    // SAFETY: The set is initialized, and -1 asks for a new descriptor.
    let fd = unsafe { libc::signalfd(-1, &raw const blocked.0, flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: The kernel has just made it, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Waits until one of the blocked signals arrives. Returns its number.
///
/// # Errors
/// The kernel's.
pub fn wait(blocked: &Blocked) -> io::Result<i32> {
    let mut signal = 0;
    // SAFETY: Both pointers are to live, initialized values of the right type.
    let waited = unsafe { libc::sigwait(&raw const blocked.0, &raw mut signal) };
    check(waited, || io::Error::from_raw_os_error(waited))?;
    Ok(signal)
}

fn check(result: i32, error: impl FnOnce() -> io::Error) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(error()) }
}
