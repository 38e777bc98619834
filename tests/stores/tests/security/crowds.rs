// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How many one is, and how slow: ten thousand connections that do nothing, and hundreds that say a
//! byte now and then, or never listen.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tmem_remote_protocol::{Encoder, Session};
use tmem_store_tests::Stamp;
use tmem_store_tests::cluster::StoreOptions;
use tmem_store_tests::peer::{Greeting, RawPeer, hello};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::stage::{Stage, block_on, greet};

const CROWD: u32 = 10_000;

/// Lets this process, and the stores that it starts, have as many connections as a crowd needs; one
/// crowd at a time.
fn raise_limits() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    let guard = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let limit = getrlimit(Resource::Nofile);
    let wanted = u64::from(CROWD) + 2_000;
    if limit.current.is_some_and(|current| current < wanted) {
        let maximum = limit.maximum.map(|most| most.max(wanted));
        let raised = Rlimit {
            current: Some(wanted),
            maximum,
        };
        setrlimit(Resource::Nofile, raised).expect("as many files as there are connections");
    }
    guard
}

/// Connects from an address of its own, of which loopback has many.
async fn connect(from: u8, to: &str) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from((Ipv4Addr::new(127, 0, 0, from), 0)))?;
    let to: SocketAddr = to.parse().map_err(std::io::Error::other)?;
    socket.connect(to).await
}

/// Waits until the peer has closed, and says how long that took; none if it has not.
async fn closed(stream: &mut TcpStream, limit: Duration) -> Option<Duration> {
    let start = Instant::now();
    let mut sink = [0; 4096];
    let reading = async { while matches!(stream.read(&mut sink).await, Ok(read) if read > 0) {} };
    let ended = tokio::time::timeout(limit, reading).await;
    ended.ok().map(|()| start.elapsed())
}

#[test]
fn ten_thousand_connections_that_say_nothing_are_ended() {
    let _one = raise_limits();
    let many = StoreOptions::new("64MiB").with("--max-connections-per-client", "4000");
    let stage = Stage::open(many);
    let neighbour = stage.neighbour(Stage::plain());
    let before = stage.resident();
    block_on(async {
        let address = stage.store.address();
        let mut crowd = Vec::new();
        for number in 0..CROWD {
            let from = 2 + u8::try_from(number / 3_000).unwrap();
            crowd.push(connect(from, &address).await.unwrap());
        }
        let most = stage.resident() - before;
        assert!(most < 256 << 20, "{most} bytes for {CROWD} connections");
        let limit = Duration::from_secs(30);
        for mut stream in crowd {
            assert!(closed(&mut stream, limit).await.is_some());
        }
    });
    neighbour.end();
}

#[test]
fn ten_thousand_clients_that_ask_for_nothing_cost_little() {
    let _one = raise_limits();
    let many = StoreOptions::new("64MiB").with("--max-connections-per-client", "4000");
    let stage = Stage::open(many);
    let neighbour = stage.neighbour(Stage::plain());
    let before = stage.resident();
    block_on(async {
        let hello = hello("crowd", 1, Session::Data).unwrap();
        let mut crowd = Vec::new();
        for number in 0..CROWD {
            let from = 2 + u8::try_from(number / 3_000).unwrap();
            let stream = connect(from, &stage.store.address()).await.unwrap();
            match RawPeer::greet(stream, &hello).await.unwrap() {
                Greeting::Welcome(peer, _) => crowd.push(peer),
                Greeting::Refused(farewell) => panic!("client {number}: {farewell}"),
            }
        }
        let most = stage.resident() - before;
        assert!(most < 512 << 20, "{most} bytes for {CROWD} clients");
        // They are still clients.
        for peer in crowd.iter_mut().step_by(100) {
            assert!(peer.ping().await.is_ok());
        }
    });
    neighbour.end();
}

#[test]
fn one_address_gets_no_more_connections_than_it_may() {
    let few = StoreOptions::new("64MiB").with("--max-connections-per-client", "50");
    let stage = Stage::open(few);
    let neighbour = stage.neighbour(Stage::plain());
    block_on(async {
        let hello = hello("crowd", 1, Session::Data).unwrap();
        let mut welcomed = Vec::new();
        for _ in 0..200 {
            let stream = connect(2, &stage.store.address()).await.unwrap();
            if let Ok(Greeting::Welcome(peer, _)) = RawPeer::greet(stream, &hello).await {
                welcomed.push(peer);
            }
        }
        assert_eq!(welcomed.len(), 50);
        let elsewhere = connect(3, &stage.store.address()).await.unwrap();
        let greeted = RawPeer::greet(elsewhere, &hello).await;
        assert!(matches!(greeted, Ok(Greeting::Welcome(..))));
    });
    neighbour.end();
}

#[test]
fn slow_loris_is_ended_while_others_are_served() {
    let stage = Stage::open(StoreOptions::new("64MiB"));
    let neighbour = stage.neighbour(Stage::plain());
    block_on(async {
        let hello = hello("loris", 1, Session::Data).unwrap();
        let mut greeting = BytesMut::new();
        Encoder::hello(&mut greeting, &hello);
        let mut put = Vec::new();
        let mut streams = Vec::new();
        for number in 0..200_u32 {
            let mut stream = connect(2, &stage.store.address()).await.unwrap();
            // Half of them never finish their hello, the others never their first request.
            let text = if number.is_multiple_of(2) {
                greeting.to_vec()
            } else {
                stream.write_all(&greeting).await.unwrap();
                if put.is_empty() {
                    put = whole_put(&stage).await;
                }
                put.clone()
            };
            streams.push((stream, text));
        }
        let start = Instant::now();
        let mut said = 0;
        let mut open = streams.len();
        while open > 0 {
            assert!(
                start.elapsed() < Duration::from_secs(40),
                "{open} are still open"
            );
            open = 0;
            for (stream, text) in &mut streams {
                // One byte; what comes back, and that it was closed, shows at the next.
                let ended = text.get(said).is_none_or(|byte| {
                    let sent = stream.try_write(&[*byte]);
                    let mut sink = [0; 4096];
                    let read = stream.try_read(&mut sink);
                    let waits =
                        |error: &std::io::Error| error.kind() == std::io::ErrorKind::WouldBlock;
                    sent.is_err() || matches!(read, Ok(0)) || read.is_err_and(|e| !waits(&e))
                });
                open += usize::from(!ended);
            }
            said += 1;
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        assert!(said > 3, "they were ended for being slow, not at once");
        assert!(put.len() > said, "the request was never whole");
    });
    neighbour.end();
}

/// The bytes of a put.
async fn whole_put(stage: &Stage) -> Vec<u8> {
    let hello = hello("loris", 1, Session::Data).unwrap();
    let greeted = greet(&Stage::plain(), &stage.store.address(), &hello).await;
    let (mut peer, _) = greeted.unwrap();
    let stamp = Stamp {
        writer: 3,
        key: 1,
        version: 1,
    };
    peer.put_frame(1, 1, &stamp.page()).to_vec()
}

#[test]
fn client_that_never_listens_is_ended_and_fills_no_memory() {
    let stage = Stage::open(StoreOptions::new("64MiB"));
    let neighbour = stage.neighbour(Stage::plain());
    let before = stage.resident();
    block_on(async {
        let hello = hello("deaf", 1, Session::Data).unwrap();
        let mut asked = BytesMut::new();
        let entries: Vec<_> = (0..200)
            .map(|index| tmem_remote_protocol::GetEntry::new(0, index % 8))
            .collect();
        Encoder::new(tmem_remote_protocol::VERSION_MAX).get(&mut asked, 1, &entries);
        let mut deaf = Vec::new();
        for _ in 0..20 {
            let stream = connect(2, &stage.store.address()).await.unwrap();
            let Greeting::Welcome(mut peer, _) = RawPeer::greet(stream, &hello).await.unwrap()
            else {
                panic!("a client was refused");
            };
            for key in 0..8 {
                let stamp = Stamp {
                    writer: 3,
                    key,
                    version: 1,
                };
                assert!(!matches!(
                    peer.put(key, 1, &stamp.page()).await,
                    tmem_store_tests::peer::Answer::Ended(_)
                ));
            }
            deaf.push(peer);
        }
        let start = Instant::now();
        let mut open = deaf.len();
        while open > 0 {
            assert!(
                start.elapsed() < Duration::from_secs(60),
                "{open} are still open"
            );
            open = 0;
            for peer in &mut deaf {
                let said = tokio::time::timeout(Duration::from_millis(20), peer.say(&asked)).await;
                open += usize::from(!matches!(said, Ok(Err(_))));
            }
            let most = stage.resident().saturating_sub(before);
            assert!(
                most < 128 << 20,
                "{most} bytes of answers that nobody takes"
            );
        }
    });
    neighbour.end();
}
