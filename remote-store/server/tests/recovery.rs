// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The real program is killed, and started again on what it has left: files in memory, a PM file, a log.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use bytes::BytesMut;
use common::process::{PROGRAM, Process, text};
use common::{Client, Heard, hello, page};
use tmem_remote_protocol::{Reason, Status};
use tokio::net::TcpStream;

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

/// A folder in memory.
fn memory() -> tempfile::TempDir {
    let shm = Path::new("/dev/shm");
    if shm.is_dir() {
        tempfile::tempdir_in(shm).unwrap()
    } else {
        tempfile::tempdir().unwrap()
    }
}

#[test]
fn store_that_was_killed_has_every_acknowledged_page_and_nothing_that_was_flushed() {
    let dir = memory();
    let start = || {
        Process::start(&[
            "--listen",
            LOCAL,
            "--capacity",
            "16MiB",
            "--state-dir",
            text(dir.path()),
            "--shards",
            "2",
        ])
    };
    let store = start();
    let (acknowledged, first) = run(async {
        let stream = TcpStream::connect(store.addresses[0]).await.unwrap();
        let (mut client, welcome) = Client::open(stream, &hello("a", 7)).await;
        for index in 0..500 {
            assert_eq!(
                client.put(&[(index, 1, &page(index.into()))]).await,
                [Status::Ok]
            );
        }
        client.flush(&[(10, 2), (11, 2)]).await;
        // Killed with requests under way.
        let mut out = BytesMut::new();
        for index in 500..3000 {
            client.write_put(&mut out, 0, &[(index, 3, &page(index.into()))]);
        }
        let (mut client, mut writing) = client.split();
        let sending = async {
            // The store dies meanwhile.
            let _ = tokio::io::AsyncWriteExt::write_all(&mut writing, &out).await;
        };
        let hearing = async {
            let mut acknowledged = 500;
            while acknowledged < 900 {
                assert!(matches!(client.hear().await, Heard::Statuses(..)));
                acknowledged += 1;
            }
            store.signal("-KILL");
            while let Heard::Statuses(_, statuses) = client.hear().await {
                assert_eq!(statuses, [Status::Ok]);
                acknowledged += 1;
            }
            acknowledged
        };
        let ((), acknowledged) = tokio::join!(sending, hearing);
        (acknowledged, welcome)
    });
    drop(store);
    let store = start();
    run(async {
        let address = store.addresses[0];
        let stream = TcpStream::connect(address).await.unwrap();
        let refused = Client::new(stream).greet(&hello("a", 6)).await;
        assert!(
            matches!(refused, Heard::Refused(of) if of.reason == Reason::Fenced && of.detail == 7),
            "epochs are remembered"
        );
        let stream = TcpStream::connect(address).await.unwrap();
        let (mut client, welcome) = Client::open(stream, &hello("a", 8)).await;
        assert_eq!(
            (welcome.store_id, welcome.incarnation),
            (first.store_id, first.incarnation)
        );
        for index in 0..acknowledged {
            let got = client.get(&[index]).await;
            let generation = if index < 500 { 1 } else { 3 };
            if index == 10 || index == 11 {
                assert_eq!(got, [Err(Status::Missing)]);
            } else {
                assert_eq!(got, [Ok((generation, page(index.into())))], "{index}");
            }
        }
        // What was not acknowledged is whole, or is not there.
        for index in acknowledged..3000 {
            match &client.get(&[index]).await[0] {
                Ok(got) => assert_eq!(*got, (3, page(index.into()))),
                Err(status) => assert_eq!(*status, Status::Missing),
            }
        }
    });
}

#[test]
fn store_with_a_log_alone_has_every_acknowledged_page_after_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("log");
    let start = |more: &[&str]| {
        let arguments = [
            "--listen",
            LOCAL,
            "--capacity",
            "16MiB",
            "--log",
            text(&file),
            "--log-size",
            "32MiB",
        ];
        Process::start(&[&arguments[..], more].concat())
    };
    let process = ["--log-sync", "process"];
    let store = start(&process);
    let first = run(async {
        let stream = TcpStream::connect(store.addresses[0]).await.unwrap();
        let (mut client, welcome) = Client::open(stream, &hello("a", 7)).await;
        let pages: Vec<_> = (0..1000).map(page).collect();
        let same = [3; 4096];
        let puts: Vec<_> = (0..)
            .zip(&pages)
            .map(|(index, page)| (index, 1, page))
            .collect();
        // Batches, one over another, and flushes: of pages, and of the pool.
        for batch in puts.chunks(200) {
            assert!(client.put(batch).await.iter().all(|status| status.is_ok()));
        }
        assert_eq!(client.flush_pool(0, 0).await, (Status::Ok, 0));
        assert_eq!(client.flush(&[(10, 2), (11, 2)]).await, [Status::Ok; 2]);
        assert_eq!(
            client.put(&[(20, 3, &pages[21]), (21, 3, &same)]).await,
            [Status::Ok; 2]
        );
        assert_eq!(client.put(&[(22, 0, &same)]).await, [Status::Stale]);
        assert_eq!(client.put_in(1, &[(5, 1, &same)]).await, [Status::Ok]);
        welcome
    });
    store.kill();
    let expect = |store: &Process| {
        run(async {
            let address = store.addresses[0];
            let stream = TcpStream::connect(address).await.unwrap();
            let refused = Client::new(stream).greet(&hello("a", 6)).await;
            assert!(matches!(refused, Heard::Refused(of) if of.reason == Reason::Fenced));
            let stream = TcpStream::connect(address).await.unwrap();
            let (mut client, welcome) = Client::open(stream, &hello("a", 7)).await;
            assert_eq!(
                (welcome.store_id, welcome.incarnation),
                (first.store_id, first.incarnation)
            );
            for index in 0..1000 {
                let expected = match index {
                    10 | 11 => Err(Status::Missing),
                    20 => Ok((3, page(21))),
                    21 => Ok((3, [3; 4096])),
                    _ => Ok((1, page(index.into()))),
                };
                assert_eq!(client.get(&[index]).await, [expected], "{index}");
            }
            assert_eq!(client.get_in(1, &[5]).await, [Err(Status::Missing)]);
        });
    };
    let store = start(&process);
    expect(&store);
    // A clean end, and a log that waits for the disk from here on.
    store.signal("-TERM");
    let mut store = store;
    assert!(store.child.wait().unwrap().success());
    let store = start(&["--log-sync", "host"]);
    expect(&store);
    run(async {
        let mut client = client(store.addresses[0], 8).await;
        assert_eq!(client.put(&[(0, 9, &page(77))]).await, [Status::Ok]);
    });
    store.kill();
    let store = start(&["--log-sync", "host"]);
    run(async {
        let mut client = client(store.addresses[0], 8).await;
        assert_eq!(client.get(&[0]).await, [Ok((9, page(77)))]);
    });
}

#[test]
fn log_and_memory_that_do_not_fit_together_are_refused() {
    let (dir, state) = (tempfile::tempdir().unwrap(), memory());
    let file = dir.path().join("log");
    let plain = [
        "--listen",
        LOCAL,
        "--capacity",
        "1MiB",
        "--state-dir",
        text(state.path()),
    ];
    let log = [
        "--log",
        text(&file),
        "--log-size",
        "16MiB",
        "--log-sync",
        "process",
    ];
    let logged = [&plain[..], &log[..]].concat();
    let store = Process::start(&logged);
    run(async {
        let mut client = client(store.addresses[0], 1).await;
        assert_eq!(
            client.put(&[(0, 1, &page(1)), (1, 1, &page(2))]).await,
            [Status::Ok; 2]
        );
    });
    store.kill();
    // Without its log the store forgets a page that the log still has.
    let store = Process::start(&plain);
    run(async {
        let mut client = client(store.addresses[0], 1).await;
        assert_eq!(client.get(&[0]).await, [Ok((1, page(1)))]);
        assert_eq!(client.flush(&[(0, 2)]).await, [Status::Ok]);
    });
    store.kill();
    let refused = Command::new(PROGRAM)
        .arg("serve")
        .args(&logged)
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(1));
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(told.contains("has run without it since"), "{told}");
    // A new log learns what memory has; then it alone is enough.
    std::fs::remove_file(&file).unwrap();
    Process::start(&logged).kill();
    for entry in std::fs::read_dir(state.path()).unwrap() {
        std::fs::remove_file(entry.unwrap().path()).unwrap();
    }
    let store = Process::start(&logged);
    run(async {
        let mut client = client(store.addresses[0], 1).await;
        assert_eq!(
            client.get(&[0, 1]).await,
            [Err(Status::Missing), Ok((1, page(2)))]
        );
    });
}

#[test]
fn log_that_is_full_refuses_pages_and_what_was_there_does_not_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("log");
    let start = || {
        Process::start(&[
            "--listen",
            LOCAL,
            "--capacity",
            "32MiB",
            "--log",
            text(&file),
            "--log-size",
            "16MiB",
            "--log-sync",
            "process",
        ])
    };
    let store = start();
    let kept = run(async {
        let mut client = client(store.addresses[0], 1).await;
        let mut kept = 0;
        while client.put(&[(kept, 1, &page(kept.into()))]).await == [Status::Ok] {
            kept += 1;
        }
        assert!((2000..4096).contains(&kept), "{kept}");
        // Refused over one that is there: that one is gone, here and after a restart.
        if client.put(&[(5, 2, &page(6))]).await == [Status::Full] {
            assert_eq!(client.get(&[5]).await, [Err(Status::Missing)]);
        }
        assert_eq!(
            client.flush(&[(0, 9), (1, 9), (2, 9)]).await,
            [Status::Ok; 3]
        );
        assert_eq!(client.put(&[(0, 10, &page(7))]).await, [Status::Ok]);
        kept
    });
    store.kill();
    let store = start();
    run(async {
        let mut client = client(store.addresses[0], 1).await;
        assert_eq!(client.get(&[0]).await, [Ok((10, page(7)))]);
        assert_eq!(
            client.get(&[1, 2]).await,
            [Err(Status::Missing), Err(Status::Missing)]
        );
        assert_ne!(client.get(&[5]).await, [Ok((1, page(5)))]);
        for index in 6..kept {
            assert_eq!(client.get(&[index]).await, [Ok((1, page(index.into())))]);
        }
    });
}

#[test]
fn store_without_files_begins_anew_and_says_so() {
    let start = || Process::start(&["--listen", LOCAL, "--capacity", "1MiB"]);
    let welcome = |store: &Process| {
        run(async {
            let stream = TcpStream::connect(store.addresses[0]).await.unwrap();
            let (mut client, welcome) = Client::open(stream, &hello("a", 1)).await;
            assert_eq!(client.get(&[0]).await, [Err(Status::Missing)]);
            client.put(&[(0, 1, &page(1))]).await;
            welcome
        })
    };
    let store = start();
    let first = welcome(&store);
    store.kill();
    let second = welcome(&start());
    assert_ne!(first.incarnation, second.incarnation);
    assert_ne!(first.store_id, second.store_id);
}

#[test]
fn pages_beyond_memory_are_in_the_pm_file_and_outlive_a_restart() {
    let (dir, state) = (tempfile::tempdir().unwrap(), memory());
    let file = dir.path().join("pm");
    let start = |more: &[&str]| {
        let arguments = [
            "--listen",
            LOCAL,
            "--capacity",
            "1MiB",
            "--pm-file",
            text(&file),
            "--pm-size",
            "8MiB",
        ];
        Process::start(&[&arguments[..], more].concat())
    };
    let kept = ["--state-dir", text(state.path())];
    let store = start(&kept);
    // Four times what memory holds.
    let first = run(async {
        let mut client = client(store.addresses[0], 1).await;
        for index in 0..1024 {
            let put = client.put(&[(index, 1, &page(index.into()))]).await;
            assert_eq!(put, [Status::Ok], "{index}");
        }
        let stream = TcpStream::connect(store.addresses[0]).await.unwrap();
        Client::open(stream, &hello("a", 1)).await.1
    });
    store.kill();
    let store = start(&kept);
    run(async {
        let stream = TcpStream::connect(store.addresses[0]).await.unwrap();
        let (mut client, welcome) = Client::open(stream, &hello("a", 1)).await;
        assert_eq!(welcome.incarnation, first.incarnation);
        for index in 0..1024 {
            let got = client.get(&[index]).await;
            assert_eq!(got, [Ok((1, page(index.into())))], "{index}");
        }
    });
}

#[test]
fn pm_file_that_outlives_the_host_brings_back_what_was_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pm");
    let start = || {
        Process::start(&[
            "--listen",
            LOCAL,
            "--capacity",
            "1MiB",
            "--pm-file",
            text(&file),
            "--pm-size",
            "8MiB",
            "--pm-durability",
            "host",
        ])
    };
    let store = start();
    let first = run(async {
        let stream = TcpStream::connect(store.addresses[0]).await.unwrap();
        let (mut client, welcome) = Client::open(stream, &hello("a", 5)).await;
        for index in 0..1024 {
            assert_eq!(
                client.put(&[(index, 1, &page(index.into()))]).await,
                [Status::Ok]
            );
        }
        // What is flushed must not come back.
        client
            .flush(&(0..200).map(|index| (index, 2)).collect::<Vec<_>>())
            .await;
        welcome
    });
    // Without its memory it is as after the host's end.
    store.kill();
    let store = start();
    run(async {
        let address = store.addresses[0];
        let stream = TcpStream::connect(address).await.unwrap();
        let refused = Client::new(stream).greet(&hello("a", 4)).await;
        assert!(matches!(refused, Heard::Refused(of) if of.reason == Reason::Fenced));
        let stream = TcpStream::connect(address).await.unwrap();
        let (mut client, welcome) = Client::open(stream, &hello("a", 5)).await;
        assert_eq!(welcome.store_id, first.store_id);
        assert_ne!(
            welcome.incarnation, first.incarnation,
            "some pages are gone"
        );
        let listed = client.list(4096).await;
        assert!(listed.len() >= 500, "{} pages came back", listed.len());
        for (index, generation) in listed {
            assert!(index >= 200, "page {index} was flushed");
            let got = client.get(&[index]).await;
            assert_eq!(got, [Ok((generation, page(index.into())))]);
        }
        assert_eq!(client.put(&[(0, 9, &page(0))]).await, [Status::Ok]);
    });
}

#[test]
fn state_folder_has_one_store_of_one_size() {
    let dir = memory();
    let arguments = [
        "--listen",
        LOCAL,
        "--state-dir",
        text(dir.path()),
        "--capacity",
    ];
    let store = Process::start(&[&arguments[..], &["1MiB"]].concat());
    let fails = |capacity: &str, code: i32, told: &str| {
        let output = Command::new(PROGRAM)
            .arg("serve")
            .args(arguments)
            .arg(capacity)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(code));
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(text.contains(told), "{text}");
    };
    fails("1MiB", 1, "another program has it");
    store.kill();
    fails("2MiB", 1, "made for 256 frames");
    fails("8000TiB", 2, "capacity");
}
