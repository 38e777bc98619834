// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Why a connection to a store did not do what it was asked.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tmem_remote_protocol::{Farewell, ProtocolError, Reason};

/// After any of these but [`LaneError::Busy`] and [`LaneError::TooLarge`] the connection is of no more use.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum LaneError {
    /// It could not be made.
    #[error("cannot connect")]
    Connect(#[source] Arc<io::Error>),
    /// The store refused it.
    #[error("refused: {0}")]
    Refused(Farewell),
    /// The store ended it, with a reason.
    #[error("ended by the store: {0}")]
    Goodbye(Farewell),
    /// It was ended without a word.
    #[error("closed by the store")]
    Closed,
    /// The system failed at reading or writing.
    #[error("broken")]
    Io(#[source] Arc<io::Error>),
    /// The store said something that is not the protocol, or answered another question.
    #[error("not understood")]
    Protocol(#[from] ProtocolError),
    /// The store answered something else than was asked.
    #[error("answered another question")]
    Mismatch,
    /// There was no answer.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// The last attempt failed a moment ago; the next is not due.
    #[error("not tried again yet; last: {0}")]
    Waiting(Arc<LaneError>),
    /// As much is under way as the store allows.
    #[error("busy: {0} requests are under way")]
    Busy(usize),
    /// One request has more pages than the store takes at once.
    #[error("takes {0} pages at once")]
    TooLarge(usize),
    /// The member is not known, or not known any more.
    #[error("no such store")]
    Unknown,
}

impl LaneError {
    /// The epoch of the process that has taken over the namespace, if that is why.
    #[must_use]
    pub fn fenced_by(&self) -> Option<u64> {
        match self {
            Self::Refused(farewell) | Self::Goodbye(farewell)
                if farewell.reason == Reason::Fenced =>
            {
                Some(farewell.detail)
            }
            Self::Waiting(last) => last.fenced_by(),
            _ => None,
        }
    }

    /// The other side is gone, for no reason that holds for the next connection.
    pub(crate) fn is_end(&self) -> bool {
        match self {
            Self::Closed | Self::Io(_) => true,
            Self::Goodbye(farewell) => matches!(farewell.reason, Reason::Idle | Reason::Stopping),
            _ => false,
        }
    }

    pub(crate) fn io(error: io::Error) -> Self {
        Self::Io(Arc::new(error))
    }
}
