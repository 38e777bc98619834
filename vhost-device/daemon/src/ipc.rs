// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Bytes and descriptors over Unix sockets: what keeper and worker talk through.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

/// Descriptors that one message may carry.
pub(crate) const FILES_MAX: usize = 64;

/// Sends `bytes` with `files` in one step, without waiting. Returns the bytes sent.
///
/// # Errors
/// The kernel's; `WouldBlock` if the other side does not read, or has too many descriptors to receive.
pub(crate) fn send(socket: impl AsFd, bytes: &[u8], files: &[BorrowedFd<'_>]) -> io::Result<usize> {
    if files.len() > FILES_MAX {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() && !control.push(SendAncillaryMessage::ScmRights(files)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    let sent = rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, flags);
    match sent {
        // So many descriptors are on their way that one more has to wait.
        Err(rustix::io::Errno::TOOMANYREFS) => Err(io::ErrorKind::WouldBlock.into()),
        sent => Ok(sent?),
    }
}

/// Receives into `bytes` without waiting; descriptors go to the end of `files`. Returns the bytes
/// received; 0 if the other side has hung up.
///
/// # Errors
/// The kernel's; `WouldBlock` if there is nothing, `InvalidData` if there were more descriptors than
/// any message has.
pub(crate) fn receive(
    socket: impl AsFd,
    bytes: &mut [u8],
    files: &mut Vec<OwnedFd>,
) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let mut into = [IoSliceMut::new(bytes)];
    let received = rustix::net::recvmsg(socket, &mut into, &mut control, flags)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            files.extend(rights);
        }
    }
    let cut = rustix::net::ReturnFlags::CTRUNC | rustix::net::ReturnFlags::TRUNC;
    if received.flags.intersects(cut) || files.len() > FILES_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(received.bytes)
}

/// Looks at what could be received, without receiving it. Returns the bytes seen.
///
/// # Errors
/// The kernel's; `WouldBlock` if there is nothing.
pub(crate) fn peek(socket: impl AsFd, bytes: &mut [u8]) -> io::Result<usize> {
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    let (_, seen) = rustix::net::recv(socket, bytes, flags)?;
    Ok(seen)
}

/// A listener on which exactly one connection waits, and the other end of that connection: a socket
/// pair for a program that wants to accept. Its name is nobody's to use: it holds one connection,
/// and that is ours, or this fails.
///
/// # Errors
/// The kernel's.
pub(crate) fn listener_with_connection() -> io::Result<(UnixListener, UnixStream)> {
    let socket = || {
        rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )
    };
    let listener = socket()?;
    // Without a name the kernel chooses an abstract one.
    rustix::net::bind(&listener, &SocketAddrUnix::new_unnamed())?;
    // With a backlog of 0 a single connection may wait.
    rustix::net::listen(&listener, 0)?;
    let address = rustix::net::getsockname(&listener)?;
    let stream = socket()?;
    rustix::net::connect(&stream, &address)?;
    let listener = UnixListener::from(listener);
    // The vhost-user crate waits where it would otherwise spin.
    listener.set_nonblocking(false)?;
    Ok((listener, UnixStream::from(stream)))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn bytes_and_descriptors_arrive_together() {
        let (one, two) = UnixStream::pair().unwrap();
        let (mut reader, writer) = std::io::pipe().unwrap();
        assert_eq!(send(&one, b"hello", &[writer.as_fd()]).unwrap(), 5);
        drop(writer);
        let mut bytes = [0; 16];
        let mut files = Vec::new();
        assert_eq!(receive(&two, &mut bytes, &mut files).unwrap(), 5);
        let mut writer = std::fs::File::from(files.pop().unwrap());
        writer.write_all(b"through").unwrap();
        drop(writer);
        let mut read = String::new();
        reader.read_to_string(&mut read).unwrap();
        assert_eq!(read, "through");
        let nothing = receive(&two, &mut bytes, &mut files);
        assert_eq!(nothing.unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_listener_has_one_connection_and_takes_no_other() {
        let (listener, mut stream) = listener_with_connection().unwrap();
        let address = listener.local_addr().unwrap();
        assert!(
            address.as_pathname().is_none() && !address.is_unnamed(),
            "an abstract name"
        );
        let other = rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::NONBLOCK,
            None,
        )
        .unwrap();
        let address = rustix::net::getsockname(&listener).unwrap();
        assert!(rustix::net::connect(&other, &address).is_err());
        stream.write_all(b"x").unwrap();
        let (mut accepted, _) = listener.accept().unwrap();
        let mut byte = [0];
        accepted.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"x");
    }
}
