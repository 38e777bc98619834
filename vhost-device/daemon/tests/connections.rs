// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! VMMs that come and go, as seen from the daemon's socket.
#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests, outside test functions"
)]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use vhost_device_tmem::{Config, Daemon};

fn start(folder: &Path) -> Daemon {
    let toml = format!(
        "[daemon]\ndram = \"4MiB\"\nadmin_socket = {:?}\n\
         [[guest]]\nname = \"vm0\"\nsocket = {:?}\ngrant = \"1MiB\"\n\
         [[guest]]\nname = \"vm1\"\nsocket = {:?}\ngrant = \"1MiB\"\nqueue_pairs = 1\n",
        folder.join("admin.sock"),
        folder.join("vm0.sock"),
        folder.join("vm1.sock"),
    );
    Daemon::start(&Config::from_toml(&toml).unwrap()).unwrap()
}

/// GET_FEATURES, the first thing that any front-end asks.
const GET_FEATURES: [u8; 12] = [1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];

fn features(stream: &mut UnixStream) -> u64 {
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    stream.write_all(&GET_FEATURES).unwrap();
    let mut reply = [0; 20];
    stream.read_exact(&mut reply).unwrap();
    u64::from_le_bytes(reply[12..].try_into().unwrap())
}

/// Waits until `done`, for a minute at most.
#[track_caller]
fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

#[test]
fn vmms_come_and_go_and_leave_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = start(folder.path());
    let path = folder.path().join("vm0.sock");
    let source = daemon.source();
    let idle = || !source.guest("vm0").unwrap().connected;

    drop(UnixStream::connect(&path).unwrap());
    eventually("the first VMM is gone", || {
        idle() && source.stats("vm0").unwrap().connections == 1
    });
    let bytes: [&[u8]; 4] = [&[], &GET_FEATURES[..5], &GET_FEATURES, &[0xff; 64]];
    let (mut files, mut tasks) = (0, 0);
    for round in 0..60u64 {
        let mut stream = UnixStream::connect(&path).unwrap();
        // The daemon may hang up before all of the nonsense is written.
        let _ = stream.write_all(bytes[usize::try_from(round).unwrap() % bytes.len()]);
        drop(stream);
        eventually("the VMM is gone", || {
            idle() && source.stats("vm0").unwrap().connections == round + 2
        });
        if round == 3 {
            eventually("the threads have ended", || {
                (files, tasks) = (open_files(), threads());
                std::thread::sleep(Duration::from_millis(50));
                (files, tasks) == (open_files(), threads())
            });
        }
    }
    eventually("files and threads are as many as before", || {
        open_files() <= files && threads() <= tasks
    });
    assert_eq!(
        features(&mut UnixStream::connect(&path).unwrap()) >> 32 & 1,
        1,
        "VERSION_1"
    );
}

#[test]
fn a_second_vmm_waits_until_the_first_has_gone() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = start(folder.path());
    let path = folder.path().join("vm0.sock");
    let mut first = UnixStream::connect(&path).unwrap();
    let offered = features(&mut first);
    let mut second = UnixStream::connect(&path).unwrap();
    second.write_all(&GET_FEATURES).unwrap();
    // The other guest does not wait for either.
    assert_eq!(
        features(&mut UnixStream::connect(folder.path().join("vm1.sock")).unwrap()),
        offered
    );
    assert_eq!(daemon.source().stats("vm0").unwrap().connections, 1);
    drop(first);
    second
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    let mut reply = [0; 20];
    second.read_exact(&mut reply).unwrap();
    assert_eq!(reply[12..], offered.to_le_bytes());
}

#[test]
fn the_end_hangs_up_and_removes_the_sockets() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = start(folder.path());
    let mut vmm = UnixStream::connect(folder.path().join("vm0.sock")).unwrap();
    features(&mut vmm);
    daemon.stop();
    assert_eq!(vmm.read(&mut [0; 1]).unwrap(), 0, "hung up");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_daemon_that_cannot_start_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("vm1.sock"), "not a socket").unwrap();
    let toml = format!(
        "[daemon]\ndram = \"4MiB\"\n\
         [[guest]]\nname = \"vm0\"\nsocket = {:?}\ngrant = \"1MiB\"\n\
         [[guest]]\nname = \"vm1\"\nsocket = {:?}\ngrant = \"1MiB\"\n",
        folder.path().join("vm0.sock"),
        folder.path().join("vm1.sock"),
    );
    let Err(error) = Daemon::start(&Config::from_toml(&toml).unwrap()) else {
        panic!("it started");
    };
    assert!(error.to_string().contains("vm1"), "{error}");
    assert!(!folder.path().join("vm0.sock").exists());
}
