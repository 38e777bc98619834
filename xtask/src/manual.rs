// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `cargo xtask manual`: man pages and completions, from the programs' own argument definitions.

use std::path::PathBuf;

use clap::CommandFactory;

/// Write man pages and shell completions of all programs to a folder.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The folder; it is made if need be.
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let programs = [
        vhost_device_tmem::args::Args::command(),
        remote_store::args::Args::command(),
        tmemctl::args::Cli::command(),
    ];
    for program in programs {
        for path in tmemctl::manual::write(program, &arguments.directory)? {
            println!("{}", path.display());
        }
    }
    Ok(())
}
