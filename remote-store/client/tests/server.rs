// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The client as the engine calls it, from plain threads, against the real server over Unix sockets.

#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::path::PathBuf;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use remote_store::{Identity, Peer, Store, StoreConfig, serve_connection};
use rustix::fs::{MemfdFlags, memfd_create};
use tmem_pages::slots::{SlotHeader, SlotMemory};
use tmem_pages::{ObjectId, PageBytes, PageIndex, SlotStore, Ticket};
use tmem_remote_client::connect::{Network, NetworkConfig};
use tmem_remote_client::control::{Command, Kind, MemberSpec};
use tmem_remote_client::driver::{Ended, Handle};
use tmem_remote_client::{Settings, open};
use tmem_remote_protocol::checksum;
use tokio::net::UnixListener;
use tokio::sync::oneshot;
use tokio::task::LocalSet;

const PAGES: u32 = 300;

/// A server in a thread, until it is told to end.
struct Server {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start(path: PathBuf) -> Self {
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(LocalSet::new().run_until(async move {
                let config = StoreConfig::new(4096, Identity::random().unwrap());
                let (store, _) = Store::open(config).unwrap();
                let shard = store.shard().unwrap();
                let listener = UnixListener::bind(path).unwrap();
                ready.send(()).unwrap();
                let serve = async {
                    loop {
                        let (stream, _) = listener.accept().await.unwrap();
                        let peer = Peer::trusted("a test");
                        tokio::task::spawn_local(serve_connection(stream, peer, shard.clone()));
                    }
                };
                tokio::select! {
                    biased;
                    _ = stopped => {}
                    () = serve => {}
                }
            }));
        });
        is_ready.recv().unwrap();
        Self {
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// Ends it, with all connections.
    fn kill(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
        self.thread.take().unwrap().join().unwrap();
    }
}

fn page(slot: u32, version: u32) -> PageBytes {
    let mut page = [0; 4096];
    for (word, at) in page.as_chunks_mut::<8>().0.iter_mut().zip(1_u64..) {
        *word =
            (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(slot) << 20 ^ u64::from(version))
                .to_le_bytes();
    }
    page
}

fn header(slot: u32, page: &PageBytes) -> SlotHeader {
    SlotHeader {
        pool_slot: 0,
        pool_serial: 0,
        object: ObjectId::ZERO,
        index: PageIndex(slot),
        ticket: Ticket::new(1).unwrap(),
        checksum: checksum(page),
        flags: 0,
    }
}

fn write(store: &dyn SlotStore, slots: std::ops::Range<u32>, version: u32) {
    let pages: Vec<_> = slots.map(|slot| (slot, page(slot, version))).collect();
    let headers: Vec<_> = pages
        .iter()
        .map(|(slot, page)| header(*slot, page))
        .collect();
    let batch: Vec<_> = (pages.iter().zip(&headers))
        .map(|((slot, page), header)| (*slot, header, page))
        .collect();
    store.write(&batch).unwrap();
}

fn must_read(store: &dyn SlotStore, slot: u32, version: u32) {
    let (expected, mut got) = (page(slot, version), [0; 4096]);
    store.read(slot, checksum(&expected), &mut got).unwrap();
    assert!(got == expected, "slot {slot} is not version {version}");
}

fn wait_for(
    what: &str,
    handle: &Handle,
    done: impl Fn(&tmem_remote_client::driver::Status) -> bool,
) {
    let begun = Instant::now();
    while !done(&handle.status()) {
        assert!(begun.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn engines_threads_keep_pages_on_real_servers_and_lose_none_with_one_of_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = |number: u8| folder.path().join(format!("s{number}"));
    let mut servers: Vec<Server> = (0..3).map(|number| Server::start(path(number))).collect();
    let memory = memfd_create("table", MemfdFlags::CLOEXEC).unwrap();
    let settings = Settings {
        namespace: "host7".into(),
        slots: PAGES,
        replicas: 2,
        poll: Duration::from_micros(50),
        seed: 1,
        ..Settings::default()
    };
    let network = Network::new(&NetworkConfig::default()).unwrap();
    let (slots, _) = SlotMemory::open(memory).unwrap();
    let (store, driver) = open(settings, network, slots, None).unwrap();
    let handle = driver.handle();
    let (started, has_started) = mpsc::channel();
    let driver = driver.spawn(move || started.send(()).unwrap()).unwrap();
    has_started.recv().unwrap();
    for number in 0..3 {
        let spec = MemberSpec {
            name: format!("s{number}"),
            address: format!("unix:{}", path(number).display()),
            kind: Kind::Remote,
            domain: None,
            weight_percent: 100,
        };
        handle.command_blocking(Command::Add(spec)).unwrap();
    }
    wait_for("all stores are up", &handle, |status| {
        status
            .stores
            .iter()
            .filter(|s| s.member.state.to_string() == "up")
            .count()
            == 3
    });
    // Two of the engine's threads, each with connections of its own.
    std::thread::scope(|scope| {
        for half in [0..PAGES / 2, PAGES / 2..PAGES] {
            let store = store.as_ref();
            scope.spawn(move || {
                for version in 1..4 {
                    for first in half.clone().step_by(30) {
                        write(store, first..first + 30, version);
                    }
                    let sums: Vec<_> = (half.clone())
                        .map(|slot| (slot, checksum(&page(slot, version))))
                        .collect();
                    for part in sums.chunks(25) {
                        store.will_read(part);
                        part.iter()
                            .for_each(|(slot, _)| must_read(store, *slot, version));
                    }
                }
            });
        }
    });
    assert!(store.metrics().total.prefetched > 0);
    servers[1].kill();
    for slot in 0..PAGES {
        must_read(store.as_ref(), slot, 3);
    }
    write(store.as_ref(), 0..50, 4);
    wait_for("every page has two copies again", &handle, |status| {
        status
            .store("s1")
            .is_some_and(|s| s.member.state.to_string() == "dead")
            && status.control.below_pages == 0
            && status.control.in_flight == 0
            && status.control.progress.is_none()
            && status.control.totals.copied_pages > 0
    });
    servers[0].kill();
    for slot in 0..PAGES {
        must_read(store.as_ref(), slot, if slot < 50 { 4 } else { 3 });
    }
    store.invalidate(&(0..PAGES).collect::<Vec<_>>()).unwrap();
    let mut got = [0; 4096];
    assert!(store.read(7, 0, &mut got).is_err());
    handle.stop();
    assert_eq!(driver.join().unwrap().unwrap(), Ended::Stopped);
}
