// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How `tmemctl` follows a task, against a daemon whose every answer is scripted: workers that end on
//! the way, tasks that fail, are called off, get lost or never end.

use std::io::{Read, Write};

use serde_json::{Value, json};

use crate::host::Scripted;
use crate::ran::{Ran, run};

fn task(kind: &str, state: &str, done: u64, reason: Option<&str>) -> Value {
    json!({"schema": 1, "task": {"id": 3, "kind": kind, "subject": "pm", "state": state,
        "done_pages": done, "total_pages": 1000, "reason": reason, "took_ms": 1234}})
}

/// Runs `tmemctl tier drain pm`, with what follows, against these answers.
fn drain(more: &[&str], answers: Vec<Option<(&str, Value)>>) -> (Ran, Vec<String>) {
    let daemon = Scripted::new();
    std::thread::scope(|scope| {
        let client = scope.spawn(|| {
            let arguments: Vec<_> = ["tier", "drain", "pm"]
                .iter()
                .chain(more)
                .copied()
                .collect();
            run(&daemon.socket, &arguments)
        });
        let asked = answers.into_iter().map(|answer| daemon.answer(answer));
        let asked = asked.collect();
        (client.join().unwrap(), asked)
    })
}

#[test]
fn a_drain_goes_on_over_a_connection_that_broke_off() {
    let (ran, asked) = drain(
        &[],
        vec![
            Some(("202 Accepted", task("drain", "running", 0, None))),
            None,
            Some((
                "503 Busy",
                json!({"schema": 1, "code": "busy", "message": "", "hint": ""}),
            )),
            Some(("200 OK", task("drain", "done", 1000, None))),
        ],
    );
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_eq!(ran.out, "tier pm is drained: 3.9 MiB moved in 1.2 s\n");
    assert!(
        asked[0].starts_with("POST /v1/tiers/pm/drain "),
        "{asked:?}"
    );
    assert!(asked[1].starts_with("GET /v1/tasks/3 "), "{asked:?}");
}

#[test]
fn a_task_with_nothing_to_do_tells_its_end_alone() {
    let mut done = task("drain", "done", 0, None);
    done["task"]["total_pages"] = json!(0);
    let (ran, _) = drain(&[], vec![Some(("202 Accepted", done))]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    assert_eq!(ran.out, "tier pm is drained: 0 B moved in 1.2 s\n");
}

#[test]
fn a_task_that_fails_gives_exit_code_1_and_the_reason() {
    let failed = task("drain", "failed", 400, Some("tier remote is full"));
    let begun = task("drain", "running", 0, None);
    let (ran, _) = drain(
        &[],
        vec![
            Some(("202 Accepted", begun.clone())),
            Some(("200 OK", failed)),
        ],
    );
    assert_eq!((ran.code, ran.out.as_str()), (1, ""));
    let said = "tmemctl: the drain of pm failed: tier remote is full\nhint: ";
    assert!(ran.err.contains(said), "{}", ran.err);
    let cancelled = task("drain", "cancelled", 400, None);
    let (ran, _) = drain(
        &["--json"],
        vec![Some(("202 Accepted", begun)), Some(("200 OK", cancelled))],
    );
    assert_eq!(ran.code, 1);
    let error: Value = serde_json::from_str(&ran.err).unwrap();
    assert_eq!(error["code"], "task_cancelled");
    let answer: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(answer["task"]["done_pages"], 400);
}

#[test]
fn a_task_that_another_worker_does_not_know_is_lost() {
    let begun = || Some(("202 Accepted", task("drain", "running", 0, None)));
    let unknown = json!({"schema": 1, "code": "no_such_task", "message": "?", "hint": ""});
    // The second: a number that was given anew.
    for other in [
        ("404 Not Found", unknown),
        ("200 OK", task("resize", "running", 1, None)),
    ] {
        let (ran, _) = drain(&[], vec![begun(), Some(other)]);
        assert_eq!((ran.code, ran.out.as_str()), (1, ""));
        assert!(
            ran.err.contains("another worker has followed"),
            "{}",
            ran.err
        );
        assert!(ran.err.contains("hint: `tmemctl tier show`"), "{}", ran.err);
    }
}

#[test]
fn a_task_is_not_waited_for_beyond_the_time_given() {
    let daemon = Scripted::new();
    let socket = daemon.socket.clone();
    let ran = std::thread::scope(|scope| {
        let client = scope.spawn(|| run(&socket, &["tier", "drain", "pm", "--timeout", "1"]));
        daemon.answer(Some(("202 Accepted", task("drain", "running", 0, None))));
        while !client.is_finished() {
            // A caller that comes just as the client ends would leave accept waiting for ever.
            daemon.listener.set_nonblocking(true).unwrap();
            if let Ok((mut stream, _)) = daemon.listener.accept() {
                stream.set_nonblocking(false).unwrap();
                let _asked = stream.read(&mut [0; 4096]);
                let body = task("drain", "running", 250, None).to_string();
                let length = body.len();
                let _ = write!(
                    stream,
                    "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}"
                );
            }
            std::thread::yield_now();
        }
        client.join().unwrap()
    });
    assert_eq!((ran.code, ran.out.as_str()), (1, ""));
    let said = "the drain of pm has not ended within 1 s; last seen: 25 %";
    assert!(ran.err.contains(said), "{}", ran.err);
}
