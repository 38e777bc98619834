// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! In which order pages leave DRAM, seen from outside: by the guest's policy, and not those that are got
//! while they wait.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

#[allow(dead_code, reason = "each test file uses its part of the model")]
mod model;
#[path = "house/tiered.rs"]
mod tiered;

use std::collections::{BTreeSet, VecDeque};

use model::{Random, seed};
use tiered::House;
use tmem_pages::{ObjectId, PageIndex, Tier};

const PAGES: u32 = 50;

/// Pages of guest 0 that are in DRAM.
fn in_dram(house: &House, pages: u32) -> BTreeSet<u32> {
    let pool = &house.pools[0];
    let tier = |number: &u32| {
        let index = PageIndex(*number);
        house.worker.tier_of(pool, ObjectId::ZERO, index) == Some(Tier::Dram)
    };
    (0..pages).filter(tier).collect()
}

/// Has all pages leave, one at a time. Returns their order.
fn leave(house: &House) -> Vec<u32> {
    let mut order = Vec::new();
    let mut before = in_dram(house, PAGES);
    while house.guests[0].reclaim_some(1) == 1 {
        let after = in_dram(house, PAGES);
        let gone: Vec<u32> = before.difference(&after).copied().collect();
        assert_eq!(gone.len(), 1, "one page at a time");
        order.extend(gone);
        before = after;
    }
    order
}

/// What a policy knows of a page, the oldest first.
#[derive(Clone, Copy, Debug)]
struct Known {
    number: u32,
    got: bool,
}

/// Puts and gets some pages at random; `put` and `got` tell the model.
fn busy(
    house: &mut House,
    random: &mut Random,
    put: impl Fn(&mut VecDeque<Known>, u32),
    got: impl Fn(&mut VecDeque<Known>, u32),
) -> VecDeque<Known> {
    let mut model = VecDeque::new();
    for number in 0..PAGES {
        house.put(0, number);
        put(&mut model, number);
    }
    for _ in 0..300 {
        let number = random.below_u32(PAGES);
        if random.one_in(3) {
            house.put(0, number);
            put(&mut model, number);
        } else {
            house.get(0, number);
            got(&mut model, number);
        }
    }
    model
}

/// A page that is put is a new one.
fn to_the_end(model: &mut VecDeque<Known>, number: u32) {
    model.retain(|known| known.number != number);
    let got = false;
    model.push_back(Known { number, got });
}

#[test]
fn fifo_and_lru_pages_leave_in_the_models_order() {
    let mut random = Random::new(seed("fifo_and_lru_pages_leave_in_the_models_order"), 0);
    for policy in ["fifo", "lru"] {
        for _ in 0..10 {
            let mut house = House::new([200, 100, 0], &[PAGES]);
            house.guests[0].set_policy(policy, 0).unwrap();
            let lru = policy == "lru";
            let model = busy(&mut house, &mut random, to_the_end, |model, number| {
                if lru {
                    to_the_end(model, number);
                }
            });
            let expected: Vec<u32> = model.iter().map(|known| known.number).collect();
            assert_eq!(leave(&house), expected, "{policy}");
            house.check_pages(0, PAGES);
        }
    }
}

#[test]
fn clock_gives_pages_that_were_got_a_second_chance() {
    let mut random = Random::new(seed("clock_gives_pages_that_were_got_a_second_chance"), 0);
    for _ in 0..10 {
        let mut house = House::new([200, 100, 0], &[PAGES]);
        house.guests[0].set_policy("clock", 0).unwrap();
        let mut model = busy(&mut house, &mut random, to_the_end, |model, number| {
            let known = model.iter_mut().find(|known| known.number == number);
            known.unwrap().got = true;
        });
        let mut expected = Vec::new();
        while let Some(known) = model.pop_front() {
            if known.got {
                let got = false;
                model.push_back(Known { got, ..known });
            } else {
                expected.push(known.number);
            }
        }
        assert_eq!(leave(&house), expected);
    }
}

#[test]
fn every_policy_lets_every_page_go_once() {
    for policy in tmem_pages::policy::POLICIES {
        let mut house = House::new([200, 100, 0], &[PAGES]);
        house.guests[0].set_policy(policy.name, 11).unwrap();
        assert_eq!(house.guests[0].policy(), policy.name);
        (0..PAGES).for_each(|number| house.put(0, number));
        let mut order = leave(&house);
        order.sort_unstable();
        assert_eq!(order, (0..PAGES).collect::<Vec<_>>(), "{}", policy.name);
        house.engine.self_check();
    }
}

#[test]
fn victim_that_is_got_stays() {
    let mut house = House::new([100, 200, 0], &[150]);
    house.guests[0].set_policy("fifo", 0).unwrap();
    (0..98).for_each(|number| house.put(0, number));
    house.settle();
    let waiting = house.guests[0].freeable().victims;
    assert!(waiting >= 5, "{waiting} victims");
    // The first to go, by the policy.
    (0..5).for_each(|number| house.get(0, number));
    assert_eq!(house.engine.stats().total.hits_victim, 5);
    (98..103).for_each(|number| house.put(0, number));
    let in_dram = in_dram(&house, PAGES);
    for number in 0..5 {
        assert!(
            in_dram.contains(&number),
            "page {number} was got and has left"
        );
    }
    assert!(in_dram.len() < PAGES as usize, "nothing has left");
    house.check_pages(0, 103);
}

/// Puts 1600 pages where DRAM holds 400, then gets the first 250 of them, which are below by then, nine
/// times as often as the others.
fn warm_up(house: &mut House, policy: &str, random: &mut Random) -> usize {
    house.guests[0].set_policy(policy, 5).unwrap();
    (0..1600).for_each(|number| house.put(0, number));
    house.settle();
    for get in 0..20_000 {
        let often = !random.one_in(10);
        let pages = if often { 250 } else { 1600 };
        house.get(0, random.below_u32(pages));
        if get % 8 == 0 {
            house.step();
        }
    }
    house.engine.self_check();
    in_dram(house, 250).len()
}

#[test]
fn pages_that_are_got_often_come_to_be_in_dram() {
    let mut random = Random::new(seed("pages_that_are_got_often_come_to_be_in_dram"), 0);
    for policy in ["clock", "lru", "s3-fifo"] {
        for keeps_copies in [false, true] {
            let make = if keeps_copies {
                House::on_file
            } else {
                House::new
            };
            let mut house = make([400, 2000, 0], &[1600]);
            let there = warm_up(&mut house, policy, &mut random);
            assert!(
                there > 230,
                "{there} of 250 by {policy}, copies kept: {keeps_copies}"
            );
        }
    }
}

#[test]
fn page_that_keeps_its_copy_is_not_written_again() {
    let mut random = Random::new(seed("page_that_keeps_its_copy_is_not_written_again"), 0);
    let mut house = House::on_file([400, 2000, 0], &[1600]);
    warm_up(&mut house, "s3-fifo", &mut random);
    let written = |house: &House| house.engine.tier(Tier::Pm).unwrap().demoted;
    let promoted = |house: &House| house.engine.stats().total.promoted;
    let before = (written(&house), promoted(&house));
    for get in 0..20_000 {
        house.get(0, random.below_u32(1600));
        if get % 8 == 0 {
            house.step();
        }
    }
    let (written, promoted) = (written(&house) - before.0, promoted(&house) - before.1);
    assert!(promoted > 1000, "{promoted} pages came up");
    // Those that were in DRAM have to be written once.
    assert!(
        written < 400 + promoted / 4,
        "{written} pages written, {promoted} came up"
    );
    house.engine.self_check();
    house.check_pages(0, 1600);
}
