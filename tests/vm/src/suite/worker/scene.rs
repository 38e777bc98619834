// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A guest under load whose daemon is about to suffer, and what came of it.

use crate::bench::{Bench, Figures, settled};
use crate::daemon::{Daemon, Worker};
use crate::guest::Guest;
use crate::load;
use crate::stall::{GuestClock, median_and_max, stalls};
use crate::suite::Figure;
use anyhow::{Result, ensure};
use std::time::{Duration, Instant};
use tmem_admin_api::{DaemonState, DaemonStatus};

/// For anything that the daemon does about its worker.
const DEADLINE: Duration = Duration::from_secs(60);
/// Before a test does anything to the daemon, the guest's steps are noted for so many times this
/// long, for comparison: an emulated CPU on a busy machine makes programs wait as well.
const UNDISTURBED: (u32, Duration) = (16, Duration::from_millis(500));

/// A guest under load.
pub(in crate::suite) struct Scene {
    pub(in crate::suite) daemon: Daemon,
    guest: Guest,
    clock: GuestClock,
    /// Instants at which nothing happened.
    undisturbed: Vec<Instant>,
    since: Instant,
}

impl Scene {
    /// A guest whose programs swap to a daemon with `lines` in its configuration.
    pub(in crate::suite) fn set(bench: &Bench<'_>, lines: &str) -> Result<Self> {
        Self::with(bench, bench.daemon_with(&["vm0"], lines, false)?)
    }

    /// A guest whose programs swap to `daemon`.
    pub(in crate::suite) fn with(bench: &Bench<'_>, daemon: Daemon) -> Result<Self> {
        let (daemon, mut guest) = bench.swapping_to(daemon)?;
        let clock = GuestClock::of(&mut guest)?;
        load::start(&mut guest, bench.seed)?;
        let (times, each) = UNDISTURBED;
        let mut undisturbed = Vec::new();
        for _ in 0..times {
            undisturbed.push(Instant::now());
            std::thread::sleep(each);
        }
        Ok(Self {
            daemon,
            guest,
            clock,
            undisturbed,
            since: Instant::now(),
        })
    }

    /// The guest, while its load runs.
    pub(in crate::suite) const fn guest(&mut self) -> &mut Guest {
        &mut self.guest
    }

    /// Ends the load, checks that no page was lost, refused or left over, and ends guest and daemon.
    pub(in crate::suite) fn end(mut self) -> Result<Outcome> {
        let ended = Instant::now();
        let load = load::end(&mut self.guest)?;
        let left = settled(&self.daemon, &mut self.guest, "vm0")?;
        let driver = Figures::of(&mut self.guest)?;
        for count in ["refused", "errors", "corrupt"] {
            let value = driver.driver(count)?;
            ensure!(value == 0, "The driver counts {value} pages {count}");
        }
        self.guest.shut_down()?;
        self.daemon.shut_down()?;
        Ok(Outcome {
            load,
            clock: self.clock,
            undisturbed: self.undisturbed,
            since: self.since,
            ended,
            put: driver.driver("pages_put")?,
            got: driver.driver("pages_got")?,
            left,
        })
    }
}

/// What came of a guest under load.
pub(in crate::suite) struct Outcome {
    load: load::Report,
    clock: GuestClock,
    undisturbed: Vec<Instant>,
    /// When the test began to do something to the daemon.
    since: Instant,
    /// When the load was told to end.
    pub(in crate::suite) ended: Instant,
    put: u64,
    got: u64,
    left: u64,
}

impl Outcome {
    /// Median and maximum of the times that the guest stood still after each of `events`, in µs;
    /// after `until` nothing counts.
    pub(in crate::suite) fn stalls(&self, events: &[Instant], until: Instant) -> (u64, u64) {
        let events: Vec<u64> = events.iter().map(|&at| self.clock.shows_at(at)).collect();
        median_and_max(&stalls(
            &self.load.slow,
            &events,
            self.clock.shows_at(until),
        ))
    }

    pub(in crate::suite) fn figures(&self) -> Vec<Figure> {
        let (p50, max) = self.stalls(&self.undisturbed, self.since);
        vec![
            ("stress_passes_verified", self.load.stress_passes),
            ("pages_rewritten", self.load.pages_rewritten),
            ("pages_put", self.put),
            ("pages_got", self.got),
            ("pages_left_on_host", self.left),
            ("probe_steps", self.load.probe_steps),
            ("probe_faults", self.load.probe_faults),
            ("probe_p50_us", self.load.probe_p50_us),
            ("undisturbed_p50_us", p50),
            ("undisturbed_max_us", max),
            ("clock_exact_to_us", self.clock.exact_to_us()),
        ]
    }
}

/// Waits for a worker other than `last`.
pub(in crate::suite) fn next_worker(daemon: &Daemon, last: Option<Worker>) -> Result<Worker> {
    let start = Instant::now();
    loop {
        if let Some(worker) = daemon.worker().filter(|worker| last != Some(*worker)) {
            return Ok(worker);
        }
        ensure!(
            start.elapsed() < DEADLINE,
            "No other worker was started within {DEADLINE:?}"
        );
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Waits until the daemon's processes are as `is_so` wants them.
pub(in crate::suite) fn until(
    daemon: &Daemon,
    is_so: impl Fn(&DaemonStatus) -> bool,
) -> Result<DaemonStatus> {
    let start = Instant::now();
    loop {
        // While one worker follows another there is nobody to ask.
        let asked = daemon.processes();
        if asked.as_ref().is_ok_and(&is_so) {
            return Ok(asked?);
        }
        ensure!(
            start.elapsed() < DEADLINE,
            "The daemon is not as it should be within {DEADLINE:?}: {asked:?}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until guests are served and the daemon's processes are as `is_so` wants them.
pub(in crate::suite) fn served(
    daemon: &Daemon,
    is_so: impl Fn(&DaemonStatus) -> bool,
) -> Result<DaemonStatus> {
    until(daemon, |status| {
        status.state == DaemonState::Running && is_so(status)
    })
}
