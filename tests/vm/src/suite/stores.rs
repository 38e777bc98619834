// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A guest whose pages are mostly on two of three stores each, one of which is killed.

use super::Figure;
use super::worker::scene::Scene;
use crate::bench::Bench;
use crate::daemon::Daemon;
use crate::stores::Stores;
use anyhow::{Context, Result, ensure};
use std::time::{Duration, Instant};
use tmem_admin_api::{HitTier, StoreList, StoreState};

/// What the guest may have in DRAM. It puts many times that.
const DRAM_CAP: &str = "6MiB";
const REMOTE: &str = "512MiB";
const STORE_MIB: u32 = 512;
const BANDWIDTH: &str = "100MiB";
/// Which store is killed.
const VICTIM: usize = 1;
/// For the load to reach the stores, and for it to go on without one.
const LIFE: Duration = Duration::from_secs(3);
const DEADLINE: Duration = Duration::from_secs(120);

/// Swaps and verifies while one of three stores is killed, made up for, and comes back empty.
pub(super) fn three(bench: &Bench<'_>) -> Result<Vec<Figure>> {
    let program = &bench.programs().remote_store;
    let mut stores = Stores::start(program, STORE_MIB, bench.logs())?;
    let daemon = bench.daemon_with(&["vm0"], &stores.tables(REMOTE, BANDWIDTH), false)?;
    daemon.tell(&["guest", "limit", "vm0", "--dram-cap", DRAM_CAP])?;
    let scene = Scene::with(bench, daemon)?;
    let before = until(&scene.daemon, "pages on all stores", |list| {
        list.stores.iter().all(|store| store.copies > 0)
    })?;
    std::thread::sleep(LIFE);
    stores.kill(VICTIM);
    let killed = Instant::now();
    until(&scene.daemon, "the death of a store", |list| {
        list.stores
            .iter()
            .any(|store| store.state == StoreState::Dead)
    })?;
    until(&scene.daemon, "repair", |list| {
        list.replication.below_pages == 0
    })?;
    let repaired = killed.elapsed();
    std::thread::sleep(LIFE);
    stores.start_again(VICTIM)?;
    until(&scene.daemon, "three stores", |list| {
        list.replication.below_pages == 0
            && list
                .stores
                .iter()
                .all(|store| store.state == StoreState::Up)
    })?;
    std::thread::sleep(LIFE);
    let list = scene.daemon.stores()?;
    let hits = scene.daemon.stats("vm0")?.hits;
    let remote = hits.get(&HitTier::Remote).copied().unwrap_or(0);
    ensure!(remote > 0, "No get was served from a store: {hits:?}");
    ensure!(
        list.replication.lost_pages == 0,
        "{} pages were lost",
        list.replication.lost_pages
    );
    let outcome = scene.end()?;
    let mut figures = outcome.figures();
    let copies = before.stores.get(VICTIM).map_or(0, |store| store.copies);
    figures.extend([
        ("hits_remote", remote),
        ("copies_on_the_killed_store", copies),
        ("repaired_pages", list.replication.repaired_pages),
        ("repaired_after_ms", u64::try_from(repaired.as_millis())?),
        ("failovers", list.replication.failovers),
        ("hedged", list.replication.hedged),
    ]);
    Ok(figures)
}

/// Waits until the stores are as `wanted`.
fn until(daemon: &Daemon, what: &str, wanted: impl Fn(&StoreList) -> bool) -> Result<StoreList> {
    let start = Instant::now();
    loop {
        let list = daemon
            .stores()
            .context("The daemon says nothing of its stores")?;
        if wanted(&list) {
            return Ok(list);
        }
        ensure!(
            start.elapsed() < DEADLINE,
            "There is no {what} within {} s: {list:?}",
            DEADLINE.as_secs()
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}
