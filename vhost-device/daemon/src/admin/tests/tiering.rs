// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Tiers, guests' limits, policies, links and traces, over the wire.

use super::fake::tiers::FakeTiers;
use super::operations::post;
use super::*;

/// Posts to `path` and expects `status`; returns the body.
fn posted(daemon: &Daemon, path: &str, body: &Value, status: u16) -> Value {
    let body = match body {
        Value::Null => String::new(),
        body => body.to_string(),
    };
    let (got, answer) = post(daemon, path, &body);
    assert_eq!(got, status, "{path} {body}: {answer}");
    assert_eq!(answer["schema"], json!(1), "{path}");
    answer
}

#[test]
fn a_drain_is_accepted_with_a_number_and_followed_by_it() {
    let daemon = Daemon::usual();
    let accepted = posted(&daemon, "/v1/tiers/pm/drain", &Value::Null, 202);
    assert_eq!(
        (&accepted["task"]["id"], &accepted["task"]["state"]),
        (&json!(1), &json!("running"))
    );
    let mut seen = Vec::new();
    for _ in 0..3 {
        let (code, body) = parsed(&daemon.get("/v1/tasks/1"));
        assert_eq!(code, 200);
        seen.push(body["task"]["done_pages"].as_u64().unwrap());
    }
    assert_eq!(seen, [167, 334, 500]);
    let (_, tier) = parsed(&daemon.get("/v1/tiers/pm"));
    assert_eq!(tier["tier"]["state"], "drained");
    assert_eq!(tier["tier"]["task"]["state"], "done");
    let (_, status) = parsed(&daemon.get("/v1/status"));
    assert_eq!(
        status["reasons"],
        json!(["tier pm is drained and takes no pages"])
    );
    let undrained = posted(&daemon, "/v1/tiers/pm/undrain", &Value::Null, 200);
    assert_eq!(undrained["tier"]["state"], "ok");
    let (code, body) = parsed(&daemon.get("/v1/tasks/7"));
    assert_eq!((code, &body["code"]), (404, &json!("no_such_task")));
}

#[test]
fn limits_are_set_together_and_the_rest_stays() {
    let daemon = Daemon::usual();
    let limits = json!({"grant_pages": 5000, "dram_cap_pages": "none", "weight": 7});
    let body = posted(&daemon, "/v1/guests/web/limits", &limits, 200);
    let (guest, memory) = (&body["guest"], &body["guest"]["memory"]);
    assert_eq!(guest["grant_pages"], 5000);
    assert_eq!(
        (
            &memory["dram_cap_pages"],
            &memory["weight"],
            &memory["floor_pages"]
        ),
        (&Value::Null, &json!(7), &json!(65_536))
    );
    let frozen = posted(&daemon, "/v1/guests/web/freeze", &Value::Null, 200);
    assert_eq!(frozen["guest"]["memory"]["frozen"], true);
    let thawed = posted(&daemon, "/v1/guests/web/thaw", &Value::Null, 200);
    assert_eq!(thawed["guest"]["memory"]["frozen"], false);
    let policy = json!({"policy": "random", "seed": 9});
    let body = posted(&daemon, "/v1/guests/web/policy", &policy, 200);
    assert_eq!(body["guest"]["memory"]["policy_seed"], 9);
}

#[test]
fn what_the_daemon_refuses_is_told_with_a_code() {
    let daemon = Daemon::usual();
    let pages = |pages: u64| json!({ "pages": pages });
    for (path, body, status, code, part) in [
        (
            "/v1/tiers/tape/drain",
            Value::Null,
            404,
            "no_such_tier",
            "\"tape\"",
        ),
        (
            "/v1/tiers/dram/drain",
            Value::Null,
            422,
            "refused",
            "floors",
        ),
        (
            "/v1/tiers/dram/resize",
            pages(1 << 30),
            422,
            "refused",
            "2048 MiB",
        ),
        (
            "/v1/tiers/remote/watermarks",
            json!({"low_percent": 1}),
            422,
            "refused",
            "no watermarks",
        ),
        (
            "/v1/tiers/dram/watermarks",
            json!({"low_percent": 10}),
            422,
            "refused",
            "below the high",
        ),
        (
            "/v1/guests/ghost/freeze",
            Value::Null,
            404,
            "no_such_guest",
            "ghost",
        ),
        (
            "/v1/guests/web/limits",
            json!({"grant_pages": 9}),
            422,
            "refused",
            "2000 persistent",
        ),
        (
            "/v1/guests/web/limits",
            json!({"dram_cap_pages": 9}),
            422,
            "refused",
            "floor, 256 MiB",
        ),
        (
            "/v1/guests/web/policy",
            json!({"policy": "lifo"}),
            404,
            "no_such_policy",
            "\"lifo\"",
        ),
        (
            "/v1/guests/web/trace/stop",
            Value::Null,
            422,
            "refused",
            "not being traced",
        ),
        (
            "/v1/links/set",
            json!({"tier": "pm", "text": "fast"}),
            422,
            "bad_text",
            "\"fast\"",
        ),
        (
            "/v1/links/set",
            json!({"tier": "pm", "text": "latency=1ns"}),
            422,
            "refused",
            "600 ns",
        ),
        (
            "/v1/links/set",
            json!({"guest": "ghost", "text": "a=1"}),
            404,
            "no_such_guest",
            "ghost",
        ),
        (
            "/v1/links/faults",
            json!({"tier": "pm", "text": "eat"}),
            422,
            "bad_text",
            "stall",
        ),
    ] {
        let answer = posted(&daemon, path, &body, status);
        assert_eq!(answer["code"], code, "{path}");
        let message = answer["message"].as_str().unwrap();
        assert!(message.contains(part), "{path}: {message}");
        assert!(!answer["hint"].as_str().unwrap().is_empty(), "{path}");
    }
    posted(&daemon, "/v1/tiers/pm/drain", &Value::Null, 202);
    let busy = posted(&daemon, "/v1/tiers/pm/resize", &pages(9), 409);
    assert_eq!(busy["code"], "task_under_way");
}

#[test]
fn what_makes_no_sense_is_not_passed_on() {
    let daemon = Daemon::usual();
    for (path, body) in [
        ("/v1/tiers/pm/resize", json!({"pages": 0})),
        ("/v1/tiers/pm/resize", Value::Null),
        ("/v1/tiers/pm/resize", json!({"pages": -1})),
        ("/v1/tiers/pm/watermarks", Value::Null),
        ("/v1/tiers/pm/watermarks", json!({"high_percent": 91})),
        ("/v1/tiers/pm/watermarks", json!({"height": 1})),
        ("/v1/guests/web/limits", Value::Null),
        ("/v1/guests/web/limits", json!({"weight": 0})),
        ("/v1/guests/web/limits", json!({"weight": 10_001})),
        ("/v1/guests/web/limits", json!({"dram_cap_pages": "all"})),
        ("/v1/guests/web/reclaim", json!({"pages": 0})),
        ("/v1/guests/web/policy", json!({"seed": 1})),
        (
            "/v1/guests/web/trace/start",
            json!({"name": "../../etc/passwd"}),
        ),
        ("/v1/guests/a%20%22b%22%2Fc/trace/start", Value::Null),
        ("/v1/links/set", json!({"text": "latency=1us"})),
        ("/v1/links/set", json!({"tier": "pm", "text": " "})),
        (
            "/v1/links/set",
            json!({"tier": "tape", "text": "latency=1us"}),
        ),
        ("/v1/links/faults", json!({"text": "drop=0.01"})),
    ] {
        let answer = posted(&daemon, path, &body, 400);
        assert_eq!(answer["code"], "bad_request", "{path} {body}");
        assert!(!answer["hint"].as_str().unwrap().is_empty(), "{path}");
    }
}

#[test]
fn a_reclaim_that_finds_less_says_why() {
    let daemon = Daemon::usual();
    let body = json!({"pages": 1000});
    posted(&daemon, "/v1/guests/web/reclaim", &body, 202);
    let mut last = Value::Null;
    for _ in 0..3 {
        (_, last) = parsed(&daemon.get("/v1/tasks/1"));
    }
    let task = &last["task"];
    assert_eq!(
        (&task["state"], &task["done_pages"], &task["total_pages"]),
        (&json!("done"), &json!(264), &json!(1000))
    );
    assert!(task["reason"].as_str().unwrap().contains("floor"));
    let (_, guest) = parsed(&daemon.get("/v1/guests/web"));
    assert_eq!(guest["guest"]["memory"]["task"]["id"], 1);
}

#[test]
fn links_are_set_cleared_and_broken() {
    let daemon = Daemon::usual();
    let ways = |body: &Value| {
        let links = body["links"].as_array().unwrap().iter();
        let ways: Vec<_> = links.map(|link| link["direction"].clone()).collect();
        ways
    };
    let both = json!({"tier": "remote", "text": "latency=20us"});
    let body = posted(&daemon, "/v1/links/set", &both, 200);
    assert_eq!(ways(&body), ["in", "out"]);
    let dime =
        json!({"guest": "web", "direction": "in", "text": "latency_ns=20000 local_npages=9"});
    let body = posted(&daemon, "/v1/links/set", &dime, 200);
    assert_eq!(body["links"][0]["guest"], "web");
    let (_, all) = parsed(&daemon.get("/v1/links"));
    assert_eq!(all["links"].as_array().unwrap().len(), 5);
    let faults = json!({"tier": "remote", "direction": "out", "text": "drop=0.01"});
    let body = posted(&daemon, "/v1/links/faults", &faults, 200);
    assert_eq!(body["links"][0]["faults"], "drop=0.01");
    posted(&daemon, "/v1/links/clear", &Value::Null, 200);
    let (_, all) = parsed(&daemon.get("/v1/links"));
    let links = all["links"].as_array().unwrap();
    assert_eq!(links.len(), 4, "the guest's own is gone");
    assert!(
        links
            .iter()
            .all(|link| link["text"] == "" && link["faults"] == "")
    );
}

#[test]
fn traces_go_to_the_configured_folder() {
    let daemon = Daemon::usual();
    let body = posted(&daemon, "/v1/guests/web/trace/start", &Value::Null, 200);
    assert_eq!(body["trace"]["path"], "/var/lib/tmem/traces/web.trace");
    let body = posted(&daemon, "/v1/guests/web/trace/stop", &Value::Null, 200);
    assert_eq!(body["trace"]["records"], 12_345);
    let daemon = Daemon::serving(FakeSource::healthy().on(Some(FakeTiers::without_pm())));
    let body = posted(&daemon, "/v1/guests/web/trace/start", &Value::Null, 409);
    assert_eq!(body["code"], "not_available");
}

#[test]
fn a_daemon_without_tiers_says_so_and_is_not_silent() {
    let daemon = Daemon::serving(FakeSource::healthy().on(None));
    for path in [
        "/v1/tiers",
        "/v1/tiers/dram",
        "/v1/tasks",
        "/v1/policies",
        "/v1/links",
    ] {
        let (code, body) = parsed(&daemon.get(path));
        assert_eq!(
            (code, &body["code"]),
            (409, &json!("not_available")),
            "{path}"
        );
    }
    let body = posted(&daemon, "/v1/guests/web/freeze", &Value::Null, 409);
    assert_eq!(body["code"], "not_available");
    let (code, guest) = parsed(&daemon.get("/v1/guests/web"));
    assert_eq!((code, &guest["guest"]["memory"]), (200, &Value::Null));
}

#[test]
fn promises_beyond_the_tiers_are_a_reason_to_be_degraded() {
    let daemon = Daemon::serving(FakeSource::healthy().on(Some(FakeTiers::overcommitted())));
    let (_, status) = parsed(&daemon.get("/v1/status"));
    assert_eq!(status["health"], "degraded");
    let reason = status["reasons"][0].as_str().unwrap();
    assert!(reason.starts_with("overcommitted: "), "{reason}");
    assert!(reason.contains("16388 MiB"), "{reason}");
    let text = daemon.get("/metrics");
    assert!(
        text.lines().any(|line| line == "tmem_overcommit 1"),
        "{text}"
    );
}
