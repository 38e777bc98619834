// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Mutual TLS: the store shows its certificate, every client must show one that the authority signed.
//! The files are read at the start and again when the administrator says so; connections that are
//! open go on as they are.

use std::sync::Arc;

use parking_lot::RwLock;
use rustls::crypto::ring;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::error::ServiceError;
use crate::cert;
use crate::config::TlsFiles;
use crate::connection::Access;

/// The store's side of TLS.
#[derive(Debug)]
pub(super) struct Tls {
    files: TlsFiles,
    config: RwLock<Arc<ServerConfig>>,
}

impl Tls {
    /// Reads the files.
    pub(super) fn open(files: &TlsFiles) -> Result<Self, ServiceError> {
        Ok(Self {
            files: files.clone(),
            config: RwLock::new(read(files)?),
        })
    }

    /// Reads the files again. If they cannot be used, all stays as it was.
    pub(super) fn reload(&self) -> Result<(), ServiceError> {
        *self.config.write() = read(&self.files)?;
        Ok(())
    }

    /// Takes a client on, or not.
    pub(super) async fn accept<S>(&self, stream: S) -> std::io::Result<(TlsStream<S>, Access)>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let config = Arc::clone(&self.config.read());
        let stream = TlsAcceptor::from(config).accept(stream).await?;
        let certificates = stream.get_ref().1.peer_certificates();
        let names = certificates
            .and_then(<[_]>::first)
            .map(|own| cert::namespaces(own));
        Ok((stream, Access::Only(names.unwrap_or_default())))
    }
}

fn read(files: &TlsFiles) -> Result<Arc<ServerConfig>, ServiceError> {
    let chain = certificates(&files.cert)?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|source| ServiceError::Pem {
        path: files.key.clone(),
        source,
    })?;
    let tls = |source| ServiceError::Tls {
        cert: files.cert.clone(),
        key: files.key.clone(),
        source,
    };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&files.client_ca)? {
        roots.add(certificate).map_err(tls)?;
    }
    let provider = Arc::new(ring::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build();
    let verifier = verifier.map_err(|source| ServiceError::Authority {
        path: files.client_ca.clone(),
        source,
    })?;
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(tls)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(tls)?;
    Ok(Arc::new(config))
}

fn certificates(path: &std::path::Path) -> Result<Vec<CertificateDer<'static>>, ServiceError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    read.map_err(|source| ServiceError::Pem {
        path: path.into(),
        source,
    })
}
