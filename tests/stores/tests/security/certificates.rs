// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Who one is: certificates of the wrong authority, of the past, of somebody else, and none.

use std::time::Duration;

use tmem_remote_protocol::{Reason, Session};
use tmem_store_tests::cluster::StoreOptions;
use tmem_store_tests::peer::hello;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::stage::{Outcome, Stage, block_on, certify, greet};

fn stage() -> Stage {
    Stage::with_certificates(StoreOptions::new("64MiB"))
}

/// What a client meets that has this certificate, trusts this authority, and wants this namespace.
fn meets(stage: &Stage, (authority, name): (&str, &str), trusts: &str, wants: &str) -> Outcome {
    let network = stage.network(authority, name, trusts);
    let hello = hello(wants, 9, Session::Data).unwrap();
    match block_on(greet(&network, &stage.store.address(), &hello)) {
        Ok(_) => panic!("{authority}'s {name} was welcomed as {wants}"),
        Err(outcome) => outcome,
    }
}

/// The connection failed, and it was said why.
fn failed(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Failed(why) if !why.is_empty())
}

#[test]
fn right_certificate_is_welcomed() {
    let stage = stage();
    let neighbour = stage.neighbour(stage.network("good", "neighbour", "good"));
    std::thread::sleep(Duration::from_millis(500));
    neighbour.end();
}

#[test]
fn certificate_of_another_authority_is_refused() {
    let stage = stage();
    let neighbour = stage.neighbour(stage.network("good", "neighbour", "good"));
    for _ in 0..10 {
        let outcome = meets(&stage, ("bad", "neighbour"), "good", "neighbour");
        assert!(failed(&outcome), "{outcome:?}");
    }
    neighbour.end();
}

#[test]
fn client_refuses_a_store_of_another_authority() {
    let stage = stage();
    let neighbour = stage.neighbour(stage.network("good", "neighbour", "good"));
    for _ in 0..10 {
        let outcome = meets(&stage, ("good", "neighbour"), "bad", "neighbour");
        assert!(failed(&outcome), "{outcome:?}");
    }
    neighbour.end();
}

#[test]
fn expired_certificate_is_refused() {
    let stage = stage();
    let neighbour = stage.neighbour(stage.network("good", "neighbour", "good"));
    let expired = [
        "--namespace",
        "neighbour",
        "--name",
        "expired",
        "--days",
        "1",
        "--days-ago",
        "3",
    ];
    certify(&stage.folder("good"), "client", &expired);
    for _ in 0..10 {
        let outcome = meets(&stage, ("good", "expired"), "good", "neighbour");
        assert!(failed(&outcome), "{outcome:?}");
    }
    neighbour.end();
}

#[test]
fn right_certificate_does_not_open_anothers_namespace() {
    let stage = stage();
    let neighbour = stage.neighbour(stage.network("good", "neighbour", "good"));
    for _ in 0..10 {
        let outcome = meets(&stage, ("good", "mallory"), "good", "neighbour");
        let denied = matches!(&outcome, Outcome::Refused(told) if told.reason == Reason::Denied);
        assert!(denied, "{outcome:?}");
    }
    // A refused hello has a higher epoch than the neighbour's, and must not have fenced it.
    neighbour.end();
}

#[test]
fn client_without_a_certificate_gets_nothing() {
    let stage = stage();
    let neighbour = stage.neighbour(stage.network("good", "neighbour", "good"));
    let hello = hello("neighbour", 9, Session::Data).unwrap();
    let address = stage.store.address();
    for _ in 0..10 {
        let plain = block_on(greet(&Stage::plain(), &address, &hello));
        assert!(matches!(plain, Err(Outcome::Failed(_))), "{plain:?}");
    }
    // Whatever is said in clear text, nothing that is answered is a frame.
    let answer = block_on(async {
        let mut stream = tokio::net::TcpStream::connect(&address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        // A reset ends it as well.
        let _ = stream.read_to_end(&mut answer).await;
        answer
    });
    assert!(
        answer.len() < 64 && !answer.starts_with(b"TMRP"),
        "{answer:?}"
    );
    neighbour.end();
}
