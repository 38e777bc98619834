// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How a byte stream to a store comes about. The rest of the crate takes any.
//!
//! [`Network`] makes the real ones: TCP, TLS over TCP, Unix sockets. A simulation gives its own
//! [`Connector`], and so do tests with a store in the same process.

mod address;
mod network;
mod tls;

use std::fmt::Debug;
use std::future::Future;
use std::io;

use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};

pub use address::Address;
pub use network::{Network, NetworkConfig, Wire};
pub use tls::{Tls, TlsError};

/// What makes connections to stores.
pub trait Connector: Clone + Debug + Send + Sync + 'static {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + 'static;

    /// Time is the kernel's: a wait can be shorter than the runtime's timers tell. Not in a simulation.
    const IS_REAL_TIME: bool = false;

    /// Connects. Whoever calls gives up after a time of his own.
    fn connect(&self, address: &str) -> impl Future<Output = io::Result<Self::Stream>>;

    /// Whether this is an address at all.
    ///
    /// # Errors
    /// [`AddressError`] that says what is wrong with it.
    fn check(&self, address: &str) -> Result<(), AddressError> {
        let _ = address;
        Ok(())
    }

    /// Reads what has arrived, without waiting and without asking the runtime: what is looked at while
    /// polling. One that cannot says [`io::ErrorKind::WouldBlock`], and is then waited for.
    ///
    /// # Errors
    /// As a read.
    fn read_now(stream: &mut Self::Stream, into: &mut [u8]) -> io::Result<usize> {
        let _ = (stream, into);
        Err(io::ErrorKind::WouldBlock.into())
    }
}

/// An address that cannot be used.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum AddressError {
    /// It says nothing.
    #[error("Cannot read the store address {address:?}: write IP:PORT, NAME@IP:PORT or unix:PATH")]
    Unreadable {
        /// The address.
        address: String,
    },
    /// Pages would cross a network in clear text.
    #[error(
        "Cannot use the store {address} without TLS: it is not on this host; give certificates, or allow it with insecure"
    )]
    Insecure {
        /// The address.
        address: String,
    },
    /// It names a server for TLS, and there are no certificates.
    #[error("Cannot check the name of the store {address}: there are no certificates")]
    NoTls {
        /// The address.
        address: String,
    },
}
