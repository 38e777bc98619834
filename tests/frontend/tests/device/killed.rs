// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The daemon's worker is killed, stopped and replaced under load: the guest waits, and nothing else.
//!
//! The model is the same as without: a request is answered once, with the answer that it would have
//! had, whatever happened to the process that began it. `TMEM_KILLS` sets the number of kills.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tmem_frontend::{Random, seed};

use crate::guest::Guest;
use crate::host::{Host, Settings, worker_of};
use crate::oracle::{GRANT, Oracle, rings};

/// Kills of a run, unless `TMEM_KILLS` says otherwise.
const KILLS: u64 = 2_000;
/// A worker is left alone for at most this long.
const LIFE_US: u32 = 12_000;

fn settings() -> Settings {
    Settings {
        grant_pages: GRANT,
        // Workers die much faster here than any crash loop would let them.
        daemon: format!("crash_limit = {}", u32::MAX),
        ..Settings::default()
    }
}

fn kills() -> u64 {
    let set = std::env::var("TMEM_KILLS").ok();
    set.map_or(KILLS, |kills| {
        kills.parse().expect("TMEM_KILLS is a number of kills")
    })
}

/// Kills the workers of `keeper` one after the other until there were enough of them.
fn kill_workers(keeper: u32, mut random: Random, killed: &AtomicU64, wanted: u64) {
    let mut last = None;
    while killed.load(Ordering::Relaxed) < wanted {
        let worker = worker_of(keeper).filter(|worker| Some(*worker) != last);
        let Some(worker) = worker else {
            thread::sleep(Duration::from_micros(200));
            continue;
        };
        thread::sleep(Duration::from_micros(u64::from(random.below(LIFE_US))));
        if kill_process(worker, Signal::KILL).is_ok() {
            killed.fetch_add(1, Ordering::Relaxed);
        }
        last = Some(worker);
    }
}

#[test]
fn requests_survive_the_death_of_the_worker() {
    survive("requests_survive_the_death_of_the_worker", &settings());
}

/// Most pages are below DRAM, on their way down or back, and answers are kept back by a link, out of
/// their order.
#[test]
fn requests_survive_the_death_of_the_worker_between_tiers() {
    let settings = Settings {
        dram_kib: Some(32 * 4),
        tables: "[pm]\npath = \"FOLDER/pm\"\nsize = \"240KiB\"\n\
                 [remote]\nsize = \"2MiB\"\n\
                 [link.remote]\nin = \"latency=300us\"\n"
            .to_owned(),
        ..settings()
    };
    survive(
        "requests_survive_the_death_of_the_worker_between_tiers",
        &settings,
    );
}

fn survive(name: &str, settings: &Settings) {
    let host = Host::start(settings);
    let seed = seed(name);
    let (killed, wanted) = (AtomicU64::new(0), kills());
    let mut guest = Guest::join(&host.socket(0), rings());
    let mut oracle = Oracle::new(Random::new(seed));
    let keeper = host.keeper();
    let (mut rounds, mut longest) = (0_u64, Duration::ZERO);
    thread::scope(|scope| {
        let killer = scope.spawn(|| kill_workers(keeper, Random::new(!seed), &killed, wanted));
        while !killer.is_finished() {
            for _ in 0..100 {
                let start = Instant::now();
                oracle.step(&mut guest);
                longest = longest.max(start.elapsed());
            }
            rounds += 1;
            if rounds.is_multiple_of(8) {
                oracle.drain(&mut guest);
                oracle.check_everything(&mut guest);
            }
        }
    });
    // On a busy machine hardly anything is done between two kills.
    for _ in 0..20_000 {
        if oracle.seen().iter().all(|count| *count > 0) {
            break;
        }
        oracle.step(&mut guest);
    }
    oracle.drain(&mut guest);
    oracle.check_everything(&mut guest);
    let seen = oracle.seen();
    println!(
        "{} kills, {} requests, longest step {longest:?}; delivered, missed, refused, stale, flushed, overtaken: {seen:?}",
        killed.load(Ordering::Relaxed),
        rounds * 100,
    );
    assert!(
        killed.load(Ordering::Relaxed) >= wanted,
        "the worker was killed less often than asked for"
    );
    assert!(
        wanted < 100 || seen.iter().all(|count| *count > 0),
        "the run met too little: {seen:?}"
    );
    assert!(
        host.log().contains("guests are served again"),
        "no worker took over"
    );
}

#[test]
fn a_stopped_worker_is_waited_for() {
    let host = Host::start(&settings());
    let mut guest = Guest::join(&host.socket(0), rings());
    guest.put_ok(0, &[1, 2, 3]);
    let worker = host.worker().unwrap();
    stop(worker);
    let goes_on = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_secs(2));
            goes_on.store(true, Ordering::Release);
            kill_process(worker, Signal::CONT).unwrap();
        });
        guest.assert_pages(0, &[1, 2, 3]);
        assert!(goes_on.load(Ordering::Acquire), "a stopped worker answered");
    });
    assert_eq!(host.worker(), Some(worker), "it was not replaced");
}

/// Stops a process, and waits until all its threads have.
fn stop(process: Pid) {
    kill_process(process, Signal::STOP).unwrap();
    let tasks = format!("/proc/{}/task", process.as_raw_nonzero());
    let stopped = || {
        std::fs::read_dir(&tasks).unwrap().all(|task| {
            let stat = std::fs::read_to_string(task.unwrap().path().join("stat")).unwrap();
            stat.rsplit(") ").next().unwrap().starts_with('T')
        })
    };
    while !stopped() {
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn pages_of_all_kinds_are_there_after_a_kill() {
    let host = Host::start(&settings());
    let mut guest = Guest::join(&host.socket(0), rings());
    let tags: Vec<u64> = (1..=100).collect();
    guest.put_ok(10, &tags);
    kill_and_wait(&host);
    guest.assert_pages(10, &tags);
    guest.assert_missing(0, 10);
    assert_eq!(guest.flush(10, 50), 50);
    kill_and_wait(&host);
    guest.assert_missing(10, 50);
    guest.assert_pages(60, &tags[50..]);
    let stat = guest.driver.stat(crate::guest::POOL).unwrap();
    assert_eq!(stat.pages, 50);
}

/// Kills the worker and waits for the next one.
fn kill_and_wait(host: &Host) -> Pid {
    let old = host.worker().unwrap();
    kill_process(old, Signal::KILL).unwrap();
    let start = Instant::now();
    loop {
        if let Some(new) = host.worker().filter(|new| *new != old) {
            return new;
        }
        assert!(
            start.elapsed() < tmem_frontend::WAIT,
            "no other worker was started"
        );
        thread::sleep(Duration::from_millis(1));
    }
}
