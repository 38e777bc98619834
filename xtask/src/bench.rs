// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `cargo xtask bench`: floors, peers and ours, measured in one run.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use tmem_bench::{DeviceOptions, Row};
use tmem_vm_tests::build;
use vm_images::{Cache, Consent, Prereqs, Progress, Toolchain};

/// What can be measured.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Area {
    /// 4 KiB gets and puts through virtqueues, beside qemu-storage-daemon's vhost-user-blk export; and
    /// with a keeper beside a single process.
    Device,
}

/// Measure, and print the figures with their floors and peers.
///
/// A ratio is ours against the peer, or against the floor where there is no peer; larger is better.
/// Every row says who polls and who sleeps.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// What to measure.
    area: Area,
    /// Fewer pages, shorter passes, fewer rounds: to see that it works.
    #[arg(long)]
    quick: bool,
    /// Write the figures to this file as well.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// The peer's program, instead of the one on PATH or in the toolchain root.
    #[arg(long, value_name = "PROGRAM")]
    peer: Option<PathBuf>,
}

pub(crate) fn run(arguments: &Arguments, consent: Consent) -> Result<()> {
    let [daemon] = build::host_programs(["vhost-device-tmem"])?;
    let scripts = tempfile::tempdir().context("Cannot make a temporary folder")?;
    let peer = match &arguments.peer {
        Some(peer) => peer.clone(),
        None => storage_daemon(scripts.path(), consent)?,
    };
    let options = DeviceOptions {
        daemon,
        peer: Some(peer),
        quick: arguments.quick,
    };
    let report = match arguments.area {
        Area::Device => tmem_bench::device(&options)?,
    };
    println!("{report}");
    if let Some(path) = &arguments.json {
        let text = serde_json::to_string_pretty(&report)?;
        fs::write(path, text).with_context(|| format!("Cannot write {}", path.display()))?;
    }
    let missed: Vec<String> = (report.results.iter())
        .filter(|row| row.met == Some(false))
        .map(missed)
        .collect();
    if missed.is_empty() || arguments.quick {
        return Ok(());
    }
    bail!("Goals missed: {}", missed.join("; "));
}

/// What a row that missed its goal reached, and how far that scatters: noise shows there.
fn missed(row: &Row) -> String {
    match (row.ratio, row.spread) {
        (Some(ratio), Some(spread)) => {
            let [first, third] = spread.ratio;
            let name = &row.name;
            format!("{name} ({ratio:.2}, half of its turns from {first:.2} to {third:.2})")
        }
        _ => row.name.clone(),
    }
}

/// The peer: the machine's own, or a script in `scripts` that runs the toolchain root's.
fn storage_daemon(scripts: &Path, consent: Consent) -> Result<PathBuf> {
    const NAME: &str = "qemu-storage-daemon";
    if Command::new(NAME)
        .arg("--version")
        .output()
        .is_ok_and(|output| output.status.success())
    {
        return Ok(NAME.into());
    }
    Prereqs::ensure(consent)?;
    let toolchain = Toolchain::ensure(&Cache::open()?, &Progress::stderr())?;
    let command = toolchain.storage_daemon();
    let mut script = String::from("#!/bin/sh\n");
    for (name, value) in command.get_envs() {
        let value = value.unwrap_or_default();
        writeln!(script, "export {}='{}'", name.display(), value.display())?;
    }
    write!(script, "exec '{}'", command.get_program().display())?;
    for argument in command.get_args() {
        write!(script, " '{}'", argument.display())?;
    }
    script.push_str(" \"$@\"\n");
    let path = scripts.join(NAME);
    fs::write(&path, script).context("Cannot write the peer's start script")?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
        .context("Cannot make the peer's start script executable")?;
    Ok(path)
}
