// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Why the program cannot serve.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::store::StoreError;

/// Why the program cannot serve.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ServiceError {
    /// The store cannot be opened.
    #[error("Cannot open the store")]
    Store(#[from] StoreError),
    /// An address cannot be listened on.
    #[error(
        "Cannot listen on {address}: check that nobody else does, and that the address is this host's"
    )]
    Listen {
        /// Where.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// Something of the system's cannot be had.
    #[error("Cannot {what}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// A file of TLS cannot be read.
    #[error("Cannot read {}: check that it is there, readable, and PEM", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: rustls_pki_types::pem::Error,
    },
    /// The files of TLS do not fit together.
    #[error("Cannot use the certificates: check that {} belongs to {}", key.display(), cert.display())]
    Tls {
        /// The certificate.
        cert: PathBuf,
        /// The key.
        key: PathBuf,
        /// What is wrong.
        source: rustls::Error,
    },
    /// The authority's certificates cannot be used.
    #[error("Cannot use the authority in {}: it must hold certificates of an authority", path.display())]
    Authority {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: rustls::server::VerifierBuilderError,
    },
    /// Not an address of etcd.
    #[cfg(feature = "etcd")]
    #[error(
        "Cannot announce the store at {url}: it is no address of etcd, such as http://127.0.0.1:2379"
    )]
    EtcdUrl {
        /// What was given.
        url: String,
        /// What is wrong.
        source: tmem_etcd::BadEndpoint,
    },
    /// etcd cannot be used as it is configured.
    #[cfg(feature = "etcd")]
    #[error("Cannot announce the store in etcd")]
    Etcd(#[source] tmem_etcd::EtcdError),
    /// The log filter is not one.
    #[error("Cannot log at {level:?}: use error, warn, info, debug or trace, or filters by module")]
    LogLevel {
        /// What was given.
        level: String,
        /// What is wrong.
        source: tracing_subscriber::filter::ParseError,
    },
}

/// Names what was tried.
pub(super) fn trying(what: &'static str) -> impl FnOnce(io::Error) -> ServiceError {
    move |source| ServiceError::System { what, source }
}
