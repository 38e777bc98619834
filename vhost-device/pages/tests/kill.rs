// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Kills for real: a process works on the files until it gets SIGKILL at a random moment, and what it
//! leaves is held against what it wrote down. Then the next one goes on with the same files.
//!
//! `TMEM_KILLS` says how often, `TMEM_SEED` with which random numbers.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

#[path = "kill/judge.rs"]
mod judge;
#[path = "kill/log.rs"]
mod log;
#[allow(dead_code, reason = "each test file uses its part of the model")]
mod model;
#[path = "kill/workload.rs"]
mod workload;

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use judge::{Met, judge};
use log::ThreadLog;
use model::{Random, seed};
use tmem_pages::{EngineError, EngineFiles};
use workload::Places;

/// Names the files and the seed to the process that works.
const VARIABLE: &str = "TMEM_KILL_WORKLOAD";

/// Not a test: what the process that is killed runs. Does nothing by itself.
#[test]
fn workload_until_it_is_killed() {
    let Ok(words) = std::env::var(VARIABLE) else {
        return;
    };
    let mut words = words.split(' ');
    let mut open = || {
        let path = words.next().unwrap();
        File::options().read(true).write(true).open(path).unwrap()
    };
    let (map, frames, log): (OwnedFd, OwnedFd, File) = (open().into(), open().into(), open());
    let slots = [open(), open()];
    let tiered = words.next().unwrap() == "tiered";
    let seed = words.next().unwrap().parse().unwrap();
    let places = Places {
        files: EngineFiles { map, frames },
        slots: tiered.then_some(slots),
    };
    workload::run(&places, &log, seed);
}

/// Starts the process that works.
fn start(places: &Places, log: &File, seed: u64) -> Child {
    let files = &places.files;
    let slots = places.slots.as_ref();
    let path = |file: i32| format!("/proc/{}/fd/{file}", std::process::id());
    let words = [
        path(files.map.as_raw_fd()),
        path(files.frames.as_raw_fd()),
        path(log.as_raw_fd()),
        path(slots.map_or(0, |slots| slots[0].as_raw_fd())),
        path(slots.map_or(0, |slots| slots[1].as_raw_fd())),
        slots.map_or("flat", |_| "tiered").to_owned(),
        seed.to_string(),
    ];
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "workload_until_it_is_killed", "--nocapture"])
        .env(VARIABLE, words.join(" "))
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

fn kill(mut child: Child) {
    if let Some(status) = child.try_wait().unwrap() {
        panic!("the workload ended by itself: {status}");
    }
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9));
}

#[test]
fn killed_process_leaves_every_page_acknowledged_or_sent() {
    kill_often(
        "killed_process_leaves_every_page_acknowledged_or_sent",
        None,
    );
}

#[test]
fn killed_process_leaves_every_page_in_some_tier() {
    let file = || tempfile::tempfile().unwrap();
    let test = "killed_process_leaves_every_page_in_some_tier";
    let met = kill_often(test, Some([file(), file()]));
    assert!(met.stored > 0, "{met:?}");
}

fn kill_often(test: &str, slots: Option<[File; 2]>) -> Met {
    let seed = seed(test);
    let kills: u64 = std::env::var("TMEM_KILLS").map_or(200, |kills| kills.parse().unwrap());
    let places = Places {
        files: EngineFiles::anonymous().unwrap(),
        slots,
    };
    let log = File::from(EngineFiles::anonymous().unwrap().map);
    ThreadLog::begin(&log);
    let mut random = Random::new(seed, 1000);
    let mut met = Met::default();
    for round in 0..kills {
        let child = start(&places, &log, random.next());
        // Some die while they still recover.
        std::thread::sleep(Duration::from_micros(2000 + random.below(45_000)));
        kill(child);
        judge(&places, &log, random.one_in(2), &mut met);
        if round % 100 == 99 {
            println!("{} kills: {met:?}", round + 1);
        }
    }
    println!("{kills} kills: {met:?}");
    if kills >= 100 {
        assert!(met.pages > 0 && met.unresolved > 0, "{met:?}");
        assert!(met.done > 0 && met.undone > 0, "{met:?}");
    }
    met
}

#[test]
fn map_of_a_living_process_is_refused() {
    let files = EngineFiles::anonymous().unwrap();
    let places = Places { files, slots: None };
    let log = File::from(EngineFiles::anonymous().unwrap().map);
    ThreadLog::begin(&log);
    let child = start(&places, &log, 1);
    // It has the map once its first log is there, which it writes behind the recovery.
    while ThreadLog::read(&log, 0).tickets == 0 {
        std::thread::yield_now();
    }
    places.files.check().unwrap();
    let error = places.open().unwrap_err();
    assert!(matches!(error, EngineError::InUse), "{error}");
    kill(child);
    judge(&places, &log, true, &mut Met::default());
}
