// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Certificates: who gets in with which, and what changes while the store runs.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use common::process::{Process, cert, text};
use common::{Client, Heard, hello, page};
use rustls::crypto::ring;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tmem_remote_protocol::{Reason, Status};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(test)
}

/// An authority, a store's certificate, and one of a client for namespace a.
fn certificates(dir: &Path) {
    let dir = text(dir);
    cert(&["ca", "--out", dir]);
    cert(&[
        "server",
        "--out",
        dir,
        "--ca",
        dir,
        "--name",
        "s",
        "--san",
        "127.0.0.1",
    ]);
    cert(&["client", "--out", dir, "--ca", dir, "--namespace", "a"]);
}

fn start(dir: &Path) -> Process {
    let file = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    Process::start(&[
        "--listen",
        "tcp://127.0.0.1:0",
        "--capacity",
        "1MiB",
        "--cert",
        &file("s.pem"),
        "--key",
        &file("s.key"),
        "--client-ca",
        &file("ca.pem"),
    ])
}

/// A TLS connection, with the certificate of this name, or none.
async fn connect(
    address: SocketAddr,
    ca: &Path,
    own: Option<(&Path, &str)>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(ca.join("ca.pem")).unwrap())
        .unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = match own {
        Some((dir, name)) => {
            let chain = CertificateDer::from_pem_file(dir.join(format!("{name}.pem"))).unwrap();
            let key = PrivateKeyDer::from_pem_file(dir.join(format!("{name}.key"))).unwrap();
            builder.with_client_auth_cert(vec![chain], key).unwrap()
        }
        None => builder.with_no_client_auth(),
    };
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::from(address.ip());
    TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
}

/// Whether a client is taken on: TLS 1.3 tells it only when it speaks.
async fn is_welcome(address: SocketAddr, ca: &Path, own: Option<(&Path, &str)>) -> bool {
    match connect(address, ca, own).await {
        Ok(stream) => {
            let heard = Client::new(stream).greet(&hello("a", 1)).await;
            match heard {
                Heard::Welcome(_) => true,
                Heard::Closed => false,
                other => panic!("{other:?}"),
            }
        }
        Err(_) => false,
    }
}

#[test]
fn only_a_good_certificate_opens_its_own_namespaces() {
    let (own, foreign) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (own, foreign) = (own.path(), foreign.path());
    certificates(own);
    certificates(foreign);
    let here = text(own);
    let expired = [
        "--days",
        "1",
        "--days-ago",
        "3",
        "--name",
        "expired",
        "--namespace",
        "a",
    ];
    cert(&[&["client", "--out", here, "--ca", here], &expired[..]].concat());
    let two = ["--name", "two", "--namespace", "b", "--namespace", "c"];
    cert(&[&["client", "--out", here, "--ca", here], &two[..]].concat());
    let store = start(own);
    let address = store.addresses[0];
    run(async {
        let stream = connect(address, own, Some((own, "a"))).await.unwrap();
        let (mut client, _) = Client::open(stream, &hello("a", 1)).await;
        let pages: Vec<_> = (0..200).map(page).collect();
        let puts: Vec<_> = (0..)
            .zip(&pages)
            .map(|(index, page)| (index, 1, page))
            .collect();
        assert_eq!(client.put(&puts).await, vec![Status::Ok; 200]);
        for (index, page) in (0..).zip(&pages) {
            assert_eq!(client.get(&[index]).await, [Ok((1, *page))]);
        }
        // Another's namespace.
        let stream = connect(address, own, Some((own, "two"))).await.unwrap();
        let refused = Client::new(stream).greet(&hello("a", 9)).await;
        assert!(matches!(refused, Heard::Refused(of) if of.reason == Reason::Denied));
        for name in ["b", "c"] {
            let stream = connect(address, own, Some((own, "two"))).await.unwrap();
            Client::open(stream, &hello(name, 1)).await;
        }
        // A store's certificate is not a client's.
        assert!(!is_welcome(address, own, Some((own, "s"))).await);
        assert!(!is_welcome(address, own, Some((own, "expired"))).await);
        assert!(!is_welcome(address, own, Some((foreign, "a"))).await);
        assert!(!is_welcome(address, own, None).await);
        // The client looks at the store as well.
        assert!(connect(address, foreign, Some((own, "a"))).await.is_err());
        // Without TLS nobody gets in.
        let plain = TcpStream::connect(address).await.unwrap();
        let mut plain = Client::new(plain);
        let mut out = bytes::BytesMut::new();
        tmem_remote_protocol::Encoder::hello(&mut out, &hello("a", 1));
        plain.send(&out).await;
        let mut answer = Vec::new();
        let _ = tokio::io::AsyncReadExt::read_to_end(&mut plain.stream, &mut answer).await;
        assert!(!answer.starts_with(b"TMRP"));
        // Nobody else was harmed.
        assert_eq!(client.get(&[7]).await, [Ok((1, pages[7]))]);
    });
}

#[test]
fn new_certificates_are_taken_without_a_restart() {
    let (own, next) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (own, next) = (own.path(), next.path());
    certificates(own);
    certificates(next);
    let store = start(own);
    let address = store.addresses[0];
    run(async {
        let stream = connect(address, own, Some((own, "a"))).await.unwrap();
        let (mut client, _) = Client::open(stream, &hello("a", 1)).await;
        assert!(!is_welcome(address, next, Some((next, "a"))).await);
        // What cannot be used changes nothing.
        let key = std::fs::read(own.join("s.key")).unwrap();
        std::fs::write(own.join("s.key"), "nothing").unwrap();
        store.signal("-HUP");
        assert!(is_welcome(address, own, Some((own, "a"))).await);
        std::fs::write(own.join("s.key"), key).unwrap();
        let before = tempfile::tempdir().unwrap();
        for file in ["ca.pem", "a.pem", "a.key", "s.pem", "s.key"] {
            std::fs::copy(own.join(file), before.path().join(file)).unwrap();
            std::fs::copy(next.join(file), own.join(file)).unwrap();
        }
        store.signal("-HUP");
        while !is_welcome(address, next, Some((next, "a"))).await {
            tokio::task::yield_now().await;
        }
        assert!(!is_welcome(address, before.path(), Some((before.path(), "a"))).await);
        assert!(
            matches!(client.ping().await, Heard::Pong(_)),
            "open connections go on"
        );
    });
}
