// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Exclusive gets that are gone only once the caller says so, before and after a kill.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod files;
#[allow(dead_code, reason = "each test file uses its part of the house")]
mod house;
#[allow(dead_code, reason = "each test file uses its part of the model")]
mod model;

use files::copy;
use house::{CONFIG, FILE, house, page};
use model::Sink;
use tmem_pages::{Engine, FlushResult, GetResult, PageIndex, PoolId, PutResult};

#[test]
fn taken_page_is_missed_until_it_is_put_back() {
    for id in 0..4 {
        let mut house = house();
        let pool = house.pool(id);
        house.put(&pool, 1, 10);
        house.worker.begin_taking(4, 77);
        assert!(house.take(&pool, 1).is_hit());
        assert_eq!(house.take(&pool, 1), GetResult::Miss);
        assert_eq!(house.get(&pool, 1), Err(GetResult::Miss));
        house.engine.self_check();
        let stats = house.guest.stats();
        assert_eq!((stats.persistent_pages, stats.ephemeral_pages), (0, 0));
        house.worker.abort_taken();
        house.engine.self_check();
        assert_eq!(house.get(&pool, 1), Ok(page(10)));
        house.worker.begin_taking(4, 78);
        assert!(house.take(&pool, 1).is_hit());
        house.worker.commit_taken();
        assert_eq!(house.get(&pool, 1), Err(GetResult::Miss));
        house.engine.self_check();
        assert_eq!(house.engine.stats().frames_used, 0);
        assert_eq!(house.killed().recovery.pages, 0);
    }
}

#[test]
fn request_that_a_kill_cut_short_is_resolved_either_way() {
    for id in 0..4 {
        let mut house = house();
        let pool = house.pool(id);
        for index in 0..3 {
            house.put(&pool, index, 10 + u64::from(index));
        }
        house.worker.begin_taking(6, 65_535);
        for index in [2, 0] {
            assert!(house.take(&pool, index).is_hit());
        }
        for used in [true, false] {
            // A second kill before the end loses nothing.
            let next = house.killed();
            assert_eq!(next.recovery.unresolved, 1);
            let mut next = next.killed();
            assert_eq!(next.guest.unresolved(), [(6, 65_535)]);
            let pool = next.pool(id);
            for index in [0, 2] {
                assert_eq!(next.get(&pool, index), Err(GetResult::Miss));
            }
            assert_eq!(next.get(&pool, 1), Ok(page(11)));
            assert_eq!(next.guest.resolve(5, used), 0, "another ring");
            assert_eq!(next.guest.resolve(6, used), 2);
            assert_eq!(next.guest.resolve(6, !used), 0, "it has an end");
            next.engine.self_check();
            assert!(next.guest.unresolved().is_empty());
            let mut last = next.killed();
            for next in [&mut next, &mut last] {
                let pool = next.pool(id);
                for index in [0, 2] {
                    let expected = match used {
                        true => Err(GetResult::Miss),
                        false => Ok(page(10 + u64::from(index))),
                    };
                    assert_eq!(next.get(&pool, index), expected);
                }
                let pages = next.guest.stats();
                let left = if used { 1 } else { 3 };
                assert_eq!(pages.persistent_pages + pages.ephemeral_pages, left);
            }
        }
        house.worker.commit_taken();
    }
}

#[test]
fn page_that_came_or_went_while_another_was_taken_stays_so() {
    for id in 0..4 {
        for kill in [false, true] {
            let mut house = house();
            let pool = house.pool(id);
            for index in 0..5 {
                house.put(&pool, index, 10);
            }
            house.worker.begin_taking(6, 1);
            (0..5).for_each(|index| assert!(house.take(&pool, index).is_hit()));
            assert_eq!(house.put(&pool, 0, 20), PutResult::Stored);
            assert_eq!(house.put(&pool, 1, 20), PutResult::Stored);
            assert_eq!(house.flush(&pool, 1, 20), FlushResult::Flushed);
            assert_eq!(house.flush(&pool, 2, 20), FlushResult::Absent);
            // What is older than the page that is taken does not come between.
            assert_eq!(house.put(&pool, 3, 9), PutResult::Stale);
            assert_eq!(house.flush(&pool, 4, 9), FlushResult::Stale);
            house.engine.self_check();
            let mut next = if kill {
                let next = house.killed();
                assert_eq!(next.guest.resolve(6, false), 2);
                next
            } else {
                house.worker.abort_taken();
                house
            };
            next.engine.self_check();
            let pool = next.pool(id);
            let pages: Vec<_> = (0..5).map(|index| next.get(&pool, index)).collect();
            let miss = Err(GetResult::Miss);
            let old = Ok(page(10));
            assert_eq!(pages, [Ok(page(20)), miss, miss, old, old]);
        }
    }
}

#[test]
fn pool_that_is_destroyed_takes_its_taken_pages_along() {
    for id in 0..4 {
        let mut house = house();
        let pool = house.pool(id);
        house.put(&pool, 1, 10);
        house.worker.begin_taking(6, 1);
        assert!(house.take(&pool, 1).is_hit());
        house.guest.destroy_pool(PoolId(id)).unwrap();
        let successor = house.pool(id);
        house.put(&successor, 2, 20);
        house.engine.self_check();
        let next = house.killed();
        assert_eq!((next.recovery.unresolved, next.recovery.pages), (0, 1));
        house.worker.abort_taken();
        house.engine.self_check();
        assert_eq!(house.get(&successor, 1), Err(GetResult::Miss));
        assert_eq!(house.engine.stats().frames_used, 1);
    }
}

#[test]
fn guest_that_nobody_claims_takes_what_it_had_along() {
    let mut house = house();
    let pool = house.pool(0);
    house.put(&pool, 1, 10);
    house.put(&pool, 2, 10);
    house.worker.begin_taking(6, 1);
    assert!(house.take(&pool, 1).is_hit());
    let (engine, recovery) = Engine::open(CONFIG, copy(&house.files)).unwrap();
    assert_eq!((recovery.unresolved, recovery.pages), (1, 1));
    assert_eq!(engine.stats().granted_pages, 40);
    assert_eq!(engine.detach_guest("guest"), Ok(1));
    engine.self_check();
    assert_eq!(engine.stats().granted_pages, 0);
    assert!(engine.unclaimed().is_empty());
    // The worker may go after its guest.
    house.engine.detach_guest("guest").unwrap();
    drop(house.worker);
    house.engine.self_check();
}

#[test]
fn worker_that_goes_puts_back_what_it_took() {
    let mut house = house();
    let pool = house.pool(1);
    house.put(&pool, 1, 10);
    let mut second = house.engine.worker().unwrap();
    second.begin_taking(1, 1);
    let mut sink = Sink::default();
    let result = second.take(&pool, FILE, PageIndex(1), &mut sink);
    assert_eq!(result, GetResult::Hit);
    drop(second);
    assert_eq!(house.get(&pool, 1), Ok(page(10)));
    house.engine.self_check();
}

#[test]
fn put_after_a_take_finds_the_grant_as_if_the_page_were_gone() {
    let mut house = house();
    let pool = house.pool(0);
    (0..40).for_each(|index| assert_eq!(house.put(&pool, index, 1), PutResult::Stored));
    assert_eq!(house.put(&pool, 40, 1), PutResult::RefusedFull);
    house.worker.begin_taking(0, 0);
    (0..40).for_each(|index| assert!(house.take(&pool, index).is_hit()));
    // The guest may have seen the used ring by now, and need the room.
    (40..80).for_each(|index| assert_eq!(house.put(&pool, index, 2), PutResult::Stored));
    assert_eq!(house.put(&pool, 80, 2), PutResult::RefusedFull);
    house.engine.self_check();
    // A request that did not arrive after all may exceed the grant; no page is lost for that.
    let next = house.killed();
    assert_eq!(next.guest.resolve(0, false), 40);
    next.engine.self_check();
    let mut last = next.killed();
    let pool = last.pool(0);
    let there = (0..80).filter(|index| last.get(&pool, *index).is_ok());
    assert_eq!(there.count(), 80);
    assert_eq!(last.put(&pool, 80, 2), PutResult::RefusedFull);
}

#[test]
fn refused_put_takes_a_taken_page_along() {
    for kill in [false, true] {
        let mut house = house();
        let pool = house.pool(0);
        (0..40).for_each(|index| assert_eq!(house.put(&pool, index, 1), PutResult::Stored));
        house.worker.begin_taking(0, 0);
        assert!(house.take(&pool, 0).is_hit());
        assert_eq!(house.put(&pool, 40, 1), PutResult::Stored);
        assert_eq!(house.put(&pool, 0, 2), PutResult::RefusedFull);
        let mut house = if kill { house.killed() } else { house };
        if kill {
            assert!(house.guest.unresolved().is_empty());
        } else {
            house.worker.abort_taken();
        }
        let pool = house.pool(0);
        assert_eq!(house.get(&pool, 0), Err(GetResult::Miss));
        assert_eq!(house.get(&pool, 40), Ok(page(1)));
        house.engine.self_check();
    }
}
