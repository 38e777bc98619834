// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `tmem-pages`: the driver against the model, call by call.
//!
//! ```text
//! tmem-pages [--seed 1] [--calls 2000] [--threads 2] [--pages 3000] [--limit 2000] [--device 0]
//! tmem-pages limits                            goes through the limits of the first device
//! tmem-pages hold --pages 1000 --until FILE     puts pages, says TMEM-HOLDING, and ends with FILE
//! ```
//! Each thread has an interface of its own with a pool of each kind, and a [`Fake`] beside it. It draws
//! calls at random: runs of all lengths, overlapping and foreign ones among them. For each the driver
//! must do as the model does: the same error or the same results, the same bytes in all of the memory,
//! the same counts. A page of an ephemeral pool may be missing, but never be another.
//!
//! Prints `TMEM-RESULT {...}` with `"mismatches"`; ends with 0 only if there were none.

mod draw;
mod hold;
mod limits;

use draw::{Call, Shape};
use std::process::ExitCode;
use tmem_user::fake::Fake;
use tmem_user::program::{Options, Rng, fill, result_line};
use tmem_user::{
    Error, Flushes, Gets, Interface, Kind, PageBuffer, PageResult, Pool, PoolOptions, Puts,
};

/// Pages of a thread's memory.
const MEMORY: usize = 1200;
/// Mismatches that are described; the others are only counted.
const TOLD: u64 = 10;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).peekable();
    let outcome = if arguments.next_if(|word| word == "hold").is_some() {
        hold::run(arguments)
    } else if arguments.next_if(|word| word == "limits").is_some() {
        limits::run()
    } else {
        compare(arguments)
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(message) => {
            eprintln!("tmem-pages: {message}");
            ExitCode::from(2)
        }
    }
}

/// What a thread did.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    calls: u64,
    pages: u64,
    refused_calls: u64,
    vanished: u64,
    mismatches: u64,
}

fn compare(arguments: impl Iterator<Item = String>) -> Result<bool, String> {
    let names = ["seed", "calls", "threads", "pages", "limit", "device"];
    let options = Options::parse(arguments, &names, &[])?;
    let seed = options.number("seed", 1)?;
    let calls = options.number("calls", 2000)?;
    let threads = options.number("threads", 2)?;
    let small = |name, default| {
        let value = options.number(name, default)?;
        u32::try_from(value).map_err(|_| format!("--{name} {value}: too many"))
    };
    let (pages, limit) = (small("pages", 3000)?, small("limit", 2000)?);
    let device = options
        .text("device")
        .map(|_| small("device", 0))
        .transpose()?;
    eprintln!("tmem-pages: seed {seed}");
    let tallies: Vec<Result<Tally, String>> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|nth| {
                let shape = Shape { pages, limit };
                scope.spawn(move || Pair::new(shape, device, Rng::of(seed, nth))?.run(calls))
            })
            .collect();
        let join = |worker: std::thread::ScopedJoinHandle<'_, _>| {
            worker
                .join()
                .unwrap_or_else(|_| Err("a thread panicked".to_owned()))
        };
        workers.into_iter().map(join).collect()
    });
    let mut sum = Tally::default();
    for tally in tallies {
        let tally = tally?;
        sum.calls += tally.calls;
        sum.pages += tally.pages;
        sum.refused_calls += tally.refused_calls;
        sum.vanished += tally.vanished;
        sum.mismatches += tally.mismatches;
    }
    println!(
        "{}",
        result_line(&[
            ("calls", sum.calls),
            ("pages", sum.pages),
            ("refused_calls", sum.refused_calls),
            ("vanished", sum.vanished),
            ("mismatches", sum.mismatches),
        ])
    );
    Ok(sum.mismatches == 0)
}

/// A pool of the driver's and one of the model's.
struct Both {
    real: Pool,
    model: Pool,
    kind: Kind,
}

/// A thread's pools and memory, twice.
struct Pair {
    shape: Shape,
    fake: Fake,
    pools: [Both; 2],
    real: PageBuffer,
    model: PageBuffer,
    rng: Rng,
    version: u64,
    tally: Tally,
}

fn told(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

impl Pair {
    fn new(shape: Shape, device: Option<u32>, rng: Rng) -> Result<Self, String> {
        let fake = Fake::new(1 << 30);
        let interface = Interface::open().map_err(|error| told(&error))?;
        let model = Interface::with(fake.clone());
        let both = |kind| {
            let mut options = PoolOptions::new(kind, shape.pages);
            if kind == Kind::Persistent {
                // What vanishes stays charged, so that the two would differ in an ephemeral pool.
                options = options.limit(shape.limit);
            }
            let real = device.map_or(options, |number| options.device(number));
            Ok::<_, Error>(Both {
                real: interface.create(&real)?,
                model: model.create(&options)?,
                kind,
            })
        };
        let pools = both(Kind::Persistent)
            .and_then(|one| Ok([one, both(Kind::Ephemeral)?]))
            .map_err(|error| told(&error))?;
        let memory = || PageBuffer::new(MEMORY).map_err(|error| told(&error));
        Ok(Self {
            shape,
            fake,
            pools,
            real: memory()?,
            model: memory()?,
            rng,
            version: 0,
            tally: Tally::default(),
        })
    }

    fn run(mut self, calls: u64) -> Result<Tally, String> {
        for nth in 0..calls {
            let which = usize::from(self.rng.one_in(3));
            let call = Call::draw(&mut self.rng, self.shape, MEMORY);
            self.step(which, &call);
            self.tally.calls += 1;
            if nth % 64 == 63 {
                self.check_counts(which)?;
            }
        }
        Ok(self.tally)
    }

    /// One call to both, and all that can be seen of it compared.
    fn step(&mut self, which: usize, call: &Call) {
        if matches!(call, Call::Put(_)) {
            self.version += 1;
            for (nth, (index, _)) in call.places().iter().enumerate() {
                fill(&mut self.real[nth][..], u64::from(*index), self.version);
                self.model[nth] = self.real[nth].clone();
            }
        }
        let both = &self.pools[which];
        let real = perform(&both.real, call, &mut self.real);
        let model = perform(&both.model, call, &mut self.model);
        match (real, model) {
            (Ok(real), Ok(model)) => self.compare_results(which, call, &real, &model),
            (Err(real), Err(model)) if told(&real) == told(&model) => {
                self.tally.refused_calls += 1;
            }
            (real, model) => self.mismatch(&format!(
                "{call:?}: the driver says {:?}, the model {:?}",
                real.map_err(|error| told(&error)),
                model.map_err(|error| told(&error))
            )),
        }
    }

    fn compare_results(
        &mut self,
        which: usize,
        call: &Call,
        real: &[PageResult],
        model: &[PageResult],
    ) {
        self.tally.pages += real.len() as u64;
        let ephemeral = self.pools[which].kind == Kind::Ephemeral;
        if real.len() != model.len() {
            return self.mismatch(&format!("{call:?}: {real:?} and {model:?}"));
        }
        let places = call.places();
        for (nth, (one, other)) in real.iter().zip(model).enumerate() {
            let may_vanish = ephemeral && (one.is_miss() || one.is_refused());
            if one != other && may_vanish {
                // The host has dropped it; from now on the model has not got it either.
                let (index, slot) = places[nth];
                self.fake.drop_page(self.pools[which].model.handle(), index);
                if matches!(call, Call::Get(_) | Call::Take(_)) {
                    self.model[slot] = self.real[slot].clone();
                }
                self.tally.vanished += 1;
            } else if one != other {
                self.mismatch(&format!("{call:?}, page {nth}: {one:?} and {other:?}"));
            }
        }
        if let Some(page) = (0..MEMORY).find(|page| self.real[*page] != self.model[*page]) {
            self.mismatch(&format!("{call:?}: page {page} of the memory differs"));
            self.model[page] = self.real[page].clone();
        }
    }

    fn check_counts(&mut self, which: usize) -> Result<(), String> {
        let both = &self.pools[which];
        let stat = |pool: &Pool| pool.stat().map_err(|error| told(&error));
        let (mut real, mut model) = (stat(&both.real)?, stat(&both.model)?);
        (real.pool, model.pool) = (0, 0);
        if both.kind == Kind::Persistent && real != model {
            self.mismatch(&format!("counts: {real:?} and {model:?}"));
        }
        Ok(())
    }

    fn mismatch(&mut self, what: &str) {
        if self.tally.mismatches < TOLD {
            let mut text = what.to_owned();
            text.truncate(2000);
            eprintln!("tmem-pages: mismatch: {text}");
        }
        self.tally.mismatches += 1;
    }
}

/// Has `pool` carry out `call` with `memory`.
fn perform(pool: &Pool, call: &Call, memory: &mut PageBuffer) -> Result<Vec<PageResult>, Error> {
    match call {
        Call::Put(runs) => {
            let mut puts = Puts::new();
            let mut rest = &memory[..];
            for run in runs {
                let (mine, later) = rest.split_at(run.pages as usize);
                puts.add(run.index, mine);
                rest = later;
            }
            pool.put(&mut puts)?;
            Ok(puts.results().to_vec())
        }
        Call::Get(runs) | Call::Take(runs) => {
            let mut gets = Gets::new();
            let mut rest = &mut memory[..];
            for run in runs {
                let (mine, later) = rest.split_at_mut(run.pages as usize);
                gets.add(run.index, mine);
                rest = later;
            }
            if matches!(call, Call::Get(_)) {
                pool.get(&mut gets)?;
            } else {
                pool.take(&mut gets)?;
            }
            Ok(gets.results().to_vec())
        }
        Call::Flush(runs) => {
            let mut flushes = Flushes::new();
            for run in runs {
                flushes.add(run.index, run.pages);
            }
            pool.flush(&mut flushes)?;
            Ok(flushes.results().to_vec())
        }
    }
}
