// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The guests' listening sockets: made at a path, or handed over open.

use std::fs::Permissions;
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use crate::config::{GuestConfig, Socket};
use crate::error::Error;

/// Owner and group may connect: who reaches this socket speaks for the guest.
const MODE: u32 = 0o660;

/// Listens where `guest` is told to.
///
/// # Errors
/// [`Error::SocketInUse`], [`Error::Socket`] or [`Error::Descriptor`].
pub(crate) fn listen(guest: &GuestConfig) -> Result<UnixListener, Error> {
    match &guest.socket {
        Socket::Path(path) => {
            // A socket on which nobody answers was left by a daemon that was killed.
            if UnixStream::connect(path).is_ok() {
                return Err(Error::SocketInUse {
                    name: guest.name.clone(),
                    path: path.clone(),
                });
            }
            bind(path).map_err(|source| Error::Socket {
                name: guest.name.clone(),
                path: path.clone(),
                source,
            })
        }
        Socket::Fd(fd) => inherit(*fd).map_err(|source| Error::Descriptor { fd: *fd, source }),
    }
}

fn bind(path: &Path) -> io::Result<UnixListener> {
    match std::fs::symlink_metadata(path) {
        Ok(file) if file.file_type().is_socket() => std::fs::remove_file(path)?,
        // Anything else is left alone, and bind says that the address is in use.
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, Permissions::from_mode(MODE))?;
    Ok(listener)
}

fn inherit(fd: i32) -> io::Result<UnixListener> {
    if fd <= 2 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: The number is only asked about; if nothing is open there, the kernel says so.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    let unix = rustix::net::sockopt::socket_domain(borrowed)? == rustix::net::AddressFamily::UNIX;
    if !unix || !rustix::net::sockopt::socket_acceptconn(borrowed)? {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: It is an open listening socket that our parent handed over by naming it, so nobody
    // else in this process owns it; each descriptor is named once in a configuration.
    let listener = unsafe { UnixListener::from_raw_fd(fd) };
    // The one who accepts knows that somebody waits; the crate would spin otherwise.
    listener.set_nonblocking(false)?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsRawFd, IntoRawFd};
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn guest(socket: Socket) -> GuestConfig {
        GuestConfig {
            balloon: crate::balloon::BalloonConfig::default(),
            name: "vm0".into(),
            socket,
            grant_pages: 1,
            queue_pairs: 1,
            limits: crate::config::GuestLimits::default(),
        }
    }

    #[test]
    fn a_left_over_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vm0.sock");
        let guest = guest(Socket::Path(path.clone()));
        drop(listen(&guest).unwrap());
        let _live = listen(&guest).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, MODE);
        assert!(matches!(listen(&guest), Err(Error::SocketInUse { .. })));
    }

    #[test]
    fn a_file_that_is_no_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("precious");
        std::fs::write(&path, "bytes").unwrap();
        let guest = guest(Socket::Path(path.clone()));
        assert!(matches!(listen(&guest), Err(Error::Socket { .. })));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "bytes");
    }

    #[test]
    fn a_descriptor_must_be_a_listening_unix_socket() {
        let (one, _other) = UnixStream::pair().unwrap();
        for fd in [-1, 0, 2, one.as_raw_fd(), 1 << 20] {
            let listened = listen(&guest(Socket::Fd(fd)));
            assert!(
                matches!(listened, Err(Error::Descriptor { .. })),
                "descriptor {fd}"
            );
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let handed = UnixListener::bind(&path).unwrap().into_raw_fd();
        let _listener = listen(&guest(Socket::Fd(handed))).unwrap();
        assert!(UnixStream::connect(&path).is_ok());
    }
}
