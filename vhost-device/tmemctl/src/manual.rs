// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Man pages and completion scripts, written from a program's own command line definition.
//!
//! Packaging calls [`write()`] for each program of the project; the daemon's definition serves as
//! well as `tmemctl`'s.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::{Command, ValueEnum};
use clap_complete::Shell;

use crate::Error;

/// Writes to `directory`, which is made if need be: a man page for `command` and each of its
/// visible subcommands (section 1), and a completion script for each shell that clap knows.
/// Returns the files written.
///
/// # Errors
/// [`Error::File`] if the directory or a file in it cannot be written.
pub fn write(command: Command, directory: &Path) -> Result<Vec<PathBuf>, Error> {
    let failed = |source| Error::File {
        path: directory.into(),
        source,
    };
    fs::create_dir_all(directory).map_err(failed)?;
    // clap's `help` subcommand repeats what `--help` and these pages say.
    let mut command = command.disable_help_subcommand(true);
    command.build();
    let mut written = Vec::new();
    pages(&command, directory, &mut written).map_err(failed)?;
    let name = command.get_name().to_owned();
    for &shell in Shell::value_variants() {
        let path = clap_complete::generate_to(shell, &mut command, &name, directory);
        written.push(path.map_err(failed)?);
    }
    Ok(written)
}

fn pages(command: &Command, directory: &Path, written: &mut Vec<PathBuf>) -> io::Result<()> {
    written.push(clap_mangen::Man::new(command.clone()).generate_to(directory)?);
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        pages(verb, directory, written)?;
    }
    Ok(())
}
