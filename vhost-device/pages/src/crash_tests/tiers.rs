// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Demotion and promotion, and requests for pages that are below DRAM or on their way there.

use super::*;

/// Where a page is before a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Where {
    /// In its frame, with a copy below.
    Victim,
    Below,
}

const PLACES: [Where; 2] = [Where::Victim, Where::Below];

/// A house with page 0 of a persistent pool at this place. A store that `outlives` the map is checked
/// for what it would bring back.
fn house(id: u32, place: Where, outlives: bool) -> House {
    let mut house = House::with(Some(FakeStore::new(outlives)));
    // Some more pages, so that the first is not alone in its part of the index.
    for index in [2, 600] {
        house.put(&house.pool(id), index, 10, &framed(3));
    }
    let guest = house.guest();
    assert!(demote_all(&guest) > 0);
    if place == Where::Below {
        assert!(guest.reclaim_some(20) > 0);
        assert_eq!(tier_of(&house, id), Some(Tier::Pm));
    } else {
        assert_eq!(tier_of(&house, id), Some(Tier::Dram));
        assert!(guest.freeable().victims > 0);
    }
    house
}

/// Makes victims of all pages of a guest.
fn demote_all(guest: &Guest) -> usize {
    let worker = guest.shared.workers_max;
    guest.shared.demote(&guest.account, worker, 64)
}

fn tier_of(house: &House, id: u32) -> Option<Tier> {
    let pool = house.pool(id);
    house.worker.tier_of(&pool, object(&pool), PageIndex(0))
}

/// After a request the host ends, and with it the map: what comes back from the store is what is there
/// now, or nothing.
fn reboot(house: &mut House) {
    let Some(store) = house
        .store
        .as_ref()
        .filter(|store| store.outlives_the_map())
    else {
        return;
    };
    let now = house.killed(false);
    let mut again = open(
        EngineFiles::anonymous().unwrap(),
        Some(Arc::new(store.copy())),
    );
    let found = again.see(false);
    for (key, page) in &found.pages {
        assert_eq!(now.pages.get(key), Some(page), "{key:?} came back");
    }
}

fn each(mut check: impl FnMut(u32, Where, House)) {
    for id in [0, 1] {
        for place in PLACES {
            for outlives in [false, true] {
                check(id, place, house(id, place, outlives));
            }
        }
    }
}

#[test]
fn demoted_page_is_in_one_place() {
    for (id, outlives) in [(0, false), (0, true), (1, false), (1, true)] {
        let mut house = House::with(Some(FakeStore::new(outlives)));
        house.put(&house.pool(id), 2, 10, &framed(3));
        kill_everywhere(&mut house, Rule::Either, false, |house| {
            assert!(demote_all(&house.guest()) > 0);
        });
        kill_everywhere(&mut house, Rule::EachPageOrNone, false, |house| {
            assert!(house.guest().reclaim_some(20) > 0);
        });
        assert_eq!(tier_of(&house, id), Some(Tier::Pm));
        reboot(&mut house);
    }
}

#[test]
fn page_that_is_got_from_below_comes_back_or_stays() {
    each(|id, place, mut house| {
        let pool = house.pool(id);
        let get = |house: &mut House| {
            let mut page = [0; PAGE_SIZE];
            let at = (object(&pool), PageIndex(0));
            let got = house
                .worker
                .get(&pool, at.0, at.1, GetMode::Copy, &mut page);
            assert_eq!((got, page), (GetResult::Hit, framed(1)));
        };
        kill_everywhere(&mut house, Rule::Either, false, get);
        assert_eq!(tier_of(&house, id), Some(Tier::Dram));
        // A slot that must be forgotten for good is kept as long as that can wait.
        let keeps = house.store.as_ref().unwrap().outlives_the_map();
        let used = house.engine.tier(Tier::Pm).unwrap().used_pages;
        assert_eq!(used, 5 - u64::from(place == Where::Below && !keeps));
        reboot(&mut house);
    });
}

#[test]
fn put_over_a_page_below_is_done_or_not_begun() {
    each(|id, _, mut house| {
        let pool = house.pool(id);
        for (number, page) in [(11, framed(5)), (11, framed(6)), (12, [7; PAGE_SIZE])] {
            kill_everywhere(&mut house, Rule::Either, false, |house| {
                let put = house.put(&pool, 0, number, &page);
                assert!(matches!(put, PutResult::Stored | PutResult::SameFilled));
            });
            reboot(&mut house);
        }
        assert_eq!(house.put(&pool, 2, 9, &framed(9)), PutResult::Stale);
    });
}

#[test]
fn flush_takes_each_page_below_or_not() {
    each(|id, _, mut house| {
        let pool = house.pool(id);
        kill_everywhere(&mut house, Rule::EachPage, false, |house| {
            let at = object(&pool);
            let flushed = (house.worker).flush_range(&pool, at, PageIndex(0), 3, Ticket::MAX);
            assert_eq!(flushed, 3);
        });
        reboot(&mut house);
    });
}

#[test]
fn request_of_several_pages_forgets_them_with_its_end() {
    each(|id, _, mut house| {
        let pool = house.pool(id);
        kill_everywhere(&mut house, Rule::EachPage, false, |house| {
            house.worker.begin_request();
            assert_eq!(house.put(&pool, 0, 11, &framed(5)), PutResult::Stored);
            let at = object(&pool);
            let flushed = (house.worker).flush_page(&pool, at, PageIndex(2), Ticket::MAX);
            assert_eq!(flushed, FlushResult::Flushed);
            house.worker.end_request();
        });
        reboot(&mut house);
    });
}

#[test]
fn page_below_is_taken_or_not() {
    for used in [false, true] {
        each(|id, _, mut house| {
            let pool = house.pool(id);
            house.worker.begin_taking(RING, 5);
            let mut page = [0; PAGE_SIZE];
            let at = (object(&pool), PageIndex(0));
            let got = house.worker.take(&pool, at.0, at.1, &mut page);
            assert_eq!((got, page), (GetResult::Hit, framed(1)));
            let end = |house: &mut House| {
                if used {
                    house.worker.commit_taken();
                } else {
                    house.worker.abort_taken();
                }
            };
            kill_everywhere(&mut house, Rule::EachPage, used, end);
            reboot(&mut house);
        });
    }
}

#[test]
fn exclusive_get_of_a_page_below_is_done_or_not_begun() {
    each(|id, _, mut house| {
        let pool = house.pool(id);
        kill_everywhere(&mut house, Rule::Either, false, |house| {
            let mut page = [0; PAGE_SIZE];
            let at = (object(&pool), PageIndex(0));
            let got = house
                .worker
                .get(&pool, at.0, at.1, GetMode::Exclusive, &mut page);
            assert_eq!((got, page), (GetResult::Hit, framed(1)));
        });
        reboot(&mut house);
    });
}

#[test]
fn pool_goes_with_its_pages_below() {
    each(|id, _, mut house| {
        kill_everywhere(&mut house, Rule::EachPage, false, |house| {
            assert!(house.guest().destroy_pool(PoolId(id)).is_some());
        });
        // The other pool's: one page, and in the sparse one another of one repeated byte.
        let left = house.engine.tier(Tier::Pm).unwrap().used_pages;
        assert_eq!(left, 2 - u64::from(id));
        reboot(&mut house);
    });
}

#[test]
fn pages_below_are_there_after_the_hosts_end() {
    for id in [0, 1] {
        let house = house(id, Where::Below, true);
        let store = house.store.as_ref().unwrap().copy();
        let mut again = open(EngineFiles::anonymous().unwrap(), Some(Arc::new(store)));
        let found = again.see(false);
        for (index, page) in [(0, (1, 0xff)), (2, (3, 0xff)), (600, (3, 0xff))] {
            let key = ("guest".to_owned(), id, index);
            assert_eq!(found.pages.get(&key), Some(&page), "{key:?}");
        }
        let (epoch, grant, _) = found.guests["guest"];
        assert_eq!((epoch, grant), (Some(Epoch([1; 16])), 10));
    }
}
