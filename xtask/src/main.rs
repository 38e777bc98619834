// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `cargo xtask`: the project's commands. One file a command; what a command does beyond calling
//! others belongs into a crate of its own.

mod bench;
mod check;
mod conformance;
mod demo;
mod guest;
mod image;
mod manual;
mod module;
mod programs;
mod sim;
mod test;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

const EXAMPLES: &str = "\
Examples:
  cargo xtask check                      Formatting, lints, docs, licences, arrows
  cargo xtask test                       All tests, also those in real guests
  cargo xtask conformance                The device, checked by a bare-metal guest in seconds
  cargo xtask test --guests-only --filter swapped
  cargo xtask test --guests-only --filter killed --kills 200
  cargo xtask test --debug-kernel        Tests in guests on a kernel with KASAN, lockdep and others
  cargo xtask module                     Build virtio_tmem.ko for the newest kernel that fits
  cargo xtask module --kernel 7.2.12     ... for one of your choice
  cargo xtask image                      A bootable Debian disk with the module installed
  cargo xtask guest                      A shell in the test guest, with the module at hand
  cargo xtask guest --socket /run/t.sock ... with the device that a daemon serves there
  cargo xtask bench device --json d.json Floors, a peer and ours, in one run
  cargo xtask bench links --plots DIR    How exactly emulated links are kept, with pictures
  cargo xtask sim --seeds 500            The stores in a simulated network, under faults
  cargo xtask manual DIR                 Man pages and completions

Everything is kept in $TMEM_CACHE, else $XDG_CACHE_HOME/virtio-tmem, else ~/.cache/virtio-tmem.
The Debian mirror is the one that this machine's apt uses, or $DEBIAN_MIRROR.
Exit codes: 0 done, 1 failed, 2 wrong usage.";

/// Builds, tests and shows virtio-tmem.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", after_help = EXAMPLES)]
struct Arguments {
    /// Install missing host packages without asking (as CI=true does).
    #[arg(long, global = true)]
    yes: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Demo(demo::Arguments),
    Check(check::Arguments),
    Test(test::Arguments),
    Conformance(conformance::Arguments),
    Module(module::Arguments),
    Image(image::Arguments),
    Guest(guest::Arguments),
    Bench(bench::Arguments),
    Sim(sim::Arguments),
    Manual(manual::Arguments),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let consent = vm_images::Consent::new(arguments.yes);
    let result = match arguments.command {
        Command::Demo(a) => demo::run(&a, consent),
        Command::Check(a) => check::run(&a),
        Command::Test(a) => test::run(&a, consent),
        Command::Conformance(a) => conformance::run(&a, consent),
        Command::Module(a) => module::run(&a, consent),
        Command::Image(a) => image::run(&a, consent),
        Command::Guest(a) => guest::run(&a, consent),
        Command::Bench(a) => bench::run(&a, consent),
        Command::Sim(a) => sim::run(&a),
        Command::Manual(a) => manual::run(&a),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            for cause in error.chain().skip(1) {
                eprintln!("  caused by: {cause}");
            }
            ExitCode::FAILURE
        }
    }
}
