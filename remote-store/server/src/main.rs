// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `remote-store`: see the library's head for what it is.

use std::error::Error;
use std::process::ExitCode;

use clap::Parser;
use remote_store::args::{Args, Command};
use remote_store::{Config, cert, service};

/// What the command line or the file asks for is not possible.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let result = match Args::parse().command {
        Command::Serve(args) => {
            if let Err(error) = service::log_to_stderr(&args.log_level, args.log_format) {
                return fail(&error, ExitCode::from(USAGE));
            }
            match Config::from_args(&args) {
                Ok(config) => service::run(&config).map_err(Into::into),
                Err(error) => return fail(&error, ExitCode::from(USAGE)),
            }
        }
        Command::Cert(command) => cert::run(&command).map_err(Into::<Box<dyn Error>>::into),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(error.as_ref(), ExitCode::FAILURE),
    }
}

/// Prints an error and what it came from.
fn fail(error: &dyn Error, code: ExitCode) -> ExitCode {
    eprintln!("remote-store: {error}");
    let mut source = error.source();
    while let Some(error) = source {
        eprintln!("  because: {error}");
        source = error.source();
    }
    code
}
