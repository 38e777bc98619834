// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Over TLS, to an etcd that asks for certificates: ours is taken, and only the right authority's
//! server is trusted.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::RootCertStore;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tmem_etcd::{Client, ClientConfig, Endpoint, EtcdError};

use crate::server::{Etcd, Tls};

struct Authority {
    pem: String,
    der: rustls_pki_types::CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

fn authority() -> Authority {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    Authority {
        pem: certificate.pem(),
        der: certificate.der().clone(),
        issuer: Issuer::new(params, key),
    }
}

impl Authority {
    fn certificate(&self, name: &str) -> (rcgen::Certificate, KeyPair) {
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    /// A client that trusts this authority, and shows a certificate of `of` if there is one.
    fn client(&self, of: Option<&Self>, endpoint: Endpoint) -> Client {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let tls = match of {
            Some(authority) => {
                let (certificate, key) = authority.certificate("client");
                let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
                let chain = vec![certificate.der().clone()];
                config.with_client_auth_cert(chain, key).unwrap()
            }
            None => config.with_no_client_auth(),
        };
        let config = ClientConfig {
            tls: Some(Arc::new(tls)),
            ..ClientConfig::new(vec![endpoint])
        };
        Client::new(config).unwrap()
    }
}

#[tokio::test]
async fn certificates_are_checked_on_both_sides() {
    let ours = authority();
    let (certificate, key) = ours.certificate("127.0.0.1");
    let tls = Tls {
        authority: ours.pem.clone(),
        certificate: certificate.pem(),
        key: key.serialize_pem(),
    };
    let ready = |endpoint: &Endpoint| ours.client(Some(&ours), endpoint.clone());
    let etcd = Etcd::start_with_tls(tls, ready).await;
    let endpoint = etcd.endpoint();
    assert!(endpoint.tls);
    let known = ours.client(Some(&ours), endpoint.clone());
    known.put("/x", b"y", None).await.unwrap();
    assert_eq!(known.get("/x").await.unwrap().unwrap().value, b"y");
    let others = authority();
    let wrong_server = others.client(Some(&ours), endpoint.clone());
    let refused = wrong_server.get("/x").await.unwrap_err();
    assert!(matches!(refused, EtcdError::Connect { .. }), "{refused:?}");
    for stranger in [
        ours.client(None, endpoint.clone()),
        ours.client(Some(&others), endpoint),
    ] {
        let refused = stranger.get("/x").await.unwrap_err();
        let cut = matches!(refused, EtcdError::Connect { .. } | EtcdError::Http { .. });
        assert!(cut, "{refused:?}");
    }
}
