// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `tmem-sim`: runs seeds of the simulation, on all processors; `cargo xtask sim` calls it.

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use clap::Parser;
use parking_lot::Mutex;
use tmem_store_tests::fresh;
use tmem_store_tests::sim::{Counts, Failure, Mutation, Plan, run};

/// Runs the real client and stores in a simulated network, under faults.
#[derive(Debug, Parser)]
#[command(name = "tmem-sim")]
struct Arguments {
    /// How many seeds to run; with --seed and without this, that one alone.
    #[arg(long, value_name = "NUMBER")]
    seeds: Option<u64>,
    /// The first of them; TMEM_SEED or a new one when left out.
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
    /// A mistake to make on purpose, which a seed must find: keeps-flushed, forgets, goes-back, no-fence.
    #[arg(long, value_name = "MISTAKE", default_value_t = Mutation::None)]
    mutation: Mutation,
    /// Runs each seed twice, and compares.
    #[arg(long)]
    twice: bool,
    /// Goes on after a failure, and counts.
    #[arg(long)]
    keep_going: bool,
    /// How many run at one time; as many as there are processors when left out.
    #[arg(long, value_name = "NUMBER")]
    jobs: Option<usize>,
    /// Prints all of the recorded events of a failure.
    #[arg(long)]
    verbose: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let named = std::env::var("TMEM_SEED").ok();
    let named = named.and_then(|text| text.parse().ok());
    let first = arguments.seed.or(named).unwrap_or_else(fresh);
    let count = match (arguments.seeds, arguments.seed) {
        (Some(count), _) => count,
        (None, Some(_)) => 1,
        (None, None) => 100,
    };
    println!(
        "seeds {first} to {}, mistake: {}",
        first + count - 1,
        arguments.mutation
    );
    let runner = Runner {
        next: AtomicU64::new(first),
        end: first + count,
        stop: AtomicBool::new(false),
        counts: Mutex::default(),
        failed: Mutex::default(),
        arguments,
    };
    let start = Instant::now();
    let jobs = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..runner.arguments.jobs.unwrap_or(jobs) {
            scope.spawn(|| runner.work());
        }
    });
    let mut failed = runner.failed.into_inner();
    failed.sort_unstable();
    let (done, counts) = runner.counts.into_inner();
    println!(
        "{done} seeds kept every promise in {:.0?}: {counts:?}",
        start.elapsed()
    );
    if failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("{} failed: {failed:?}", failed.len());
    ExitCode::FAILURE
}

struct Runner {
    arguments: Arguments,
    next: AtomicU64,
    end: u64,
    stop: AtomicBool,
    counts: Mutex<(u64, Counts)>,
    failed: Mutex<Vec<u64>>,
}

impl Runner {
    fn work(&self) {
        while !self.stop.load(Ordering::Relaxed) {
            let seed = self.next.fetch_add(1, Ordering::Relaxed);
            if seed >= self.end {
                return;
            }
            match self.one(seed) {
                Ok(counts) => {
                    let mut sum = self.counts.lock();
                    sum.0 += 1;
                    sum.1 += counts;
                    if sum.0.is_multiple_of(50) {
                        println!("{} seeds", sum.0);
                    }
                }
                Err(what) => {
                    self.failed.lock().push(seed);
                    println!("{what}\n");
                    if !self.arguments.keep_going {
                        self.stop.store(true, Ordering::Relaxed);
                    }
                }
            }
        }
    }

    fn one(&self, seed: u64) -> Result<Counts, String> {
        let mutation = self.arguments.mutation;
        let told = |failure: Box<Failure>| {
            if self.arguments.verbose {
                println!("{}", failure.lines.join("\n"));
            }
            failure.to_string()
        };
        let first = run(Plan::new(seed), mutation).map_err(told)?;
        if self.arguments.twice {
            let second = run(Plan::new(seed), mutation).map_err(told)?;
            if first != second {
                return Err(format!("seed {seed} differs: {first:?}, then {second:?}"));
            }
        }
        Ok(first.counts)
    }
}
