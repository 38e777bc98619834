// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A buffer manager that keeps its cold pages in the host's memory.
//!
//! ```text
//! buffer-manager [--pages 4000] [--frames 1000] [--steps 50000] [--seed 1]
//! ```
//! Most database systems have such a part: a table of numbered pages, of which some are in memory. Here
//! it holds four times as many pages as it has frames, and a program reads and writes them, most often
//! those with low numbers. Each page carries its number and version; what is read is checked. The story
//! is in `manager.rs`; this file only drives it.

mod manager;

use manager::Manager;
use std::process::ExitCode;
use std::time::Instant;
use tmem_user::abi::PAGE_SIZE;
use tmem_user::program::{Options, Rng, fill, result_line};
use tmem_user::{Error, Interface, Kind, PoolOptions};

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(message) => {
            eprintln!("buffer-manager: {message}");
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<bool, String> {
    let names = ["pages", "frames", "steps", "seed"];
    let options = Options::parse(std::env::args().skip(1), &names, &[])?;
    let pages = u32::try_from(options.number("pages", 4000)?).map_err(|_| "too many pages")?;
    let frames = options.number("frames", 1000)?;
    let frames = usize::try_from(frames).map_err(|_| "too many frames")?;
    let steps = options.number("steps", 50_000)?;
    let mut rng = Rng::new(options.number("seed", 1)?);
    let start = Instant::now();
    let mut manager = open(pages, frames).map_err(|error| error.to_string())?;
    let mut versions = vec![0u64; pages as usize];
    let mut different = 0u64;
    let mut expected = [0u8; PAGE_SIZE];
    for _ in 0..steps {
        // Low numbers are drawn more often than high ones.
        let page = rng.below(pages).min(rng.below(pages)).min(rng.below(pages));
        let version = &mut versions[page as usize];
        match *version {
            0 => expected.fill(0),
            version => fill(&mut expected, page.into(), version),
        }
        let found = manager.read(page).map_err(|error| error.to_string())?;
        different += u64::from(found[..] != expected);
        if rng.one_in(4) {
            *version += 1;
            let page_to_write = manager.write(page).map_err(|error| error.to_string())?;
            fill(&mut page_to_write[..], page.into(), *version);
        }
    }
    let counts = manager.counts;
    let millis = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
    println!(
        "{}",
        result_line(&[
            ("steps", steps),
            ("hits", counts.hits),
            ("gets", counts.gets),
            ("puts", counts.puts),
            ("dropped_clean", counts.dropped_clean),
            ("elapsed_ms", millis),
            ("mismatches", different),
        ])
    );
    Ok(different == 0)
}

fn open(pages: u32, frames: usize) -> Result<Manager, Error> {
    let pool = Interface::open()?.create(&PoolOptions::new(Kind::Persistent, pages))?;
    Manager::new(pool, pages, frames)
}
