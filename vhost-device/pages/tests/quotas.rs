// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Who gets how much of DRAM: caps, floors, weights, reclaim, watermarks, sizes.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

#[path = "house/tiered.rs"]
mod tiered;

use tiered::{House, page};
use tmem_pages::{
    DramLimits, GetMode, GetResult, GuestConfig, GuestError, LimitsError, ObjectId, PAGE_SIZE,
    PageIndex, PutResult, ResizeError, Step, Ticket, Tier,
};

fn limits(cap_pages: Option<u32>, floor_pages: u32, weight: u32) -> DramLimits {
    DramLimits {
        cap_pages,
        floor_pages,
        weight,
    }
}

#[test]
fn guest_keeps_to_its_cap_without_a_mover() {
    let mut house = House::new([500, 500, 500], &[1000]);
    house.guests[0]
        .set_dram_limits(limits(Some(60), 0, 100))
        .unwrap();
    for number in 0..1000 {
        house.put(0, number);
        assert!(house.guests[0].dram_pages() <= 60, "page {number}");
    }
    assert_eq!(house.guests[0].puts_over_cap(), 0);
    house.check_pages(0, 1000);
    assert!(house.guests[0].dram_pages() <= 60);
    house.engine.self_check();
}

#[test]
fn lower_cap_takes_effect_while_the_mover_works() {
    let mut house = House::new([500, 500, 500], &[400]);
    (0..400).for_each(|number| house.put(0, number));
    assert_eq!(house.guests[0].dram_pages(), 400);
    house.guests[0]
        .set_dram_limits(limits(Some(100), 0, 100))
        .unwrap();
    house.settle();
    assert!(house.guests[0].dram_pages() <= 100);
    // And a few that are ready to go.
    let demoted = house.engine.tier(Tier::Pm).unwrap().demoted;
    assert!((300..330).contains(&demoted), "{demoted} demoted");
    house.check_pages(0, 400);
    house.engine.self_check();
}

#[test]
fn promise_outweighs_the_cap_when_the_tiers_below_are_full() {
    // 50 pages below; a grant of 130, of which DRAM must take 80, whatever the cap says.
    let mut house = House::new([100, 50, 0], &[130]);
    house.guests[0]
        .set_dram_limits(limits(Some(10), 0, 100))
        .unwrap();
    (0..130).for_each(|number| house.put(0, number));
    assert!(house.guests[0].puts_over_cap() > 0);
    house.check_pages(0, 130);
    house.engine.self_check();
}

#[test]
fn every_grant_is_kept_when_all_tiers_are_full_to_the_brim() {
    brim(House::new([60, 50, 40], &[100, 50]));
}

#[test]
fn every_grant_is_kept_when_copies_of_pages_in_dram_take_the_last_slots() {
    let mut house = House::on_file([60, 50, 40], &[100, 50]);
    // Twice: a page comes up when it is asked for again.
    for _ in 0..2 {
        (0..75).for_each(|number| house.put(0, number));
        for _ in 0..2 {
            for number in 0..75 {
                house.get(0, number);
                house.get(0, number);
                house.step();
            }
        }
        assert!(house.engine.stats().total.promoted > 0);
        house.engine.self_check();
    }
    brim(house);
}

fn brim(mut house: House) {
    for guest in 0..2 {
        let grant = [100, 50][guest];
        (0..grant).for_each(|number| house.put(guest, number));
        assert_eq!(house.try_put(guest, grant), PutResult::RefusedFull);
    }
    assert_eq!(house.engine.stats().total.frames, 60);
    // Puts over pages wherever they are go on, again and again.
    for _ in 0..5 {
        (0..100).for_each(|number| house.put(0, number));
        house.settle();
        house.engine.self_check();
        house.check_pages(0, 100);
        house.check_pages(0, 100);
        house.engine.self_check();
    }
    house.check_pages(0, 100);
    house.check_pages(1, 50);
    house.engine.self_check();
}

/// Checks that guests have DRAM by their weights, within 10 %. Returns what they have together.
fn shares(house: &House, weights: [u64; 3]) -> u64 {
    let held: Vec<u64> = (house.guests.iter())
        .map(|guest| guest.dram_pages())
        .collect();
    let sum: u64 = held.iter().sum();
    for (held, weight) in held.iter().zip(weights) {
        let share = sum * weight / weights.iter().sum::<u64>();
        let off = held.abs_diff(share) * 100 / share;
        assert!(off <= 10, "{held} of {sum} at weight {weight}: {off} % off");
    }
    sum
}

#[test]
fn weights_divide_dram_under_pressure() {
    const FRAMES: u32 = 3500;
    let mut house = House::new([FRAMES, 6000, 6000], &[4000, 4000, 4000]);
    for (guest, weight) in (0..).zip([1, 2, 4]) {
        let guest: usize = guest;
        house.guests[guest]
            .set_dram_limits(limits(None, 0, weight))
            .unwrap();
    }
    // All want more than there is, in turn.
    for number in 0..4000 {
        for guest in 0..3 {
            house.put(guest, number);
        }
        if number % 16 == 0 {
            house.step();
        }
    }
    let sum = shares(&house, [1, 2, 4]);
    assert!(sum > u64::from(FRAMES) * 9 / 10, "{sum}");
    // And after the weights have changed, with nothing but gets to bring pages back.
    for (guest, weight) in (0..).zip([4, 2, 1]) {
        let guest: usize = guest;
        house.guests[guest]
            .set_dram_limits(limits(None, 0, weight))
            .unwrap();
    }
    for number in (0..4000).rev() {
        for guest in 0..3 {
            house.get(guest, number);
        }
        if number % 8 == 0 {
            house.step();
        }
    }
    shares(&house, [4, 2, 1]);
    house.engine.self_check();
}

#[test]
fn floor_is_not_taken_for_others() {
    let mut house = House::new([1000, 2000, 0], &[300, 1700]);
    house.guests[0]
        .set_dram_limits(limits(None, 250, 1))
        .unwrap();
    (0..300).for_each(|number| house.put(0, number));
    for number in 0..1700 {
        house.put(1, number);
        house.step();
    }
    assert!(house.guests[0].dram_pages() >= 250);
    let more = house.guests[1].set_dram_limits(limits(None, 751, 1));
    assert!(matches!(
        more,
        Err(LimitsError::FloorsAboveDram { floor_max: 750, .. })
    ));
    let shrunk = house.engine.resize_tier(Tier::Dram, 249);
    assert!(matches!(
        shrunk,
        Err(ResizeError::Floors { floors: 250, .. })
    ));
}

#[test]
fn frozen_guest_gets_and_flushes_what_is_below() {
    let mut house = House::new([50, 200, 0], &[200]);
    (0..200).for_each(|number| house.put(0, number));
    house.guests[0].freeze();
    assert_eq!(house.try_put(0, 150), PutResult::RefusedFrozen);
    assert_eq!(
        house.try_get(0, 150),
        GetResult::Miss,
        "the older page is gone"
    );
    assert_eq!(house.try_get(0, 151), GetResult::Hit);
    let pool = &house.pools[0];
    let flushed = (house.worker).flush_range(pool, ObjectId::ZERO, PageIndex(0), 200, Ticket::MAX);
    assert_eq!(flushed, 199);
    house.guests[0].thaw();
    house.put(0, 150);
    house.engine.self_check();
}

#[test]
fn reclaim_frees_as_many_frames_as_asked_for() {
    let mut house = House::new([500, 300, 200], &[400]);
    (0..400).for_each(|number| house.put(0, number));
    let guest = std::sync::Arc::clone(&house.guests[0]);
    assert_eq!(guest.freeable().demotable, 400);
    let mut freed = 0;
    while freed < 150 {
        let some = guest.reclaim_some(150 - freed);
        assert!(some > 0);
        freed += some;
    }
    assert_eq!((freed, guest.dram_pages()), (150, 250));
    // There is no room for more than 350 pages more.
    while guest.reclaim_some(1000) > 0 {}
    assert_eq!(guest.dram_pages(), 0);
    house.check_pages(0, 400);
    house.engine.self_check();
}

#[test]
fn promises_follow_the_sizes_of_all_tiers() {
    let house = House::new([100, 200, 300], &[500]);
    let engine = &house.engine;
    assert_eq!(engine.promised_and_room(), (500, 600));
    let attach = |name: &str, grant_pages| {
        engine.attach_guest(GuestConfig {
            name: name.into(),
            grant_pages,
        })
    };
    let refused = attach("b", 101).unwrap_err();
    assert!(matches!(
        refused,
        GuestError::Overcommitted { pages_max: 100, .. }
    ));
    for (tier, pages) in [(Tier::Pm, 99), (Tier::Remote, 199)] {
        let refused = engine.resize_tier(tier, pages).unwrap_err();
        assert!(matches!(
            refused,
            ResizeError::Promised {
                promised: 500,
                room: 499,
                ..
            }
        ));
        let refused = engine.drain_tier(tier, true).unwrap_err();
        assert!(matches!(refused, ResizeError::Promised { .. }));
    }
    engine.resize_tier(Tier::Remote, 200).unwrap();
    engine.resize_tier(Tier::Pm, 1000).unwrap();
    engine.drain_tier(Tier::Remote, true).unwrap();
    assert_eq!(engine.promised_and_room(), (500, 1100));
    engine.allow_overcommit(true);
    attach("c", 5000).unwrap();
    assert_eq!(engine.promised_and_room(), (5500, 1100));
}

#[test]
fn tiers_shrink_and_grow_with_pages_in_them() {
    let mut house = House::new([200, 300, 400], &[400]);
    (0..400).for_each(|number| house.put(0, number));
    for (tier, pages) in [
        (Tier::Dram, 20),
        (Tier::Pm, 50),
        (Tier::Remote, 330),
        (Tier::Dram, 200),
        (Tier::Pm, 300),
        (Tier::Remote, 10),
        (Tier::Dram, 90),
    ] {
        house.engine.resize_tier(tier, pages).unwrap();
        house.settle();
        let stats = house.engine.tier(tier).unwrap();
        assert_eq!(stats.capacity_pages, pages);
        assert!(stats.used_pages <= pages, "{tier}: {stats:?}");
        if let Some(store) = house.engine.store(tier) {
            assert_eq!(u64::from(store.slots()), pages, "{tier}'s store");
        }
        house.check_pages(0, 400);
        house.engine.self_check();
    }
}

#[test]
fn drained_tier_is_empty_and_stays_so() {
    let mut house = House::new([100, 400, 400], &[400]);
    (0..400).for_each(|number| house.put(0, number));
    house.settle();
    assert!(house.engine.tier(Tier::Pm).unwrap().used_pages > 0);
    house.engine.drain_tier(Tier::Pm, true).unwrap();
    house.settle();
    assert_eq!(house.engine.tier(Tier::Pm).unwrap().used_pages, 0);
    (0..400).for_each(|number| house.put(0, number));
    house.settle();
    assert_eq!(house.engine.tier(Tier::Pm).unwrap().used_pages, 0);
    house.engine.drain_tier(Tier::Pm, false).unwrap();
    (0..400).for_each(|number| house.put(0, number));
    house.check_pages(0, 400);
    assert!(house.engine.tier(Tier::Pm).unwrap().used_pages > 0);
    house.engine.self_check();
}

#[test]
fn idle_frames_are_filled_with_pages_from_below() {
    let mut house = House::new([1000, 400, 400], &[600]);
    house.guests[0]
        .set_dram_limits(limits(Some(100), 0, 100))
        .unwrap();
    (0..600).for_each(|number| house.put(0, number));
    house.settle();
    house.guests[0]
        .set_dram_limits(limits(None, 0, 100))
        .unwrap();
    assert_eq!(house.settle(), 0, "nothing moves unless idle");
    while house.mover.step(true) == Step::Busy {}
    let total = house.engine.stats().total;
    assert_eq!((total.pm, total.remote), (0, 0));
    assert_eq!(house.guests[0].dram_pages(), 600);
    house.check_pages(0, 600);
    house.engine.self_check();
}

#[test]
fn ephemeral_pages_go_before_persistent_ones() {
    let mut house = House::new([300, 400, 0], &[400]);
    let cache = house.cache(0);
    for number in 0..200 {
        let bytes = page(7, number);
        let index = PageIndex(number);
        let put = house
            .worker
            .put(&cache, ObjectId([1, 0, 0]), index, Ticket::MIN, &bytes);
        assert_eq!(put, PutResult::Stored);
    }
    (0..290).for_each(|number| house.put(0, number));
    house.step();
    assert_eq!(house.engine.tier(Tier::Pm).unwrap().reads, 0);
    let total = house.engine.stats().total;
    assert!(total.evicted >= 190, "{total:?}");
    assert_eq!(total.demoted, 0, "{total:?}");
    let mut back = [0; PAGE_SIZE];
    let mut left = 0;
    for number in 0..200 {
        let index = PageIndex(number);
        let got = (house.worker).get(&cache, ObjectId([1, 0, 0]), index, GetMode::Copy, &mut back);
        left += u32::from(got == GetResult::Hit);
    }
    assert!(left < 200, "{left}");
    house.check_pages(0, 290);
}
