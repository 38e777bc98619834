// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The real program: how it listens, how it ends, what it tells, how many it lets in.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream as StdTcpStream};
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::{Duration, Instant};

use common::process::{PROGRAM, Process};
use common::{Client, Heard, hello, page};
use tmem_remote_protocol::{Reason, Status};
use tokio::net::{TcpStream, UnixStream};

const LOCAL: &str = "tcp://127.0.0.1:0";

fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(test)
}

async fn client(address: SocketAddr, epoch: u64) -> Client<TcpStream> {
    let stream = TcpStream::connect(address).await.unwrap();
    Client::open(stream, &hello("a", epoch)).await.0
}

#[test]
fn store_ends_quickly_with_goodbyes_when_asked_to() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("store.sock");
    let unix = format!("unix:{}", socket.display());
    let mut store = Process::start(&["--listen", LOCAL, "--listen", &unix, "--capacity", "1MiB"]);
    let took = run(async {
        let mut tcp = client(store.addresses[0], 1).await;
        let stream = UnixStream::connect(&socket).await.unwrap();
        let (mut local, _) = Client::open(stream, &hello("a", 1)).await;
        let bytes = page(1);
        assert_eq!(local.put(&[(0, 1, &bytes)]).await, [Status::Ok]);
        assert_eq!(tcp.get(&[0]).await, [Ok((1, bytes))]);
        let begin = Instant::now();
        store.signal("-TERM");
        assert!(matches!(tcp.hear().await, Heard::Goodbye(of) if of.reason == Reason::Stopping));
        assert!(matches!(local.hear().await, Heard::Goodbye(of) if of.reason == Reason::Stopping));
        begin
    });
    assert!(store.child.wait().unwrap().success());
    assert!(took.elapsed() < Duration::from_secs(5));
    assert!(!socket.exists());
}

#[test]
fn a_store_that_polls_hears_of_one_connection_and_of_others_between() {
    let polls = ["--poll-us", "1000000", "--shards", "1"];
    let store = Process::start(&[&["--listen", LOCAL, "--capacity", "4MiB"], &polls[..]].concat());
    run(async {
        let mut first = client(store.addresses[0], 1).await;
        let pages: Vec<_> = (0..100).map(page).collect();
        let all: Vec<_> = (0..100)
            .zip(&pages)
            .map(|(at, page)| (at, 1, page))
            .collect();
        // Alone, one at a time and then as many as come in many pieces.
        for put in &all {
            assert_eq!(first.put(&[*put]).await, [Status::Ok]);
        }
        for generation in 2..5 {
            let again: Vec<_> = all.iter().map(|put| (put.0, generation, put.2)).collect();
            assert!(first.put(&again).await.iter().all(|status| status.is_ok()));
        }
        let mut second = client(store.addresses[0], 1).await;
        for (at, page) in (0..100).zip(&pages) {
            assert_eq!(first.get(&[at]).await, [Ok((4, *page))]);
            if at % 10 == 0 {
                assert_eq!(second.get(&[at]).await, [Ok((4, *page))]);
            }
        }
        drop(first);
        let indexes: Vec<u32> = (0..100).collect();
        for _ in 0..20 {
            let got = second.get(&indexes).await;
            assert!(
                got.iter()
                    .zip(&pages)
                    .all(|(got, page)| *got == Ok((4, *page)))
            );
        }
        // A newer client is let in at once, and the older one told.
        let third = client(store.addresses[0], 2).await;
        assert!(matches!(second.hear().await, Heard::Goodbye(of) if of.reason == Reason::Fenced));
        drop(third);
    });
}

#[test]
fn socket_that_was_left_behind_is_taken_over_and_one_in_use_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("store.sock");
    let unix = format!("unix:{}", socket.display());
    let arguments = ["--listen", &unix, "--capacity", "1MiB"];
    Process::start(&arguments).kill();
    assert!(socket.exists());
    let _store = Process::start(&arguments);
    let second = Command::new(PROGRAM)
        .arg("serve")
        .args(arguments)
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(1));
    let told = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(told.contains("Cannot listen on unix:"), "{told}");
}

/// What an HTTP server says to a GET.
fn http(address: SocketAddr, path: &str) -> String {
    let mut stream = StdTcpStream::connect(address).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: store\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn metrics_tell_what_was_served() {
    let store = Process::start(&[
        "--listen",
        LOCAL,
        "--capacity",
        "1MiB",
        "--metrics",
        "127.0.0.1:0",
        "--quota",
        "a=8KiB",
    ]);
    run(async {
        let mut client = client(store.addresses[0], 3).await;
        client
            .put(&[(0, 1, &page(1)), (1, 1, &page(2)), (2, 1, &page(3))])
            .await;
        client.get(&[0, 5]).await;
        let metrics = store.metrics.unwrap();
        assert!(http(metrics, "/healthz").ends_with("ok\n"));
        let text = http(metrics, "/metrics");
        for line in [
            "tmem_store_capacity_bytes 1048576",
            "tmem_store_namespace_quota_bytes{namespace=\"a\"} 8192",
            "tmem_store_namespace_used_bytes{namespace=\"a\"} 8192",
            "tmem_store_namespace_epoch{namespace=\"a\"} 3",
            "tmem_store_pages_total{namespace=\"a\",result=\"hit\"} 1",
            "tmem_store_pages_total{namespace=\"a\",result=\"miss\"} 1",
            "tmem_store_pages_total{namespace=\"a\",result=\"over_quota\"} 1",
            "tmem_store_request_seconds_count{namespace=\"a\",kind=\"put\"} 1",
            "tmem_store_connections 1",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    });
}

#[test]
fn one_address_gets_no_more_connections_than_it_may_have() {
    let store = Process::start(&[
        "--listen",
        LOCAL,
        "--capacity",
        "1MiB",
        "--max-connections-per-client",
        "3",
    ]);
    run(async {
        let address = store.addresses[0];
        let mut held = Vec::new();
        for _ in 0..3 {
            held.push(client(address, 1).await);
        }
        let stream = TcpStream::connect(address).await.unwrap();
        assert_eq!(
            Client::new(stream).greet(&hello("a", 1)).await,
            Heard::Closed
        );
        assert!(matches!(held[0].ping().await, Heard::Pong(_)));
        held.pop();
        // The place is free once the store has seen the end of the connection.
        loop {
            let stream = TcpStream::connect(address).await.unwrap();
            if let Heard::Welcome(_) = Client::new(stream).greet(&hello("a", 1)).await {
                break;
            }
        }
    });
}

#[test]
fn idle_connections_are_many_and_cost_little() {
    let count = std::env::var("TMEM_IDLE_CONNECTIONS").map_or(500, |text| text.parse().unwrap());
    let store = Process::start(&[
        "--listen",
        LOCAL,
        "--capacity",
        "1MiB",
        "--max-connections-per-client",
        "20000",
    ]);
    let memory = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", store.child.id())).unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with("RssAnon:"))
            .unwrap();
        let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        kib
    };
    run(async {
        let address = store.addresses[0];
        let mut busy = client(address, 1).await;
        busy.put(&[(0, 1, &page(1))]).await;
        let before = memory();
        let mut idle = Vec::new();
        for number in 0..count {
            let stream = TcpStream::connect(address).await.unwrap();
            let mut client = Client::new(stream);
            if number % 2 == 0 {
                client.greet(&hello("a", 1)).await;
            }
            idle.push(client);
        }
        assert_eq!(busy.get(&[0]).await, [Ok((1, page(1)))]);
        let each = (memory() - before) * 1024 / count;
        println!("{count} idle connections take {each} bytes each");
        assert!(each < 4096, "an idle connection takes {each} bytes");
    });
}

#[test]
fn service_manager_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(common::PATIENCE)).unwrap();
    let mut child = Command::new(PROGRAM)
        .args(["serve", "--listen", LOCAL, "--capacity", "1MiB"])
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "100000")
        .spawn()
        .unwrap();
    let hear = || {
        let mut bytes = [0; 256];
        let length = socket.recv(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    };
    assert!(hear().starts_with("READY=1"));
    assert_eq!(hear(), "WATCHDOG=1");
    let pid = child.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-INT", &pid])
            .status()
            .unwrap()
            .success()
    );
    while hear() != "STOPPING=1" {}
    assert!(child.wait().unwrap().success());
}
