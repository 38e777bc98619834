// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Anything happens, in any order: writes, deaths, thaws, lies, drains, restarts of the client. The
//! world checks every action as it comes; in the end everything is healed, and then every page must
//! have its copies, and a store that is drained must be empty.
//!
//! `TMEM_SEED` replays one run, `TMEM_ROUNDS` does more of them.

use std::time::Duration;

use super::world::{MS, World, name, spec};
use crate::control::*;

const SLOTS: u32 = 120;
const CAPACITY: u64 = 400;

fn rounds() -> u64 {
    let rounds = std::env::var("TMEM_ROUNDS");
    rounds.map_or(60, |rounds| rounds.parse().expect("a number"))
}

fn seeds(test: &str) -> Vec<u64> {
    if let Ok(seed) = std::env::var("TMEM_SEED") {
        return vec![seed.parse().expect("TMEM_SEED is a number")];
    }
    use std::hash::{BuildHasher, RandomState};
    let state = RandomState::new();
    (0..rounds())
        .map(|round| state.hash_one((test, round)))
        .collect()
}

/// What a run must have met to be worth something, over all runs.
#[derive(Debug, Default)]
struct Met {
    deaths: u64,
    empty_returns: u64,
    copies: u64,
    failed: u64,
    trimmed: u64,
    drained: u64,
    restarts: u64,
    bad: u64,
}

#[test]
fn whatever_happens_every_page_has_its_copies_in_the_end() {
    let mut met = Met::default();
    for seed in seeds("whatever_happens") {
        println!(
            "replay: TMEM_SEED={seed} cargo test -p tmem-remote-client whatever_happens -- --nocapture"
        );
        run(seed, &mut met);
    }
    println!("{met:?}");
    if std::env::var("TMEM_SEED").is_err() {
        assert!(
            met.deaths > 0 && met.empty_returns > 0 && met.copies > 0,
            "{met:?}"
        );
        assert!(met.failed > 0 && met.trimmed > 0 && met.bad > 0, "{met:?}");
        assert!(met.drained > 0 && met.restarts > 0, "{met:?}");
    }
}

fn config(random: &mut Random) -> Config {
    Config {
        copies: u8::try_from(1 + random.below(3)).unwrap(),
        repair_bytes_per_second: 1 << (18 + random.below(8)),
        repair_in_flight: usize::try_from(1 + random.below(16)).unwrap(),
        walk_slots: u32::try_from(1 + random.below(200)).unwrap(),
        repair_delay: MS * u32::try_from(random.below(600)).unwrap(),
        start_grace: Duration::from_secs(2),
        ..Config::default()
    }
}

fn run(seed: u64, met: &mut Met) {
    let mut random = Random::new(seed);
    let config = config(&mut random);
    let rate = config.repair_bytes_per_second;
    let mut world = World::new(config, SLOTS, seed);
    for _ in 0..3 + random.below(3) {
        world.add_store(CAPACITY);
    }
    world.copy_fault_one_in = random.below(2) * 10;
    world.lies_one_in = random.below(2) * 15;
    world.copy_time = MS * u32::try_from(1 + random.below(30)).unwrap();
    world.run(MS * 300);
    for _ in 0..400 {
        something_happens(&mut world, &mut random, rate, met);
    }
    heal(&mut world, rate);
    check_all(&world);
    let totals = world.core.status(world.now).totals;
    met.copies += totals.copied_pages;
    met.failed += totals.failed_copies;
    met.trimmed += totals.trimmed_pages;
    met.bad += totals.bad_copies;
    drain_one(&mut world, met);
    world.check_bandwidth(rate);
}

fn something_happens(world: &mut World, random: &mut Random, rate: u64, met: &mut Met) {
    let slot = u32::try_from(random.below(u64::from(SLOTS))).unwrap();
    let store = usize::try_from(random.below(world.stores.len() as u64)).unwrap();
    let is_member = world.numbers.values().any(|at| *at == store);
    match random.below(40) {
        0..15 => {
            world.write(slot);
        }
        15..17 => world.invalidate(slot),
        17..19 if world.stores[store].alive => {
            world.kill(store);
            met.deaths += 1;
        }
        19..22 if !world.stores[store].alive => {
            let empty = random.below(2) == 0 && world.can_lose(store);
            met.empty_returns += u64::from(empty);
            world.start(store, empty);
        }
        22 => world.stores[store].frozen = true,
        23..25 => world.stores[store].frozen = false,
        25 => {
            let _ = world.command(Command::Drain { name: name(store) });
        }
        26 => {
            let _ = world.command(Command::Undrain { name: name(store) });
        }
        27 if world.stores.len() < 7 => {
            world.add_store(CAPACITY);
        }
        28 => {
            let force = random.below(2) == 0 && world.can_lose(store);
            let name = name(store);
            let _ = world.command(Command::Remove { name, force });
        }
        29 => world.event(Event::AddMember(spec(store))),
        30 => {
            let bytes_per_second = random.below(2) * rate;
            let command = Command::SetBandwidth { bytes_per_second };
            world.command(command).unwrap();
        }
        31 if is_member => {
            let member = world.number(store);
            world.event(Event::Suspected { member });
        }
        32 if random.below(4) == 0 => {
            world.check_bandwidth(rate);
            world.restart_core(random.next());
            met.restarts += 1;
        }
        33 => world.command(Command::Rebalance).unwrap(),
        34 => world.event(Event::Unlist { name: name(store) }),
        35 if random.below(4) == 0 => world.now += MS * 400,
        _ => {}
    }
    let pause = [1, 1, 1, 10, 100, 700][usize::try_from(random.below(6)).unwrap()];
    world.run(MS * u32::try_from(random.below(pause)).unwrap());
}

fn heal(world: &mut World, rate: u64) {
    world.copy_fault_one_in = 0;
    world.lies_one_in = 0;
    for store in 0..world.stores.len() {
        world.start(store, false);
        let _ = world.command(Command::Undrain { name: name(store) });
    }
    let bytes_per_second = rate;
    let command = Command::SetBandwidth { bytes_per_second };
    world.command(command).unwrap();
    world.run(Duration::from_secs(20));
    for store in 0..world.stores.len() {
        world.event(Event::AddMember(spec(store)));
    }
    world.run(Duration::from_secs(10));
    world.scrub();
    world.command(Command::Repair).unwrap();
    world.run_until_idle(Duration::from_secs(300));
}

fn check_all(world: &World) {
    let status = world.core.status(world.now);
    for member in &status.members {
        assert_eq!(member.state, State::Up, "{}", member.name);
    }
    let copies = usize::from(status.wanted_copies).min(status.members.len());
    for (slot, page) in &world.table.pages {
        let real = world.real_copies(*slot);
        let named = usize::try_from(page.mask.count_ones()).unwrap();
        assert_eq!(
            (named, real),
            (copies, copies),
            "page {slot} at {:b}: {status:?}",
            page.mask
        );
    }
    assert_eq!((status.lost_pages, status.unreachable_pages), (0, 0));
    assert_eq!(status.below_pages, 0);
}

fn drain_one(world: &mut World, met: &mut Met) {
    let status = world.core.status(world.now);
    if status.members.len() <= usize::from(status.wanted_copies) {
        return;
    }
    let name = status.members[0].name.clone();
    let number = MemberNo::new(status.members[0].number).unwrap();
    world.command(Command::Drain { name }).unwrap();
    world.run_until_idle(Duration::from_secs(300));
    world.run(Duration::from_secs(15));
    let status = world.core.status(world.now);
    assert_eq!(status.members[0].state, State::Drained, "{status:?}");
    let mut pages = world.table.pages.values();
    assert!(!pages.any(|page| page.mask & number.bit() != 0));
    check_copies_after_drain(world);
    met.drained += 1;
}

fn check_copies_after_drain(world: &World) {
    let copies = usize::from(world.core.status(world.now).wanted_copies);
    for slot in world.table.pages.keys() {
        assert_eq!(world.real_copies(*slot), copies, "page {slot}");
    }
}
