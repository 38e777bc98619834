// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The remote tier on real stores: three processes of the store's own program, most of the guest's pages
//! on two of them each, and stores and workers that die meanwhile.
//!
//! The store's program is `TMEM_REMOTE_STORE`, or built by cargo.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::Permissions;
use std::io::{BufRead, BufReader, Read, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process};
use serde_json::Value;
use tmem_abi::result;
use tmem_admin_api::{
    HitTier, Stats, Status, Store, StoreDetail, StoreList, StoreOrigin, StoreState, TaskDetail,
    TaskState, TierKind, TierList, path,
};
use tmem_frontend::{Random, WAIT, seed};

use crate::guest::Guest;
use crate::host::{Host, Settings, program};
use crate::oracle::{GRANT, Oracle, rings};
use crate::tiers::{asked, await_task};

/// Pages of DRAM.
const DRAM: u64 = 32;
/// Pages that a test puts.
const PAGES: u32 = 400;

/// A store's process. Dropping it kills it.
struct StoreProcess {
    child: Child,
    address: String,
}

impl StoreProcess {
    /// On a socket's file or a port of this host; port 0 is any.
    fn start(listen: &str) -> Self {
        static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
        let program = PROGRAM.get_or_init(|| program("remote-store", "TMEM_REMOTE_STORE"));
        let mut child = Command::new(program)
            .args(["serve", "--listen", listen, "--capacity", "64MiB"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut address = None;
        for line in lines.by_ref() {
            let line = line.unwrap();
            match line.strip_prefix("listening ") {
                Some(url) => address = Some(url.trim_start_matches("tcp://").to_owned()),
                None if line == "ready" => break,
                None => {}
            }
        }
        let address = address.expect("the store says where it listens");
        Self { child, address }
    }

    fn anywhere() -> Self {
        Self::start("tcp://127.0.0.1:0")
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Another one, empty, in its place.
    fn again(&mut self) {
        self.kill();
        *self = Self::start(&format!("tcp://{}", self.address));
    }
}

impl Drop for StoreProcess {
    fn drop(&mut self) {
        // It may have been killed before.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The table of a remote tier on these stores, which are named `a`, `b` and so on.
fn tables(stores: &[&str], more: &str) -> String {
    let mut toml = format!(
        "[remote]\nkind = \"stores\"\nsize = \"4MiB\"\nreplicas = 2\nadvert_ms = 50\n\
         namespace = \"device-tests\"\n{more}\n"
    );
    for (address, label) in stores.iter().zip(["a", "b", "c", "d"]) {
        let store = format!("[[remote.store]]\naddress = {address:?}\nlabel = {label:?}\n");
        write!(toml, "{store}").unwrap();
    }
    toml
}

fn settings(stores: &[StoreProcess], more: &str) -> Settings {
    let addresses: Vec<&str> = stores.iter().map(|store| &*store.address).collect();
    Settings {
        grant_pages: 512,
        dram_kib: Some(DRAM * 4),
        daemon: format!("crash_limit = {}", u32::MAX),
        tables: tables(&addresses, more),
        ..Settings::default()
    }
}

fn three() -> Vec<StoreProcess> {
    (0..3).map(|_| StoreProcess::anywhere()).collect()
}

fn fill(guest: &mut Guest, from: u32) {
    for first in (0..PAGES).step_by(50) {
        let tags: Vec<u64> = (first..first + 50)
            .map(|tag| u64::from(from + tag))
            .collect();
        guest.put_ok(first, &tags);
    }
}

fn check(guest: &mut Guest, from: u32) {
    for first in (0..PAGES).step_by(50) {
        let tags: Vec<u64> = (first..first + 50)
            .map(|tag| u64::from(from + tag))
            .collect();
        guest.assert_pages(first, &tags);
    }
}

fn list(host: &Host) -> StoreList {
    asked(host, "GET", path::STORES, "")
}

/// Waits until the stores are as `wanted`.
fn until(host: &Host, what: &str, wanted: impl Fn(&StoreList) -> bool) -> StoreList {
    let start = Instant::now();
    loop {
        let list = list(host);
        if wanted(&list) {
            return list;
        }
        assert!(
            start.elapsed() < WAIT,
            "{what} does not happen: {list:#?}\n{}",
            host.log()
        );
        thread::sleep(Duration::from_millis(10));
    }
}

/// Every page has its copies, and this many stores do their work.
fn whole(list: &StoreList, up: usize) -> bool {
    let well = |store: &&Store| store.state == StoreState::Up;
    list.replication.below_pages == 0
        && list.replication.lost_pages == 0
        && list.stores.iter().filter(well).count() == up
}

#[test]
fn pages_come_back_whole_from_stores() {
    let stores = three();
    let host = Host::start(&settings(&stores, ""));
    let mut guest = Guest::join(&host.socket(0), rings());
    fill(&mut guest, 0);
    check(&mut guest, 0);
    let stats: Stats = asked(&host, "GET", path::STATS, "");
    let remote = stats.guests[0].hits.get(&HitTier::Remote).copied();
    assert!(
        remote > Some(u64::from(PAGES) / 2),
        "{:?}",
        stats.guests[0].hits
    );
    let list = until(&host, "three stores with all copies", |list| whole(list, 3));
    let copies: u64 = list.stores.iter().map(|store| store.copies).sum();
    assert_eq!(copies, 2 * list.replication.pages, "{list:?}");
    assert!(
        list.replication.pages >= u64::from(PAGES) - DRAM,
        "{list:?}"
    );
    assert!(
        list.stores
            .iter()
            .all(|store| store.writes > 0 && store.errors == 0),
        "{list:?}"
    );
    let tiers: TierList = asked(&host, "GET", path::TIERS, "");
    assert_eq!(tiers.tiers[1].kind, TierKind::Stores);
    let status: Status = asked(&host, "GET", path::STATUS, "");
    assert_eq!(status.reasons, Vec::<String>::new());
    // What is flushed is gone from the stores too.
    assert_eq!(guest.flush(0, PAGES), PAGES);
    until(&host, "empty stores", |list| {
        list.replication.pages == 0 && list.stores.iter().all(|store| store.used_pages == 0)
    });
}

#[test]
fn a_worker_that_is_killed_finds_the_pages_on_the_stores_again() {
    let stores = three();
    let host = Host::start(&Settings {
        grant_pages: GRANT,
        ..settings(&stores, "")
    });
    let mut guest = Guest::join(&host.socket(0), rings());
    let name = "a_worker_that_is_killed_finds_the_pages_on_the_stores_again";
    let mut oracle = Oracle::new(Random::new(seed(name)));
    let mut killed = BTreeSet::new();
    while killed.len() < 12 {
        (0..150).for_each(|_| oracle.step(&mut guest));
        let Some(worker) = host.worker() else {
            continue;
        };
        kill_process(worker, Signal::KILL).unwrap();
        killed.insert(worker.as_raw_nonzero());
        (0..50).for_each(|_| oracle.step(&mut guest));
        oracle.drain(&mut guest);
        oracle.check_everything(&mut guest);
    }
    until(&host, "three stores with all copies", |list| whole(list, 3));
}

#[test]
fn a_store_that_is_killed_loses_no_page_and_is_made_up_for() {
    let mut stores = three();
    let host = Host::start(&Settings {
        grant_pages: GRANT,
        ..settings(&stores, "")
    });
    let mut guest = Guest::join(&host.socket(0), rings());
    let name = "a_store_that_is_killed_loses_no_page_and_is_made_up_for";
    let mut oracle = Oracle::new(Random::new(seed(name)));
    for (round, store) in stores.iter_mut().enumerate() {
        // Pages that leave together go to the same stores: this one may have to wait for its turn.
        let before = loop {
            (0..400).for_each(|_| oracle.step(&mut guest));
            let list = until(&host, "three stores with all copies", |list| whole(list, 3));
            if list.stores[round].copies > 0 {
                break list;
            }
        };
        store.kill();
        (0..400).for_each(|_| oracle.step(&mut guest));
        oracle.drain(&mut guest);
        oracle.check_everything(&mut guest);
        until(&host, "repair", |list| whole(list, 2));
        let status: Status = asked(&host, "GET", path::STATUS, "");
        let name = &before.stores[round].name;
        let dead = format!("store {name}");
        assert!(
            status
                .reasons
                .iter()
                .any(|reason| reason.starts_with(&dead)),
            "{:?}",
            status.reasons
        );
        store.again();
        oracle.check_everything(&mut guest);
    }
    until(&host, "three stores with all copies", |list| whole(list, 3));
}

#[test]
fn stores_come_and_go_while_a_guest_works() {
    let stores = three();
    let fourth = StoreProcess::anywhere();
    let port = fourth.address.rsplit(':').next().unwrap().to_owned();
    let host = Host::start(&Settings {
        grant_pages: GRANT,
        ..settings(&stores, &format!("ports = [{port}]"))
    });
    let mut guest = Guest::join(&host.socket(0), rings());
    let name = "stores_come_and_go_while_a_guest_works";
    let mut oracle = Oracle::new(Random::new(seed(name)));
    (0..500).for_each(|_| oracle.step(&mut guest));
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let task = |path: &str| {
                let begun: TaskDetail = asked(&host, "POST", path, "");
                let ended = await_task(&host, begun.task);
                assert_eq!(ended.state, TaskState::Done, "{path}: {ended:?}");
            };
            let add = format!(r#"{{"address": {:?}, "label": "d"}}"#, fourth.address);
            let added: StoreDetail = asked(&host, "POST", path::STORES, &add);
            assert_eq!(added.store.origin, StoreOrigin::Admin);
            until(&host, "four stores", |list| whole(list, 4));
            task("/v1/stores/a/drain");
            let drained: StoreDetail = asked(&host, "GET", "/v1/stores/a", "");
            assert_eq!(
                (drained.store.state, drained.store.copies),
                (StoreState::Drained, 0)
            );
            let _: Value = asked(&host, "POST", "/v1/stores/a/remove", "");
            task("/v1/stores/repair");
            // What was changed outlives the worker.
            kill_process(host.worker().unwrap(), Signal::KILL).unwrap();
            let list = until(&host, "the next worker", |list| whole(list, 3));
            let names: Vec<_> = list.stores.iter().map(|store| &*store.name).collect();
            assert!(names.contains(&"d") && !names.contains(&"a"), "{names:?}");
            task("/v1/stores/d/drain");
            let _: Value = asked(&host, "POST", "/v1/stores/d/undrain", "");
            until(&host, "three stores", |list| whole(list, 3));
            over.store(true, Ordering::Release);
        });
        while !over.load(Ordering::Acquire) {
            (0..100).for_each(|_| oracle.step(&mut guest));
        }
    });
    oracle.drain(&mut guest);
    oracle.check_everything(&mut guest);
}

#[test]
fn with_one_copy_a_killed_store_loses_pages_and_says_so() {
    let mut stores = three();
    stores.truncate(1);
    let host = Host::start(&settings(&stores, "").with_one_copy());
    let mut guest = Guest::join(&host.socket(0), rings());
    fill(&mut guest, 0);
    check(&mut guest, 0);
    stores[0].again();
    let list = until(&host, "the loss", |list| list.replication.lost_pages > 0);
    let status: Status = asked(&host, "GET", path::STATUS, "");
    assert!(
        status.reasons.iter().any(|reason| reason.contains("lost")),
        "{:?}: {list:?}",
        status.reasons
    );
    let mut lost = 0;
    for index in 0..PAGES {
        match guest.get(crate::guest::POOL, index, 1)[..] {
            [result::OK] => {
                let wanted = tmem_frontend::page_content(u64::from(index));
                assert!(guest.delivered(0) == wanted, "page {index}");
            }
            [result::CORRUPT | result::IO_ERROR] => lost += 1,
            ref other => panic!("get of page {index}: {other:?}"),
        }
    }
    assert!(lost > 0, "no loss was told to the guest");
    // The tier is of use again.
    fill(&mut guest, 1000);
    check(&mut guest, 1000);
}

impl Settings {
    fn with_one_copy(self) -> Self {
        let tables = self.tables.replace("replicas = 2", "replicas = 1");
        Self { tables, ..self }
    }
}

#[test]
fn a_store_is_reached_over_a_socket_s_file() {
    let folder = tempfile::tempdir().unwrap();
    let open = || Permissions::from_mode(0o777);
    std::fs::set_permissions(folder.path(), open()).unwrap();
    let socket = |name: &str| format!("unix:{}", folder.path().join(name).display());
    let addresses = ["one", "two"].map(socket);
    let _stores = addresses
        .clone()
        .map(|address| StoreProcess::start(&address));
    for name in ["one", "two"] {
        std::fs::set_permissions(folder.path().join(name), open()).unwrap();
    }
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let host = Host::start(&Settings {
        grant_pages: 512,
        dram_kib: Some(DRAM * 4),
        tables: tables(&addresses, ""),
        ..Settings::default()
    });
    let mut guest = Guest::join(&host.socket(0), rings());
    fill(&mut guest, 0);
    check(&mut guest, 0);
    until(&host, "two stores with all copies", |list| whole(list, 2));
}

#[test]
fn a_store_beyond_the_fence_is_refused_with_what_to_do() {
    let stores = three();
    let host = Host::start(&settings(&stores, ""));
    // Nobody listens there.
    let other = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let other = other.local_addr().unwrap();
    let refused = |body: &str| {
        let answer = refusal(&host, path::STORES, body);
        (
            answer["code"].as_str().unwrap().to_owned(),
            answer["message"].as_str().unwrap().to_owned(),
        )
    };
    let (code, message) = refused(&format!(r#"{{"address": "{other}"}}"#));
    assert_eq!(code, "refused");
    assert!(message.contains("`ports`"), "{message}");
    let (code, message) = refused(r#"{"address": "store.example:7440"}"#);
    assert_eq!(code, "bad_text");
    assert!(message.contains("look"), "{message}");
    let (code, _) = refused(r#"{"address": "what"}"#);
    assert_eq!(code, "bad_text");
    let gone = refusal(&host, "/v1/stores/nobody/drain", "");
    assert_eq!(gone["code"], "no_such_store");
}

/// The answer to a POST that is refused.
fn refusal(host: &Host, path: &str, body: &str) -> Value {
    let mut stream = UnixStream::connect(host.admin()).unwrap();
    let length = body.len();
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: tmem\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 4"), "{answer}");
    serde_json::from_str(body).unwrap()
}

#[test]
fn a_configuration_without_its_certificates_ends_the_start_with_their_name() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let toml = format!(
        "[daemon]\ndram = \"1MiB\"\n[remote]\nkind = \"stores\"\nsize = \"1MiB\"\nreplicas = 1\n\
         [remote.tls]\nca = {:?}\ncert = {:?}\nkey = {:?}\n\
         [[remote.store]]\naddress = \"10.0.0.1:7440\"\n\
         [[guest]]\nname = \"vm0\"\nsocket = {:?}\ngrant = \"1MiB\"\n",
        at("ca.pem"),
        at("client.pem"),
        at("client.key"),
        at("vm0.sock"),
    );
    let said = start_that_fails(&at("daemon.toml"), &toml);
    assert!(said.contains("ca.pem"), "{said}");
    for name in ["ca.pem", "client.pem", "client.key"] {
        std::fs::write(at(name), "not a certificate").unwrap();
    }
    let said = start_that_fails(&at("daemon.toml"), &toml);
    assert!(said.contains("TLS"), "{said}");
}

/// What the daemon says when it does not start with this configuration.
fn start_that_fails(path: &Path, toml: &str) -> String {
    std::fs::write(path, toml).unwrap();
    let mut command = Command::new(crate::host::binary());
    let output = command.arg("--config").arg(path).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    said
}
