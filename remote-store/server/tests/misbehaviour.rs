// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Clients that break the protocol, are slow, say nothing, or are many: each costs its own connection,
//! and others are served on.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::time::Duration;

use bytes::BytesMut;
use common::served::{Served, run};
use common::{Client, Heard, hello, page};
use remote_store::{Access, Ended, Limits};
use tmem_remote_protocol::{
    Capabilities, Encoder, FRAME_MAX, HEADER_LEN, PAGES_MAX, Reason, Status, Versions,
};
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, sleep, timeout};

/// What a store says to bytes that are no request, after a proper hello or instead of it.
async fn say(served: &Served, greeted: bool, bytes: &[u8], end: bool) -> (Vec<Heard>, Ended) {
    let (stream, ended) = served.connect();
    let mut client = Client::new(stream);
    if greeted {
        client.greet(&hello("a", 1)).await;
    }
    client.send(bytes).await;
    if end {
        client.stream.shutdown().await.unwrap();
    }
    let mut heard = Vec::new();
    loop {
        match client.hear().await {
            Heard::Closed => break,
            other => heard.push(other),
        }
    }
    drop(client);
    (heard, ended.await.unwrap())
}

#[test]
fn stream_that_is_not_the_protocol_ends_with_a_reason_and_others_go_on() {
    run(async {
        let served = Served::new(|_| {});
        let mut other = served.client("a", 1).await;
        let bytes = page(1);
        assert_eq!(other.put(&[(0, 1, &bytes)]).await, [Status::Ok]);
        let mut newer = BytesMut::new();
        let mut of_newer = hello("a", 1);
        of_newer.versions = Versions { min: 9, max: 9 };
        Encoder::hello(&mut newer, &of_newer);
        let mut put = BytesMut::new();
        Client::new(tokio::io::empty()).write_put(&mut put, 0, &[(0, 9, &page(9))]);
        let mut damaged = put.clone();
        damaged[HEADER_LEN + 3] ^= 1;
        let mut oversized = put.clone();
        oversized[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
        let mut of_version_9 = put.clone();
        of_version_9[4] = 9;
        for (greeted, sent, reason) in [
            (
                false,
                &b"GET / HTTP/1.1\r\nHost: store\r\n\r\n"[..],
                Reason::Protocol,
            ),
            (false, &newer, Reason::Version),
            (false, &put, Reason::Protocol),
            (true, &[0; HEADER_LEN], Reason::Protocol),
            (true, &damaged, Reason::Protocol),
            (true, &oversized, Reason::Protocol),
            (true, &of_version_9, Reason::Protocol),
            (true, &newer, Reason::Protocol),
        ] {
            let (heard, ended) = say(&served, greeted, sent, false).await;
            match heard.as_slice() {
                [Heard::Refused(of)] if !greeted => assert_eq!(of.reason, reason, "{of}"),
                [Heard::Goodbye(of)] if greeted => assert_eq!(of.reason, reason, "{of}"),
                other => panic!("{other:?}"),
            }
            assert!(
                matches!(ended, Ended::Protocol(_) | Ended::Refused(_)),
                "{ended}"
            );
        }
        let half = &put[..put.len() / 2];
        let (heard, ended) = say(&served, true, half, true).await;
        assert!(
            matches!(heard.as_slice(), [Heard::Goodbye(_)] | []),
            "{heard:?}"
        );
        assert!(matches!(ended, Ended::Protocol(_)), "{ended}");
        let (_, ended) = say(&served, true, &[], true).await;
        assert!(matches!(ended, Ended::Closed), "{ended}");
        assert_eq!(other.get(&[0]).await, [Ok((1, bytes))]);
    });
}

#[test]
fn random_bytes_change_nothing_and_harm_nobody() {
    run(async {
        let served = Served::new(|_| {});
        let mut other = served.client("a", 1).await;
        let bytes = page(1);
        other.put(&[(0, 1, &bytes)]).await;
        for seed in 0..200 {
            let mut noise = page(seed).to_vec();
            noise.truncate(1 + usize::try_from(seed).unwrap() * 20);
            if seed % 3 == 0 {
                // As far as the magic it looks right.
                noise.splice(..4.min(noise.len()), *b"TMRP");
            }
            let (_, ended) = say(&served, seed % 2 == 0, &noise, true).await;
            assert!(matches!(ended, Ended::Protocol(_)), "{seed}: {ended}");
        }
        assert_eq!(other.list(10).await, [(0, 1)]);
        assert_eq!(other.get(&[0]).await, [Ok((1, bytes))]);
    });
}

#[test]
fn client_that_drips_its_request_is_ended_and_others_are_not() {
    run(async {
        let limits = Limits::default();
        let served = Served::new(|_| {});
        let mut other = served.client("a", 1).await;
        // One that never says hello; bytes of it come, but not the whole.
        let (stream, ended) = served.connect();
        let mut silent = Client::new(stream);
        let begin = Instant::now();
        let mut greeting = BytesMut::new();
        Encoder::hello(&mut greeting, &hello("a", 1));
        for byte in greeting.iter().take(20) {
            silent.send(&[*byte]).await;
            sleep(limits.handshake / 10).await;
        }
        assert!(matches!(silent.hear().await, Heard::Refused(of) if of.reason == Reason::Idle));
        assert!(matches!(ended.await.unwrap(), Ended::Slow(_)));
        assert!(begin.elapsed() >= limits.handshake);
        // One that drips a put.
        let (stream, ended) = served.connect();
        let (mut slow, _) = Client::open(stream, &hello("a", 1)).await;
        let mut put = BytesMut::new();
        slow.write_put(&mut put, 0, &[(0, 1, &page(1))]);
        let begin = Instant::now();
        for byte in put.iter().take(30) {
            slow.send(&[*byte]).await;
            sleep(limits.frame / 20).await;
        }
        assert!(matches!(slow.hear().await, Heard::Goodbye(of) if of.reason == Reason::Idle));
        assert!(matches!(ended.await.unwrap(), Ended::Slow(_)));
        let took = begin.elapsed();
        assert!(took >= limits.frame && took < 2 * limits.frame, "{took:?}");
        assert_eq!(other.get(&[0]).await, [Err(Status::Missing)]);
    });
}

#[test]
fn client_that_takes_no_answers_is_ended_and_costs_no_more_than_a_turn() {
    run(async {
        let served = Served::new(|config| config.capacity_pages = 4096);
        let (stream, ended) = served.connect_by(Access::Any, 8 << 10);
        let (mut greedy, _) = Client::open(stream, &hello("a", 1)).await;
        let indexes: Vec<u32> = (0..PAGES_MAX).collect();
        for index in &indexes {
            assert_eq!(
                greedy.put(&[(*index, 1, &page(u64::from(*index)))]).await,
                [Status::Ok]
            );
        }
        let mut out = BytesMut::new();
        for _ in 0..100 {
            greedy.write_get(&mut out, 0, &indexes);
        }
        // 100 MiB of answers: it stops reading long before.
        let sent = timeout(Duration::from_secs(1), greedy.stream.write_all(&out)).await;
        assert!(sent.is_err(), "the store takes whatever comes");
        let served_bytes = served.store.stats().namespaces[0].served.bytes_out;
        assert!(served_bytes < 3 * FRAME_MAX as u64, "{served_bytes}");
        assert!(matches!(ended.await.unwrap(), Ended::Slow(_)));
    });
}

#[test]
fn connection_that_asks_for_nothing_ends_when_that_is_configured() {
    run(async {
        let served = Served::new(|config| config.limits.idle = Some(Duration::from_secs(60)));
        let (stream, ended) = served.connect();
        let (mut client, _) = Client::open(stream, &hello("a", 1)).await;
        for _ in 0..3 {
            sleep(Duration::from_secs(50)).await;
            assert!(matches!(client.ping().await, Heard::Pong(_)));
        }
        sleep(Duration::from_secs(61)).await;
        assert!(matches!(client.hear().await, Heard::Goodbye(of) if of.reason == Reason::Idle));
        assert!(matches!(ended.await.unwrap(), Ended::Slow(_)));
    });
}

#[test]
fn end_of_the_store_is_told_to_everybody() {
    run(async {
        let served = Served::new(|_| {});
        let mut idle = served.client("a", 1).await;
        let (silent, _) = served.connect();
        sleep(Duration::from_millis(1)).await;
        served.store.end("Back in a minute");
        match idle.hear().await {
            Heard::Goodbye(of) => {
                assert_eq!(
                    (of.reason, &*of.text),
                    (Reason::Stopping, "Back in a minute")
                );
            }
            other => panic!("{other:?}"),
        }
        let mut silent = Client::new(silent);
        assert!(matches!(silent.hear().await, Heard::Refused(of) if of.reason == Reason::Stopping));
        let (late, _) = served.connect();
        assert!(matches!(Client::new(late).hear().await, Heard::Refused(_)));
    });
}

#[test]
fn capability_that_is_not_asked_for_is_not_granted() {
    run(async {
        let served = Served::new(|_| {});
        let (stream, _) = served.connect();
        let mut modest = hello("a", 1);
        modest.capabilities = Capabilities::LIST;
        let (_, welcome) = Client::open(stream, &modest).await;
        assert_eq!(welcome.capabilities, Capabilities::LIST);
    });
}

#[test]
fn idle_connections_have_no_buffers() {
    run(async {
        let served = Served::new(|_| {});
        let mut clients = Vec::new();
        for _ in 0..1000 {
            clients.push(served.client("a", 1).await);
        }
        let before = served.shard.spare_buffers();
        for client in &mut clients {
            assert!(matches!(client.ping().await, Heard::Pong(_)));
        }
        assert_eq!(served.shard.spare_buffers(), before, "a ping took a buffer");
        assert_eq!(served.store.stats().namespaces[0].connections, 1000);
        drop(clients);
        sleep(Duration::from_millis(1)).await;
        assert_eq!(served.store.stats().namespaces[0].connections, 0);
    });
}
