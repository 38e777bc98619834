// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! TLS: who we are to a store, and whom we take for one.

use std::fmt;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use thiserror::Error;

/// Certificates and key, as PEM. They are read once: a confined process has no files.
#[derive(Clone)]
pub struct Tls {
    /// Whose signature a store's certificate must have.
    pub ca: Vec<u8>,
    /// Our certificate, and those between it and a root.
    pub cert: Vec<u8>,
    /// Our private key.
    pub key: Vec<u8>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

/// Certificates that cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TlsError {
    /// No PEM, or none of this kind in it.
    #[error("Cannot read the {what} for TLS")]
    Pem {
        /// Which.
        what: &'static str,
        /// What is wrong.
        source: rustls::pki_types::pem::Error,
    },
    /// There is none.
    #[error("Cannot use TLS: there is no {what}")]
    Missing {
        /// Which.
        what: &'static str,
    },
    /// The certificates do not go together.
    #[error("Cannot use the certificates for TLS")]
    Config {
        /// What is wrong.
        source: rustls::Error,
    },
}

impl Tls {
    /// The configuration of a client that shows its certificate.
    pub(super) fn config(&self) -> Result<Arc<ClientConfig>, TlsError> {
        let mut roots = RootCertStore::empty();
        for root in certificates("certificate authority", &self.ca)? {
            roots
                .add(root)
                .map_err(|source| TlsError::Config { source })?;
        }
        let chain = certificates("certificate", &self.cert)?;
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(|source| TlsError::Pem {
            what: "key",
            source,
        })?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(|builder| {
                builder
                    .with_root_certificates(roots)
                    .with_client_auth_cert(chain, key)
            })
            .map_err(|source| TlsError::Config { source })?;
        Ok(Arc::new(config))
    }
}

fn certificates(what: &'static str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|source| TlsError::Pem { what, source })?;
    if found.is_empty() {
        return Err(TlsError::Missing { what });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_certificate_is_refused_by_name() {
        let tls = Tls {
            ca: b"nothing".to_vec(),
            cert: Vec::new(),
            key: Vec::new(),
        };
        let error = tls.config().unwrap_err().to_string();
        assert!(error.contains("certificate authority"), "{error}");
        assert!(
            !format!("{tls:?}").contains("key"),
            "a key is never printed"
        );
    }
}
