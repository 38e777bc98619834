// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The daemon's worker is killed, replaced and stopped under a guest that swaps: the guest waits,
//! and notices nothing else.

pub(super) mod scene;

use super::Figure;
use crate::bench::{Bench, QUICK, available_mib, settled};
use crate::load;
use crate::stall::median_and_max;
use anyhow::{Context, Result, ensure};
use scene::{Scene, next_worker, served, until};
use std::time::{Duration, Instant};
use tmem_admin_api::{DaemonState, DaemonStatus, EndCause, Health, OperationState};
use vm_images::Progress;

/// How long a worker is left alone: at least, and how much longer at most.
const LIFE_MS: (u64, u64) = (200, 600);
/// One kill in so many hits the worker in its first moments, while it still recovers.
const EARLY_EVERY: u32 = 8;
const EARLY_MS: u64 = 30;
/// What a worker that has just taken over is left to serve before the next upgrade.
const BETWEEN_UPGRADES: Duration = Duration::from_millis(300);
const UPGRADES: u32 = 20;
/// The keeper is killed once for so many kills of the worker.
const KEEPER_KILL_SHARE: u32 = 4;
/// Deaths in a row after which the daemon gives up, in the test of that.
const CRASH_LIMIT: u32 = 4;
const ALIVE: &str = "uname -r";
const STOPPED: Duration = Duration::from_secs(5);
/// How long the load goes on after the last that a test does to the daemon.
const AFTERWARDS: Duration = Duration::from_secs(2);

/// Kills the worker again and again while the guest's programs swap and verify.
pub(super) fn killed(bench: &Bench<'_>) -> Result<Vec<Figure>> {
    // Workers die far more often here than any crash loop would let them.
    let scene = Scene::set(bench, &format!("crash_limit = {}", u32::MAX))?;
    let mut random = Random(bench.seed);
    let mut step = Progress::stderr().step("Kills");
    let mut kills = Vec::new();
    let mut pauses_ms = Vec::new();
    let mut last = None;
    for round in 1..=bench.kills {
        let worker = next_worker(&scene.daemon, last)?;
        let early = round.is_multiple_of(EARLY_EVERY);
        if early {
            std::thread::sleep(Duration::from_millis(random.below(EARLY_MS)));
        } else {
            std::thread::sleep(Duration::from_millis(LIFE_MS.0 + random.below(LIFE_MS.1)));
            let served = served(&scene.daemon, |status| {
                signalled(status) + 1 == u64::from(round)
            })?;
            pauses_ms.extend(served.last_pause_ms.filter(|_| round > 1));
        }
        worker
            .kill()
            .context("Cannot kill the worker: it has ended by itself")?;
        kills.push(Instant::now());
        last = Some(worker);
        step.update(&format!("{round} of {}", bench.kills));
    }
    step.done("survived");
    let status = served(&scene.daemon, |status| {
        signalled(status) == u64::from(bench.kills)
    })?;
    pauses_ms.extend(status.last_pause_ms);
    ensure!(
        status.restarts_total() == u64::from(bench.kills),
        "Of {} ends, some were no kill: {:?}",
        status.restarts_total(),
        status.restarts
    );
    let recovered = status
        .last_recovery
        .context("The last worker recovered nothing")?;
    ensure!(recovered.pages > 0, "The last worker found no page");
    std::thread::sleep(AFTERWARDS);
    let outcome = scene.end()?;
    let (stall_p50, stall_max) = outcome.stalls(&kills, outcome.ended);
    let (pause_p50, _) = median_and_max(&pauses_ms);
    let mut figures = outcome.figures();
    figures.extend([
        ("kills", u64::from(bench.kills)),
        ("stall_p50_us_in_guest", stall_p50),
        ("stall_max_us_in_guest", stall_max),
        ("pause_p50_ms_on_host", pause_p50),
        ("pause_max_ms_on_host", status.longest_pause_ms.unwrap_or(0)),
        ("pages_recovered_last", recovered.pages),
        ("recovery_ms_last", recovered.took_ms),
    ]);
    Ok(figures)
}

/// Replaces the worker's program many times, by the one at the daemon's path and a copy elsewhere.
pub(super) fn upgraded(bench: &Bench<'_>) -> Result<Vec<Figure>> {
    let copy = bench.copy_of_daemon()?;
    let folder = copy.parent().context("The copy lies in no folder")?;
    let scene = Scene::set(bench, &format!("upgrade_dirs = [{folder:?}]"))?;
    let mut asked = Vec::new();
    let mut pauses_ms = Vec::new();
    let mut last = None;
    for round in 1..=UPGRADES {
        let worker = next_worker(&scene.daemon, last)?;
        last = Some(worker);
        let binary = (round % 2 == 1).then_some(copy.as_path());
        asked.push(Instant::now());
        let operation = scene.daemon.upgrade(binary)?;
        ensure!(
            operation.state == OperationState::Done,
            "Upgrade {round} came to {operation:?}"
        );
        pauses_ms.push(operation.pause_ms.context("The upgrade tells no pause")?);
        std::thread::sleep(BETWEEN_UPGRADES);
    }
    next_worker(&scene.daemon, last)?;
    let status = served(&scene.daemon, |status| {
        status.upgrades == u64::from(UPGRADES)
    })?;
    ensure!(
        status.restarts_total() == u64::from(UPGRADES),
        "Of {} ends, some were no upgrade: {:?}",
        status.restarts_total(),
        status.restarts
    );
    std::thread::sleep(AFTERWARDS);
    let outcome = scene.end()?;
    let (stall_p50, stall_max) = outcome.stalls(&asked, outcome.ended);
    let (pause_p50, pause_max) = median_and_max(&pauses_ms);
    let mut figures = outcome.figures();
    figures.extend([
        ("upgrades", status.upgrades),
        ("stall_p50_us_in_guest", stall_p50),
        ("stall_max_us_in_guest", stall_max),
        ("pause_p50_ms_on_host", pause_p50),
        ("pause_max_ms_on_host", pause_max),
    ]);
    Ok(figures)
}

/// Stops the worker for seconds: it is not replaced, and the guest's programs wait for it.
pub(super) fn stopped(bench: &Bench<'_>) -> Result<Vec<Figure>> {
    let scene = Scene::set(bench, "")?;
    let worker = next_worker(&scene.daemon, None)?;
    let at = Instant::now();
    worker.stop().context("Cannot stop the worker")?;
    std::thread::sleep(STOPPED);
    worker.go_on().context("The stopped worker has gone")?;
    std::thread::sleep(AFTERWARDS);
    let status = served(&scene.daemon, |_| true)?;
    ensure!(
        status.restarts_total() == 0 && scene.daemon.worker() == Some(worker),
        "The stopped worker was replaced: {:?}",
        status.restarts
    );
    let outcome = scene.end()?;
    let (stall, _) = outcome.stalls(&[at], outcome.ended);
    ensure!(
        Duration::from_micros(stall) > STOPPED / 2,
        "The worker was stopped for {STOPPED:?} and nothing in the guest waited longer than \
         {stall} µs"
    );
    let mut figures = outcome.figures();
    figures.extend([
        ("stopped_ms", u64::try_from(STOPPED.as_millis())?),
        ("stall_us_in_guest", stall),
    ]);
    Ok(figures)
}

/// Kills keeper and worker again and again; a service manager has kept the keeper's descriptors.
pub(super) fn all_killed(bench: &Bench<'_>) -> Result<Vec<Figure>> {
    let mut scene = Scene::with(bench, bench.daemon_with(&["vm0"], "", true)?)?;
    let mut random = Random(bench.seed);
    let mut kills = Vec::new();
    for _ in 0..bench.kills.div_ceil(KEEPER_KILL_SHARE) {
        served(&scene.daemon, |_| true)?;
        std::thread::sleep(Duration::from_millis(LIFE_MS.0 + random.below(LIFE_MS.1)));
        kills.push(Instant::now());
        scene.daemon.kill_and_start_again()?;
    }
    let status = served(&scene.daemon, |status| status.last_recovery.is_some())?;
    let recovered = status.last_recovery.map_or(0, |recovery| recovery.pages);
    ensure!(recovered > 0, "The last worker found no page: {status:?}");
    std::thread::sleep(AFTERWARDS);
    let outcome = scene.end()?;
    let (stall_p50, stall_max) = outcome.stalls(&kills, outcome.ended);
    let mut figures = outcome.figures();
    figures.extend([
        ("kills_of_keeper", u64::try_from(kills.len())?),
        ("stall_p50_us_in_guest", stall_p50),
        ("stall_max_us_in_guest", stall_max),
        ("pages_recovered_last", recovered),
    ]);
    Ok(figures)
}

/// Kills workers until the daemon starts no other: the guest lives, the daemon says what is wrong, and
/// a restart brings every page back.
pub(super) fn given_up(bench: &Bench<'_>) -> Result<Vec<Figure>> {
    let daemon = bench.daemon_with(&["vm0"], &format!("crash_limit = {CRASH_LIMIT}"), false)?;
    let (daemon, mut guest) = bench.swapping_to(daemon)?;
    let mib = available_mib(&guest, 150)?;
    load::start_holding(&mut guest, mib, bench.seed)?;
    load::wait_until_held(&mut guest)?;
    let held = settled(&daemon, &mut guest, "vm0")?;
    guest.run(ALIVE, QUICK)?.ok()?;
    let mut last = None;
    for _ in 0..CRASH_LIMIT {
        let worker = next_worker(&daemon, last)?;
        worker.kill().context("Cannot kill the worker")?;
        last = Some(worker);
    }
    let failed = until(&daemon, |status| status.state == DaemonState::Failed)?;
    ensure!(
        failed.failure.is_some() && daemon.status()?.health == Health::Degraded,
        "The daemon does not say that it has failed: {failed:?}"
    );
    // What the guest needs for this was used a moment ago, so it is in the guest's memory.
    guest.run(ALIVE, QUICK)?.ok()?;
    let restart = daemon.restart()?;
    ensure!(
        restart.state == OperationState::Done,
        "The restart came to {restart:?}"
    );
    let served = served(&daemon, |_| true)?;
    load::check_held(&mut guest)?;
    guest.shut_down()?;
    daemon.shut_down()?;
    Ok(vec![
        ("pages_held", held),
        ("workers_killed", u64::from(CRASH_LIMIT)),
        (
            "pages_recovered",
            served.last_recovery.map_or(0, |recovery| recovery.pages),
        ),
    ])
}

/// Workers that were killed by a signal, as the daemon counts them.
fn signalled(status: &DaemonStatus) -> u64 {
    status.restarts.get(&EndCause::Signal).copied().unwrap_or(0)
}

/// Times to wait, from the seed of the run.
struct Random(u64);

impl Random {
    /// A number below `bound`, which must not be 0.
    const fn below(&mut self, bound: u64) -> u64 {
        // xorshift, which only 0 does not leave.
        let mut value = self.0 | 1;
        value ^= value << 13;
        value ^= value >> 7;
        value ^= value << 17;
        self.0 = value;
        (value >> 11) % bound
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_times_follow_from_the_seed_and_differ() {
        let times = |seed| {
            let mut random = Random(seed);
            [0; 100].map(|_| random.below(600))
        };
        assert_eq!(times(0), times(0));
        assert_ne!(times(3), times(8));
        assert!(times(3).iter().all(|&time| time < 600));
        assert!(times(3).iter().any(|&time| time != times(3)[0]));
    }
}
