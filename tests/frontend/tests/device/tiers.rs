// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Tiers and links as a guest meets them: most of its pages are not in DRAM, and it must not notice but
//! by time.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process};
use serde_json::Value;
use tmem_abi::{PAGE_SIZE, op, result};
use tmem_admin_api::{
    GuestDetail, HitTier, LinkList, Stats, Status, TaskDetail, TaskState, TaskStatus, TierList,
    TierName, TierState, TraceDetail, Watermarks, path,
};
use tmem_frontend::{Options, Random, Request, Shape, WAIT, pages_at, seed};

use crate::guest::{Guest, POOL};
use crate::host::{Host, Settings};
use crate::oracle::{GRANT, Oracle, rings};
use crate::replaced::ask;

/// Pages of DRAM.
const DRAM: u64 = 64;
/// Pages that a test puts.
const PAGES: u32 = 400;

const PM: &str = "[pm]\npath = \"FOLDER/pm\"\nsize = \"400KiB\"\n";
const REMOTE: &str = "[remote]\nsize = \"4MiB\"\n";

fn settings(tables: &str) -> Settings {
    Settings {
        grant_pages: 512,
        dram_kib: Some(DRAM * 4),
        tables: tables.to_owned(),
        ..Settings::default()
    }
}

/// An exchange with the admin API, which a worker that is killed meanwhile does not end.
pub(crate) fn asked<T: serde::de::DeserializeOwned>(
    host: &Host,
    method: &str,
    path: &str,
    body: &str,
) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask(host, method, path, body) {
            return serde_json::from_str(&answer).unwrap();
        }
        assert!(start.elapsed() < WAIT, "the admin API does not answer");
        thread::sleep(Duration::from_millis(5));
    }
}

fn hits(host: &Host) -> BTreeMap<HitTier, u64> {
    let stats: Stats = asked(host, "GET", path::STATS, "");
    stats.guests[0].hits.clone()
}

fn hit(hits: &BTreeMap<HitTier, u64>, tier: HitTier) -> u64 {
    hits.get(&tier).copied().unwrap_or(0)
}

/// Puts pages, each with its own content, and waits until DRAM is within its size.
fn fill(guest: &mut Guest) {
    for first in (0..PAGES).step_by(50) {
        let tags: Vec<u64> = (first..first + 50).map(u64::from).collect();
        guest.put_ok(first, &tags);
    }
}

fn check(guest: &mut Guest) {
    for first in (0..PAGES).step_by(50) {
        let tags: Vec<u64> = (first..first + 50).map(u64::from).collect();
        guest.assert_pages(first, &tags);
    }
}

fn set_link(host: &Host, body: &str) -> LinkList {
    asked(host, "POST", "/v1/links/set", body)
}

pub(crate) fn await_task(host: &Host, task: TaskStatus) -> TaskStatus {
    let start = Instant::now();
    let mut task = task;
    while task.state == TaskState::Running {
        assert!(start.elapsed() < WAIT, "{task:?} does not end");
        thread::sleep(Duration::from_millis(5));
        let id = task.id;
        task = asked::<TaskDetail>(host, "GET", &format!("/v1/tasks/{id}"), "").task;
    }
    task
}

#[test]
fn pages_come_back_whole_from_every_tier() {
    let host = Host::start(&settings(&format!("{PM}{REMOTE}")));
    let mut guest = Guest::join(&host.socket(0), rings());
    fill(&mut guest);
    check(&mut guest);
    let hits = hits(&host);
    assert!(hit(&hits, HitTier::Pm) > 0, "{hits:?}");
    assert!(hit(&hits, HitTier::Remote) > 0, "{hits:?}");
    assert_eq!(hits.values().sum::<u64>(), u64::from(PAGES));
    let tiers: TierList = asked(&host, "GET", path::TIERS, "");
    let names: Vec<_> = tiers.tiers.iter().map(|tier| tier.name).collect();
    assert_eq!(names, [TierName::Dram, TierName::Pm, TierName::Remote]);
    assert!(tiers.tiers.iter().all(|tier| tier.errors == 0), "{tiers:?}");
    let detail: GuestDetail = asked(&host, "GET", "/v1/guests/vm0", "");
    let guest = detail.guest;
    assert_eq!(guest.held_pages, u64::from(PAGES));
    assert_eq!(
        guest.held_pages,
        guest.frame_pages + guest.pm_pages + guest.remote_pages
    );
    assert!(guest.frame_pages <= DRAM, "{guest:?}");
    let status: Status = asked(&host, "GET", path::STATUS, "");
    assert!(!status.emulated && status.reasons.is_empty(), "{status:?}");
}

#[test]
fn a_guest_keeps_to_its_cap_and_its_pages_stay() {
    let host = Host::start(&Settings {
        dram_kib: Some(4096),
        guest: "dram_cap = \"128KiB\"\npolicy = \"lru\"\n".to_owned(),
        ..settings(PM)
    });
    let mut guest = Guest::join(&host.socket(0), rings());
    let tags: Vec<u64> = (0..120).collect();
    guest.put_ok(0, &tags);
    let start = Instant::now();
    loop {
        let detail: GuestDetail = asked(&host, "GET", "/v1/guests/vm0", "");
        let memory = detail.guest.memory.unwrap();
        assert_eq!((memory.dram_cap_pages, &*memory.policy), (Some(32), "lru"));
        if memory.dram_pages + memory.victim_pages <= 32 {
            break;
        }
        assert!(start.elapsed() < WAIT, "the guest stays above its cap");
        thread::sleep(Duration::from_millis(5));
    }
    guest.assert_pages(0, &tags);
}

#[test]
fn administrators_may_do_anything_while_a_guest_works() {
    let host = Host::start(&Settings {
        grant_pages: GRANT,
        dram_kib: Some(96 * 4),
        daemon: "trace_dir = \"FOLDER\"\n".to_owned(),
        tables: format!("[dram]\nmax = \"2MiB\"\n{PM}{REMOTE}"),
        ..Settings::default()
    });
    let mut guest = Guest::join(&host.socket(0), rings());
    let name = "administrators_may_do_anything_while_a_guest_works";
    let mut oracle = Oracle::new(Random::new(seed(name)));
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let task = |path: &str, body: &str| {
                let begun: TaskDetail = asked(&host, "POST", path, body);
                let ended = await_task(&host, begun.task);
                assert_eq!(ended.state, TaskState::Done, "{path} {body}: {ended:?}");
            };
            let tell = |path: &str, body: &str| asked::<Value>(&host, "POST", path, body);
            tell("/v1/guests/vm0/trace/start", "");
            for round in 0..3 {
                task("/v1/tiers/dram/resize", r#"{"pages": 40}"#);
                task("/v1/tiers/pm/drain", "");
                tell("/v1/tiers/pm/undrain", "");
                task("/v1/tiers/dram/resize", r#"{"pages": 300}"#);
                task("/v1/guests/vm0/reclaim", r#"{"pages": 30}"#);
                task("/v1/tiers/remote/resize", r#"{"pages": 600}"#);
                let policy = ["clock", "random", "fifo"][round];
                tell(
                    "/v1/guests/vm0/policy",
                    &format!("{{\"policy\": \"{policy}\"}}"),
                );
                tell(
                    "/v1/guests/vm0/limits",
                    r#"{"dram_cap_pages": 50, "weight": 7}"#,
                );
                // With it the guest's pages might not fit anywhere else.
                tell("/v1/guests/vm0/limits", r#"{"dram_cap_pages": "none"}"#);
                task("/v1/tiers/remote/drain", "");
                tell("/v1/tiers/remote/undrain", "");
            }
            over.store(true, Ordering::Release);
        });
        while !over.load(Ordering::Acquire) {
            (0..200).for_each(|_| oracle.step(&mut guest));
        }
    });
    oracle.drain(&mut guest);
    oracle.check_everything(&mut guest);
    let stopped: TraceDetail = asked(&host, "POST", "/v1/guests/vm0/trace/stop", "");
    assert!(stopped.trace.records > 0, "{stopped:?}");
    let file = std::fs::read(host.folder().join("vm0.trace")).unwrap();
    assert!(file.starts_with(b"tmemtrc\n"), "{}", file.len());
}

#[test]
fn a_frozen_guest_keeps_what_it_has() {
    let host = Host::start(&settings(&format!("{PM}{REMOTE}")));
    let mut guest = Guest::join(&host.socket(0), rings());
    fill(&mut guest);
    let _: Value = asked(&host, "POST", "/v1/guests/vm0/freeze", "");
    assert_eq!(guest.put(POOL, 500, &[7]), [result::REFUSED_FROZEN]);
    check(&mut guest);
    assert_eq!(guest.flush(0, 10), 10);
    let _: Value = asked(&host, "POST", "/v1/guests/vm0/thaw", "");
    guest.put_ok(500, &[7]);
}

/// A page of one repeated byte, which is in no tier, and one that is in the remote one: sent in this
/// order to one ring. Returns the order of the answers, and how long the first sent took.
fn race(guest: &mut Guest, remote: u32, same: u32) -> (Vec<u16>, [u16; 2], Duration) {
    guest.scrub(2);
    let (to, beside) = (guest.get_page(0), guest.get_page(1));
    let queue = &mut guest.driver.pair(0).get;
    let start = Instant::now();
    let tokens = [(remote, to), (same, beside)].map(|(index, to)| {
        let request = Request::run(op::GET, POOL, index, 1, 0);
        let shape = Shape {
            indirect: true,
            cut: 0,
        };
        queue.submit(&request, &[pages_at(to, 1)], shape).unwrap()
    });
    queue.notify().unwrap();
    let mut order = Vec::new();
    let mut took = Duration::ZERO;
    while order.len() < 2 {
        let done = queue.wait().unwrap();
        assert_eq!(done.results, [result::OK]);
        if done.token == tokens[0] {
            took = start.elapsed();
        }
        order.push(done.token);
    }
    (order, tokens, took)
}

/// Puts a page of zeroes at this index.
fn put_zeroes(guest: &mut Guest, index: u32) {
    let page = guest.put_page(0);
    guest.memory.write(page, &[0; PAGE_SIZE]).unwrap();
    let ticket = guest.driver.ticket();
    let request = Request::run(op::PUT, POOL, index, 1, ticket);
    let done = guest.put_call(&request, &[pages_at(page, 1)]);
    assert_eq!(done.results, [result::OK]);
}

#[test]
fn a_get_over_a_link_takes_its_time_and_lets_others_pass() {
    let host = Host::start(&settings(REMOTE));
    let mut guest = Guest::join(&host.socket(0), rings());
    fill(&mut guest);
    put_zeroes(&mut guest, 1000);
    for (first, micros) in [(0, 20_000), (5, 100)] {
        let body =
            format!(r#"{{"tier": "remote", "direction": "in", "text": "latency={micros}us"}}"#);
        let before = set_link(&host, &body).links;
        assert_eq!((before.len(), before[0].latency_ns), (1, micros * 1000));
        let status: Status = asked(&host, "GET", path::STATUS, "");
        assert!(status.emulated);
        let latency = Duration::from_micros(micros);
        let mut met = 0;
        for index in (first..PAGES).step_by(10) {
            let before = hits(&host);
            let (order, tokens, took) = race(&mut guest, index, 1000);
            assert!(guest.delivered(0) == tmem_frontend::page_content(u64::from(index)));
            assert_eq!(guest.delivered(1), [0; PAGE_SIZE]);
            if hit(&hits(&host), HitTier::Remote) > hit(&before, HitTier::Remote) {
                assert!(took >= latency, "page {index} came after {took:?}");
                // On a busy machine a short wait may be over before the next request is looked at.
                if micros > 1000 {
                    assert_eq!(order, [tokens[1], tokens[0]], "nothing else waits");
                }
                met += 1;
            }
        }
        assert!(met > 5, "only {met} pages came from the remote tier");
        let links: LinkList = asked(&host, "GET", path::LINKS, "");
        let error = links.links[0].error.since(&before[0].error);
        println!(
            "{micros} us: {met} pages came from the remote tier, late by {} ns, p90 {} ns",
            error.p50_ns, error.p90_ns
        );
        assert!(links.links.iter().all(|link| link.early == 0), "{links:?}");
    }
    let stats: Stats = asked(&host, "GET", path::STATS, "");
    let stages = &stats.guests[0].stages;
    assert!(stages.tiers[&TierName::Remote].count > 10);
    assert!(
        stages.links[&TierName::Remote]
            .values()
            .all(|way| way.count > 10)
    );
    assert!(stages.queue_wait.count > 0);
}

#[test]
fn an_answer_that_is_kept_back_survives_the_worker_and_the_ring_s_stop() {
    let host = Host::start(&settings(REMOTE));
    let mut guest = Guest::join(&host.socket(0), rings());
    fill(&mut guest);
    put_zeroes(&mut guest, 1000);
    let body = r#"{"tier": "remote", "direction": "in", "text": "latency=400ms"}"#;
    set_link(&host, body);
    let shape = Shape {
        indirect: false,
        cut: 0,
    };
    for round in 0..6 {
        // All of DRAM is newer than these.
        let indices: Vec<u32> = (0..8).map(|nth| round * 8 + nth).collect();
        guest.scrub(9);
        let pages: Vec<u64> = (0..9).map(|at| guest.get_page(at)).collect();
        let queue = &mut guest.driver.pair(0).get;
        let mut tokens = Vec::new();
        for (index, page) in indices.iter().chain([&1000]).zip(&pages) {
            let request = Request::run(op::GET, POOL, *index, 1, 0);
            let data = [pages_at(*page, 1)];
            tokens.push(queue.submit(&request, &data, shape).unwrap());
        }
        queue.notify().unwrap();
        let first = queue.wait().unwrap();
        let mut answered = vec![first.token];
        if round % 2 == 0 {
            let worker = host.worker().unwrap();
            kill_process(worker, Signal::KILL).unwrap();
        } else {
            let number = tmem_abi::QUEUE_REQUEST_FIRST;
            let base = guest.driver.connection().stop_ring(number).unwrap();
            let queue = &mut guest.driver.pair(0).get;
            while let Some(done) = queue.poll().unwrap() {
                answered.push(done.token);
            }
            assert_eq!(answered.len(), 9, "a stop finishes what was taken");
            assert_eq!(base, queue.queue().ring().next_used());
            guest.driver.connection().start_ring(number).unwrap();
        }
        let queue = &mut guest.driver.pair(0).get;
        while answered.len() < 9 {
            let done = queue.wait().unwrap();
            assert_eq!(done.results, [result::OK]);
            answered.push(done.token);
        }
        answered.sort_unstable();
        tokens.sort_unstable();
        assert_eq!(answered, tokens, "each is answered once");
        for (at, index) in indices.iter().enumerate() {
            let wanted = tmem_frontend::page_content(u64::from(*index));
            assert!(guest.delivered(at) == wanted, "page {index}");
        }
    }
    let body = r#"{"tier": "remote"}"#;
    let _: LinkList = asked(&host, "POST", "/v1/links/clear", body);
    check(&mut guest);
}

#[test]
fn a_bit_that_a_link_flips_is_never_delivered() {
    let host = Host::start(&settings(REMOTE));
    let mut guest = Guest::join(&host.socket(0), rings());
    fill(&mut guest);
    let body = r#"{"tier": "remote", "direction": "in", "text": "corrupt=0.3 seed=7"}"#;
    let faulty: LinkList = asked(&host, "POST", "/v1/links/faults", body);
    assert!(!faulty.links[0].faults.is_empty(), "{faulty:?}");
    let mut corrupt = 0;
    for index in 0..PAGES {
        match guest.get(POOL, index, 1)[..] {
            [result::OK] => {
                let wanted = tmem_frontend::page_content(u64::from(index));
                assert!(guest.delivered(0) == wanted, "page {index}");
            }
            [result::CORRUPT] => corrupt += 1,
            ref other => panic!("get of page {index}: {other:?}"),
        }
    }
    let links: LinkList = asked(&host, "GET", path::LINKS, "");
    let faulted: u64 = links
        .links
        .iter()
        .flat_map(|link| link.faulted.values())
        .sum();
    assert!(
        faulted > corrupt,
        "most were had by asking again: {links:?}"
    );
    let body = r#"{"tier": "remote", "direction": "in", "text": ""}"#;
    let _: LinkList = asked(&host, "POST", "/v1/links/faults", body);
    check(&mut guest);
}

#[test]
fn what_administrators_set_outlives_the_worker() {
    let host = Host::start(&settings(&format!("{PM}{REMOTE}")));
    let mut guest = Guest::join(&host.socket(0), rings());
    fill(&mut guest);
    let body = r#"{"low_percent": 20, "high_percent": 30}"#;
    let _: Value = asked(&host, "POST", "/v1/tiers/dram/watermarks", body);
    let text = "latency_ns=30000 bandwidth_bps=10000000000 local_npages=48";
    let line = format!("{{\"guest\": \"vm0\", \"text\": \"{text}\"}}");
    set_link(&host, &line);
    set_link(
        &host,
        r#"{"tier": "pm", "text": "latency=10us jitter=uniform:2us seed=3"}"#,
    );
    let drained: TaskDetail = asked(&host, "POST", "/v1/tiers/pm/drain", "");
    await_task(&host, drained.task);
    let seen = |host: &Host| {
        let links: LinkList = asked(host, "GET", path::LINKS, "");
        let links = links.links.into_iter();
        links
            .map(|link| (link.tier, link.guest, link.direction, link.queue, link.text))
            .collect::<Vec<_>>()
    };
    let before = seen(&host);
    let worker = host.worker().unwrap();
    kill_process(worker, Signal::KILL).unwrap();
    check(&mut guest);
    assert_eq!(seen(&host), before);
    let tiers: TierList = asked(&host, "GET", path::TIERS, "");
    let marks = Watermarks {
        low_percent: 20,
        high_percent: 30,
    };
    assert_eq!(tiers.tiers[0].watermarks, Some(marks));
    assert_eq!(tiers.tiers[1].state, TierState::Drained);
    let detail: GuestDetail = asked(&host, "GET", "/v1/guests/vm0", "");
    let memory = detail.guest.memory.unwrap();
    assert_eq!((memory.dram_cap_pages, memory.emulated), (Some(48), true));
}

#[test]
fn a_pm_file_that_is_something_else_ends_the_start_with_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pm");
    std::fs::write(&path, [7; 8192]).unwrap();
    let socket = folder.path().join("vm0.sock");
    let toml = format!(
        "[daemon]\ndram = \"1MiB\"\n[pm]\npath = {path:?}\nsize = \"1MiB\"\n\
         [[guest]]\nname = \"vm0\"\nsocket = {socket:?}\ngrant = \"1MiB\"\n"
    );
    let config = folder.path().join("daemon.toml");
    std::fs::write(&config, toml).unwrap();
    let mut command = std::process::Command::new(crate::host::binary());
    let output = command.arg("--config").arg(&config).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("something else") && said.contains("/pm"),
        "{said}"
    );
    assert_eq!(
        std::fs::read(&path).unwrap(),
        [7; 8192],
        "it was left alone"
    );
}

#[test]
fn a_pm_file_belongs_to_one_daemon() {
    let host = Host::start(&settings(&format!("{PM}{REMOTE}")));
    let folder = tempfile::tempdir().unwrap();
    let (socket, path) = (folder.path().join("vm0.sock"), host.folder().join("pm"));
    let toml = format!(
        "[daemon]\ndram = \"1MiB\"\n[pm]\npath = {path:?}\nsize = \"400KiB\"\n\
         [[guest]]\nname = \"vm0\"\nsocket = {socket:?}\ngrant = \"1MiB\"\n"
    );
    let config = folder.path().join("daemon.toml");
    std::fs::write(&config, toml).unwrap();
    let mut command = std::process::Command::new(crate::host::binary());
    let output = command.arg("--config").arg(&config).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("another program has it"), "{said}");
    let mut guest = Guest::join(&host.socket(0), rings());
    guest.put_ok(0, &[1, 2, 3]);
    guest.assert_pages(0, &[1, 2, 3]);
}

#[test]
fn a_daemon_without_further_tiers_has_one() {
    let host = Host::one();
    let mut guest = Guest::join(&host.socket(0), Options::default());
    guest.put_ok(0, &[1, 2, 3]);
    guest.assert_pages(0, &[1, 2, 3]);
    let tiers: TierList = asked(&host, "GET", path::TIERS, "");
    assert_eq!(tiers.tiers.len(), 1);
    assert_eq!(tiers.tiers[0].watermarks, None);
}
