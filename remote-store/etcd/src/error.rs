// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What can go wrong when etcd is asked.

use std::io;
use std::time::Duration;

use crate::endpoint::BadEndpoint;

/// gRPC's number for "not found".
const NOT_FOUND: u32 = 5;
/// gRPC's numbers for what another server, or the same one later, may answer well: deadline
/// exceeded, unavailable.
const PASSING: [u32; 2] = [4, 14];

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum EtcdError {
    /// The text of an endpoint.
    #[error(transparent)]
    Endpoint(#[from] BadEndpoint),
    /// A client of nobody.
    #[error("No etcd endpoint is given")]
    NoEndpoints,
    /// An endpoint with TLS and no settings for it.
    #[error("Endpoint {0} needs TLS, for which there are no settings")]
    NoTls(String),
    /// A connection that could not be made.
    #[error("Cannot connect to etcd at {endpoint}")]
    Connect {
        /// Where.
        endpoint: String,
        /// Why.
        source: io::Error,
    },
    /// No answer in time.
    #[error("etcd at {endpoint} gave no answer within {after:?}")]
    Timeout {
        /// Who.
        endpoint: String,
        /// After this time.
        after: Duration,
    },
    /// A connection that broke, or an answer that is no HTTP.
    #[error("Cannot talk to etcd at {endpoint}")]
    Http {
        /// Who.
        endpoint: String,
        /// Why.
        source: hyper::Error,
    },
    /// etcd refused.
    #[error("etcd refused: {message} (HTTP {status}, gRPC {code})")]
    Refused {
        /// HTTP's number.
        status: u16,
        /// gRPC's number.
        code: u32,
        /// Its words.
        message: String,
    },
    /// An answer that cannot be understood.
    #[error("An answer of etcd cannot be understood: {0}")]
    Answer(String),
    /// An answer that is longer than this client takes.
    #[error("An answer of etcd is longer than {0} bytes")]
    TooLong(usize),
    /// The watch asked for revisions that etcd has forgotten.
    #[error("etcd keeps no revision before {0}")]
    Compacted(i64),
    /// The watch ended.
    #[error("etcd ended the watch: {0}")]
    WatchEnded(String),
}

impl EtcdError {
    /// Another endpoint may do better.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::Timeout { .. } | Self::Http { .. } => true,
            Self::Refused { code, .. } => PASSING.contains(code),
            _ => false,
        }
    }

    /// What was asked for does not exist, such as a lease that ran out.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { code, .. } if *code == NOT_FOUND)
    }
}
