// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Whatever guests report: no guest below its floor or above its RAM, nobody given what is not there.

use super::*;
use proptest::prelude::*;

const NAMES: [&str; 4] = ["a", "b", "c", "d"];
const RAM_MAX: u64 = 1 << 22;

/// What happens to a guest between two steps.
#[derive(Clone, Debug)]
struct Turn {
    /// Whether it reports at all.
    reports: bool,
    /// How much of the way to its target its balloon goes, of 4.
    moves: u64,
    available: u64,
    free: u64,
    ins: u64,
    outs: u64,
    refaults: u64,
    stalled_us: u64,
    oom: u64,
    refusal: u64,
    own_floor: u64,
}

/// Figures as guests have them, mixed with ones that make no sense.
fn figure(most: u64) -> impl Strategy<Value = u64> {
    prop_oneof![6 => 0..=most, 2 => Just(0), 1 => Just(u64::MAX), 1 => any::<u64>()]
}

fn turn() -> impl Strategy<Value = Turn> {
    let flags = (
        prop::bool::weighted(0.9),
        0..=4_u64,
        prop::bool::weighted(0.1),
    );
    let sizes = (figure(RAM_MAX), figure(RAM_MAX), figure(RAM_MAX / 8));
    let rates = (figure(5000), figure(5000), figure(5000), figure(1_000_000));
    let odd = (figure(4096), 0..8_u64);
    (flags, sizes, rates, odd).prop_map(
        |((reports, moves, is_odd), (available, free, own_floor), rates, (oom, refusal))| Turn {
            reports,
            moves,
            available,
            free,
            ins: rates.0,
            outs: rates.1,
            refaults: rates.2,
            stalled_us: rates.3,
            oom: if is_odd { oom } else { 0 },
            refusal: if is_odd { refusal } else { 0 },
            own_floor: if is_odd { own_floor } else { 0 },
        },
    )
}

fn puppet(name: &'static str) -> impl Strategy<Value = Puppet> {
    (1..=RAM_MAX, 0..=1200_u64, 0..=200_u32, 0..=100_u64).prop_map(
        move |(ram, floor, weight, ballooned)| {
            let mut puppet = Puppet::new(name, ram);
            // Floors above the RAM are possible: an admin may write anything.
            puppet.floor = ram * floor / 1000;
            puppet.weight = weight;
            puppet.target = ram * ballooned / 100;
            puppet.figures = None;
            puppet
        },
    )
}

fn take(turn: &Turn, puppet: &mut Puppet, now: Duration) {
    if !turn.reports {
        return;
    }
    let target = puppet.target;
    let held = puppet.figures.map_or(0, |figures| figures.held);
    puppet.reports(now, |f| {
        f.held = if target > held {
            held + (target - held) * turn.moves / 4
        } else {
            held - (held - target) * turn.moves / 4
        };
        f.available = turn.available;
        f.free = turn.free;
        f.swap_ins = f.swap_ins.wrapping_add(turn.ins);
        f.swap_outs = f.swap_outs.wrapping_add(turn.outs);
        f.refaults = f.refaults.map(|so| so.wrapping_add(turn.refaults));
        f.psi_some_us = Some(f.psi_some_us.unwrap_or(0).wrapping_add(turn.stalled_us));
        f.oom_deflated = f.oom_deflated.wrapping_add(turn.oom);
        f.refusal = turn.refusal;
        f.floor = turn.own_floor;
    });
}

/// What must be counted for a guest before a step: what it was told, or has still.
fn claimed(puppet: &Puppet) -> u64 {
    let resident = puppet.figures.map_or_else(
        || puppet.size(),
        |figures| puppet.ram - figures.held.min(puppet.ram),
    );
    puppet.size().max(resident)
}

fn floor(puppet: &Puppet) -> u64 {
    let own = puppet.figures.map_or(0, |figures| figures.floor);
    puppet.floor.max(own).min(puppet.ram)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn bounds_hold_whatever_guests_say(
        mut puppets in (puppet(NAMES[0]), puppet(NAMES[1]), puppet(NAMES[2]), puppet(NAMES[3])),
        budget in prop::option::of(0..4 * RAM_MAX),
        needed in prop_oneof![3 => Just(0), 1 => 0..RAM_MAX],
        turns in prop::collection::vec((turn(), turn(), turn(), turn(), 0..15_000_u64), 1..40),
    ) {
        let mut controller = Controller::new(Settings::default());
        let mut now = Duration::ZERO;
        let host = HostReport { budget_pages: budget, needed_pages: needed };
        for (a, b, c, d, pause_ms) in turns {
            now += Duration::from_millis(pause_ms);
            let mut all = [&mut puppets.0, &mut puppets.1, &mut puppets.2, &mut puppets.3];
            for (puppet, turn) in all.iter_mut().zip([a, b, c, d]) {
                take(&turn, puppet, now);
            }
            let before = all.each_ref().map(|puppet| (puppet.size(), claimed(puppet)));
            let reports: Vec<_> = all.iter().map(|puppet| puppet.report()).collect();
            let decisions = controller.step(now, &host, &reports);
            prop_assert_eq!(decisions.len(), all.len());

            let ram: u64 = all.iter().map(|puppet| puppet.ram).sum();
            let before_all: u64 = before.iter().map(|(_, claimed)| claimed).sum();
            let mut after_all = 0;
            let mut by_floor = false;
            for ((puppet, decision), (size, claimed)) in all.iter_mut().zip(&decisions).zip(before) {
                prop_assert_eq!(&decision.guest, puppet.name);
                prop_assert_eq!(decision.size_pages + decision.target_pages, puppet.ram);
                prop_assert!(decision.size_pages >= floor(puppet), "below its floor");
                by_floor |= size < floor(puppet);
                puppet.target = decision.target_pages;
                after_all += decision.size_pages.max(claimed);
            }
            // What is given is there: only a floor is above the budget.
            let most = budget.unwrap_or(ram).max(before_all);
            prop_assert!(after_all <= most || by_floor, "{after_all} pages of {most}");
        }
    }

    #[test]
    fn sizes_come_within_a_budget_that_leaves_the_floors(
        parts in prop::collection::vec((64..4096_u64, 0..60_u64, 1..400_u32, 0..2000_u64), 1..6),
        spare in 0..100_u64,
    ) {
        let mut puppets: Vec<Puppet> = parts
            .iter()
            .zip(["a", "b", "c", "d", "e", "f"])
            .map(|(&(ram_mib, floor_percent, weight, _), name)| {
                let mut puppet = Puppet::new(name, ram_mib * MIB);
                puppet.floor = puppet.ram * floor_percent / 100;
                puppet.weight = weight;
                puppet
            })
            .collect();
        let floors: u64 = puppets.iter().map(|puppet| puppet.floor).sum();
        let ram: u64 = puppets.iter().map(|puppet| puppet.ram).sum();
        let budget = Some(floors + (ram - floors) * spare / 100);
        let mut all: Vec<&mut Puppet> = puppets.iter_mut().collect();
        let (mut controller, mut now) = started(budget, &mut all);
        // Some are idle and some fault all the time; the balloons follow at once. The slowest squeeze
        // takes a thirty-second part with each report.
        for _ in 0..400 {
            now += SECOND;
            for (puppet, &(_, _, _, ins)) in all.iter_mut().zip(&parts) {
                puppet.reports(now, |f| {
                    f.swap_ins += if ins < 1000 { 0 } else { ins };
                    f.available = 0;
                    f.free = 0;
                });
            }
            step(&mut controller, now, budget, &mut all);
        }
        let sizes: u64 = all.iter().map(|puppet| puppet.size()).sum();
        prop_assert!(Some(sizes) <= budget, "{sizes} pages of {budget:?}");
        for puppet in all {
            prop_assert!(puppet.size() >= puppet.floor);
        }
    }
}

#[test]
fn the_last_pages_over_a_budget_go_too() {
    for faults in [0, 2000] {
        let mut guest = Puppet::new(NAMES[0], 64 * MIB);
        guest.floor = 0;
        let budget = Some(0);
        let (mut controller, mut now) = started(budget, &mut [&mut guest]);
        for _ in 0..400 {
            now += SECOND;
            guest.reports(now, |f| {
                f.swap_ins += faults;
                f.available = 0;
                f.free = 0;
            });
            step(&mut controller, now, budget, &mut [&mut guest]);
        }
        assert_eq!(guest.size(), 0, "{faults} faults a second");
    }
}
