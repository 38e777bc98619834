// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Workers that are replaced on purpose, or cannot be: upgrades, roll-backs, crash loops, and the
//! keeper's own end under a service manager.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process};
use tmem_admin_api::{
    DaemonDetail, DaemonState, DaemonStatus, OperationState, OperationStatus, path,
};
use tmem_frontend::{Options, WAIT};

use crate::guest::Guest;
use crate::host::{Host, Settings};
use crate::manager::Manager;

/// Pages that every test leaves behind and finds again.
const TAGS: [u64; 4] = [11, 12, 13, 14];
/// More guests than a socket has room for at once, and few enough for the usual limits on open files.
const MANY: usize = 150;

/// One exchange with the admin API; nothing if the worker that should answer is killed meanwhile.
pub(crate) fn ask(host: &Host, method: &str, path: &str, body: &str) -> Option<String> {
    let mut stream = UnixStream::connect(host.admin()).unwrap();
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: tmem\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    assert!(head.starts_with("HTTP/1.1 20"), "{method} {path}: {answer}");
    Some(body.to_owned())
}

fn status(host: &Host) -> DaemonStatus {
    let start = Instant::now();
    loop {
        let detail = ask(host, "GET", path::DAEMON, "");
        if let Some(detail) = detail {
            let detail: DaemonDetail = serde_json::from_str(&detail).unwrap();
            return detail.daemon;
        }
        assert!(start.elapsed() < WAIT, "the admin API does not answer");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until `done` with what the daemon says of itself.
fn wait_for(host: &Host, what: &str, done: impl Fn(&DaemonStatus) -> bool) -> DaemonStatus {
    let start = Instant::now();
    loop {
        let status = status(host);
        if done(&status) {
            return status;
        }
        assert!(
            start.elapsed() < WAIT,
            "{what} does not come: {status:?}\n{}",
            host.log()
        );
        thread::sleep(Duration::from_millis(5));
    }
}

/// Asks for an operation and waits for its end.
fn operate(host: &Host, path: &str, body: &str) -> OperationStatus {
    let before = status(host).operation.map_or(0, |last| last.id);
    // Whether the answer comes before the worker is killed is anybody's guess.
    let _ = ask(host, "POST", path, body);
    let over = |status: &DaemonStatus| {
        let operation = status.operation.as_ref();
        operation.is_some_and(|operation| operation.id > before && operation.state.is_final())
    };
    wait_for(host, "the operation's end", over)
        .operation
        .unwrap()
}

fn upgrade_to(host: &Host, binary: &Path) -> OperationStatus {
    operate(host, path::UPGRADE, &format!(r#"{{"binary":{binary:?}}}"#))
}

/// A daemon that trusts programs in `programs` of its folder, with a guest that has left [`TAGS`].
fn host_with_guest(daemon: &str) -> (Host, Guest) {
    let programs = tempfile::tempdir().unwrap().keep();
    let host = Host::start(&Settings {
        guests: 2,
        daemon: format!("upgrade_dirs = [{programs:?}]\n{daemon}"),
        programs: Some(programs),
        ..Settings::default()
    });
    let mut guest = Guest::join(&host.socket(0), Options::default());
    guest.put_ok(0, &TAGS);
    (host, guest)
}

/// Copies `program` to where the daemon trusts it, as `name`.
fn install(host: &Host, program: &Path, name: &str) -> std::path::PathBuf {
    let path = host.programs().join(name);
    fs::copy(program, &path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[test]
fn twenty_upgrades_in_a_row_lose_nothing() {
    let (host, mut guest) = host_with_guest("");
    let other = install(&host, crate::host::binary(), "other");
    let mut pauses = Vec::new();
    for round in 0..20 {
        let operation = if round % 2 == 0 {
            upgrade_to(&host, &other)
        } else {
            operate(&host, path::UPGRADE, "")
        };
        assert_eq!(operation.state, OperationState::Done, "{operation:?}");
        pauses.push(operation.pause_ms.unwrap());
        guest.assert_pages(0, &TAGS);
        guest.put_ok(100 + round, &[u64::from(round)]);
    }
    for round in 0..20 {
        guest.assert_pages(100 + round, &[u64::from(round)]);
    }
    pauses.sort_unstable();
    println!("pauses of 20 upgrades in ms: {pauses:?}");
    assert_eq!(status(&host).upgrades, 20);
}

#[test]
fn a_program_that_cannot_go_on_is_not_started_in_place_of_the_worker() {
    let (host, mut guest) = host_with_guest("");
    let worker = host.worker();
    let fake = Path::new(env!("CARGO_BIN_EXE_fake-worker"));
    for (name, reason) in [
        ("refuses", "the map is of version 77"),
        ("stranger", "speaks version 2 of the channel"),
    ] {
        let operation = upgrade_to(&host, &install(&host, fake, name));
        assert_eq!(operation.state, OperationState::Failed);
        let said = operation.reason.unwrap();
        assert!(said.contains(reason), "{name}: {said}");
    }
    let outside = upgrade_to(&host, Path::new("/bin/true"));
    assert_eq!(outside.state, OperationState::Failed);
    let nothing = upgrade_to(&host, &host.programs().join("nothing"));
    assert_eq!(nothing.state, OperationState::Failed);
    let shared = install(&host, fake, "dies");
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o777)).unwrap();
    let shared = upgrade_to(&host, &shared);
    assert_eq!(
        shared.state,
        OperationState::Failed,
        "anybody could have written it"
    );
    assert_eq!(host.worker(), worker, "the worker has not noticed");
    guest.assert_pages(0, &TAGS);
}

#[test]
fn a_program_that_takes_over_and_cannot_serve_is_rolled_back() {
    let (host, mut guest) = host_with_guest("");
    let fake = Path::new(env!("CARGO_BIN_EXE_fake-worker"));
    for (name, reason) in [
        ("dies", "ended: exit code 1"),
        ("hangs", "did not serve within"),
    ] {
        let operation = upgrade_to(&host, &install(&host, fake, name));
        assert_eq!(operation.state, OperationState::RolledBack, "{operation:?}");
        let said = operation.reason.unwrap();
        assert!(said.contains(reason), "{name}: {said}");
        println!("{name}: guests waited {:?} ms", operation.pause_ms);
        guest.assert_pages(0, &TAGS);
    }
    let status = status(&host);
    assert_eq!((status.state, status.upgrades), (DaemonState::Running, 0));
}

#[test]
fn a_crash_loop_ends_and_an_admin_ends_that() {
    let (host, mut guest) = host_with_guest("crash_limit = 4");
    let mut last = None;
    let start = Instant::now();
    let failed = loop {
        let worker = host.worker().filter(|worker| Some(*worker) != last);
        if let Some(worker) = worker {
            kill_process(worker, Signal::KILL).unwrap();
            last = Some(worker);
        }
        if host.log().contains("nothing is served until") {
            break wait_for(&host, "the end of the loop", |status| {
                status.state == DaemonState::Failed
            });
        }
        assert!(
            start.elapsed() < WAIT,
            "the loop does not end:\n{}",
            host.log()
        );
        thread::sleep(Duration::from_millis(1));
    };
    assert!(
        failed
            .failure
            .unwrap()
            .starts_with("4 workers ended in a row")
    );
    // The front-end is still answered: a VMM may pause or reset its guest.
    let mut config = [0; 64];
    guest
        .driver
        .connection()
        .get_config(0, &mut config)
        .unwrap();
    assert_eq!(&config[..4], b"TMEM");
    // A VMM that comes now is turned away, and does not wait for ever.
    let mut other = UnixStream::connect(host.socket(1)).unwrap();
    assert_eq!(other.read(&mut [0]).unwrap_or(0), 0);
    let operation = operate(&host, path::RESTART, "");
    assert_eq!(operation.state, OperationState::Done);
    guest.assert_pages(0, &TAGS);
    assert_eq!(status(&host).state, DaemonState::Running);
}

/// Asks a daemon for its features, as the first thing that a VMM does, and waits for the answer.
fn ask_features(vmm: &mut UnixStream) {
    let question = [1_u32, 1, 0].map(u32::to_ne_bytes).concat();
    vmm.write_all(&question).unwrap();
    let mut answer = [0; 20];
    vmm.read_exact(&mut answer).unwrap();
    assert_eq!(answer[..4], 1_u32.to_ne_bytes());
}

#[test]
fn many_connections_follow_to_the_next_worker() {
    let host = Host::start(&Settings {
        guests: MANY,
        grant_pages: 16,
        queue_pairs: 1,
        ..Settings::default()
    });
    let connect = |guest| UnixStream::connect(host.socket(guest)).unwrap();
    let mut vmms: Vec<_> = (0..MANY).map(connect).collect();
    vmms.iter_mut().for_each(ask_features);
    let before = host.worker();
    for _ in 0..3 {
        kill_process(host.worker().unwrap(), Signal::KILL).unwrap();
        vmms.iter_mut().for_each(ask_features);
    }
    assert_ne!(host.worker(), before);
    let running = |status: &DaemonStatus| status.state == DaemonState::Running;
    wait_for(&host, "the end of the recovery", running);
}

#[test]
fn a_keeper_that_dies_is_followed_by_one_that_has_its_descriptors() {
    let manager = Manager::new();
    let mut host = Host::start(&Settings {
        manager: Some(manager.socket().to_owned()),
        ..Settings::default()
    });
    let mut guest = Guest::join(&host.socket(0), Options::default());
    guest.put_ok(0, &TAGS);
    for round in 0..5 {
        host.replace_keeper(round % 2 == 1, &manager);
        guest.assert_pages(0, &TAGS);
        guest.put_ok(50 + round, &[u64::from(round)]);
        // Control messages go on as well.
        let mut config = [0; 8];
        guest
            .driver
            .connection()
            .get_config(0, &mut config)
            .unwrap();
        assert_eq!(&config[..4], b"TMEM");
    }
    for round in 0..5 {
        guest.assert_pages(50 + round, &[u64::from(round)]);
    }
    // The next VMM finds its socket.
    drop(guest);
    let mut guest = Guest::join(&host.socket(0), Options::default());
    guest.assert_pages(0, &TAGS);
    let kept = manager.kept();
    let of = |prefix| {
        kept.iter()
            .filter(|(name, _)| name.starts_with(prefix))
            .count()
    };
    assert_eq!(of("state"), 1, "{kept:?}");
    assert_eq!(of("listen."), 1, "{kept:?}");
}
