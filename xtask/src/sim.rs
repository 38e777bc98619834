// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `cargo xtask sim`: the real client and stores in a simulated network, under faults.

use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Run the replicated stores in a simulated network, where a seed decides all that goes wrong.
///
/// A seed that fails is printed with what happened; it fails again with --seed.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Arguments {
    /// How many seeds to run [default: 100; with --seed that one alone].
    #[arg(long, value_name = "NUMBER")]
    pub(crate) seeds: Option<u64>,
    /// The first of them; TMEM_SEED or a new one when left out.
    #[arg(long, value_name = "NUMBER")]
    pub(crate) seed: Option<u64>,
    /// A mistake to make on purpose, which some seed must find: keeps-flushed, forgets, goes-back or
    /// no-fence.
    #[arg(long, value_name = "MISTAKE")]
    pub(crate) mutation: Option<String>,
    /// Run each seed twice, and compare: a run is to depend on nothing but its seed.
    #[arg(long)]
    pub(crate) twice: bool,
    /// Go on after a failure, and count.
    #[arg(long)]
    pub(crate) keep_going: bool,
    /// Print all that is recorded of a failure.
    #[arg(long)]
    pub(crate) verbose: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    // Built for release: it is a matter of many seeds.
    let [simulation] = tmem_programs::host_programs(["tmem-sim"])?;
    let mut command = Command::new(simulation);
    let numbers = [("--seeds", arguments.seeds), ("--seed", arguments.seed)];
    for (name, number) in numbers {
        if let Some(number) = number {
            command.args([name, &number.to_string()]);
        }
    }
    if let Some(mutation) = &arguments.mutation {
        command.args(["--mutation", mutation]);
    }
    for (name, given) in [
        ("--twice", arguments.twice),
        ("--keep-going", arguments.keep_going),
        ("--verbose", arguments.verbose),
    ] {
        if given {
            command.arg(name);
        }
    }
    let status = command.status().context("Cannot run the simulation")?;
    ensure!(status.success(), "The simulation failed: {status}");
    Ok(())
}
