// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Entry point of `tmemctl`; the library beside it does the work.

use std::io::{self, IsTerminal};
use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = tmemctl::args::Cli::parse();
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let terminal = tmemctl::Terminal {
        colours: io::stdout().is_terminal() && !no_color,
        progress: io::stderr().is_terminal(),
    };
    tmemctl::run(
        &cli,
        &mut io::stdout().lock(),
        &mut io::stderr().lock(),
        terminal,
    )
    .into()
}
