// SPDX-License-Identifier: GPL-2.0
//! `/dev/tmem`: explicit paging for programs.
//!
//! A program that knows its own pages, such as a database with a buffer manager, says itself which go
//! to the host and when they come back, many at a time. `docs/paging.md` is for those who write such
//! programs; `abi.rs`, the same file that they compile, is the interface.
//!
//! An open file is an interface ([`interface`]) with up to eight pools ([`pool`]), which nobody else
//! can reach. A transfer ([`transfer`]) names up to 512 runs of pages. The program's memory is
//! pinned ([`pins`]) and goes into descriptors as it is. The transfer is cut into as few requests as
//! the device allows ([`part`]), which are all in flight together ([`flight`]), on the queues of the
//! processor that the thread runs on. The thread polls for a moment and then sleeps; only a signal
//! that kills it ends its sleep early, and then the flight lands without it.
//!
//! Programs get what the disks leave ([`account`]): a swap put is never refused on their behalf.
//!
//! The kernel crate's own misc device is not used: in Linux 7.2 it does not keep its module loaded while
//! a file is open.

#[allow(dead_code, unreachable_pub)]
mod abi;
mod account;
mod background;
mod bits;
mod ffi;
mod flight;
mod interface;
mod part;
mod pins;
mod pool;
mod transfer;

pub(crate) use background::BACKGROUND;

use interface::Interface;
use kernel::{
    bindings,
    error::to_result,
    ffi::{c_int, c_long, c_uint, c_ulong},
    prelude::*,
    seq_file::SeqFile,
    sync::{Arc, ArcBorrow},
    types::Opaque,
};

/// Only root, unless the administrator gives the file to others.
const MODE: bindings::umode_t = 0o600;

struct Operations(bindings::file_operations);

// SAFETY: the table is constant.
unsafe impl Sync for Operations {}

static OPERATIONS: Operations = Operations(bindings::file_operations {
    // An open file holds the module.
    owner: (&raw const bindings::__this_module).cast_mut(),
    open: Some(open),
    release: Some(release),
    unlocked_ioctl: Some(ioctl),
    compat_ioctl: bindings::compat_ptr_ioctl,
    show_fdinfo: Some(show_fdinfo),
    ..pin_init::zeroed()
});

/// The registered file.
#[pin_data(PinnedDrop)]
pub(crate) struct Pager {
    #[pin]
    raw: Opaque<bindings::miscdevice>,
}

// SAFETY: a misc device may be unregistered by any task.
unsafe impl Send for Pager {}
// SAFETY: nothing can be done with a shared reference.
unsafe impl Sync for Pager {}

impl Pager {
    /// Registers `/dev/tmem`. The workqueue [`BACKGROUND`] is there, and outlasts it.
    pub(crate) fn new() -> Result<Pin<KBox<Self>>> {
        KBox::try_pin_init(
            try_pin_init!(Self {
                raw <- Opaque::try_ffi_init(|slot: *mut bindings::miscdevice| {
                    let device = bindings::miscdevice {
                        minor: bindings::MISC_DYNAMIC_MINOR as c_int,
                        name: c"tmem".as_ptr().cast(),
                        fops: &raw const OPERATIONS.0,
                        mode: MODE,
                        ..pin_init::zeroed()
                    };
                    // SAFETY: `slot` is valid for writing, and pinned until it is unregistered.
                    to_result(unsafe {
                        slot.write(device);
                        bindings::misc_register(slot)
                    })
                }),
            }? Error),
            GFP_KERNEL,
        )
    }
}

#[pinned_drop]
impl PinnedDrop for Pager {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: it was registered by `new`. Files that are open keep the module, so there are none.
        unsafe { bindings::misc_deregister(self.raw.get()) };
    }
}

/// # Safety
///
/// Called by the kernel for a file of this device that is being opened.
unsafe extern "C" fn open(inode: *mut bindings::inode, file: *mut bindings::file) -> c_int {
    match Interface::new() {
        // SAFETY: the file is being opened, and its private data ours.
        Ok(interface) => unsafe {
            (*file).private_data = Arc::into_raw(interface).cast_mut().cast();
            bindings::nonseekable_open(inode, file)
        },
        Err(error) => error.to_errno(),
    }
}

/// # Safety
///
/// Called by the kernel, once, when nobody has the file open any more.
unsafe extern "C" fn release(_inode: *mut bindings::inode, file: *mut bindings::file) -> c_int {
    // SAFETY: `open` has put it there, and nobody uses it any more.
    let interface = unsafe { Arc::from_raw((*file).private_data.cast::<Interface>().cast_const()) };
    interface.close();
    0
}

/// # Safety
///
/// `file` is an open file of this device.
unsafe fn interface_of<'a>(file: *mut bindings::file) -> ArcBorrow<'a, Interface> {
    // SAFETY: `open` has put it there, and it stays until `release`.
    unsafe { ArcBorrow::from_raw((*file).private_data.cast::<Interface>().cast_const()) }
}

/// # Safety
///
/// Called by the kernel for an open file of this device.
unsafe extern "C" fn ioctl(
    file: *mut bindings::file,
    command: c_uint,
    argument: c_ulong,
) -> c_long {
    // SAFETY: as for this function.
    let interface = unsafe { interface_of(file) };
    match interface.ioctl(command, argument) {
        Ok(value) => value,
        Err(error) => error.to_errno() as c_long,
    }
}

/// # Safety
///
/// Called by the kernel for an open file of this device.
unsafe extern "C" fn show_fdinfo(to: *mut bindings::seq_file, file: *mut bindings::file) {
    // SAFETY: as for this function; the kernel gives a sequence file that may be written.
    let (interface, to) = unsafe { (interface_of(file), SeqFile::from_raw(to)) };
    interface.show(to);
}
