// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What is behind an interface: the driver, by its ioctls, or something that stands in for it.

use crate::abi;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

/// The calls of an interface. Errors are the system's, by number.
///
/// # Safety
///
/// An implementation reads and writes no memory beyond what the entries of a transfer name, and its
/// array of results; none of it after the call has returned.
pub unsafe trait Driver: Send + Sync {
    /// [`abi::INFO`].
    ///
    /// # Errors
    /// `ENODEV`.
    fn info(&self, info: &mut abi::Info) -> io::Result<()>;

    /// [`abi::CREATE`].
    ///
    /// # Errors
    /// `EINVAL`, `ENODEV`, `ENOSPC`, `EMFILE`, `EBUSY`.
    fn create(&self, create: &mut abi::Create) -> io::Result<()>;

    /// [`abi::DESTROY`].
    ///
    /// # Errors
    /// `ENOENT`.
    fn destroy(&self, destroy: &abi::Destroy) -> io::Result<()>;

    /// [`abi::STAT`].
    ///
    /// # Errors
    /// `ENOENT`.
    fn stat(&self, stat: &mut abi::Stat) -> io::Result<()>;

    /// [`abi::TRANSFER`]; returns the number of pages that went well.
    ///
    /// # Safety
    ///
    /// The arrays that `transfer` names have the lengths that it says. The memory that the entries
    /// name may be read for a PUT, and for a GET written, by nobody else at the time.
    ///
    /// # Errors
    /// `EINVAL`, `E2BIG`, `EFAULT`, `ENOENT`, `ENOSPC`, `EBUSY`, `ENODEV`, `EINTR`.
    unsafe fn transfer(&self, transfer: &abi::Transfer) -> io::Result<u32>;
}

/// The file of the driver.
pub const PATH: &str = "/dev/tmem";

/// The driver itself.
#[derive(Debug)]
pub struct Device(File);

impl Device {
    /// Opens [`PATH`], or a file like it.
    ///
    /// # Errors
    /// If it is not there or may not be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .map(Self)
    }

    /// # Safety
    ///
    /// `argument` is what the ioctl takes, and what it names may be used by the kernel.
    unsafe fn ioctl<T>(&self, number: u32, argument: *mut T) -> io::Result<u32> {
        // SAFETY: as for this function.
        let answer = unsafe { libc::ioctl(self.0.as_raw_fd(), number.into(), argument) };
        u32::try_from(answer).map_err(|_| io::Error::last_os_error())
    }
}

// SAFETY: the kernel keeps to it. A thread that is killed leaves pages in the device's hands, but does
// not return.
unsafe impl Driver for Device {
    fn info(&self, info: &mut abi::Info) -> io::Result<()> {
        // SAFETY: the argument is the ioctl's own.
        unsafe { self.ioctl(abi::INFO, info) }.map(|_| ())
    }

    fn create(&self, create: &mut abi::Create) -> io::Result<()> {
        // SAFETY: the argument is the ioctl's own.
        unsafe { self.ioctl(abi::CREATE, create) }.map(|_| ())
    }

    fn destroy(&self, destroy: &abi::Destroy) -> io::Result<()> {
        let mut destroy = *destroy;
        // SAFETY: the argument is the ioctl's own.
        unsafe { self.ioctl(abi::DESTROY, &raw mut destroy) }.map(|_| ())
    }

    fn stat(&self, stat: &mut abi::Stat) -> io::Result<()> {
        // SAFETY: the argument is the ioctl's own.
        unsafe { self.ioctl(abi::STAT, stat) }.map(|_| ())
    }

    unsafe fn transfer(&self, transfer: &abi::Transfer) -> io::Result<u32> {
        let mut transfer = *transfer;
        // SAFETY: the caller answers for the memory.
        unsafe { self.ioctl(abi::TRANSFER, &raw mut transfer) }
    }
}
