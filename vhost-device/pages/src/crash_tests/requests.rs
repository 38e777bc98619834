// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Puts, gets and flushes, and the comings and goings of pools, epochs and guests.

use super::*;

#[test]
fn put_is_done_or_not_begun() {
    for id in 0..4 {
        // A new page in an old leaf and in a new one, then over both kinds of page, by both kinds;
        // at last one like the one that is there, as a replay would put it.
        let pages = [
            (2, 11, framed(5)),
            (600, 11, framed(5)),
            (0, 11, framed(6)),
            (0, 12, [7; PAGE_SIZE]),
            (1, 12, framed(8)),
            (1, 13, [9; PAGE_SIZE]),
            (601, 1, [9; PAGE_SIZE]),
            (2, 11, framed(4)),
        ];
        let mut house = House::new();
        let vanishing = id == 3;
        for (index, number, page) in pages {
            let pool = house.pool(id);
            // What the heap alone knows vanishes with it, and is not what was put before either.
            let rule = if vanishing {
                Rule::EachPageOrNone
            } else {
                Rule::Either
            };
            if vanishing && page[0] == page[100] {
                let result = house.put(&pool, index, number, &page);
                assert_eq!(result, PutResult::SameFilled);
                continue;
            }
            kill_everywhere(&mut house, rule, false, |house| {
                let result = house.put(&pool, index, number, &page);
                assert!(matches!(result, PutResult::Stored | PutResult::SameFilled));
            });
        }
    }
}

#[test]
fn same_filled_page_in_a_cache_leaves_nothing_older() {
    let mut house = House::new();
    let pool = house.pool(3);
    kill_everywhere(&mut house, Rule::Either, false, |house| {
        let result = house.put(&pool, 0, 20, &[9; PAGE_SIZE]);
        assert_eq!(result, PutResult::SameFilled);
    });
    assert!(
        !house
            .killed(false)
            .pages
            .contains_key(&("guest".into(), 3, 0))
    );
}

#[test]
fn refused_put_takes_the_older_page_or_not() {
    for id in 0..4 {
        let mut house = House::new();
        let pool = house.pool(id);
        house.guest().freeze();
        kill_everywhere(&mut house, Rule::Either, false, |house| {
            let result = house.put(&pool, 0, 20, &framed(5));
            assert_eq!(result, PutResult::RefusedFrozen);
        });
    }
}

#[test]
fn flush_takes_each_page_or_not() {
    for id in 0..4 {
        let name = if id % 2 == 0 { ObjectId::ZERO } else { FILE };
        type Flush = fn(&mut Worker, &Pool, ObjectId);
        let flushes: [Flush; 4] = [
            |worker, pool, object| {
                worker.flush_page(pool, object, PageIndex(0), Ticket::MAX);
            },
            |worker, pool, object| {
                worker.flush_range(pool, object, PageIndex(0), 601, Ticket::MAX);
            },
            |worker, pool, object| {
                worker.flush_object(pool, object, Ticket::MAX);
            },
            |worker, pool, _| {
                worker.flush_pool(pool, Ticket::MAX);
            },
        ];
        for flush in flushes {
            let mut house = House::new();
            let pool = house.pool(id);
            house.put(&pool, 600, 10, &framed(5));
            house.put(&pool, 2, 10, &framed(6));
            kill_everywhere(&mut house, Rule::EachPage, false, |house| {
                flush(&mut house.worker, &pool, name);
            });
        }
    }
}

#[test]
fn eviction_takes_a_page_or_not() {
    for id in [2, 3] {
        let mut house = House::new();
        let pool = house.pool(id);
        // Ten frames are promised to nobody.
        for pool in [house.pool(2), house.pool(3)] {
            for index in INDICES {
                house.put(&pool, index, 10, &framed(5));
            }
        }
        house.guest().set_grant(11).unwrap();
        kill_everywhere(&mut house, Rule::EachPageOrNone, false, |house| {
            house.put(&pool, 601, 20, &framed(6));
        });
        assert!(house.engine.stats().total.evicted > 0);
    }
}

#[test]
fn exclusive_get_takes_a_page_or_not() {
    for id in 0..4 {
        let mut house = House::new();
        let pool = house.pool(id);
        kill_everywhere(&mut house, Rule::Either, false, |house| {
            let mut page = [0; PAGE_SIZE];
            let at = (object(&pool), PageIndex(0));
            let mode = GetMode::Exclusive;
            let result = house.worker.get(&pool, at.0, at.1, mode, &mut page);
            assert_eq!(result, GetResult::Hit);
        });
    }
}

#[test]
fn pool_comes_and_goes_at_once() {
    for id in 0..4 {
        let mut house = House::new();
        let guest = house.guest();
        kill_everywhere(&mut house, Rule::Either, false, |_| {
            assert!(guest.destroy_pool(PoolId(id)).is_some());
        });
        kill_everywhere(&mut house, Rule::Either, false, |_| {
            let pool = guest.create_pool(PoolId(id), SPECS[id as usize]).unwrap();
            assert_eq!(pool.stats().pages, 0);
        });
    }
}

#[test]
fn epoch_begins_at_once_with_all_that_it_ends() {
    let mut house = House::new();
    let guest = house.guest();
    for epoch in 2..4 {
        kill_everywhere(&mut house, Rule::Either, false, |_| {
            guest.begin_epoch(Epoch([epoch; 16]));
        });
    }
}

#[test]
fn guest_comes_and_goes_at_once() {
    let mut house = House::new();
    kill_everywhere(&mut house, Rule::Either, false, |house| {
        house.attach("second");
    });
    kill_everywhere(&mut house, Rule::Either, false, |house| {
        assert!(house.engine.detach_guest("guest").is_ok());
    });
    kill_everywhere(&mut house, Rule::Either, false, |house| {
        house.attach("third");
    });
}
