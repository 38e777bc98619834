// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `tmem-fuzz`: calls to `/dev/tmem` that no honest program makes.
//!
//! ```text
//! tmem-fuzz [--seconds 10] [--seed 1] [--threads 2]
//! ```
//! Threads make calls with arguments drawn at random: some are right, some surely malformed, most
//! somewhere between, on memory, pools and files that other threads take away meanwhile:
//!
//! - one maps, unmaps, protects and discards the memory that the calls name;
//! - one forks; children make calls of their own, and are killed in the middle of them;
//! - one opens and closes files, and duplicates of those that are in use.
//!
//! What is surely malformed must be refused with the right error. A witness, a pool of its own with known
//! pages, must keep them, and memory that no call names must keep its content: both are counted as
//! mismatches. That the kernel survives is for its log to say. All choices follow from the seed; their
//! order among threads does not.

mod arena;
mod calls;
mod chaos;
mod witness;

use arena::Arena;
use calls::Caller;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tmem_user::program::{Options, Rng, result_line};
use witness::Witness;

/// What all threads count together.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) calls: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) forks: AtomicU64,
    pub(crate) unmaps: AtomicU64,
    pub(crate) mismatches: AtomicU64,
}

impl Counts {
    pub(crate) fn mismatch(&self, what: &str) {
        if self.mismatches.fetch_add(1, Relaxed) < 10 {
            eprintln!("tmem-fuzz: {what}");
        }
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(message) => {
            eprintln!("tmem-fuzz: {message}");
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<bool, String> {
    let names = ["seconds", "seed", "threads"];
    let options = Options::parse(std::env::args().skip(1), &names, &[])?;
    let time = Duration::from_secs(options.number("seconds", 10)?);
    let seed = options.number("seed", 1)?;
    let threads = options.number("threads", 2)?;
    eprintln!("tmem-fuzz: seed {seed}");
    let counts = Counts::default();
    let over = AtomicBool::new(false);
    let arena = Arena::new()?;
    let files = chaos::Files::open()?;
    let mut witness = Witness::new()?;
    let outcome: Result<(), String> = std::thread::scope(|scope| {
        for nth in 0..threads {
            let (arena, files, counts, over) = (&arena, &files, &counts, &over);
            let mut rng = Rng::of(seed, nth);
            scope.spawn(move || {
                let mut caller = Caller::new(arena);
                while !over.load(Relaxed) {
                    caller.call(files, &mut rng, counts);
                }
            });
        }
        let chaos: [fn(&Arena, &chaos::Files, &mut Rng, &Counts); 3] =
            [chaos::remap, chaos::fork, chaos::reopen];
        for (each, nth) in chaos.into_iter().zip(1000..) {
            let (arena, files, counts, over) = (&arena, &files, &counts, &over);
            let mut rng = Rng::of(seed, nth);
            scope.spawn(move || {
                while !over.load(Relaxed) {
                    each(arena, files, &mut rng, counts);
                }
            });
        }
        let end = Instant::now() + time;
        let mut checked = Ok(());
        while Instant::now() < end && checked.is_ok() {
            std::thread::sleep(Duration::from_millis(100));
            checked = witness.check(&counts);
        }
        over.store(true, Relaxed);
        checked
    });
    outcome?;
    if !arena.guards_are_whole() {
        counts.mismatch("memory beside what calls name has changed");
    }
    let value = |counter: &AtomicU64| counter.load(Relaxed);
    println!(
        "{}",
        result_line(&[
            ("calls", value(&counts.calls)),
            ("refused", value(&counts.refused)),
            ("forks", value(&counts.forks)),
            ("unmaps", value(&counts.unmaps)),
            ("mismatches", value(&counts.mismatches)),
        ])
    );
    Ok(value(&counts.mismatches) == 0)
}
