// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Why a connection has ended, and what the client is told of it.

use std::io;

use thiserror::Error;
use tmem_remote_protocol::{Farewell, ProtocolError, Reason};

/// Why a connection has ended.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Ended {
    /// The client closed it, between two requests.
    #[error("the client closed it")]
    Closed,
    /// The store is ending.
    #[error("the store is ending")]
    Stopped,
    /// The client sent something that is not the protocol.
    #[error("the client broke the protocol: {0}")]
    Protocol(#[from] ProtocolError),
    /// The client is not served.
    #[error("the client was refused: {0}")]
    Refused(Farewell),
    /// A newer client has the namespace.
    #[error("epoch {epoch} is over, since a client came with epoch {newest}")]
    Fenced {
        /// The connection's epoch.
        epoch: u64,
        /// The newest.
        newest: u64,
    },
    /// The client did not do in time what it had to.
    #[error("the client was too slow: {0}")]
    Slow(&'static str),
    /// The log failed, so that what was done must not be acknowledged.
    #[error("the store's log has failed")]
    LogFailed,
    /// The connection failed.
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
}

impl Ended {
    /// The last words to the client, if there are any.
    pub(crate) fn farewell(&self) -> Option<Farewell> {
        match self {
            Self::Closed | Self::Io(_) => None,
            Self::Stopped => Some(Farewell::new(Reason::Stopping, "The store is ending")),
            Self::Protocol(error) => Some(error.farewell()),
            Self::Refused(farewell) => Some(farewell.clone()),
            Self::Fenced { epoch, newest } => Some(Farewell::fenced(*epoch, *newest)),
            Self::LogFailed => Some(Farewell::new(
                Reason::Internal,
                "The store's log has failed",
            )),
            Self::Slow(what) => Some(Farewell::new(Reason::Idle, what)),
        }
    }

    /// It is the client's doing, and somebody should hear of it.
    pub(crate) fn is_noteworthy(&self) -> bool {
        match self {
            Self::Closed | Self::Stopped => false,
            // A client that is killed looks like this.
            Self::Io(_) => false,
            Self::LogFailed => true,
            Self::Protocol(_) | Self::Refused(_) | Self::Fenced { .. } | Self::Slow(_) => true,
        }
    }
}
