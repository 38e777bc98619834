// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A guest whose pages are mostly below DRAM: in a PM file, and in memory elsewhere behind an emulated
//! link.

use super::Figure;
use super::worker::scene::{Scene, next_worker, served};
use crate::bench::Bench;
use anyhow::{Context, Result, ensure};
use std::fs::File;
use std::io::BufReader;
use std::time::Duration;
use tmem_admin_api::HitTier;
use tmem_pages::trace::{Record, TraceReader};

/// What the guest may have in DRAM. It puts many times that.
const DRAM_CAP: &str = "6MiB";
/// So small that the remote tier gets pages as well.
const PM: &str = "16MiB";
const REMOTE: &str = "512MiB";
const LINK: &str = "latency=20us bandwidth=25Gbit/s jitter=uniform:4us seed=3";
/// How long the worker serves before it is killed, and after that before the load ends.
const LIFE: Duration = Duration::from_millis(800);
/// One kill here for so many where killing is the subject.
const KILL_SHARE: u32 = 8;
/// Records of the trace without which it would prove nothing.
const RECORDS_MIN: u64 = 1000;

/// Swaps, verifies and records through three tiers, while the worker is killed now and then.
pub(super) fn all_tiers(bench: &Bench<'_>) -> Result<Vec<Figure>> {
    let folder = tempfile::tempdir().context("Cannot create a folder for the PM file")?;
    let lines = format!(
        "crash_limit = {}\ntrace_dir = {:?}\n\n[pm]\npath = {:?}\nsize = {PM:?}\n\n\
         [remote]\nsize = {REMOTE:?}\n\n[link.remote]\nin = {LINK:?}\nout = {LINK:?}\n",
        u32::MAX,
        folder.path(),
        folder.path().join("pm"),
    );
    let daemon = bench.daemon_with(&["vm0"], &lines, false)?;
    daemon.tell(&["guest", "limit", "vm0", "--dram-cap", DRAM_CAP])?;
    daemon.tell(&["trace", "start", "vm0", "--name", "guest"])?;
    let scene = Scene::with(bench, daemon)?;
    scene.daemon.tell(&["trace", "stop", "vm0"])?;
    let status = scene.daemon.status()?;
    ensure!(
        status.emulated,
        "A link is emulated, and the status does not say so"
    );
    // Counts begin anew with each worker.
    let mut hits = scene.daemon.stats("vm0")?.hits;
    let mut last = None;
    for round in 0..bench.kills.div_ceil(KILL_SHARE) {
        let worker = next_worker(&scene.daemon, last)?;
        std::thread::sleep(LIFE);
        served(&scene.daemon, |status| {
            status.restarts_total() == u64::from(round)
        })?;
        let guest = scene.daemon.guest("vm0")?;
        let memory = guest
            .memory
            .context("The daemon says nothing of the guest's memory")?;
        ensure!(
            memory
                .dram_cap_pages
                .is_some_and(|cap| memory.dram_pages <= cap),
            "The guest has {} pages in DRAM, with a cap of {:?}",
            memory.dram_pages,
            memory.dram_cap_pages
        );
        for (tier, count) in scene.daemon.stats("vm0")?.hits {
            *hits.entry(tier).or_default() += count;
        }
        worker.kill().context("Cannot kill the worker")?;
        last = Some(worker);
    }
    next_worker(&scene.daemon, last)?;
    std::thread::sleep(LIFE);
    let guest = scene.daemon.guest("vm0")?;
    let outcome = scene.end()?;
    let hit = |tier: HitTier| hits.get(&tier).copied().unwrap_or(0);
    for tier in [HitTier::Pm, HitTier::Remote] {
        ensure!(
            hit(tier) > 0,
            "No get was served from {}: {hits:?}",
            tier.as_str()
        );
    }
    let (records, lost) = trace(&folder.path().join("guest.trace"))?;
    ensure!(records > RECORDS_MIN, "The trace has {records} records");
    let mut figures = outcome.figures();
    figures.extend([
        ("hits_dram", hit(HitTier::Dram)),
        ("hits_victim", hit(HitTier::Victim)),
        ("hits_pm", hit(HitTier::Pm)),
        ("hits_remote_emulated", hit(HitTier::Remote)),
        ("pages_pm", guest.pm_pages),
        ("pages_remote", guest.remote_pages),
        ("kills", u64::from(bench.kills.div_ceil(KILL_SHARE))),
        ("trace_records", records),
        ("trace_lost", lost),
    ]);
    Ok(figures)
}

/// Reads a trace. Returns its events, and how many the recorder lost.
fn trace(path: &std::path::Path) -> Result<(u64, u64)> {
    let file = File::open(path).with_context(|| format!("Cannot open {}", path.display()))?;
    let (mut events, mut lost) = (0, 0);
    for record in TraceReader::new(BufReader::new(file))? {
        match record? {
            Record::Event(_) => events += 1,
            Record::Lost(count) => lost += count,
        }
    }
    Ok((events, lost))
}
