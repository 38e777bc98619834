// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `tmem-agent`: tells the driver, from inside a guest, how much the guest's programs wait for memory.
//!
//! The kernel shows its pressure stall information (PSI) to programs, not to modules. So this one
//! reads it and writes it to the driver, which puts it into the statistics that the host's balloon
//! controller goes by. It sleeps until the kernel says that programs wait, or until it is time for a
//! refresh; while they wait it writes once a second.
//!
//! ```text
//!  /proc/pressure/memory ──trigger──▶ wait ──▶ meter ──▶ record ──▶ /dev/tmem-balloon
//!                        ──figures──────────────┘           ▲
//!  /proc/meminfo ───────────────────────────────────────────┘
//! ```
//! - [`options`]: the command line. [`psi`]: the kernel's figures and its trigger.
//! - [`meter`]: which part of them is news. [`record`]: what the driver takes, and its device.

mod meter;
mod options;
mod psi;
mod record;

use meter::Meter;
use options::{Asked, Options};
use record::{Device, Record};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// While programs wait for memory, a record is written so often.
const BUSY: Duration = Duration::from_secs(1);
/// Quiet seconds after which it is no longer written so often.
const QUIET_AFTER: u32 = 5;

fn main() -> ExitCode {
    let asked = match Options::parse(std::env::args().skip(1)) {
        Ok(asked) => asked,
        Err(message) => {
            eprintln!("tmem-agent: {message}; see tmem-agent --help");
            return ExitCode::from(2);
        }
    };
    let outcome = match asked {
        Asked::Help => {
            print!("{}", options::HELP);
            Ok(())
        }
        Asked::Version => {
            println!("tmem-agent {}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
        Asked::Show(options) => show(&options),
        Asked::Run(options) => run(&options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("tmem-agent: {message}");
            ExitCode::FAILURE
        }
    }
}

/// Prints what a record would say.
fn show(options: &Options) -> Result<(), String> {
    let stalls = psi::read(&options.pressure)?;
    println!("some_us {}", stalls.some_us);
    println!("full_us {}", stalls.full_us);
    println!("floor_pages {}", options.floor_pages);
    match record::swap_used_pages(&options.meminfo) {
        Some(pages) => println!("swapped_pages {pages}"),
        None => println!("swapped_pages unknown"),
    }
    Ok(())
}

/// Writes records for ever.
fn run(options: &Options) -> Result<(), String> {
    let trigger = psi::Trigger::set(&options.pressure, options.stall, options.window)?;
    let mut device = Device::new(&options.device);
    let mut meter = Meter::new(options.stall, options.window);
    let start = Instant::now();
    let mut quiet = QUIET_AFTER;
    loop {
        let stalls = psi::read(&options.pressure)?;
        let news = meter.take(start.elapsed(), stalls);
        device.write(&Record {
            some_us: news.some_us,
            full_us: news.full_us,
            floor_pages: options.floor_pages,
            swapped_pages: record::swap_used_pages(&options.meminfo),
        });
        let fired = if quiet < QUIET_AFTER {
            // The trigger may fire as often as its window ends; one record a second is enough.
            std::thread::sleep(BUSY);
            trigger.wait(Duration::ZERO)?
        } else {
            trigger.wait(options.refresh)?
        };
        quiet = if fired {
            0
        } else {
            quiet.saturating_add(1).min(QUIET_AFTER)
        };
    }
}
