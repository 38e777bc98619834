// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Three ways to drive the balloons of a host's guests, by `tmemctl` as an administrator would.

use crate::daemon::Daemon;
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tmem_admin_api::{Balloon, PAGE_BYTES};

/// Pages in a MiB.
pub(super) const MIB: u64 = (1 << 20) / PAGE_BYTES;
/// How often a policy looks, as often as the daemon's controller does.
const EVERY: Duration = Duration::from_secs(1);
/// For balloons to come to where a run begins.
const DEADLINE: Duration = Duration::from_secs(90);
/// A greedy guest takes more when it swaps this many pages a second.
const GREEDY_FAULTS: u64 = 32;
/// And so much of its RAM at once.
const GREEDY_PART: u64 = 4;

/// How balloons are driven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Each guest has the same part of the budget all the time.
    Equal,
    /// Each guest starts with its floor; one that swaps takes what is left of the budget, and keeps it.
    Greedy,
    /// The daemon's controller; all start with the same part.
    Auto,
}

/// Sizes that are the same for all modes of a run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub(super) ram_mib: u64,
    pub(super) budget_mib: u64,
    pub(super) floor_mib: u64,
}

/// Drives the balloons of `guests` in one mode.
pub(super) struct Policy<'a> {
    daemon: &'a Daemon,
    guests: &'a [&'a str],
    mode: Mode,
    sizes: Sizes,
    looked: Instant,
    /// Pages that each guest has swapped in or out, when the policy looked last.
    swapped: BTreeMap<String, u64>,
    /// The most that all guests had together.
    pub(super) most_pages: u64,
    /// How often each reason was seen that the controller gave.
    pub(super) reasons: BTreeMap<String, u64>,
    failure: Option<anyhow::Error>,
}

impl<'a> Policy<'a> {
    /// Brings all balloons to where the mode begins.
    pub(super) fn begin(
        daemon: &'a Daemon,
        guests: &'a [&'a str],
        mode: Mode,
        sizes: Sizes,
    ) -> Result<Self> {
        let number = u64::try_from(guests.len())?;
        let size_mib = match mode {
            Mode::Greedy => sizes.floor_mib,
            Mode::Equal | Mode::Auto => sizes.budget_mib / number,
        };
        for guest in guests {
            set(daemon, guest, size_mib * MIB)?;
        }
        settle(daemon, guests, size_mib)?;
        if mode == Mode::Auto {
            let budget = format!("{}MiB", sizes.budget_mib);
            daemon.tell(&["balloon", "budget", &budget])?;
            let floor = format!("{}MiB", sizes.floor_mib);
            for guest in guests {
                daemon.tell(&["balloon", "auto", guest, "on", "--floor", &floor])?;
            }
        }
        let mut policy = Self {
            daemon,
            guests,
            mode,
            sizes,
            looked: Instant::now(),
            swapped: BTreeMap::new(),
            most_pages: 0,
            reasons: BTreeMap::new(),
            failure: None,
        };
        policy.act()?;
        Ok(policy)
    }

    /// To be called often while the guests work.
    pub(super) fn look(&mut self) {
        if self.failure.is_none() && self.looked.elapsed() >= EVERY {
            self.looked = Instant::now();
            self.failure = self.act().err();
        }
    }

    /// Ends the mode: balloons stay as they are.
    pub(super) fn end(self) -> Result<(u64, BTreeMap<String, u64>)> {
        if self.mode == Mode::Auto {
            for guest in self.guests {
                self.daemon.tell(&["balloon", "auto", guest, "off"])?;
            }
        }
        match self.failure {
            Some(error) => Err(error),
            None => Ok((self.most_pages, self.reasons)),
        }
    }

    fn act(&mut self) -> Result<()> {
        let balloons = self.daemon.balloons()?.balloons;
        let used: u64 = balloons.iter().map(|balloon| balloon.size_pages).sum();
        self.most_pages = self.most_pages.max(used);
        match self.mode {
            Mode::Equal => Ok(()),
            Mode::Greedy => self.take(&balloons),
            Mode::Auto => {
                for balloon in balloons {
                    let decision = balloon.decision.map(|decision| decision.reason);
                    *self
                        .reasons
                        .entry(decision.unwrap_or_default())
                        .or_default() += 1;
                }
                Ok(())
            }
        }
    }

    /// Gives what is left to those who swap, in their order.
    fn take(&mut self, balloons: &[Balloon]) -> Result<()> {
        let told = |balloon: &Balloon| balloon.memory_pages.saturating_sub(balloon.target_pages);
        let claimed: u64 = balloons
            .iter()
            .map(|balloon| told(balloon).max(balloon.size_pages))
            .sum();
        let mut room = (self.sizes.budget_mib * MIB).saturating_sub(claimed);
        for balloon in balloons {
            let Some(statistics) = &balloon.statistics else {
                bail!("Guest {} has told no statistics", balloon.guest);
            };
            let swapped = statistics.swap_ins + statistics.swap_outs;
            let before = self.swapped.insert(balloon.guest.clone(), swapped);
            let more = swapped.saturating_sub(before.unwrap_or(swapped));
            let taken = (balloon.memory_pages / GREEDY_PART)
                .min(room)
                .min(balloon.target_pages);
            if more >= GREEDY_FAULTS && taken > 0 {
                room -= taken;
                set(self.daemon, &balloon.guest, told(balloon) + taken)?;
            }
        }
        Ok(())
    }
}

/// Fixes what a guest keeps.
fn set(daemon: &Daemon, guest: &str, pages: u64) -> Result<()> {
    let size = format!("{}KiB", pages * (PAGE_BYTES >> 10));
    Ok(daemon.tell(&["balloon", "set", guest, &size])?)
}

/// Waits until each guest keeps about `size_mib`.
fn settle(daemon: &Daemon, guests: &[&str], size_mib: u64) -> Result<()> {
    let start = Instant::now();
    loop {
        let balloons = daemon.balloons()?.balloons;
        let sizes: Vec<u64> = balloons
            .iter()
            .map(|balloon| balloon.size_pages / MIB)
            .collect();
        let reached = |size: &u64| size.abs_diff(size_mib) <= 1 + size_mib / 64;
        if balloons.len() == guests.len() && sizes.iter().all(reached) {
            return Ok(());
        }
        ensure!(
            start.elapsed() < DEADLINE,
            "Balloons do not come to {size_mib} MiB within {DEADLINE:?}: they are at {sizes:?}"
        );
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Waits until every guest tells its statistics, and its agent has its part in them.
pub(super) fn wait_for_statistics(daemon: &Daemon, guests: &[&str]) -> Result<()> {
    let start = Instant::now();
    loop {
        let balloons = daemon.balloons()?.balloons;
        let tells = |balloon: &&Balloon| {
            let statistics = balloon.statistics.as_ref();
            statistics.is_some_and(|told| told.psi_some_us.is_some())
        };
        if balloons.iter().filter(tells).count() == guests.len() {
            return Ok(());
        }
        ensure!(
            start.elapsed() < DEADLINE,
            "Not every guest and agent tells its statistics: {balloons:?}"
        );
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// The statistics that guest `name` told last.
pub(super) fn statistics(daemon: &Daemon, name: &str) -> Result<tmem_admin_api::BalloonStatistics> {
    let balloons = daemon.balloons()?.balloons;
    let balloon = balloons.into_iter().find(|balloon| balloon.guest == name);
    balloon
        .and_then(|balloon| balloon.statistics)
        .with_context(|| format!("Guest {name} has told no statistics"))
}
