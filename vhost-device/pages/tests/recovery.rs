// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the next process finds: engines opened on copies of another's files, made at chosen moments.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod files;
#[allow(dead_code, reason = "each test file uses its part of the house")]
mod house;
#[allow(dead_code, reason = "each test file uses its part of the model")]
mod model;

use std::sync::Arc;

use files::copy;
use house::{CONFIG, House, SPECS, house, object, open, page, ticket};
use tmem_pages::{
    CopyFault, Engine, Epoch, EpochOutcome, FlushResult, GetMode, GetResult, GuestConfig,
    GuestError, PAGE_SIZE, PageBytes, PageIndex, PageSink, PageSource, Pool, PoolId, PutResult,
    Ticket,
};

#[test]
fn every_page_comes_back_with_its_pool_guest_and_epoch() {
    let mut house = house();
    house.guest.begin_epoch(Epoch([7; 16]));
    for id in 0..4 {
        let pool = house.pool(id);
        for index in [0, 1, 511, 599] {
            let number = u64::from(id * 1000 + index);
            assert_eq!(house.put(&pool, index, number), PutResult::Stored);
        }
    }
    let swap = house.pool(0);
    let same = |house: &mut House, pool: &Pool, index| {
        let at = (object(pool), PageIndex(index));
        (house.worker).put(pool, at.0, at.1, ticket(5000), &[9; PAGE_SIZE])
    };
    assert_eq!(same(&mut house, &swap, 2999), PutResult::SameFilled);
    let files = house.pool(1);
    assert_eq!(same(&mut house, &files, 2999), PutResult::Stored);
    house.guest.freeze();

    let (engine, recovery) = Engine::open(CONFIG, copy(&house.files)).unwrap();
    assert_eq!(
        (recovery.guests, recovery.pools, recovery.pages),
        (1, 4, 18)
    );
    assert_eq!((recovery.same_filled, recovery.damaged), (1, 0));
    assert_eq!(engine.unclaimed().len(), 1);
    assert!(engine.guests().is_empty() && engine.guest("guest").is_none());
    drop(engine);

    let mut next = house.killed();
    assert!(next.engine.unclaimed().is_empty());
    let guest = Arc::clone(&next.guest);
    assert_eq!(guest.epoch(), Some(Epoch([7; 16])));
    assert!(guest.is_frozen());
    guest.thaw();
    let stats = guest.stats();
    assert_eq!((stats.persistent_pages, stats.ephemeral_pages), (10, 8));
    assert_eq!(guest.pools().len(), 4);
    for pool in guest.pools() {
        let id = pool.id().0;
        assert_eq!(pool.spec(), SPECS[id as usize]);
        for index in [0, 1, 511, 599] {
            let number = u64::from(id * 1000 + index);
            assert_eq!(next.get(&pool, index), Ok(page(number)));
        }
        assert_eq!(next.get(&pool, 2), Err(GetResult::Miss));
    }
    for id in 0..2 {
        let pool = next.pool(id);
        assert_eq!(next.get(&pool, 2999), Ok([9; PAGE_SIZE]));
    }
    let same = guest.begin_epoch(Epoch([7; 16]));
    assert_eq!(same, EpochOutcome::Same { ticket_high: 5000 });
    // Tickets still tell the older from the newer.
    let swap = next.pool(0);
    assert_eq!(next.put(&swap, 599, 598), PutResult::Stale);
    assert_eq!(next.flush(&swap, 599, 598), FlushResult::Stale);
    assert_eq!(next.put(&swap, 599, 600), PutResult::Stored);
    next.engine.self_check();
    // And once more.
    let mut third = next.killed();
    let swap = third.pool(0);
    assert_eq!(third.get(&swap, 599), Ok(page(600)));
}

#[test]
fn engine_goes_on_with_its_own_files_after_it_ended() {
    let mut house = house();
    let pool = house.pool(0);
    house.put(&pool, 7, 70);
    let House {
        files,
        engine,
        guest,
        worker,
        ..
    } = house;
    let (again, other) = (files.try_clone().unwrap(), files.try_clone().unwrap());
    let refused = Engine::open(CONFIG, again).unwrap_err();
    assert!(matches!(refused, tmem_pages::EngineError::InUse));
    drop((worker, pool, guest, engine));
    let mut house = open(other);
    let pool = house.pool(0);
    assert_eq!(house.get(&pool, 7), Ok(page(70)));
}

/// Calls back in the middle of a put or a get.
struct Midway<'a> {
    page: PageBytes,
    then: &'a dyn Fn(),
}

impl PageSource for Midway<'_> {
    fn read_into(&self, page: &mut PageBytes) -> Result<(), CopyFault> {
        page[..PAGE_SIZE / 2].copy_from_slice(&self.page[..PAGE_SIZE / 2]);
        (self.then)();
        *page = self.page;
        Ok(())
    }
}

impl PageSink for Midway<'_> {
    fn write_from(&mut self, page: &PageBytes) -> Result<(), CopyFault> {
        self.page = *page;
        (self.then)();
        Ok(())
    }
}

#[test]
fn kill_within_a_put_leaves_the_page_as_it_was() {
    for id in 0..4 {
        let mut house = house();
        let pool = house.pool(id);
        house.put(&pool, 1, 10);
        let files = house.files.try_clone().unwrap();
        for index in [1, 2] {
            let source = Midway {
                page: page(20),
                then: &|| {
                    let mut next = open(copy(&files));
                    let pool = next.pool(id);
                    assert_eq!(next.get(&pool, 1), Ok(page(10)));
                    assert_eq!(next.get(&pool, 2), Err(GetResult::Miss));
                    assert_eq!(next.put(&pool, 2, 30), PutResult::Stored);
                    next.engine.self_check();
                },
            };
            // Frozen while it reads, the put of page 1 is refused after; so it stays as it was.
            let at = (object(&pool), PageIndex(index));
            let result = house.worker.put(&pool, at.0, at.1, ticket(5), &source);
            let expected = [PutResult::Stale, PutResult::Stored][index as usize - 1];
            assert_eq!(result, expected);
        }
    }
}

#[test]
fn kill_within_an_exclusive_get_leaves_the_page() {
    for id in 0..4 {
        let mut house = house();
        let pool = house.pool(id);
        house.put(&pool, 1, 10);
        let files = house.files.try_clone().unwrap();
        let there = || {
            let mut next = open(copy(&files));
            let pool = next.pool(id);
            assert_eq!(next.get(&pool, 1), Ok(page(10)));
        };
        let mut sink = Midway {
            page: page(0),
            then: &there,
        };
        let at = (object(&pool), PageIndex(1));
        let mode = GetMode::Exclusive;
        let result = house.worker.get(&pool, at.0, at.1, mode, &mut sink);
        assert_eq!((result, sink.page), (GetResult::Hit, page(10)));
        let mut next = house.killed();
        let pool = next.pool(id);
        assert_eq!(next.get(&pool, 1), Err(GetResult::Miss));
        assert_eq!(next.recovery.pages, 0);
    }
}

#[test]
fn flushed_pages_and_destroyed_pools_stay_gone() {
    let mut house = house();
    house.guest.begin_epoch(Epoch([1; 16]));
    for id in 0..4 {
        let pool = house.pool(id);
        for index in 0..4 {
            house.put(&pool, index, 10);
        }
        assert_eq!(house.flush(&pool, 0, 10), FlushResult::Flushed);
        let name = object(&pool);
        let range = house
            .worker
            .flush_range(&pool, name, PageIndex(1), 2, ticket(10));
        assert_eq!(range, 2);
        let mut next = house.killed();
        let pool = next.pool(id);
        for index in 0..3 {
            assert_eq!(next.get(&pool, index), Err(GetResult::Miss));
        }
        assert_eq!(next.get(&pool, 3), Ok(page(10)));
        assert_eq!(house.guest.destroy_pool(PoolId(id)), Some(1));
    }
    let next = house.killed();
    assert_eq!((next.recovery.pools, next.recovery.pages), (0, 0));
    assert_eq!(next.recovery.frames_freed, 0, "frames were free already");
    // A pool in the place of another finds nothing of it.
    for id in 0..4 {
        let pool = next.pool(3 - id);
        assert_eq!(pool.stats().pages, 0);
    }
    for id in 0..4 {
        let pool = house.pool(id);
        house.put(&pool, 1, 20);
    }
    house.guest.begin_epoch(Epoch([2; 16]));
    let next = house.killed();
    assert_eq!((next.recovery.pools, next.recovery.pages), (0, 0));
    assert_eq!(next.guest.epoch(), Some(Epoch([2; 16])));
    house.engine.detach_guest("guest").unwrap();
    let next = house.killed();
    assert_eq!((next.recovery.guests, next.guest.epoch()), (0, None));
}

#[test]
fn pool_that_is_gone_shows_nothing_of_the_one_in_its_slot() {
    for id in [0, 3] {
        let mut house = house();
        let old = house.pool(id);
        house.put(&old, 1, 10);
        house.guest.destroy_pool(PoolId(id)).unwrap();
        let new = house.pool(id);
        house.put(&new, 1, 20);
        assert_eq!(house.get(&old, 1), Err(GetResult::Miss));
        assert_eq!(house.flush(&old, 1, 99), FlushResult::Absent);
        assert_eq!(house.worker.flush_pool(&old, Ticket::MAX), 0);
        assert_eq!(house.put(&old, 1, 99), PutResult::RefusedFull);
        assert_eq!(house.get(&new, 1), Ok(page(20)));
        house.engine.self_check();
    }
}

#[test]
fn found_guest_keeps_its_promise_or_gets_a_new_one() {
    let mut house = house();
    let pool = house.pool(0);
    (0..10).for_each(|index| assert_eq!(house.put(&pool, index, 1), PutResult::Stored));
    let (engine, _) = Engine::open(CONFIG, copy(&house.files)).unwrap();
    let attach = |name: &str, grant_pages| {
        let name = name.into();
        engine.attach_guest(GuestConfig { name, grant_pages })
    };
    let error = attach("other", 25).unwrap_err();
    assert!(
        matches!(error, GuestError::Overcommitted { pages_max: 24, .. }),
        "{error}"
    );
    let error = attach("guest", 9).unwrap_err();
    assert!(
        matches!(error, GuestError::GrantBelowUse { held: 10, .. }),
        "{error}"
    );
    let error = attach("guest", 65).unwrap_err();
    assert!(matches!(error, GuestError::Overcommitted { .. }), "{error}");
    let guest = attach("guest", 10).unwrap();
    assert_eq!(guest.grant_pages(), 10);
    attach("other", 54).unwrap();
    engine.self_check();
    let error = attach(&"n".repeat(65), 0).unwrap_err();
    assert!(matches!(error, GuestError::BadName { .. }), "{error}");
    attach(&"n".repeat(64), 0).unwrap();
    let error = attach("fourth", 0).unwrap_err();
    assert!(
        matches!(error, GuestError::TooMany { guests: 3, .. }),
        "{error}"
    );
}
