// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The real connections: TCP, TLS over TCP, Unix sockets.

use std::fmt;
use std::io::{self, IoSlice, Read};
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::net::{RecvFlags, recv, sockopt};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{Address, AddressError, Connector, Tls, TlsError};

/// A silent connection is asked after this time whether the other end is there. Stores that stall are
/// noticed long before; this frees what belongs to hosts that are gone.
const KEEPALIVE: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 3;

/// How to reach stores.
#[derive(Clone, Debug, Default)]
pub struct NetworkConfig {
    /// Certificates; without them there is no TLS.
    pub tls: Option<Tls>,
    /// Stores on other hosts may be spoken to without TLS.
    pub insecure: bool,
}

/// The host's network.
#[derive(Clone)]
pub struct Network {
    tls: Option<Arc<ClientConfig>>,
    insecure: bool,
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Network")
            .field("tls", &self.tls.is_some())
            .field("insecure", &self.insecure)
            .finish()
    }
}

impl Network {
    /// Reads the certificates.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn new(config: &NetworkConfig) -> Result<Self, TlsError> {
        Ok(Self {
            tls: config.tls.as_ref().map(Tls::config).transpose()?,
            insecure: config.insecure,
        })
    }

    fn allowed(&self, text: &str) -> Result<Address, AddressError> {
        let address: Address = text.parse()?;
        if let Address::Tcp { at, name } = &address
            && self.tls.is_none()
        {
            let address = text.to_owned();
            if name.is_some() {
                return Err(AddressError::NoTls { address });
            }
            if !self.insecure && !at.ip().to_canonical().is_loopback() {
                return Err(AddressError::Insecure { address });
            }
        }
        Ok(address)
    }
}

impl Connector for Network {
    type Stream = Wire;

    const IS_REAL_TIME: bool = true;

    async fn connect(&self, address: &str) -> io::Result<Wire> {
        let invalid = |error| io::Error::new(io::ErrorKind::InvalidInput, error);
        match self.allowed(address).map_err(invalid)? {
            Address::Unix(path) => UnixStream::connect(path).await.map(Wire::Unix),
            Address::Tcp { at, name } => {
                let stream = TcpStream::connect(at).await?;
                prepare(&stream)?;
                let Some(tls) = &self.tls else {
                    return Ok(Wire::Tcp(stream));
                };
                let name = server_name(at.ip(), name)?;
                let stream = TlsConnector::from(Arc::clone(tls))
                    .connect(name, stream)
                    .await?;
                Ok(Wire::Tls(Box::new(stream)))
            }
        }
    }

    fn check(&self, address: &str) -> Result<(), AddressError> {
        self.allowed(address).map(drop)
    }

    fn read_now(stream: &mut Wire, into: &mut [u8]) -> io::Result<usize> {
        let read = match stream {
            Wire::Tcp(stream) => recv(stream.as_fd(), into, RecvFlags::DONTWAIT),
            Wire::Unix(stream) => recv(stream.as_fd(), into, RecvFlags::DONTWAIT),
            Wire::Tls(stream) => return read_tls_now(stream, into),
        };
        read.map(|(_, bytes)| bytes).map_err(io::Error::from)
    }
}

/// What has arrived may be half a record: then it is kept by rustls, and there is nothing yet.
fn read_tls_now(stream: &mut TlsStream<TcpStream>, into: &mut [u8]) -> io::Result<usize> {
    let (socket, session) = stream.get_mut();
    loop {
        match session.reader().read(into) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            read => return read,
        }
        if session.read_tls(&mut Now(socket))? == 0 {
            return Ok(0);
        }
        (session.process_new_packets()).map_err(io::Error::other)?;
    }
}

/// Reads what is in a socket, without waiting.
struct Now<'a>(&'a TcpStream);

impl Read for Now<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let (_, bytes) = recv(self.0.as_fd(), into, RecvFlags::DONTWAIT)?;
        Ok(bytes)
    }
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE)?;
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE)?;
    sockopt::set_tcp_keepcnt(stream, KEEPALIVE_PROBES)?;
    Ok(())
}

fn server_name(ip: IpAddr, name: Option<String>) -> io::Result<ServerName<'static>> {
    match name {
        None => Ok(ServerName::IpAddress(ip.into())),
        Some(name) => ServerName::try_from(name)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error)),
    }
}

/// A connection that [`Network`] made.
#[derive(Debug)]
pub enum Wire {
    /// Clear text over TCP.
    Tcp(TcpStream),
    /// A Unix socket.
    Unix(UnixStream),
    /// TLS over TCP.
    Tls(Box<TlsStream<TcpStream>>),
}

/// Calls the same method of whichever stream it is.
macro_rules! each {
    ($self:ident, $method:ident ( $($argument:expr),* )) => {
        match $self.get_mut() {
            Wire::Tcp(stream) => Pin::new(stream).$method($($argument),*),
            Wire::Unix(stream) => Pin::new(stream).$method($($argument),*),
            Wire::Tls(stream) => Pin::new(stream.as_mut()).$method($($argument),*),
        }
    };
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        each!(self, poll_read(cx, into))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        each!(self, poll_write(cx, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, poll_shutdown(cx))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self, poll_write_vectored(cx, parts))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clear_text_stays_on_the_host_unless_allowed() {
        let network = |insecure| {
            let tls = None;
            Network::new(&NetworkConfig { tls, insecure }).unwrap()
        };
        let (strict, lax) = (network(false), network(true));
        for address in ["127.0.0.1:1", "[::1]:1", "[::ffff:127.0.0.1]:1", "unix:/x"] {
            assert_eq!(strict.check(address), Ok(()), "{address}");
        }
        let insecure = strict.check("10.0.0.1:1");
        assert!(matches!(insecure, Err(AddressError::Insecure { .. })));
        assert_eq!(lax.check("10.0.0.1:1"), Ok(()));
        let named = lax.check("rack1@10.0.0.1:1");
        assert!(matches!(named, Err(AddressError::NoTls { .. })));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn read_now_finds_what_has_arrived_and_else_does_not_wait() {
        use tokio::io::AsyncWriteExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let network = Network::new(&NetworkConfig::default()).unwrap();
        let address = format!("unix:{}", path.display());
        let mut near = network.connect(&address).await.unwrap();
        let (mut far, _) = listener.accept().await.unwrap();
        let mut into = [0; 8];
        let nothing = Network::read_now(&mut near, &mut into).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
        far.write_all(b"page").await.unwrap();
        assert_eq!(Network::read_now(&mut near, &mut into).unwrap(), 4);
        assert_eq!(&into[..4], b"page");
        drop(far);
        assert_eq!(Network::read_now(&mut near, &mut into).unwrap(), 0);
    }
}
