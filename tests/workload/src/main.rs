// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `tmem-workload`: memory-hungry programs that check every byte they wrote.
//!
//! It runs inside a test guest, so it is linked statically and uses nothing but the C library.
//!
//! ```text
//! tmem-workload pages --mib 300 --seed 7 [--passes 2 | --until FILE] [--huge on|off] [--wait-for FILE]
//! tmem-workload probe --mib 4   --seed 7 --until FILE
//! tmem-workload clock
//! tmem-workload fork  --mib 200 --seed 7 [--children 3]
//! tmem-workload storm --mib 300 --seed 7 [--processes 6] [--rounds 3]
//! tmem-workload file  --path FILE --mib 300 --seed 7 [--passes 2]
//! tmem-workload redis-fill  --socket PATH --values 1000 --bytes 4096 --seed 7
//! tmem-workload redis-check --socket PATH --values 1000 --bytes 4096 --seed 7
//! tmem-workload disk  --path DISK --mib 32 --seed 7 --blocks 100000 [--direct 1] [--readers 3]
//!                     [--writers 2] [--pause-us 500] [--least-ms 0]
//! tmem-workload reads --path FILE --mib 64 --seed 7 --count 4000 --kib 4 [--order random] [--direct 1]
//! tmem-workload tree  --path FOLDER --mib 96 --seed 7 --do make|scan
//! tmem-workload dm    --do create|load|suspend|resume|remove|message|status --name NAME
//!                     [--table TEXT] [--text WORDS]
//! tmem-workload wrong --device virtio0
//! ```
//! Each prints one line, `TMEM-RESULT {...}`, with what it did and `"mismatches"`; the exit code is
//! 0 only if all that was asked for was done and nothing differed.

mod disk;
mod dm;
mod file;
mod options;
mod pages;
mod pattern;
mod probe;
mod processes;
mod redis;
mod region;
mod report;
mod stamps;
mod tree;
mod wrong;

use options::Options;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let Some(name) = arguments.next() else {
        eprintln!(
            "tmem-workload: name a workload: pages, probe, clock, fork, storm, file, redis-fill, \
             redis-check, disk, reads, tree, dm, wrong"
        );
        return ExitCode::from(2);
    };
    let outcome = Options::parse(arguments).and_then(|options| match name.as_str() {
        "pages" => pages::run(&options),
        "probe" => probe::run(&options),
        "clock" => probe::clock(),
        "fork" => processes::fork_and_write(&options),
        "storm" => processes::storm(&options),
        "file" => file::run(&options),
        "redis-fill" => redis::fill(&options),
        "redis-check" => redis::check(&options),
        "disk" => disk::run(&options),
        "reads" => disk::reads(&options),
        "tree" => tree::run(&options),
        "dm" => dm::run(&options),
        "wrong" => wrong::run(&options),
        other => Err(format!("there is no workload {other}")),
    });
    match outcome {
        Ok(report) => {
            println!("TMEM-RESULT {}", report.json(&name));
            if report.is_clean() {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
        Err(message) => {
            eprintln!("tmem-workload {name}: {message}");
            ExitCode::FAILURE
        }
    }
}
