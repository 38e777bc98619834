// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Runs a command line, and holds what it printed against what it should print.

use std::fs;
use std::path::Path;

use clap::Parser;
use tmemctl::Terminal;
use tmemctl::args::Cli;

/// What a command left behind.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: u8,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    /// As a terminal shows it, with the command that was typed.
    pub(crate) fn shown(&self, command: &str) -> String {
        format!("$ {command}\n{}{}", self.err, self.out)
    }
}

/// Runs a command as a program does, without a terminal.
pub(crate) fn run(socket: &Path, arguments: &[&str]) -> Ran {
    run_on(Terminal::default(), socket, arguments)
}

pub(crate) fn run_on(terminal: Terminal, socket: &Path, arguments: &[&str]) -> Ran {
    let socket = ["tmemctl", "--socket", socket.to_str().unwrap()];
    let cli = Cli::try_parse_from(socket.iter().chain(arguments)).unwrap();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = tmemctl::run(&cli, &mut out, &mut err, terminal);
    Ran {
        code,
        out: String::from_utf8(out).unwrap(),
        err: String::from_utf8(err).unwrap(),
    }
}

/// Compares with `golden/{name}`, or writes it.
pub(crate) fn golden(name: &str, text: &str) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = root.join("tests/golden").join(name);
    if std::env::var_os("TMEM_BLESS").is_some() {
        fs::write(&path, text).unwrap();
    }
    let golden = fs::read_to_string(&path).unwrap();
    assert_eq!(text, golden, "output differs from golden/{name}");
}
