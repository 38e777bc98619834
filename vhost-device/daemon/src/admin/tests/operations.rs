// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Operations on the daemon, and the daemon that has failed.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tmem_admin_api::{DaemonOperation, OperationKind, OperationState, OperationStatus};

use super::fake::{failed, processes};
use super::*;
use crate::admin::Caretaker;

const HOST: &str = "HTTP/1.1\r\nhost: tmem\r\n";

pub(super) fn post(daemon: &Daemon, path: &str, body: &str) -> (u16, Value) {
    let length = body.len();
    let request = format!("POST {path} {HOST}content-length: {length}\r\n\r\n{body}");
    parsed(&daemon.say(request.as_bytes()))
}

fn step(state: OperationState) -> OperationStatus {
    OperationStatus {
        id: 1,
        kind: OperationKind::Upgrade,
        state,
        reason: None,
        old_version: Some("1.2.3".into()),
        new_version: Some("1.3.0".into()),
        pause_ms: state.is_final().then_some(87),
    }
}

#[test]
fn an_operation_is_answered_before_it_begins_and_followed_by_its_number() {
    let states = [OperationState::Ending, OperationState::Done];
    let daemon = Daemon::serving(FakeSource::healthy().stepping(states.map(step)));
    let (code, none) = parsed(&daemon.get("/v1/daemon/operation"));
    assert_eq!((code, &none["operation"]), (200, &Value::Null));

    let body = r#"{"binary": "/opt/tmem/worker"}"#;
    let (code, accepted) = post(&daemon, "/v1/daemon/upgrade", body);
    assert_eq!((code, accepted), (202, json!({"schema": 1, "id": 1})));
    for state in ["ending", "done", "done"] {
        let (code, body) = parsed(&daemon.get("/v1/daemon/operation"));
        let operation = &body["operation"];
        assert_eq!(
            (code, &operation["state"], &operation["id"]),
            (200, &json!(state), &json!(1))
        );
    }
    let (_, shown) = parsed(&daemon.get("/v1/daemon"));
    assert_eq!(shown["daemon"]["operation"]["pause_ms"], 87);
    assert_eq!(
        post(&daemon, "/v1/daemon/restart", ""),
        (202, json!({"schema": 1, "id": 2}))
    );
}

#[test]
fn what_the_keeper_does_not_take_on_is_told_with_a_code() {
    let silent = io::Error::from(io::ErrorKind::BrokenPipe);
    let reason = || "/tmp/x lies outside the trusted directories".into();
    let cases = [
        (RequestError::NoKeeper, 409, "no_keeper", "one process"),
        (
            RequestError::UnderWay { id: 7 },
            409,
            "operation_under_way",
            "operation 7",
        ),
        (
            RequestError::Refused { reason: reason() },
            422,
            "refused",
            "trusted directories",
        ),
        (
            RequestError::Silent(silent),
            503,
            "keeper_silent",
            "broken pipe",
        ),
    ];
    for (refusal, status, code, part) in cases {
        let daemon = Daemon::serving(FakeSource::healthy().refusing(refusal));
        let (got, body) = post(&daemon, "/v1/daemon/upgrade", "");
        assert_eq!((got, &body["code"]), (status, &json!(code)));
        let message = body["message"].as_str().unwrap();
        assert!(message.starts_with("cannot upgrade: "), "{message}");
        assert!(message.contains(part), "{message}");
        assert!(!body["hint"].as_str().unwrap().is_empty(), "{code}");
    }
}

#[test]
fn an_upgrade_that_makes_no_sense_is_not_passed_on() {
    // Would be the answer if it were.
    let keeper = RequestError::UnderWay { id: 1 };
    let daemon = Daemon::serving(FakeSource::healthy().refusing(keeper));
    let long = format!(r#"{{"binary": "/{}"}}"#, "a".repeat(9000));
    for (body, status, code) in [
        (r#"{"binary": "worker"}"#, 400, "bad_request"),
        (r#"{"binray": "/worker"}"#, 400, "bad_request"),
        ("nonsense", 400, "bad_request"),
        (&long, 413, "too_large"),
    ] {
        let (got, answer) = post(&daemon, "/v1/daemon/upgrade", body);
        assert_eq!((got, &answer["code"]), (status, &json!(code)), "{body}");
    }
    let length = long.len();
    let unannounced = format!(
        "POST /v1/daemon/upgrade {HOST}transfer-encoding: chunked\r\n\r\n{length:x}\r\n{long}\r\n0\r\n\r\n"
    );
    let (got, answer) = parsed(&daemon.say(unannounced.as_bytes()));
    assert_eq!((got, &answer["code"]), (413, &json!("too_large")));

    let (got, _) = parsed(&daemon.get("/v1/daemon/upgrade"));
    assert_eq!(got, 405, "asking is not doing");
    assert_eq!(post(&daemon, "/v1/status", "").0, 405);
    assert_eq!(post(&daemon, "/v1/daemon/upgrade", "{}").0, 409);
}

/// A caretaker whose keeper counts what is passed on.
fn caretaker() -> (Arc<Caretaker>, Arc<AtomicUsize>, Daemon) {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let caretaker = Arc::new(Caretaker::new(
        failed(),
        Box::new(move |operation| {
            assert_eq!(*operation, DaemonOperation::Restart);
            counted.fetch_add(1, Ordering::Relaxed);
            Ok(5)
        }),
    ));
    let daemon = Daemon::start(Access::new(None), Limits::default(), caretaker.clone());
    (caretaker, asked, daemon)
}

#[test]
fn a_failed_daemon_tells_why_and_answers_nothing_about_guests() {
    let (_, _, daemon) = caretaker();
    let (code, status) = parsed(&daemon.get("/v1/status"));
    assert_eq!((code, &status["health"]), (200, &json!("degraded")));
    assert_eq!(
        status["reasons"],
        json!([
            "no worker serves guests: 10 workers ended in a row, the last one: killed by signal 9"
        ])
    );
    assert_eq!(status["daemon"]["state"], "failed");
    let web = "/v1/guests/web";
    for path in ["/v1/guests", web, "/v1/pools", "/v1/stats?guest=web"] {
        let (code, body) = parsed(&daemon.get(path));
        assert_eq!(
            (code, &body["code"]),
            (503, &json!("not_serving")),
            "{path}"
        );
        let message = body["message"].as_str().unwrap();
        assert!(message.contains("10 workers ended in a row"), "{message}");
        let hint = body["hint"].as_str().unwrap();
        assert!(hint.contains("tmemctl daemon restart"), "{hint}");
    }
    let (code, _) = parsed(&daemon.get("/v1/nothing"));
    assert_eq!(code, 404);
}

#[test]
fn a_failed_daemons_metrics_hold_no_invented_figures() {
    let (_, _, daemon) = caretaker();
    let text = daemon.get("/metrics");
    let has = |line: &str| text.lines().any(|have| have == line);
    assert!(has("tmem_up 0") && has("tmem_healthy 0"), "{text}");
    assert!(
        has("tmem_worker_restarts_total{cause=\"signal\"} 2"),
        "{text}"
    );
    for name in ["tmem_resident", "tmem_tier", "tmem_guest", "tmem_pool"] {
        assert!(!text.lines().any(|line| line.starts_with(name)), "{text}");
    }
}

#[test]
fn a_failed_daemon_takes_operations_and_tells_how_they_go() {
    let (caretaker, asked, daemon) = caretaker();
    let answer = post(&daemon, "/v1/daemon/restart", "");
    assert_eq!(answer, (202, json!({"schema": 1, "id": 5})));
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    caretaker.update(tmem_admin_api::DaemonStatus {
        operation: Some(step(OperationState::Recovering)),
        ..processes()
    });
    let (_, told) = parsed(&daemon.get("/v1/daemon/operation"));
    assert_eq!(told["operation"]["state"], "recovering");
}
