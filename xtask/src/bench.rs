// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `cargo xtask bench`: floors, peers and ours, measured in one run.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use tmem_bench::{
    DeviceOptions, Figures, PoliciesOptions, Report, Row, StoreOptions, StorePart, TiersOptions,
    TiersPart,
};
use vm_images::{Cache, Consent, Prereqs, Progress, Toolchain};

use crate::programs::Programs;

/// What can be measured.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Area {
    /// 4 KiB gets and puts through virtqueues, beside qemu-storage-daemon's vhost-user-blk export; and
    /// with a keeper beside a single process.
    Device,
    /// How exactly emulated latency and bandwidth are kept, over a grid of latencies, queue depths and
    /// rates.
    Links,
    /// Hit ratios of the replacement policies on synthetic and recorded traces, beside the optimum and
    /// another cache.
    Policies,
    /// Pages on other hosts, beside Valkey and memcached: rates, latencies, copies, TLS, deaths, repair.
    Store,
    /// Demotion, restarts, metadata, size, and other stores beside DRAM with a file.
    Tiers,
}

/// What can be measured alone of an area.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Part {
    /// Beside others: Valkey and memcached (store), foyer and redb (tiers).
    Peers,
    /// One get at a time, beside a ping-pong (store).
    Single,
    /// Two copies, and mutual TLS (store).
    Copies,
    /// Deaths, stalls, repair (store).
    Faults,
    /// Demotion to the PM file, and hits beside it (tiers).
    Demotion,
    /// Restarts (tiers).
    Restart,
    /// Metadata, many pages, many entries (tiers).
    Size,
}

impl Part {
    fn of_store(self) -> Result<StorePart> {
        Ok(match self {
            Self::Peers => StorePart::Peers,
            Self::Single => StorePart::Single,
            Self::Copies => StorePart::Copies,
            Self::Faults => StorePart::Faults,
            Self::Demotion | Self::Restart | Self::Size => bail!(
                "The area store has no part {self:?}. Its parts are single, peers, copies, faults."
            ),
        })
    }

    fn of_tiers(self) -> Result<TiersPart> {
        Ok(match self {
            Self::Peers => TiersPart::Peers,
            Self::Demotion => TiersPart::Demotion,
            Self::Restart => TiersPart::Restart,
            Self::Size => TiersPart::Size,
            Self::Single | Self::Copies | Self::Faults => bail!(
                "The area tiers has no part {self:?}. Its parts are demotion, restart, size, peers."
            ),
        })
    }
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
    /// Draw the figures as well, into this folder, where there is a picture of them.
    #[arg(long, value_name = "DIR")]
    plots: Option<PathBuf>,
    /// Recorded traces to replay as well (of the area policies).
    #[arg(long = "trace", value_name = "FILE", num_args = 1..)]
    traces: Vec<PathBuf>,
    /// Measure this part alone (of the areas store and tiers); may be given several times.
    #[arg(long = "part", value_name = "PART")]
    parts: Vec<Part>,
    /// The folder in which files are written and read (of the area tiers), instead of /var/tmp; not on
    /// a file system in memory.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(crate) fn run(arguments: &Arguments, consent: Consent) -> Result<()> {
    let has_parts = matches!(arguments.area, Area::Store | Area::Tiers);
    if !arguments.parts.is_empty() && !has_parts {
        bail!("Only the areas store and tiers have parts: leave --part out.");
    }
    // The engine runs in this very program: built for debugging, its figures would mean nothing.
    if cfg!(debug_assertions) && matches!(arguments.area, Area::Store | Area::Tiers) {
        return in_release();
    }
    let Figures {
        report,
        text,
        plots,
    } = match arguments.area {
        Area::Device => device(arguments, consent)?.into(),
        Area::Links => tmem_bench::links(arguments.quick)?,
        Area::Policies => tmem_bench::policies(&PoliciesOptions {
            quick: arguments.quick,
            traces: arguments.traces.clone(),
        })?,
        Area::Store => store(arguments, consent)?.into(),
        Area::Tiers => tmem_bench::tiers(&TiersOptions {
            quick: arguments.quick,
            folder: arguments.dir.clone(),
            parts: parts(arguments, Part::of_tiers)?,
        })?
        .into(),
    };
    println!("{text}");
    if let Some(folder) = &arguments.plots {
        fs::create_dir_all(folder)
            .with_context(|| format!("Cannot make the folder {}", folder.display()))?;
        for plot in plots {
            let path = folder.join(plot.name);
            fs::write(&path, plot.svg)
                .with_context(|| format!("Cannot write {}", path.display()))?;
        }
    }
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

/// Runs this command again, in a program that is built for release.
fn in_release() -> Result<()> {
    let [xtask] = tmem_programs::host_programs(["xtask"])?;
    let status = Command::new(&xtask)
        .args(std::env::args_os().skip(1))
        .status()
        .with_context(|| format!("Cannot run {}", xtask.display()))?;
    if !status.success() {
        bail!("The benchmark built for release failed: {status}");
    }
    Ok(())
}

/// The parts that were asked for, of the area that they must be of.
fn parts<P>(arguments: &Arguments, of_area: fn(Part) -> Result<P>) -> Result<Vec<P>> {
    arguments.parts.iter().copied().map(of_area).collect()
}

/// The area `device`, with our daemon as it is built now.
fn device(arguments: &Arguments, consent: Consent) -> Result<Report> {
    let [daemon] = tmem_programs::host_programs(["vhost-device-tmem"])?;
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
    Ok(tmem_bench::device(&options)?)
}

/// The area `store`, with our server as it is built now.
fn store(arguments: &Arguments, consent: Consent) -> Result<Report> {
    let [server] = tmem_programs::host_programs(["remote-store"])?;
    // The scripts that start the toolchain root's programs are there as long as this is.
    let programs = match Programs::ensure(consent) {
        Ok(programs) => Some(programs),
        Err(error) => {
            let progress = Progress::stderr();
            progress.line(&format!("without peers: {error:#}"));
            None
        }
    };
    let peer = |variable: &str, name: &str| {
        let named = std::env::var_os(variable).map(PathBuf::from);
        named.or_else(|| programs.as_ref()?.find(name))
    };
    let options = StoreOptions {
        server,
        valkey: peer("TMEM_VALKEY_SERVER", "valkey-server"),
        memcached: peer("TMEM_MEMCACHED", "memcached"),
        parts: parts(arguments, Part::of_store)?,
        quick: arguments.quick,
    };
    Ok(tmem_bench::store(&options)?)
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
    Ok(toolchain.storage_daemon_script(scripts)?)
}
