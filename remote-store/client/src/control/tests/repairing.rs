// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What becomes of pages when stores die, drain, join and go.

use std::time::Duration;

use super::world::{MS, World, name, spec};
use crate::control::*;

const LONG: Duration = Duration::from_secs(60);

fn filled(config: Config, stores: usize, capacity: u64, pages: u32) -> World {
    let mut world = World::with_stores(config, stores, capacity, pages);
    for slot in 0..pages {
        assert!(world.write(slot));
    }
    world.run(world.config.advert_period * 2);
    world
}

fn utilisations(world: &World) -> Vec<u64> {
    let full = |store: &super::world::Store| store.pages.len() as u64 * 100 / store.capacity;
    world.stores.iter().map(full).collect()
}

#[test]
fn after_a_death_every_page_has_its_copies_again() {
    let mut world = filled(Config::default(), 3, 2000, 900);
    world.kill(0);
    world.run(MS * 320);
    assert_eq!(world.state(0), State::Dead);
    assert!(world.copies_begun.is_empty(), "not before the delay");
    world.run_until_idle(LONG);
    assert_eq!(world.fewest_real_copies(), 2);
    assert!(world.said("Repair starts") && world.said("Repair is done"));
    let status = world.core.status(world.now);
    assert_eq!((status.below_pages, status.unreachable_pages), (0, 0));
    world.check_bandwidth(world.config.repair_bytes_per_second);
}

#[test]
fn copies_that_found_no_room_are_made_when_a_suspect_is_well_again() {
    let mut world = filled(Config::default(), 3, 2000, 300);
    let suspect = world.number(1);
    world.kill(0);
    while !world.said("no store takes one") {
        // Each suspicion makes the next one last longer.
        world.event(Event::Suspected { member: suspect });
        world.event(Event::Suspected { member: suspect });
        world.run(MS * 20);
    }
    assert_eq!(world.state(1), State::Suspect);
    let (before, left) = (
        world.copies_begun.len(),
        world.core.status(world.now).below_pages,
    );
    assert!(left > 0);
    while world.state(1) != State::Up {
        world.run(MS * 10);
    }
    world.run(MS * 100);
    let copies = world.copies_begun.len() - before;
    assert!(copies > 0, "{left} pages wait for the next walk");
}

#[test]
fn a_store_that_is_back_within_the_delay_costs_no_copies() {
    let mut world = filled(Config::default(), 3, 2000, 300);
    world.kill(0);
    world.run(MS * 400);
    assert_eq!(world.state(0), State::Dead);
    world.start(0, false);
    world.run(MS * 300);
    assert_eq!(world.state(0), State::Up);
    world.run_until_idle(LONG);
    assert_eq!(world.copies_begun.len(), 0);
    assert_eq!(world.fewest_real_copies(), 2);
}

#[test]
fn pages_with_one_copy_left_come_before_those_with_two() {
    let config = Config {
        copies: 3,
        repair_bytes_per_second: 1 << 20,
        repair_in_flight: 4,
        ..Config::default()
    };
    let mut world = filled(config, 5, 4000, 2000);
    world.kill(0);
    world.kill(1);
    let dead = world.number(0).bit() | world.number(1).bit();
    let pages = world.table.pages.iter();
    let endangered: Vec<u32> = pages
        .filter(|(_, page)| (page.mask & !dead).count_ones() == 1)
        .map(|(slot, _)| *slot)
        .collect();
    assert!(endangered.len() > 50);
    world.run_until_idle(LONG * 3);
    assert_eq!(world.fewest_real_copies(), 3);
    let first: Vec<u32> = world.copies_begun.iter().map(|(_, slot)| *slot).collect();
    let first = &first[..endangered.len()];
    assert!(endangered.iter().all(|slot| first.contains(slot)));
    world.check_bandwidth(1 << 20);
    assert_eq!(world.most_in_flight, 4);
}

#[test]
fn repair_uses_the_bandwidth_that_it_may_and_says_how_long_it_takes() {
    let rate = 2 << 20;
    let config = Config {
        repair_bytes_per_second: rate,
        ..Config::default()
    };
    let mut world = filled(config, 3, 8000, 6000);
    world.kill(2);
    while world.copies_begun.is_empty() {
        world.run(MS);
    }
    let began = world.now;
    world.run(Duration::from_secs(3));
    let progress = world.core.status(world.now).progress.unwrap();
    assert_eq!(progress.task, Task::Repair);
    assert!(progress.done > 0 && progress.done < progress.total);
    let pace = progress.bytes_per_second;
    assert!(pace > rate * 9 / 10 && pace < rate * 11 / 10, "{pace}");
    let left = progress.seconds_left.unwrap();
    world.run_until_idle(LONG);
    let took = (world.now - began).as_secs();
    assert!(took.abs_diff(3 + left) <= 2, "{took} s, {left} s were left");
    let bytes = world.copies_begun.len() as u64 * 4096;
    assert!(bytes / took.max(1) > rate * 8 / 10, "{bytes} in {took} s");
    world.check_bandwidth(rate);
}

#[test]
fn a_drain_empties_the_store_while_writes_go_on() {
    let mut world = filled(Config::default(), 4, 2000, 1000);
    world.command(Command::Drain { name: name(1) }).unwrap();
    assert_eq!(world.state(1), State::Draining);
    for slot in 0..200 {
        world.write(slot * 3);
        world.run(MS);
    }
    assert!(world.core.status(world.now).members[1].drain.is_some());
    world.run_until_idle(LONG);
    world.run(Duration::from_secs(3));
    assert_eq!(world.state(1), State::Drained);
    assert_eq!(world.stores[1].pages.len(), 0);
    assert_eq!(world.fewest_real_copies(), 2);
    let drain = world.core.status(world.now).members[1].drain.unwrap();
    assert_eq!(drain.done, drain.total);
    assert!(drain.total > 300);
    // Its death hurts nobody now, and it may be removed.
    world.kill(1);
    world.run(Duration::from_secs(2));
    assert_eq!(world.core.status(world.now).below_pages, 0);
    let remove = Command::Remove {
        name: name(1),
        force: false,
    };
    world.command(remove).unwrap();
    world.run(Duration::from_secs(3));
    assert_eq!(world.core.status(world.now).members.len(), 3);
}

#[test]
fn a_store_that_holds_pages_is_removed_only_by_force() {
    let mut world = filled(Config::default(), 3, 2000, 300);
    let remove = |force| Command::Remove {
        name: name(2),
        force,
    };
    let refused = world.command(remove(false)).unwrap_err();
    assert!(matches!(
        refused,
        Refused::HoldsPages { .. } | Refused::NotDrained(_)
    ));
    world.command(remove(true)).unwrap();
    world.run_until_idle(LONG);
    world.run(Duration::from_secs(3));
    assert_eq!(world.core.status(world.now).members.len(), 2);
    assert_eq!(world.fewest_real_copies(), 2);
}

#[test]
fn removing_the_only_copies_by_force_loses_the_pages_and_says_so() {
    let config = Config {
        copies: 1,
        ..Config::default()
    };
    let mut world = filled(config, 2, 2000, 100);
    let own = world.stores[0].pages.len() as u64;
    assert!(own > 20);
    let remove = Command::Remove {
        name: name(0),
        force: true,
    };
    world.command(remove).unwrap();
    world.run_until_idle(LONG);
    world.run(Duration::from_secs(3));
    assert_eq!(world.core.status(world.now).lost_pages, own);
    assert!(world.said("have lost their last copy"));
}

#[test]
fn pages_of_dead_stores_are_reported_once_and_are_well_when_one_comes_back() {
    let mut world = filled(Config::default(), 2, 2000, 100);
    world.kill(0);
    world.kill(1);
    world.run(Duration::from_secs(30));
    let said = |notice: &&Notice| matches!(notice, Notice::Unreachable { pages: 100 });
    assert_eq!(world.notices.iter().filter(said).count(), 1);
    assert_eq!(world.core.status(world.now).unreachable_pages, 100);
    world.start(0, false);
    world.start(1, false);
    world.run(Duration::from_secs(10));
    assert_eq!(world.core.status(world.now).unreachable_pages, 0);
    assert_eq!(world.fewest_real_copies(), 2);
    assert_eq!(world.copies_begun.len(), 0);
}

#[test]
fn without_enough_stores_pages_wait_and_get_their_copies_when_one_joins() {
    let mut world = filled(Config::default(), 2, 2000, 200);
    world.kill(1);
    world.run(Duration::from_secs(5));
    assert!(world.said("add a store"));
    assert_eq!(world.copies_begun.len(), 0);
    assert!(world.write(7), "a write finds the one that is left");
    world.add_store(2000);
    world.run_until_idle(LONG);
    assert_eq!(world.fewest_real_copies(), 2);
}

#[test]
fn a_write_with_too_few_copies_is_made_good_without_a_walk_of_its_own() {
    let mut world = filled(Config::default(), 3, 2000, 50);
    world.run_until_idle(LONG);
    let surveys = world.core.status(world.now).totals.surveys;
    let slot = 7;
    let bad = MemberNo::all_in(world.table.pages[&slot].mask)
        .next()
        .unwrap();
    let store = world.numbers[&bad.get()];
    world.stores[store].pages.remove(&slot);
    world.table.pages.get_mut(&slot).unwrap().mask &= !bad.bit();
    world.event(Event::Check { slot });
    world.run(MS * 100);
    assert_eq!(world.real_copies(slot), 2);
    assert_eq!(world.core.status(world.now).totals.surveys, surveys);
}

#[test]
fn a_copy_that_cannot_be_read_is_made_from_another() {
    let config = Config {
        copies: 3,
        ..Config::default()
    };
    let mut world = filled(config, 4, 2000, 200);
    // Store 0 has forgotten pages, and nobody knows.
    let number = world.number(0);
    world.stores[0].pages.clear();
    world.kill(1);
    world.run_until_idle(LONG);
    let status = world.core.status(world.now);
    assert!(status.totals.bad_copies > 0);
    // Those that the repair met are whole again; whoever reads the others will say so.
    for slot in 0..200 {
        let page = world.table.pages.get_mut(&slot).unwrap();
        if page.mask & number.bit() != 0 && !world.stores[0].pages.contains_key(&slot) {
            page.mask &= !number.bit();
            world.event(Event::Check { slot });
        }
    }
    world.run_until_idle(LONG);
    assert_eq!(world.fewest_real_copies(), 3);
}

#[test]
fn a_store_that_joins_gets_pages_until_all_are_about_equally_full() {
    let mut world = filled(Config::default(), 3, 1000, 1000);
    world.add_store(1000);
    world.run(MS * 100);
    world.run_until_idle(LONG);
    assert!(world.said("Rebalancing starts") && world.said("Rebalancing is done"));
    let full = utilisations(&world);
    let (most, least) = (full.iter().max().unwrap(), full.iter().min().unwrap());
    assert!(most - least <= 7, "{full:?}");
    assert_eq!(world.fewest_real_copies(), 2);
    let moved = world.core.status(world.now).totals.moved_pages;
    assert!((400..700).contains(&moved), "{moved} moved");
}

#[test]
fn a_dead_store_that_comes_back_late_is_swept_and_filled_again() {
    let mut world = filled(Config::default(), 3, 2000, 600);
    world.kill(0);
    world.run(MS * 900);
    world.run_until_idle(LONG);
    assert_eq!(world.fewest_real_copies(), 2);
    world.start(0, false);
    world.run(Duration::from_secs(3));
    world.run_until_idle(LONG);
    assert!(world.said("store-0 is reconciled"));
    let real: usize = world.stores.iter().map(|store| store.pages.len()).sum();
    assert_eq!(real, 1200, "nothing is left over");
    assert_eq!(world.fewest_real_copies(), 2);
    assert!(world.stores[0].pages.len() > 300);
}

#[test]
fn what_a_sweep_behind_a_trusted_store_finds_missing_is_made_again() {
    let mut world = filled(Config::default(), 3, 2000, 300);
    world.run_until_idle(LONG);
    world.kill(0);
    world.stores[0].pages.clear();
    world.start(0, false);
    world.run(MS * 100);
    assert_eq!(
        world.state(0),
        State::Up,
        "the same incarnation, so it says"
    );
    world.run_until_idle(LONG);
    assert_eq!(world.fewest_real_copies(), 2);
}

#[test]
fn fewer_copies_are_trimmed_and_more_are_made() {
    let mut world = filled(Config::default(), 4, 2000, 300);
    world.command(Command::SetCopies(3)).unwrap();
    world.run_until_idle(LONG);
    assert_eq!(world.fewest_real_copies(), 3);
    world.command(Command::SetCopies(1)).unwrap();
    world.run_until_idle(LONG);
    let real: usize = world.stores.iter().map(|store| store.pages.len()).sum();
    assert_eq!(real, 300);
    assert_eq!(world.fewest_real_copies(), 1);
    assert!(world.command(Command::SetCopies(4)).is_err());
}

#[test]
fn a_bandwidth_of_nothing_stops_repair_and_another_starts_it_again() {
    let mut world = filled(Config::default(), 3, 2000, 300);
    let stop = Command::SetBandwidth {
        bytes_per_second: 0,
    };
    world.command(stop).unwrap();
    world.kill(0);
    world.run(Duration::from_secs(10));
    assert_eq!(world.copies_begun.len(), 0);
    let go = Command::SetBandwidth {
        bytes_per_second: 8 << 20,
    };
    world.command(go).unwrap();
    world.run_until_idle(LONG);
    assert_eq!(world.fewest_real_copies(), 2);
}

#[test]
fn a_store_that_nobody_lists_stays_while_it_lives_and_goes_when_it_is_dead_and_empty() {
    let mut world = filled(Config::default(), 3, 2000, 300);
    world.event(Event::Unlist { name: name(0) });
    world.run(Duration::from_secs(5));
    assert_eq!(world.state(0), State::Up);
    world.kill(0);
    world.run(Duration::from_secs(1));
    assert_eq!(world.state(0), State::Dead);
    world.run_until_idle(LONG);
    world.run(Duration::from_secs(15));
    assert_eq!(world.core.status(world.now).members.len(), 2);
    assert_eq!(world.fewest_real_copies(), 2);
    // Its number is free, but it is not the first to be given out.
    let store = world.new_store(100);
    world.event(Event::AddMember(spec(store)));
    world.run(MS * 50);
    assert_eq!(world.number(store).get(), 3);
}

#[test]
fn an_undrained_store_is_used_again() {
    let mut world = filled(Config::default(), 3, 2000, 300);
    world.command(Command::Drain { name: name(0) }).unwrap();
    world.run(Duration::from_secs(5));
    assert_eq!(world.state(0), State::Drained);
    world.command(Command::Undrain { name: name(0) }).unwrap();
    assert_eq!(world.state(0), State::Up);
    world.run_until_idle(LONG);
    assert!(world.stores[0].pages.len() > 100);
}

#[test]
fn a_copy_that_goes_without_a_word_is_made_again_by_the_walk_that_comes_by_itself() {
    let mut world = filled(Config::default(), 3, 2000, 300);
    world.run_until_idle(LONG);
    let surveys = world.core.status(world.now).totals.surveys;
    // As if the note that told of it had been lost: no event says what happened.
    let page = world.table.pages.get_mut(&7).unwrap();
    page.mask &= page.mask - 1;
    let named = page.mask;
    for number in MemberNo::all_in(!named & 0b111) {
        let store = world.numbers[&number.get()];
        world.stores[store].pages.remove(&7);
    }
    assert_eq!(world.real_copies(7), 1);
    assert_eq!(world.core.status(world.now).below_pages, 0, "nobody knows");
    world.run(world.config.rescan_interval * 9);
    assert_eq!(world.real_copies(7), 2);
    assert!(world.core.status(world.now).totals.surveys > surveys);
}
