// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `tmem-bench`: how many pages a second the driver moves, by pages in a call and by threads.
//!
//! ```text
//! tmem-bench [--loop alloc|steal|all] [--batches 1,4,16,64,256,512] [--threads 1,2] [--ms 300]
//!            [--pages 4096] [--layout scattered|contiguous] [--shared] [--device 0] [--seed 1] [--json]
//! ```
//! The two loops are those by which explicit paging is usually measured. **alloc**: each thread puts a
//! batch of pages, gets it and flushes it, over and over, all of its calls timed by kind. **steal**: half
//! of the threads put, the others flush what those have put. Each thread has an interface and a pool of
//! its own, in `steal` each pair of threads; with `--shared` all threads have one.
//!
//! Pages are scattered over a thread's memory and its pool, as a buffer manager's are, so that each takes
//! a descriptor and an index of its own; with `--layout contiguous` a batch is one run. Their content is
//! random, and what a get brings is checked.
//!
//! `kicks` and `interrupts` are those of the device, for each thousand pages; `-` where the counters
//! cannot be read (debugfs, root).

mod counters;
mod loops;
mod table;

use loops::{Cell, Setup, Which};
use std::process::ExitCode;
use std::time::Duration;
use tmem_user::program::Options;

const BATCHES: [u32; 6] = [1, 4, 16, 64, 256, 512];

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("tmem-bench: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let names = [
        "loop", "batches", "threads", "ms", "pages", "layout", "device", "seed",
    ];
    let options = Options::parse(std::env::args().skip(1), &names, &["json", "shared"])?;
    let which: &[Which] = match options.text("loop").unwrap_or("all") {
        "alloc" => &[Which::Alloc],
        "steal" => &[Which::Steal],
        "all" => &[Which::Alloc, Which::Steal],
        other => return Err(format!("there is no loop {other}: alloc, steal, all")),
    };
    let contiguous = match options.text("layout").unwrap_or("scattered") {
        "contiguous" => true,
        "scattered" => false,
        other => return Err(format!("there is no layout {other}: scattered, contiguous")),
    };
    let small = |value: u64| u32::try_from(value).map_err(|_| format!("{value} is too much"));
    let setup = Setup {
        pages: small(options.number("pages", 4096)?)?,
        contiguous,
        shared: options.has("shared"),
        device: options
            .text("device")
            .map(|_| small(options.number("device", 0)?))
            .transpose()?,
        seed: options.number("seed", 1)?,
        time: Duration::from_millis(options.number("ms", 300)?),
    };
    let batches = options.numbers("batches", &BATCHES)?;
    let threads = options.numbers("threads", &[1, 2])?;
    let mut cells: Vec<Cell> = Vec::new();
    for which in which {
        for count in &threads {
            for batch in &batches {
                let cell = loops::run(*which, *count, *batch, &setup)?;
                if !options.has("json") {
                    table::print(&cell, cells.last());
                }
                cells.push(cell);
            }
        }
    }
    if options.has("json") {
        println!("{}", table::json(&cells, &setup));
    }
    let wrong: u64 = cells.iter().map(|cell| cell.wrong).sum();
    if wrong > 0 {
        return Err(format!(
            "{wrong} pages came back missing or with other content"
        ));
    }
    Ok(())
}
