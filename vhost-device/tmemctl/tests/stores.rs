// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `tmemctl store`, against the daemon's real server, in process, over a made-up daemon.
//!
//! `TMEM_BLESS=1` writes the files in `golden/` anew, as for the other verbs.

// Helpers of tests may unwrap as tests do.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Parser;
use serde_json::Value;
use tmemctl::args::Cli;
use tmemctl::{Terminal, exit};
use vhost_device_tmem::admin::{Access, Limits, Server, bind};
use vhost_device_tmem::sandbox::Mode;
use vhost_device_tmem::{
    AdminSource, BalloonAdmin, RequestError, StoreAdmin, TierAdmin, TierError,
};

#[path = "../../daemon/src/admin/tests/fake.rs"]
mod fake;

use fake::FakeSource;

struct Daemon {
    socket: PathBuf,
    _server: Server,
    _dir: tempfile::TempDir,
}

impl Daemon {
    fn start(source: FakeSource) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("admin.sock");
        let listener = bind(&socket, None).unwrap();
        let (access, limits) = (Access::new(None), Limits::default());
        let server = Server::start(listener, access, limits, Mode::None, Arc::new(source));
        Self {
            socket,
            _server: server.unwrap(),
            _dir: dir,
        }
    }

    /// Exit code, stdout, stderr.
    fn run(&self, line: &str) -> (u8, String, String) {
        let socket = ["tmemctl", "--socket", self.socket.to_str().unwrap()];
        let words = line.split_whitespace();
        let cli = Cli::try_parse_from(socket.into_iter().chain(words)).unwrap();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = tmemctl::run(&cli, &mut out, &mut err, Terminal::default());
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (code, text(out), text(err))
    }
}

/// Compares with `golden/{name}`, or writes it.
fn golden(name: &str, text: &str) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = root.join("tests/golden").join(name);
    if std::env::var_os("TMEM_BLESS").is_some() {
        fs::write(&path, text).unwrap();
    }
    let golden = fs::read_to_string(&path).unwrap();
    assert_eq!(text, golden, "output differs from golden/{name}");
}

#[test]
fn tables_are_as_documented() {
    for (name, line, code) in [
        ("store-list.txt", "store list", exit::DEGRADED),
        ("store-show.txt", "store show rack3", exit::DEGRADED),
        (
            "store-add.txt",
            "store add 10.0.0.4:7440 --label rack4",
            exit::OK,
        ),
        ("store-drain.txt", "store drain rack2", exit::OK),
        ("store-undrain.txt", "store undrain rack2", exit::OK),
        ("store-remove.txt", "store remove rack2 --force", exit::OK),
        ("store-repair.txt", "store repair", exit::OK),
    ] {
        let (got, out, err) = Daemon::start(FakeSource::healthy()).run(line);
        assert_eq!(got, code, "{line}: {err}{out}");
        golden(name, &format!("$ tmemctl {line}\n{err}{out}"));
    }
}

#[test]
fn a_store_that_does_its_work_is_shown_with_code_0() {
    let daemon = Daemon::start(FakeSource::healthy());
    let (code, out, _) = daemon.run("store show 10.0.0.1:7440");
    assert_eq!(code, exit::OK, "{out}");
    let (code, out, _) = daemon.run("store list -o name,state --no-headers");
    assert_eq!(code, exit::DEGRADED);
    let lines: Vec<Vec<&str>> = out
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(lines, [["rack1", "up"], ["rack2", "up"], ["rack3", "dead"]]);
}

#[test]
fn json_is_the_daemons_own() {
    let daemon = Daemon::start(FakeSource::healthy());
    let (code, out, _) = daemon.run("store list --json");
    let list: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &list["schema"]), (exit::DEGRADED, &Value::from(1)));
    assert_eq!(list["replication"]["replicas"], 2);
    assert_eq!(list["stores"].as_array().unwrap().len(), 3);
    let (code, out, _) = daemon.run("--json store drain rack2 --no-wait");
    let task: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (code, &task["task"]["kind"]),
        (exit::OK, &Value::from("store_drain"))
    );
}

#[test]
fn what_is_refused_is_told_with_what_to_do() {
    let daemon = Daemon::start(FakeSource::healthy());
    let (code, _, err) = daemon.run("store remove rack2");
    assert_eq!(code, exit::FAILED);
    assert!(err.contains("drain it first"), "{err}");
    let (code, _, err) = daemon.run("store show rack9");
    assert_eq!(code, exit::FAILED);
    assert!(err.contains("tmemctl store list"), "{err}");
    let (code, _, err) = Daemon::start(FakeSource::healthy().on(None)).run("store list");
    assert_eq!(code, exit::FAILED);
    assert!(err.contains("configuration"), "{err}");
}
