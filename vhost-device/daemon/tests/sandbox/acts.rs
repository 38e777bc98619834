// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The steps that attempts are made of.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

use libc::c_long;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use vhost_device_tmem::sandbox::trusted_binary;

use super::probe::Around;

/// Opens a file and reads a byte of it.
pub(crate) fn read(path: impl AsRef<Path>) -> io::Result<()> {
    File::open(path)?.read(&mut [0]).map(drop)
}

/// Makes a socket.
pub(crate) fn socket(family: AddressFamily) -> io::Result<()> {
    let kind = if family == AddressFamily::NETLINK || family == AddressFamily::PACKET {
        SocketType::RAW
    } else {
        SocketType::STREAM
    };
    rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
    Ok(())
}

/// Starts a program and waits for its end.
pub(crate) fn start(program: &Path) -> io::Result<()> {
    let status = Command::new(program)
        .stdin(Stdio::null())
        .arg("-c")
        .arg("true")
        .status()?;
    if status.success() {
        Ok(())
    } else {
        Err(io::Error::other(status.to_string()))
    }
}

/// Starts a program as an upgrade does, whatever folder the daemon was told is right.
pub(crate) fn upgrade(program: &Path, folder: &Path) -> io::Result<()> {
    let binary = trusted_binary(program, &[folder.to_owned()]).map_err(io::Error::other)?;
    let status = binary.command().status()?;
    if status.success() {
        Ok(())
    } else {
        Err(io::Error::other(status.to_string()))
    }
}

/// Sends a descriptor to itself, and a byte through it.
pub(crate) fn pass(around: &Around) -> io::Result<()> {
    use rustix::net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
    };
    let (one, other) = UnixStream::pair()?;
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut sent = SendAncillaryBuffer::new(&mut space);
    let files = [std::os::fd::AsFd::as_fd(&around.listener)];
    sent.push(SendAncillaryMessage::ScmRights(&files));
    sendmsg(
        &one,
        &[io::IoSlice::new(b"x")],
        &mut sent,
        SendFlags::empty(),
    )?;
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut received = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    recvmsg(
        &other,
        &mut [io::IoSliceMut::new(&mut byte)],
        &mut received,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let got = received
        .drain()
        .any(|message| matches!(message, RecvAncillaryMessage::ScmRights(_)));
    (&one).write_all(b"y")?;
    if got && around.listener.as_raw_fd() >= 0 {
        Ok(())
    } else {
        Err(io::ErrorKind::InvalidData.into())
    }
}

/// Connects both ways as a thread that reads pages from stores does.
pub(crate) fn talk(port: u16, path: &Path) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let wait = std::time::Duration::from_secs(5);
        let tcp = tokio::net::TcpStream::connect((std::net::Ipv4Addr::LOCALHOST, port));
        let tcp = tokio::time::timeout(wait, tcp).await??;
        tcp.set_nodelay(true)?;
        tcp.writable().await?;
        tcp.try_write(b"x")?;
        let unix = tokio::net::UnixStream::connect(path);
        let unix = tokio::time::timeout(wait, unix).await??;
        unix.writable().await?;
        unix.try_write(b"x")?;
        let nothing = tokio::time::timeout(std::time::Duration::from_millis(1), unix.readable());
        nothing
            .await
            .map_or(Ok(()), |_| Err(io::ErrorKind::InvalidData.into()))
    })
}

/// Makes a system call that the C library has no function for, or a gentler one.
pub(crate) fn call(number: c_long, arguments: [c_long; 4]) -> io::Result<()> {
    let [a, b, c, d] = arguments;
    // SAFETY: the calls made here take numbers, or null pointers with a length of 0; those that could
    // change this process are not survived, or refused.
    let result = unsafe { libc::syscall(number, a, b, c, d, 0 as c_long, 0 as c_long) };
    check(result)
}

/// The error of a system call that failed.
pub(crate) fn check(result: c_long) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
