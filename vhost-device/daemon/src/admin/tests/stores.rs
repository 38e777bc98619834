// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Stores, over the wire.

use super::operations::post;
use super::*;

fn posted(daemon: &Daemon, path: &str, body: &str, status: u16) -> Value {
    let (got, answer) = post(daemon, path, body);
    assert_eq!(got, status, "{path} {body}: {answer}");
    assert_eq!(answer["schema"], json!(1), "{path}");
    answer
}

#[test]
fn stores_are_listed_with_how_pages_are_kept_on_them() {
    let daemon = Daemon::usual();
    let (code, list) = parsed(&daemon.get("/v1/stores"));
    assert_eq!(code, 200);
    assert_eq!(list["replication"]["below_pages"], 300);
    assert_eq!(list["stores"][2]["state"], "dead");
    for name in ["rack2", "10.0.0.2:7440", "10%2E0.0.2%3A7440"] {
        let (code, store) = parsed(&daemon.get(&format!("/v1/stores/{name}")));
        assert_eq!((code, &store["store"]["name"]), (200, &json!("rack2")));
    }
    let (code, gone) = parsed(&daemon.get("/v1/stores/rack9"));
    assert_eq!((code, &gone["code"]), (404, &json!("no_such_store")));
}

#[test]
fn a_store_is_added_drained_and_removed() {
    let daemon = Daemon::usual();
    let add = r#"{"address": "10.0.0.4:7440", "label": "rack4"}"#;
    let added = posted(&daemon, "/v1/stores", add, 200);
    assert_eq!(
        (&added["store"]["name"], &added["store"]["origin"]),
        (&json!("rack4"), &json!("admin"))
    );
    let again = posted(&daemon, "/v1/stores", add, 422);
    assert_eq!(again["code"], "refused");
    let bad = posted(&daemon, "/v1/stores", r#"{"address": "what"}"#, 422);
    assert_eq!(bad["code"], "bad_text");
    let unknown = posted(&daemon, "/v1/stores", r#"{"port": 1}"#, 400);
    assert_eq!(unknown["code"], "bad_request");
    let needed = posted(&daemon, "/v1/stores/rack2/remove", "", 422);
    assert!(needed["message"].as_str().unwrap().contains("300 pages"));
    let task = posted(&daemon, "/v1/stores/rack2/drain", "", 202);
    assert_eq!(task["task"]["kind"], "store_drain");
    let (_, store) = parsed(&daemon.get("/v1/stores/rack2"));
    assert_eq!(store["store"]["state"], "draining");
    let used = posted(&daemon, "/v1/stores/rack2/undrain", "", 200);
    assert_eq!(used["store"]["state"], "up");
    posted(
        &daemon,
        "/v1/stores/rack2/remove",
        r#"{"force": true}"#,
        200,
    );
    let (code, _) = parsed(&daemon.get("/v1/stores/rack2"));
    assert_eq!(code, 404);
    let task = posted(&daemon, "/v1/stores/repair", "", 202);
    assert_eq!(task["task"]["kind"], "repair");
}

#[test]
fn a_daemon_without_stores_says_so() {
    let source = Arc::new(FakeSource::healthy().on(None));
    let daemon = Daemon::start(Access::new(None), Limits::default(), source);
    for path in ["/v1/stores", "/v1/stores/rack1"] {
        let (code, answer) = parsed(&daemon.get(path));
        assert_eq!((code, &answer["code"]), (409, &json!("not_available")));
    }
}
