// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Three guests whose load peaks one after the other, on half of the memory that they have together:
//! fixed equal shares, first come first served, and the daemon's controller, in one run.
//!
//! What does not fit into a guest's share is swapped to memory behind an **emulated** link, so that a
//! page that comes back costs what it would from another host. Every mode does the same work with the
//! same seeds; a program that reads another byte than it wrote fails the run.
//!
//! By default a short form runs. `TMEM_AUTO=full` runs the long one, with larger sets, with programs that
//! keep what they no longer use, and with equal shares once more at the end, to see what the machine
//! itself changed meanwhile. The bound is the same for both.

mod policy;

use super::Figure;
use crate::bench::{Bench, QUICK, clean_result, swap_on};
use crate::daemon::Daemon;
use crate::guest::Guest;
use anyhow::{Result, ensure};
use policy::{MIB, Mode, Policy, Sizes, statistics, wait_for_statistics};
use std::time::{Duration, Instant};

const NAMES: [&str; 3] = ["vm0", "vm1", "vm2"];
/// Environment variable that chooses the long form by its only value.
const FORM_VARIABLE: &str = "TMEM_AUTO";
const FULL: &str = "full";
/// Everything beyond so much DRAM is on the other side of the link.
const DRAM_CAP: &str = "4MiB";
const LINK: &str = "latency=150us bandwidth=10Gbit/s";
const PEAK: Duration = Duration::from_secs(1200);
/// Guests may have so much more than the budget for a moment, in parts of it: pages that a guest took
/// back by itself, for want of memory.
const OVER_PART: u64 = 64;

/// A form of the comparison.
struct Form {
    sizes: Sizes,
    /// What a peak touches.
    set_mib: u64,
    /// How often it touches as many pages as that has.
    passes: u64,
    /// Whether programs keep their memory after their peak.
    keep: bool,
    modes: &'static [Mode],
    /// Auto takes no more of the time of equal shares than this.
    percent_most: u64,
}

const SHORT: Form = Form {
    sizes: Sizes {
        ram_mib: 320,
        budget_mib: 480,
        floor_mib: 128,
    },
    set_mib: 112,
    passes: 3,
    keep: false,
    modes: &[Mode::Equal, Mode::Greedy, Mode::Auto],
    percent_most: 75,
};

const LONG: Form = Form {
    sizes: Sizes {
        ram_mib: 384,
        budget_mib: 576,
        floor_mib: 128,
    },
    set_mib: 200,
    passes: 4,
    keep: true,
    modes: &[Mode::Equal, Mode::Greedy, Mode::Auto, Mode::Equal],
    percent_most: 75,
};

/// What one mode took.
#[derive(Debug)]
struct Outcome {
    mode: Mode,
    took: Duration,
    /// Pages that came back from swap in all guests.
    swap_ins: u64,
    most_pages: u64,
}

/// Runs all modes of the form that was chosen.
pub(super) fn compared(bench: &Bench<'_>) -> Result<Vec<Figure>> {
    let full = std::env::var(FORM_VARIABLE).is_ok_and(|form| form == FULL);
    let form = if full { LONG } else { SHORT };
    let lines =
        format!("[remote]\nsize = \"2GiB\"\n\n[link.remote]\nin = {LINK:?}\nout = {LINK:?}\n");
    let daemon = bench.daemon_with(&NAMES, &lines, false)?;
    ensure!(
        daemon.status()?.emulated,
        "The link is emulated, and the status does not say so"
    );
    let mut guests = Vec::new();
    for name in NAMES {
        daemon.tell(&["guest", "limit", name, "--dram-cap", DRAM_CAP])?;
        let mut guest = bench.boot(&daemon, name, u32::try_from(form.sizes.ram_mib)?)?;
        swap_on(&mut guest)?;
        // Each page that comes back is one that was asked for.
        guest.run(
            "echo 0 >/proc/sys/vm/page-cluster; tmem-agent >/run/agent 2>&1 &",
            QUICK,
        )?;
        guests.push(guest);
    }
    wait_for_statistics(&daemon, &NAMES)?;
    let mut outcomes = Vec::new();
    for &mode in form.modes {
        outcomes.push(peaks(bench, &daemon, &mut guests, &form, mode)?);
    }
    for guest in guests {
        guest.shut_down()?;
    }
    daemon.shut_down()?;
    judge(&form, &outcomes)
}

/// One mode: a peak in each guest, one after the other.
fn peaks(
    bench: &Bench<'_>,
    daemon: &Daemon,
    guests: &mut [Guest],
    form: &Form,
    mode: Mode,
) -> Result<Outcome> {
    let mut policy = Policy::begin(daemon, &NAMES, mode, form.sizes)?;
    let swap_ins = |daemon: &Daemon| -> Result<u64> {
        let each = NAMES.map(|name| statistics(daemon, name).map(|told| told.swap_ins));
        each.into_iter().sum()
    };
    let before = swap_ins(daemon)?;
    let start = Instant::now();
    let mut ends = Vec::new();
    for (seed, guest) in (bench.seed >> 2..).zip(guests.iter_mut()) {
        let work = format!(
            "tmem-workload pages --mib {} --seed {seed} --passes {}",
            form.set_mib, form.passes
        );
        let command = if form.keep {
            format!(
                "rm -f /run/end; {work} --wait-for /run/end >/run/peak 2>&1 & \
                 until grep -q TMEM-HOLDING /run/peak; do \
                 kill -0 $! || break; sleep 0.2; done; cat /run/peak"
            )
        } else {
            work
        };
        let output = guest
            .run_watched(&command, PEAK, &mut || policy.look())?
            .ok()?;
        if !form.keep {
            clean_result(&output)?;
        }
        ends.push(start.elapsed());
    }
    let took = start.elapsed();
    // The last statistics may be a second old.
    std::thread::sleep(Duration::from_millis(1200));
    let after = swap_ins(daemon)?;
    let (most_pages, reasons) = policy.end()?;
    println!(
        "     {mode:?}: peaks ended after {ends:.1?}, {} pages came back from swap, at most {} of {} MiB \
         in use {reasons:?}",
        after - before,
        most_pages / MIB,
        form.sizes.budget_mib
    );
    if form.keep {
        for guest in guests {
            let end = "touch /run/end; while pidof tmem-workload >/dev/null; do sleep 0.1; done; \
                       cat /run/peak";
            clean_result(&guest.run(end, PEAK)?.ok()?)?;
        }
    }
    let budget = form.sizes.budget_mib * MIB;
    ensure!(
        most_pages <= budget + budget / OVER_PART,
        "With {mode:?} guests had {} of {} MiB",
        most_pages / MIB,
        form.sizes.budget_mib
    );
    Ok(Outcome {
        mode,
        took,
        swap_ins: after - before,
        most_pages,
    })
}

/// Holds auto against equal shares, of several runs the quickest.
fn judge(form: &Form, outcomes: &[Outcome]) -> Result<Vec<Figure>> {
    let of = |mode: Mode| outcomes.iter().filter(move |outcome| outcome.mode == mode);
    let ms = |outcome: &Outcome| u64::try_from(outcome.took.as_millis()).unwrap_or(u64::MAX);
    let quickest = |mode: Mode| of(mode).map(ms).min();
    let mut figures = vec![
        ("budget_mib", form.sizes.budget_mib),
        ("set_mib", form.set_mib),
    ];
    let names = |mode: Mode, again: bool| match (mode, again) {
        (Mode::Equal, false) => ["equal_ms_emulated", "equal_swap_ins", "equal_most_mib"],
        (Mode::Equal, true) => [
            "equal_again_ms_emulated",
            "equal_again_swap_ins",
            "equal_again_most_mib",
        ],
        (Mode::Greedy, _) => ["greedy_ms_emulated", "greedy_swap_ins", "greedy_most_mib"],
        (Mode::Auto, _) => ["auto_ms_emulated", "auto_swap_ins", "auto_most_mib"],
    };
    for (number, outcome) in outcomes.iter().enumerate() {
        let values = [ms(outcome), outcome.swap_ins, outcome.most_pages / MIB];
        figures.extend(names(outcome.mode, number > 0).into_iter().zip(values));
    }
    let (Some(equal), Some(auto)) = (quickest(Mode::Equal), quickest(Mode::Auto)) else {
        anyhow::bail!("The form compares nothing");
    };
    let percent = auto * 100 / equal.max(1);
    figures.push(("auto_percent_of_equal", percent));
    if let Some(greedy) = quickest(Mode::Greedy) {
        figures.push(("auto_percent_of_greedy", auto * 100 / greedy.max(1)));
    }
    ensure!(
        percent <= form.percent_most,
        "Auto took {percent} % of the time of equal shares, at most {} % is right: {outcomes:?}",
        form.percent_most
    );
    Ok(figures)
}
