// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The checks, and how one is run. A check leaves nothing behind: each begins with a device that was
//! reset, in a new epoch without pools.

mod balloon;
mod depth;
mod events;
mod grant;
mod hostile;
mod lengths;
mod pages;
mod pools;
mod race;
mod random;
mod refusals;
mod start;
mod tickets;

use crate::bench::Bench;
use crate::random::Random;
use crate::ring::Style;
use crate::serial::line;
use crate::why::Result;

/// Something that must hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Check {
    /// Its name, without spaces.
    pub(crate) name: &'static str,
    /// What it needs before and after it.
    pub(crate) kind: Kind,
    /// The check itself.
    pub(crate) run: fn(&mut Bench) -> Result,
}

/// What surrounds a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Nothing: it sets the device up itself.
    Bare,
    /// A device that was set up, in a new epoch; run once.
    Once,
    /// The same, run with and without event indices and indirect descriptors.
    Styles,
    /// The same, run once, with pools that must not notice and a device that must serve afterwards.
    Hostile,
}

/// A way of using rings, and what it adds to a check's name.
const STYLES: [(Style, &str); 2] = [
    (
        Style {
            event_idx: true,
            indirect: true,
        },
        "",
    ),
    (
        Style {
            event_idx: false,
            indirect: false,
        },
        "/plain",
    ),
];

/// All checks, in the order in which they run.
const CHECKS: &[&[Check]] = &[
    start::CHECKS,
    pools::CHECKS,
    pages::CHECKS,
    tickets::CHECKS,
    refusals::CHECKS,
    lengths::CHECKS,
    grant::CHECKS,
    balloon::CHECKS,
    events::CHECKS,
    depth::CHECKS,
    race::CHECKS,
    random::CHECKS,
];

/// The check that everything else needs, made before there is a bench.
pub(crate) const FIRST: &str = "find-device";

/// Runs the checks whose name holds `part`; returns how many passed and failed.
pub(crate) fn run(bench: &mut Bench, part: &str, seed: u64) -> (u32, u32) {
    let (mut ok, mut failed) = (0, 0);
    let chosen = CHECKS.iter().chain(hostile::CHECKS).copied().flatten();
    for check in chosen.filter(|check| check.name.contains(part)) {
        let styles = match check.kind {
            Kind::Styles => &STYLES[..],
            Kind::Bare | Kind::Once | Kind::Hostile => &STYLES[..1],
        };
        for (style, suffix) in styles {
            bench.style = *style;
            // The same numbers whichever checks ran before.
            let name = check.name.bytes().chain(suffix.bytes());
            bench.random = name.fold(Random::new(seed), |mut random, byte| {
                Random::new(random.next() ^ u64::from(byte))
            });
            match surround(bench, check) {
                Ok(()) => {
                    ok += 1;
                    line!("ok {}{suffix}", check.name);
                }
                Err(why) => {
                    failed += 1;
                    line!("FAIL {}{suffix}: {why}", check.name);
                }
            }
        }
    }
    if (ok, failed) == (0, 0) && !FIRST.contains(part) {
        failed = 1;
        line!("FAIL only: no check's name holds {part}");
    }
    (ok, failed)
}

/// Runs a check with what its kind asks for.
fn surround(bench: &mut Bench, check: &Check) -> Result {
    match check.kind {
        Kind::Bare => (check.run)(bench),
        Kind::Once | Kind::Styles => {
            bench.fresh()?;
            (check.run)(bench)
        }
        Kind::Hostile => {
            bench.fresh()?;
            let bystander = hostile::Bystander::new(bench)?;
            (check.run)(bench)?;
            bystander.look(bench)
        }
    }
}
