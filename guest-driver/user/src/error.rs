// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a call as a whole can fail with. Single pages have results of their own.

use std::io;

/// Why a call was not carried out. Unless it says otherwise, no page was touched.
#[derive(Debug)]
pub enum Error {
    /// There is no such device, or it is gone.
    NoDevice(io::Error),
    /// The interface has no such pool.
    NoPool,
    /// There is no room: for a pool within what programs may reserve, or for a put within the
    /// pool's limit.
    NoRoom,
    /// The interface has as many pools as it may, or the device has.
    TooManyPools,
    /// Another thread's call is changing one of the pages.
    Busy,
    /// The call is malformed: no entries or too many, entries that overlap or leave the pool.
    Invalid(&'static str),
    /// The device has no pools of this kind.
    NotOffered,
    /// The system failed otherwise.
    System(io::Error),
}

/// A call's result.
pub(crate) type Result<T> = std::result::Result<T, Error>;

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoDevice(_) => f.write_str("There is no tmem device here, or it is gone"),
            Self::NoPool => f.write_str("The interface has no such pool"),
            Self::NoRoom => f.write_str(
                "There is no room: for a pool within what programs may reserve, or for a put \
                 within the pool's limit",
            ),
            Self::TooManyPools => f.write_str("No more pools can be made"),
            Self::Busy => f.write_str("Another call is changing one of these pages"),
            Self::Invalid(what) => write!(f, "Malformed call: {what}"),
            Self::NotOffered => f.write_str("The device has no pools of this kind"),
            Self::System(_) => f.write_str("The system refused the call"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::NoDevice(source) | Self::System(source) => Some(source),
            _ => None,
        }
    }
}

/// Tells the errors of any call apart.
pub(crate) fn of_call(source: io::Error) -> Error {
    match source.raw_os_error() {
        Some(libc::ENODEV | libc::ENXIO) => Error::NoDevice(source),
        Some(libc::ENOENT) => Error::NoPool,
        Some(libc::ENOSPC) => Error::NoRoom,
        Some(libc::EMFILE) => Error::TooManyPools,
        Some(libc::EBUSY) => Error::Busy,
        Some(libc::E2BIG) => Error::Invalid("more pages than one call may carry"),
        Some(libc::EINVAL) => Error::Invalid("entries overlap or leave the pool"),
        _ => Error::System(source),
    }
}

/// Tells the errors of making a pool apart.
pub(crate) fn of_create(source: io::Error) -> Error {
    match source.raw_os_error() {
        Some(libc::EBUSY) => Error::TooManyPools,
        Some(libc::EOPNOTSUPP) => Error::NotOffered,
        Some(libc::EINVAL) => Error::Invalid("a pool of no pages, or of too many"),
        _ => of_call(source),
    }
}
