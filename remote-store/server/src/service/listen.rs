// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Listening sockets, and what is set on those that they accept.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixStream};

use super::error::ServiceError;
use crate::config::Address;

/// Connections that wait to be accepted.
const BACKLOG: u32 = 4096;
/// A client's host that is gone is noticed after about twice this time without a word.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// Probes that stay without an answer.
const KEEPALIVE_PROBES: u32 = 3;

/// A listening socket.
pub(super) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, Address),
}

/// A connection that was accepted, not yet of any runtime.
pub(super) enum Accepted {
    Tcp(std::net::TcpStream),
    Unix(StdUnixStream),
}

impl Listener {
    /// Listens.
    pub(super) fn open(address: &Address) -> Result<Self, ServiceError> {
        let opened = match address {
            Address::Tcp(at) => listen_tcp(*at).map(Self::Tcp),
            Address::Unix(path) => {
                listen_unix(path).map(|listener| Self::Unix(listener, address.clone()))
            }
        };
        opened.map_err(|source| ServiceError::Listen {
            address: address.to_string(),
            source,
        })
    }

    /// Where it listens: the port that was picked, if any was right.
    pub(super) fn address(&self) -> io::Result<Address> {
        match self {
            Self::Tcp(listener) => listener.local_addr().map(Address::Tcp),
            Self::Unix(_, address) => Ok(address.clone()),
        }
    }

    /// The next connection, for the log who it is, and its address if it is not of this host for sure.
    pub(super) async fn accept(&self) -> io::Result<(Accepted, String, Option<IpAddr>)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                let accepted = Accepted::Tcp(stream.into_std()?);
                Ok((accepted, address.to_string(), Some(address.ip())))
            }
            Self::Unix(listener, address) => {
                let (stream, _) = listener.accept().await?;
                Ok((
                    Accepted::Unix(stream.into_std()?),
                    address.to_string(),
                    None,
                ))
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Self::Unix(_, Address::Unix(path)) = self {
            // The next to listen there would have to; this is only tidier.
            let _ = fs::remove_file(path);
        }
    }
}

/// A connection of the current runtime.
pub(super) fn tcp(stream: std::net::TcpStream) -> io::Result<TcpStream> {
    let stream = TcpStream::from_std(stream)?;
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(&stream, true)?;
    sockopt::set_tcp_keepidle(&stream, KEEPALIVE)?;
    sockopt::set_tcp_keepintvl(&stream, KEEPALIVE / KEEPALIVE_PROBES)?;
    sockopt::set_tcp_keepcnt(&stream, KEEPALIVE_PROBES)?;
    Ok(stream)
}

/// A connection of the current runtime.
pub(super) fn unix(stream: StdUnixStream) -> io::Result<UnixStream> {
    UnixStream::from_std(stream)
}

fn listen_tcp(address: std::net::SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Listens on a path. A socket that is there and that nobody listens on is one that was left behind.
pub(crate) fn listen_unix(path: &Path) -> io::Result<UnixListener> {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    if is_socket {
        match StdUnixStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                fs::remove_file(path)?;
            }
            _ => return Err(io::ErrorKind::AddrInUse.into()),
        }
    }
    let listener = UnixListener::bind(path)?;
    // Whoever can connect reads pages.
    fs::set_permissions(path, fs::Permissions::from_mode(0o660))?;
    Ok(listener)
}
