// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Entry point of `tmemctl`; the library beside it does the work.

use std::io::{self, IsTerminal};
use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = tmemctl::args::Cli::parse();
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let colours = io::stdout().is_terminal() && !no_color;
    tmemctl::run(
        &cli,
        &mut io::stdout().lock(),
        &mut io::stderr().lock(),
        colours,
    )
    .into()
}
