// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `tmemctl daemon` against the daemon's real server, in process, over made-up daemons: ones whose
//! workers come and go, fail, or hang up in the middle of an answer.

use std::sync::Arc;

use serde_json::{Value, json};
use tmem_admin_api::{DaemonState, DaemonStatus, OperationKind, OperationState, OperationStatus};
use vhost_device_tmem::RequestError;
use vhost_device_tmem::admin::{Access, Limits, Server};
use vhost_device_tmem::sandbox::Mode;

use crate::fake::{self, FakeSource};
use crate::host::Scripted;
use crate::ran::{Ran, golden, run};

/// A worker that answers on a keeper's socket.
fn worker(keeper: &Scripted, source: FakeSource) -> Server {
    let listener = keeper.listener.try_clone().unwrap();
    let (access, limits) = (Access::new(None), Limits::default());
    Server::start(listener, access, limits, Mode::None, Arc::new(source)).unwrap()
}

/// Runs `arguments` against a single worker with this source.
fn over(source: FakeSource, arguments: &[&str]) -> Ran {
    let keeper = Scripted::new();
    let _worker = worker(&keeper, source);
    run(&keeper.socket, arguments)
}

fn operation(kind: OperationKind, state: OperationState) -> OperationStatus {
    OperationStatus {
        id: 1,
        kind,
        state,
        reason: None,
        old_version: Some("1.2.3".into()),
        new_version: Some("1.3.0".into()),
        pause_ms: None,
    }
}

fn upgrade(state: OperationState) -> OperationStatus {
    operation(OperationKind::Upgrade, state)
}

fn upgraded() -> OperationStatus {
    OperationStatus {
        pause_ms: Some(87),
        ..upgrade(OperationState::Done)
    }
}

/// A healthy daemon that goes through all of an upgrade.
fn upgradable() -> FakeSource {
    let states = [
        OperationState::Checking,
        OperationState::Checking,
        OperationState::Ending,
        OperationState::Recovering,
    ];
    FakeSource::healthy().stepping(states.map(upgrade).into_iter().chain([upgraded()]))
}

#[test]
fn an_upgrade_is_followed_to_its_end() {
    let arguments = ["daemon", "upgrade", "--binary", "/opt/tmem/1.3.0"];
    let ran = over(upgradable(), &arguments);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(
        ran.out,
        "upgraded from 1.2.3 to 1.3.0; guests waited 87 ms\n"
    );
    golden(
        "daemon-upgrade.txt",
        &ran.shown("tmemctl daemon upgrade --binary /opt/tmem/1.3.0"),
    );
}

#[test]
fn an_upgrade_as_json_prints_the_daemons_last_answer() {
    let ran = over(upgradable(), &["--json", "daemon", "upgrade"]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    let value: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(value["schema"], 1);
    golden("operation.json", &format!("{value:#}\n"));
}

#[test]
fn an_upgrade_that_was_rolled_back_gives_exit_code_1_and_the_reason() {
    let rolled_back = OperationStatus {
        reason: Some("it was not ready within 5 s".into()),
        pause_ms: Some(5064),
        ..upgrade(OperationState::RolledBack)
    };
    let steps = [upgrade(OperationState::Recovering), rolled_back];
    let daemon = || FakeSource::healthy().stepping(steps.clone());
    let ran = over(daemon(), &["daemon", "upgrade"]);
    assert_eq!((ran.code, ran.out.as_str()), (1, ""));
    golden(
        "daemon-rolled-back.txt",
        &ran.shown("tmemctl daemon upgrade"),
    );

    let ran = over(daemon(), &["daemon", "upgrade", "--json"]);
    assert_eq!(ran.code, 1);
    let answer: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(answer["operation"]["pause_ms"], 5064);
    let error: Value = serde_json::from_str(&ran.err).unwrap();
    assert_eq!(error["code"], "rolled_back");
}

#[test]
fn a_restart_leaves_the_failed_state() {
    let restarted = OperationStatus {
        old_version: None,
        pause_ms: Some(61_250),
        ..operation(OperationKind::Restart, OperationState::Done)
    };
    let daemon = FakeSource::with(fake::failed()).stepping([restarted]);
    let ran = over(daemon, &["daemon", "restart"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(ran.out, "restarted 1.3.0; guests waited 61250 ms\n");
}

#[test]
fn a_restart_that_failed_gives_exit_code_1_and_what_to_do() {
    let failed = OperationStatus {
        reason: Some("10 workers ended in a row".into()),
        new_version: None,
        ..operation(OperationKind::Restart, OperationState::Failed)
    };
    let daemon = FakeSource::healthy().stepping([failed]);
    let ran = over(daemon, &["daemon", "restart"]);
    assert_eq!((ran.code, ran.out.as_str()), (1, ""));
    let said = "the restart from 1.2.3 failed: 10 workers ended in a row\nhint: ";
    assert!(ran.err.contains(said), "{}", ran.err);
    assert!(ran.err.contains("tmemctl daemon show"), "{}", ran.err);
}

#[test]
fn what_the_keeper_refuses_gives_exit_code_1() {
    let reason = "/tmp/x lies outside the trusted directories".into();
    let daemon = FakeSource::healthy().refusing(RequestError::Refused { reason });
    let ran = over(daemon, &["daemon", "upgrade", "--binary", "/tmp/x"]);
    assert_eq!((ran.code, ran.out.as_str()), (1, ""));
    assert_eq!(
        ran.err,
        "tmemctl: cannot upgrade: the keeper refused: /tmp/x lies outside the trusted directories\n\
         hint: nothing was changed; mend what the message says and ask again\n"
    );
    let ran = over(
        FakeSource::without_keeper(),
        &["daemon", "restart", "--json"],
    );
    assert_eq!(ran.code, 1);
    let error: Value = serde_json::from_str(&ran.err).unwrap();
    assert_eq!(error["code"], "no_keeper");
}

#[test]
fn an_answer_lost_with_its_worker_is_found_at_the_next_one() {
    let keeper = Scripted::new();
    let none = json!({"schema": 1, "operation": null});
    let ran = std::thread::scope(|scope| {
        let client = scope.spawn(|| run(&keeper.socket, &["daemon", "upgrade"]));
        keeper.answer(Some(("200 OK", none.clone())));
        let asked = keeper.answer(None);
        assert!(asked.starts_with("POST /v1/daemon/upgrade "), "{asked}");
        // Asked again, and that worker dies as well; the last one knows the operation.
        keeper.answer(None);
        let busy = json!({"schema": 1, "code": "busy", "message": "", "hint": ""});
        keeper.answer(Some(("503 Service Unavailable", busy)));
        let _worker = worker(
            &keeper,
            FakeSource::with(DaemonStatus {
                operation: Some(upgraded()),
                ..fake::processes()
            }),
        );
        client.join().unwrap()
    });
    assert_eq!((ran.code, ran.err.as_str()), (0, "serving\n"));
    assert!(ran.out.starts_with("upgraded from 1.2.3"), "{}", ran.out);
}

#[test]
fn an_operation_that_does_not_end_is_not_waited_for_without_end() {
    let daemon = FakeSource::healthy().stepping([upgrade(OperationState::Ending)]);
    let ran = over(daemon, &["daemon", "upgrade", "--timeout", "1"]);
    assert_eq!((ran.code, ran.out.as_str()), (1, ""));
    let said = "tmemctl: the upgrade has not ended within 1 s; last seen: ending\nhint: ";
    assert!(ran.err.contains(said), "{}", ran.err);
}

#[test]
fn a_keeper_that_ends_meanwhile_gives_exit_code_3() {
    let keeper = Scripted::new();
    let none = json!({"schema": 1, "operation": null});
    let socket = keeper.socket.clone();
    let ran = std::thread::scope(|scope| {
        let client = scope.spawn(|| run(&socket, &["daemon", "restart", "--timeout", "1"]));
        keeper.answer(Some(("200 OK", none.clone())));
        keeper.answer(Some(("202 Accepted", json!({"schema": 1, "id": 1}))));
        drop(keeper);
        client.join().unwrap()
    });
    assert_eq!((ran.code, ran.out.as_str()), (3, ""));
    let said = "the restart has not ended within 1 s: cannot reach the daemon";
    assert!(ran.err.contains(said), "{}", ran.err);
}

#[test]
fn an_operation_that_was_overtaken_says_so() {
    let other = OperationStatus {
        id: 2,
        ..upgraded()
    };
    let daemon = FakeSource::healthy().stepping([other]);
    let ran = over(daemon, &["daemon", "upgrade"]);
    assert_eq!((ran.code, ran.out.as_str()), (1, ""));
    assert!(ran.err.contains("operation 2 was begun"), "{}", ran.err);
}

#[test]
fn a_failed_daemon_gives_exit_code_4_and_says_what_to_do() {
    let ran = over(FakeSource::with(fake::failed()), &["status"]);
    assert_eq!((ran.code, ran.err.as_str()), (4, ""));
    golden("daemon-failed.txt", &ran.shown("tmemctl status"));
    let ran = over(FakeSource::with(fake::failed()), &["daemon", "show"]);
    assert_eq!((ran.code, ran.err.as_str()), (4, ""));
    golden("daemon-show-failed.txt", &ran.out);
    let ran = over(FakeSource::with(fake::failed()), &["guest", "list"]);
    assert_eq!((ran.code, ran.out.as_str()), (1, ""));
    assert!(ran.err.contains("cannot tell about guests"), "{}", ran.err);
    assert!(ran.err.contains("tmemctl daemon restart"), "{}", ran.err);
}

#[test]
fn a_recovering_daemon_gives_exit_code_4() {
    let recovering = || {
        FakeSource::with(DaemonStatus {
            state: DaemonState::Recovering,
            worker: None,
            operation: Some(upgrade(OperationState::Recovering)),
            ..fake::processes()
        })
    };
    let ran = over(recovering(), &["daemon", "show"]);
    assert_eq!((ran.code, ran.err.as_str()), (4, ""));
    assert!(ran.out.contains("upgrade 1 recovering"), "{}", ran.out);
    assert_eq!(over(recovering(), &["status"]).code, 4);
}

#[test]
fn a_daemon_of_one_process_shows_just_that() {
    let ran = over(FakeSource::without_keeper(), &["daemon", "show"]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    golden("daemon-one-process.txt", &ran.out);
}

#[test]
fn a_question_that_a_killed_worker_took_along_is_asked_again() {
    let keeper = Scripted::new();
    let ran = std::thread::scope(|scope| {
        let client = scope.spawn(|| run(&keeper.socket, &["guest", "list", "-o", "name"]));
        keeper.answer(None);
        let _worker = worker(&keeper, FakeSource::healthy());
        client.join().unwrap()
    });
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    assert!(ran.out.ends_with("web\n"), "{}", ran.out);
}
