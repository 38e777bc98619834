// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The server as its callers meet it, spoken to in raw bytes so that they can be wrong ones.

mod fake;
mod operations;
mod stores;
mod tiering;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Access, Limits, METRICS, MetricKind, Server, bind};
use crate::sandbox::Mode;
use crate::status::{AdminSource, BalloonAdmin, RequestError, StoreAdmin, TierAdmin, TierError};
use fake::FakeSource;

struct Daemon {
    socket: PathBuf,
    _server: Server,
    _dir: tempfile::TempDir,
}

impl Daemon {
    fn start(access: Access, limits: Limits, source: Arc<dyn AdminSource>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("admin.sock");
        let listener = bind(&socket, None).unwrap();
        let server = Server::start(listener, access, limits, Mode::None, source).unwrap();
        Self {
            socket,
            _server: server,
            _dir: dir,
        }
    }

    fn serving(source: FakeSource) -> Self {
        Self::start(Access::new(None), Limits::default(), Arc::new(source))
    }

    fn usual() -> Self {
        Self::serving(FakeSource::healthy())
    }

    fn limited(limits: Limits) -> Self {
        let source = Arc::new(FakeSource::healthy());
        Self::start(Access::new(None), limits, source)
    }

    fn connect(&self) -> UnixStream {
        UnixStream::connect(&self.socket).unwrap()
    }

    /// Sends `bytes` and returns all that comes back until the server hangs up.
    fn say(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect();
        stream.write_all(bytes).unwrap();
        answer(stream)
    }

    fn get(&self, path: &str) -> String {
        self.say(format!("GET {path} HTTP/1.1\r\nhost: tmem\r\n\r\n").as_bytes())
    }
}

fn answer(mut stream: UnixStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

/// Status code and JSON body of an answer.
fn parsed(answer: &str) -> (u16, Value) {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let code = head.split(' ').nth(1).unwrap().parse().unwrap();
    (code, serde_json::from_str(body).unwrap())
}

#[test]
fn every_answer_has_the_schema_number() {
    let daemon = Daemon::usual();
    let web = "/v1/guests/web";
    for path in [
        "/v1/status",
        "/v1/guests",
        web,
        "/v1/pools",
        "/v1/stats",
        "/v1/tiers",
        "/v1/tiers/pm",
        "/v1/tasks",
        "/v1/policies",
        "/v1/links",
        "/v1/balloons",
        "/v1/guests/web/balloon",
        "/v1/daemon",
        "/v1/daemon/operation",
    ] {
        let (code, body) = parsed(&daemon.get(path));
        assert_eq!((code, &body["schema"]), (200, &json!(1)), "{path}");
    }
    let (code, body) = parsed(&daemon.get("/v1/nothing"));
    assert_eq!(
        (code, &body["schema"], &body["code"]),
        (404, &json!(1), &json!("not_found"))
    );
}

#[test]
fn the_query_picks_a_guest() {
    let daemon = Daemon::usual();
    let (_, all) = parsed(&daemon.get("/v1/stats"));
    assert_eq!(all["guests"].as_array().unwrap().len(), 2);
    let (_, one) = parsed(&daemon.get("/v1/stats?guest=web"));
    assert_eq!(one["guests"].as_array().unwrap().len(), 1);
    assert_eq!(
        one["guests"][0]["pages"]["get"],
        json!({"ok": 7000, "miss": 12})
    );
    let (_, pools) = parsed(&daemon.get("/v1/pools?guest=web"));
    assert_eq!(pools["pools"][1]["kind"], "ephemeral");
    let (_, none) = parsed(&daemon.get("/v1/pools?guest=a%20%22b%22%2Fc"));
    assert_eq!(none["pools"], json!([]));
    let (code, odd) = parsed(&daemon.get("/v1/guests/a%20%22b%22%2Fc"));
    assert_eq!((code, &odd["guest"]["connected"]), (200, &json!(false)));
}

#[test]
fn an_unknown_guest_is_not_found_on_every_path() {
    let daemon = Daemon::usual();
    for path in [
        "/v1/guests/ghost",
        "/v1/pools?guest=ghost",
        "/v1/stats?guest=ghost",
    ] {
        let (code, body) = parsed(&daemon.get(path));
        assert_eq!(
            (code, &body["code"]),
            (404, &json!("no_such_guest")),
            "{path}"
        );
        assert!(
            body["message"].as_str().unwrap().contains("ghost"),
            "{path}"
        );
    }
}

#[test]
fn requests_that_are_not_of_this_api_are_told_so() {
    let daemon = Daemon::usual();
    let cases: [(&[u8], u16, &str); 4] = [
        (
            b"GET /v1/pools?gest=web HTTP/1.1\r\nhost: t\r\n\r\n",
            400,
            "bad_request",
        ),
        (
            b"GET /v1/guests/%ff HTTP/1.1\r\nhost: t\r\n\r\n",
            400,
            "bad_request",
        ),
        (
            b"DELETE /v1/guests HTTP/1.1\r\nhost: t\r\n\r\n",
            405,
            "method_not_allowed",
        ),
        (
            b"GET /v1/status HTTP/1.1\r\nhost: t\r\ncontent-length: 999999\r\n\r\n",
            413,
            "too_large",
        ),
    ];
    for (request, status, code) in cases {
        let (got, body) = parsed(&daemon.say(request));
        assert_eq!(
            (got, &body["code"]),
            (status, &json!(code)),
            "{}",
            request.escape_ascii()
        );
    }
}

#[test]
fn garbage_is_refused_and_the_server_serves_on() {
    let daemon = Daemon::usual();
    for garbage in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"HELLO\r\n\r\n",
    ] {
        let answer = daemon.say(garbage);
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer:?}");
    }
    assert!(daemon.get("/v1/status").starts_with("HTTP/1.1 200 "));
}

#[test]
fn a_head_without_end_is_cut_off() {
    let daemon = Daemon::usual();
    let mut stream = daemon.connect();
    stream.write_all(b"GET /v1/status HTTP/1.1\r\nx: ").unwrap();
    // The server may hang up while this is being written; what it then says is what counts.
    let _ = stream.write_all(&vec![b'a'; 1 << 20]);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert!(
        !answer.starts_with(b"HTTP/1.1 200"),
        "{}",
        answer.escape_ascii()
    );
    assert!(daemon.get("/v1/status").starts_with("HTTP/1.1 200 "));
}

#[test]
fn a_caller_that_stalls_holds_up_nobody() {
    let daemon = Daemon::usual();
    let mut stalled = daemon.connect();
    stalled.write_all(b"GET /v1/sta").unwrap();
    let _silent = daemon.connect();
    assert!(daemon.get("/v1/status").starts_with("HTTP/1.1 200 "));
    stalled
        .write_all(b"tus HTTP/1.1\r\nhost: t\r\n\r\n")
        .unwrap();
    assert!(
        answer(stalled).starts_with("HTTP/1.1 200 "),
        "the slow one is served in the end"
    );
}

#[test]
fn a_caller_that_never_asks_is_hung_up_on_and_its_place_is_free_again() {
    let limits = Limits {
        connections: 1,
        deadline: Duration::from_millis(200),
    };
    let daemon = Daemon::limited(limits);
    let silent = daemon.connect();
    assert_eq!(answer(silent), "", "hung up on");
    assert!(daemon.get("/v1/status").starts_with("HTTP/1.1 200 "));
}

#[test]
fn callers_beyond_the_limit_are_told_to_come_back() {
    let limits = Limits {
        connections: 1,
        deadline: Duration::from_secs(600),
    };
    let daemon = Daemon::limited(limits);
    let _holds_the_place = daemon.connect();
    let (code, body) = parsed(&daemon.get("/v1/status"));
    assert_eq!((code, &body["code"]), (503, &json!("busy")));
}

#[test]
fn a_stranger_is_forbidden_before_anything_is_parsed() {
    let nobody = Access {
        uids: Vec::new(),
        group: None,
    };
    let daemon = Daemon::start(nobody, Limits::default(), Arc::new(FakeSource::healthy()));
    // Were it parsed, this would be a 400.
    for bytes in [
        &b"\x00\x00garbage"[..],
        b"GET /v1/status HTTP/1.1\r\nhost: t\r\n\r\n",
    ] {
        let mut stream = daemon.connect();
        stream.write_all(bytes).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let (code, body) = parsed(&answer(stream));
        assert_eq!((code, &body["code"]), (403, &json!("forbidden")));
        assert!(body["hint"].as_str().unwrap().contains("group"));
    }
}

#[test]
fn dropping_the_server_frees_the_socket() {
    let daemon = Daemon::usual();
    let Daemon {
        socket,
        _server: server,
        _dir,
    } = daemon;
    drop(server);
    assert!(UnixStream::connect(&socket).is_err());
    assert!(bind(&socket, None).is_ok());
}

/// Names, samples and the shape of a histogram in the Prometheus text.
#[test]
fn every_metric_is_described_and_has_its_samples() {
    let daemon = Daemon::usual();
    let answer = daemon.get("/metrics");
    let (head, text) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("text/plain; version=0.0.4"));
    for metric in METRICS {
        assert!(metric.name.starts_with("tmem_"), "{}", metric.name);
        assert_eq!(
            metric.kind == MetricKind::Counter,
            metric.name.ends_with("_total")
        );
        assert_eq!(
            text.matches(&format!("# HELP {} ", metric.name)).count(),
            1,
            "{}",
            metric.name
        );
        let sample = |line: &str| !line.starts_with('#') && line.starts_with(metric.name);
        assert!(text.lines().any(sample), "{} has no sample", metric.name);
    }
    for line in [
        "tmem_balloon_held_pages{guest=\"web\"} 131072",
        "tmem_balloon_decision{guest=\"web\",reason=\"idle\"} 1",
        "tmem_put_total{guest=\"web\",result=\"refused_full\"} 3",
        "tmem_flush_total{guest=\"web\",result=\"ok\"} 7488",
        "tmem_guest_connected{guest=\"a \\\"b\\\"/c\"} 0",
        "tmem_pool_pages{guest=\"web\",pool=\"7\",kind=\"ephemeral\"} 200",
        "tmem_get_latency_seconds_bucket{guest=\"web\",le=\"1e-6\"} 0",
        "tmem_get_latency_seconds_bucket{guest=\"web\",le=\"2e-6\"} 6900",
        "tmem_get_latency_seconds_bucket{guest=\"web\",le=\"2e-5\"} 6999",
        "tmem_get_latency_seconds_bucket{guest=\"web\",le=\"+Inf\"} 7000",
        "tmem_get_latency_seconds_sum{guest=\"web\"} 0.009000000",
        "tmem_get_latency_seconds_count{guest=\"web\"} 7000",
        "tmem_healthy 1",
        "tmem_up 1",
        "tmem_worker_restarts_total{cause=\"signal\"} 2",
        "tmem_worker_restarts_total{cause=\"hung\"} 0",
        "tmem_recovery_seconds 0.061000000",
        "tmem_pause_max_seconds 0.203000000",
        "tmem_sandbox_layer{process=\"keeper\",layer=\"seccomp\"} 1",
        "tmem_sandbox_layer{process=\"worker\",layer=\"namespaces\"} 0",
        "tmem_tier_pages{tier=\"dram\",kind=\"victim\"} 64",
        "tmem_tier_in_use{tier=\"remote\"} 1",
        "tmem_tier_emulated{tier=\"remote\"} 1",
        "tmem_tier_watermark_ratio{tier=\"dram\",mark=\"low\"} 0.05",
        "tmem_overcommit 0",
        "tmem_guest_dram_cap_pages{guest=\"web\"} 131072",
        "tmem_guest_weight{guest=\"a \\\"b\\\"/c\"} 100",
        "tmem_guest_freeable_pages{guest=\"web\",kind=\"ephemeral\"} 200",
        "tmem_guest_policy{guest=\"web\",policy=\"s3-fifo\"} 1",
        "tmem_hits_total{guest=\"web\",tier=\"victim\"} 100",
        "tmem_refused_total{guest=\"web\",reason=\"over_grant\"} 2",
        "tmem_tier_get_total{guest=\"web\",tier=\"pm\",result=\"corrupt\"} 1",
        "tmem_tier_put_total{guest=\"web\",tier=\"remote\",result=\"ok\"} 300",
        "tmem_demoted_total{guest=\"web\",tier=\"dram\"} 900",
        "tmem_promoted_total{guest=\"web\",tier=\"pm\"} 100",
        "tmem_checksum_errors_total{guest=\"web\",tier=\"pm\"} 1",
        "tmem_tier_time_seconds_bucket{guest=\"web\",tier=\"pm\",le=\"1e-5\"} 1300",
        "tmem_link_wait_seconds_count{guest=\"web\",tier=\"remote\",direction=\"in\"} 300",
        "tmem_queue_wait_seconds_count{guest=\"web\"} 16000",
        "tmem_pool_tier_pages{guest=\"web\",pool=\"0\",kind=\"persistent\",tier=\"pm\"} 500",
        "tmem_pool_tier_total{guest=\"web\",pool=\"0\",tier=\"pm\",op=\"get\",result=\"ok\"} 400",
        "tmem_pool_moved_total{guest=\"web\",pool=\"7\",tier=\"dram\",way=\"evicted\"} 40",
        "tmem_link_latency_seconds{tier=\"remote\",guest=\"\",direction=\"in\"} 0.000005000",
        "tmem_link_bandwidth_bits_per_second{tier=\"remote\",guest=\"\",direction=\"in\"} 25000000000",
        "tmem_link_overruns_total{tier=\"remote\",guest=\"\",direction=\"in\"} 2",
        "tmem_link_faults_total{tier=\"remote\",guest=\"\",direction=\"in\",fault=\"stall\"} 1",
    ] {
        assert!(
            text.lines().any(|have| have == line),
            "no {line} in\n{text}"
        );
    }
}

#[test]
fn resident_parts_add_up_to_what_is_resident() {
    let daemon = Daemon::usual();
    let (_, status) = parsed(&daemon.get("/v1/status"));
    let resident = status["memory"]["resident_bytes"].as_u64().unwrap();
    let answer = daemon.get("/metrics");
    let parts: u64 = answer
        .lines()
        .filter(|line| line.starts_with("tmem_resident_bytes{"))
        .map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
        .sum();
    assert_eq!(parts, resident);
}
