// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `tmemctl store`, against the daemon's real server, in process, over a made-up daemon.

use serde_json::Value;
use tmemctl::exit;

use crate::fake::FakeSource;
use crate::host::Daemon;
use crate::ran::{Ran, golden};

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
        let ran = Daemon::healthy().line(line);
        assert_eq!(ran.code, code, "{line}: {ran:?}");
        golden(name, &ran.shown(&format!("tmemctl {line}")));
    }
}

#[test]
fn a_store_that_does_its_work_is_shown_with_code_0() {
    let daemon = Daemon::healthy();
    let Ran { code, out, .. } = daemon.line("store show 10.0.0.1:7440");
    assert_eq!(code, exit::OK, "{out}");
    let Ran { code, out, .. } = daemon.line("store list -o name,state --no-headers");
    assert_eq!(code, exit::DEGRADED);
    let lines: Vec<Vec<&str>> = out
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(lines, [["rack1", "up"], ["rack2", "up"], ["rack3", "dead"]]);
}

#[test]
fn json_is_the_daemons_own() {
    let daemon = Daemon::healthy();
    let Ran { code, out, .. } = daemon.line("store list --json");
    let list: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &list["schema"]), (exit::DEGRADED, &Value::from(1)));
    assert_eq!(list["replication"]["replicas"], 2);
    assert_eq!(list["stores"].as_array().unwrap().len(), 3);
    let Ran { code, out, .. } = daemon.line("--json store drain rack2 --no-wait");
    let task: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (code, &task["task"]["kind"]),
        (exit::OK, &Value::from("store_drain"))
    );
}

#[test]
fn what_is_refused_is_told_with_what_to_do() {
    let daemon = Daemon::healthy();
    let Ran { code, err, .. } = daemon.line("store remove rack2");
    assert_eq!(code, exit::FAILED);
    assert!(err.contains("drain it first"), "{err}");
    let Ran { code, err, .. } = daemon.line("store show rack9");
    assert_eq!(code, exit::FAILED);
    assert!(err.contains("tmemctl store list"), "{err}");
    let Ran { code, err, .. } = Daemon::of(FakeSource::healthy().on(None)).line("store list");
    assert_eq!(code, exit::FAILED);
    assert!(err.contains("configuration"), "{err}");
}
