// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `vhost-device-tmem`: see the library's head for what it is and how it is started.

use std::error::Error;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use vhost_device_tmem::args::Args;
use vhost_device_tmem::{Config, Daemon, capabilities, keeper, logging, sandbox, signals, worker};

/// What the command line or the file asks for is not possible.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let args = Args::parse();
    if args.print_capabilities {
        println!("{}", capabilities());
        return ExitCode::SUCCESS;
    }
    if let Err(error) = logging::start(&args.log_level, args.log_format) {
        return fail(&error, ExitCode::from(USAGE));
    }
    if args.worker {
        return worker::run();
    }
    let config = match Config::from_args(&args) {
        Ok(config) => config,
        Err(error) => return fail(&error, ExitCode::from(USAGE)),
    };
    let result = if args.single_process {
        run(&config)
    } else {
        // Workers log as the keeper does.
        let format = args.log_format.to_possible_value();
        let format = format.map_or_else(String::new, |format| format.get_name().to_owned());
        let arguments = ["--log-level", &args.log_level, "--log-format", &format];
        keeper::run(&config, arguments.map(str::to_owned).to_vec()).map_err(Into::into)
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(error.as_ref(), ExitCode::FAILURE),
    }
}

/// Runs a daemon of one process.
fn run(config: &Config) -> Result<(), Box<dyn Error>> {
    // Before any thread, so that all of them leave the signals to this one.
    let blocked = signals::block()?;
    let pairs: Vec<u16> = config
        .guests
        .iter()
        .map(|guest| guest.queue_pairs)
        .collect();
    sandbox::check_limits(&pairs)?;
    let daemon = Daemon::start(config)?;
    let signal = signals::wait(&blocked)?;
    tracing::info!(signal, "ending");
    daemon.stop();
    Ok(())
}

/// Prints an error and what it came from.
fn fail(error: &dyn Error, code: ExitCode) -> ExitCode {
    eprintln!("vhost-device-tmem: {error}");
    let mut source = error.source();
    while let Some(error) = source {
        eprintln!("  because: {error}");
        source = error.source();
    }
    code
}
