// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The clean cache: a `tmem-cache` target in front of a disk of the guest.

mod fio;
mod scene;

use super::Figure;
use crate::bench::{Bench, LONG, QUICK, number};
use anyhow::{Context, Result, ensure};
use scene::{Scene, Status};
use std::time::Duration;

pub(super) use fio::mixes;

/// Environment variable with the blocks to be checked; 10 million take hours on an emulated CPU.
const BLOCKS_VARIABLE: &str = "TMEM_CACHE_BLOCKS";
/// Without it.
const BLOCKS: u64 = 60_000;
/// Size of the checked disk.
const CHECKED_MIB: u64 = 24;
/// Size of the tree, and what the scanning programs may have of it in memory.
const TREE_MIB: u64 = 64;
const TREE_MEMORY_MIB: u64 = TREE_MIB / 4;
/// Of the blocks that a scan repeats, so many of a hundred come from the host.
const HITS_PERCENT: u64 = 90;
/// Of the blocks that the host does not have, so many of a hundred cost no message.
const SPARED_PERCENT: u64 = 99;
/// A check takes at least so long, so that the host can suffer from all there is.
const LEAST: Duration = Duration::from_secs(10);
/// How long the daemon is left alone between two disturbances.
const LIFE: Duration = Duration::from_millis(700);

fn blocks() -> Result<u64> {
    match std::env::var(BLOCKS_VARIABLE) {
        Ok(text) => text
            .parse()
            .with_context(|| format!("{BLOCKS_VARIABLE}={text} is no number")),
        Err(_) => Ok(BLOCKS),
    }
}

/// Half of the blocks past the page cache, half through it, while the host suffers.
pub(super) fn never_older(bench: &Bench<'_>) -> Result<Vec<Figure>> {
    let mut scene = Scene::set(bench, CHECKED_MIB, "copies 64")?;
    // A slow guest has to notice each disturbance, too.
    let life = scene.guest.patiently(LIFE);
    let least_ms = scene.guest.patiently(LEAST).as_millis();
    let mut figures = Vec::new();
    for (direct, names) in [
        (1, ["direct_blocks", "direct_hits", "direct_raced"]),
        (0, ["buffered_blocks", "buffered_hits", "buffered_raced"]),
    ] {
        let before = scene.status()?;
        let command = format!(
            "tmem-workload disk --path {} --mib {CHECKED_MIB} --seed {} --blocks {} --direct {direct} --least-ms {least_ms}",
            scene::MAPPED,
            bench.seed,
            blocks()? / 2
        );
        let result = scene.disturbed(&command, deadline()?, life)?;
        let after = scene.status()?;
        let hits = after.of("hits")? - before.of("hits")?;
        ensure!(hits > 0, "Nothing came from the host: {after:?}");
        figures.push((names[0], number(&result, "blocks")?));
        figures.push((names[1], hits));
        figures.push((names[2], after.of("raced")? - before.of("raced")?));
        if direct == 0 {
            figures.push(("buffered_torn_sectors", number(&result, "torn")?));
        }
    }
    let status = scene.status()?;
    for (name, why) in [
        ("invalidated", "No write met a cached block"),
        ("misses", "The host lost nothing that was asked for"),
        ("refused", "The host refused nothing"),
        ("flushed", "Nothing was flushed"),
    ] {
        ensure!(status.of(name)? > 0, "{why}: {status:?}");
    }
    for name in [
        "puts",
        "misses",
        "refused",
        "bypassed",
        "skipped",
        "invalidated",
        "flushed",
        "spared",
    ] {
        figures.push((name, status.of(name)?));
    }
    ensure!(status.of("corrupt")? == 0, "{status:?}");
    scene.end()?;
    Ok(figures)
}

/// The time for half of the blocks: an emulated CPU checks some thousand in a second.
fn deadline() -> Result<Duration> {
    Ok(LONG + Duration::from_millis(blocks()?))
}

/// Two scans of a tree with memory for a quarter of it.
pub(super) fn scans(bench: &Bench<'_>) -> Result<Vec<Figure>> {
    let mut scene = Scene::set(bench, TREE_MIB * 2, "")?;
    scene.make_tree(TREE_MIB, TREE_MEMORY_MIB, bench.seed)?;
    let before = scene.status()?;
    let first = scene.scan(TREE_MIB, bench.seed)?;
    let between = scene.status()?;
    let second = scene.scan(TREE_MIB, bench.seed)?;
    let after = scene.status()?;
    let blocks = number(&second, "blocks")?;
    let read = |to: &Status, from: &Status| -> Result<(u64, u64, u64)> {
        let of = |name| Ok::<u64, anyhow::Error>(to.of(name)? - from.of(name)?);
        Ok((
            of("hits")?,
            of("spared")?,
            of("misses")? + of("failed")? + of("bypassed")?,
        ))
    };
    let (first_hits, first_spared, first_useless) = read(&between, &before)?;
    let (hits, spared, useless) = read(&after, &between)?;
    ensure!(
        hits * 100 >= (hits + spared + useless) * HITS_PERCENT,
        "The second scan read {hits} blocks from the host, {} from the disk",
        spared + useless
    );
    ensure!(
        hits * 2 > blocks,
        "The page cache answered more than half of {blocks} blocks; only {hits} came from the host"
    );
    let (all_spared, all_useless) = (first_spared + spared, first_useless + useless);
    ensure!(
        all_spared * 100 >= (all_spared + all_useless) * SPARED_PERCENT,
        "{all_useless} gets were useless, {all_spared} were spared"
    );
    // What the host has gives way, and is read from the disk once more.
    scene.daemon.tell(&["guest", "freeze", "vm0"])?;
    scene.message("drop")?;
    let frozen = scene.scan(TREE_MIB, bench.seed)?;
    scene.daemon.tell(&["guest", "thaw", "vm0"])?;
    let refused = scene.status()?.of("refused")?;
    ensure!(refused > 0, "A frozen guest's copies were not refused");
    let (disk, host) = scene.read_times(bench.seed)?;
    scene.end()?;
    Ok(vec![
        ("tree_blocks", blocks),
        ("first_scan_hits", first_hits),
        ("first_scan_spared", first_spared),
        ("first_scan_ms", number(&first, "elapsed_ms")?),
        ("second_scan_hits", hits),
        ("second_scan_from_disk", spared + useless),
        ("second_scan_ms", number(&second, "elapsed_ms")?),
        ("useless_gets", all_useless),
        ("spared_gets", all_spared),
        ("frozen_scan_ms", number(&frozen, "elapsed_ms")?),
        ("disk_4k_p50_us", disk),
        ("host_4k_p50_us", host),
    ])
}

/// What can happen to a target, with I/O in flight.
pub(super) fn alone(bench: &Bench<'_>) -> Result<Vec<Figure>> {
    let mut scene = Scene::set(bench, CHECKED_MIB, "vtmem0")?;
    let mut figures = Vec::new();
    scene.start_check(CHECKED_MIB, bench.seed)?;
    for step in [
        // The same table again, another, and none: the old target goes with requests in flight.
        format!(
            "tmem-workload dm --do load --name cached --table '{}'",
            scene.table("vtmem0 copies 8")
        ),
        "tmem-workload dm --do suspend --name cached".to_owned(),
        "tmem-workload dm --do resume --name cached".to_owned(),
        format!(
            "tmem-workload dm --do load --name cached --table '{}'",
            scene.table("copies 1 stall_ms 5")
        ),
        "tmem-workload dm --do message --name cached --text drop".to_owned(),
        "tmem-workload dm --do message --name cached --text reset".to_owned(),
        "basename /sys/bus/virtio/drivers/virtio_tmem/virtio* \
         >/sys/bus/virtio/drivers/virtio_tmem/unbind"
            .to_owned(),
    ] {
        scene.guest.run(&step, QUICK)?.ok()?;
        std::thread::sleep(LIFE);
    }
    let status = scene.status()?;
    ensure!(
        status.of("attached")? == 0,
        "There is no device: {status:?}"
    );
    scene.bind_again()?;
    let waited = scene.wait_until_attached()?;
    figures.push(("found_again_ms", waited));
    std::thread::sleep(LIFE);
    let checked = scene.end_check()?;
    figures.push(("blocks", number(&checked, "blocks")?));
    let status = scene.status()?;
    ensure!(
        status.of("hits")? > 0,
        "Nothing came from the host: {status:?}"
    );
    figures.push(("renewals", status.of("renewals")?));
    figures.push(("failed_writes", scene.failing_writes(bench.seed)?));
    scene.refuses_nonsense()?;
    scene.guest.run("rmmod virtio_tmem", QUICK)?.ok()?;
    scene.end()?;
    Ok(figures)
}
