// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a put, a get and a flush promise: pools, grants, tickets, overwriting, forgetting.

use tmem_abi::{BATCH_PAGES_MAX, op, pool_kind, pool_layout, result, status};
use tmem_frontend::{Error, Options, Request, page_content, pages_at};

use crate::guest::{Guest, POOL, POOL_PAGES, check_get};
use crate::host::{Host, Settings};

#[test]
fn the_second_put_is_what_a_get_returns() {
    let host = Host::one();
    let mut guest = Guest::join(&host.socket(0), Options::default());
    guest.put_ok(1, &[10]);
    guest.put_ok(1, &[20]);
    guest.assert_pages(1, &[20]);
    guest.assert_pages(1, &[20]);
    assert_eq!(guest.driver.stat(POOL).unwrap().pages, 1);
}

#[test]
fn an_exclusive_get_delivers_once() {
    let host = Host::one();
    let mut guest = Guest::join(&host.socket(0), Options::default());
    guest.put_ok(4, &[44]);
    assert_eq!(guest.get_exclusive(4), result::OK);
    assert!(guest.delivered(0) == page_content(44));
    assert_eq!(guest.get_exclusive(4), result::MISS);
    guest.assert_missing(4, 1);
    assert_eq!(guest.driver.stat(POOL).unwrap().pages, 0);
}

#[test]
fn flush_of_a_run_takes_those_pages_and_no_other() {
    let host = Host::one();
    let mut guest = Guest::join(&host.socket(0), Options::default());
    let tags: Vec<u64> = (100..110).collect();
    guest.put_ok(50, &tags);
    assert_eq!(guest.flush(53, 4), 4);
    guest.assert_pages(50, &tags[..3]);
    guest.assert_missing(53, 4);
    guest.assert_pages(57, &tags[7..]);
    assert_eq!(
        guest.flush(53, 4),
        0,
        "pages that are gone are not flushed again"
    );
    // A run may be longer than a batch, and reach to the end of all indices.
    let ticket = guest.driver.ticket();
    let all = Request::run(op::FLUSH, POOL, 0, u32::MAX, ticket);
    let done = guest.put_call(&all, &[]);
    assert_eq!((done.response.status, done.response.done), (status::OK, 6));
    guest.assert_missing(50, 10);
}

#[test]
fn flush_of_a_list_says_what_became_of_each_page() {
    let host = Host::one();
    let mut guest = Guest::join(&host.socket(0), Options::default());
    guest.put_ok(10, &[1, 2, 3]);
    let ticket = guest.driver.ticket();
    let indices = [12, 999, 10, POOL_PAGES];
    let done = guest.put_call(&Request::list(op::FLUSH, POOL, &indices, ticket), &[]);
    assert_eq!(done.response.status, status::OK);
    assert_eq!(
        done.results,
        [result::OK, result::OK, result::OK, result::BAD_INDEX]
    );
    guest.assert_missing(10, 1);
    guest.assert_pages(11, &[2]);
    guest.assert_missing(12, 1);
}

#[test]
fn flush_of_object_and_pool_take_what_they_name() {
    const SPARSE: u32 = 9;
    let host = Host::one();
    let mut guest = Guest::join(&host.socket(0), Options::default());
    guest
        .driver
        .create(SPARSE, pool_kind::PERSISTENT, pool_layout::SPARSE, 0)
        .unwrap();
    guest.put_ok(1, &[7]);
    let objects = [[1, 0, 0], [0, 1, 0], [0, 0, u64::MAX]];
    for (number, object) in (0..).zip(objects) {
        put_object(&mut guest, SPARSE, object, u32::MAX - 3, number);
    }
    let ticket = guest.driver.ticket();
    let flush = Request::run(op::FLUSH_OBJECT, SPARSE, 0, 0, ticket).of_object(objects[1]);
    let done = guest.put_call(&flush, &[]);
    assert_eq!((done.response.status, done.response.done), (status::OK, 1));
    assert_eq!(
        get_object(&mut guest, SPARSE, objects[1], u32::MAX - 3),
        None
    );
    for number in [0, 2] {
        let found = get_object(&mut guest, SPARSE, objects[number], u32::MAX - 3);
        assert!(
            found == Some(page_content(number as u64)),
            "every bit of the object id counts"
        );
    }
    let ticket = guest.driver.ticket();
    let done = guest.put_call(&Request::run(op::FLUSH_POOL, SPARSE, 0, 0, ticket), &[]);
    assert_eq!((done.response.status, done.response.done), (status::OK, 2));
    assert_eq!(
        get_object(&mut guest, SPARSE, objects[0], u32::MAX - 3),
        None
    );
    guest.assert_pages(1, &[7]);
}

fn put_object(guest: &mut Guest, pool: u32, object: [u64; 3], index: u32, tag: u64) {
    guest.stage(&[tag]);
    let ticket = guest.driver.ticket();
    let put = Request::run(op::PUT, pool, index, 1, ticket).of_object(object);
    let data = [pages_at(guest.put_stage, 1)];
    assert_eq!(guest.put_call(&put, &data).results, [result::OK]);
}

fn get_object(
    guest: &mut Guest,
    pool: u32,
    object: [u64; 3],
    index: u32,
) -> Option<[u8; tmem_abi::PAGE_SIZE]> {
    guest.scrub(1);
    let get = Request::run(op::GET, pool, index, 1, 0).of_object(object);
    let data = [pages_at(guest.get_stage, 1)];
    let done = guest.get_call(&get, &data);
    check_get(&done, 1);
    (done.results == [result::OK]).then(|| guest.delivered(0))
}

#[test]
fn a_late_flush_never_kills_a_newer_put() {
    let host = Host::one();
    let mut guest = Guest::join(&host.socket(0), Options::default());
    let late = guest.driver.ticket();
    guest.put_ok(5, &[55]);
    let done = guest.put_call(&Request::list(op::FLUSH, POOL, &[5], late), &[]);
    assert_eq!(
        (done.response.status, &done.results[..]),
        (status::OK, &[result::STALE][..])
    );
    let done = guest.put_call(&Request::run(op::FLUSH, POOL, 0, 10, late), &[]);
    assert_eq!((done.response.status, done.response.done), (status::OK, 0));
    for op in [op::FLUSH_OBJECT, op::FLUSH_POOL] {
        let done = guest.put_call(&Request::run(op, POOL, 0, 0, late), &[]);
        assert_eq!((done.response.status, done.response.done), (status::OK, 0));
    }
    guest.assert_pages(5, &[55]);
}

#[test]
fn an_older_put_is_stale_and_an_equal_one_is_a_replay() {
    let host = Host::one();
    let mut guest = Guest::join(&host.socket(0), Options::default());
    let (old, new) = (guest.driver.ticket(), guest.driver.ticket());
    assert_eq!(guest.put_with(POOL, 5, &[2], new), [result::OK]);
    assert_eq!(guest.put_with(POOL, 5, &[1], old), [result::STALE]);
    guest.assert_pages(5, &[2]);
    assert_eq!(guest.put_with(POOL, 5, &[2], new), [result::OK]);
    guest.assert_pages(5, &[2]);
    assert_eq!(guest.driver.stat(POOL).unwrap().pages, 1);
}

#[test]
fn puts_beyond_the_grant_are_refused_and_take_the_old_version_along() {
    const GRANT: u32 = 600;
    let host = Host::start(&Settings {
        grant_pages: GRANT.into(),
        ..Settings::default()
    });
    let mut guest = Guest::join(&host.socket(0), Options::default());
    for index in 0..GRANT {
        guest.put_ok(index, &[u64::from(index)]);
    }
    assert_eq!(guest.put(POOL, GRANT, &[1]), [result::REFUSED_FULL]);
    guest.assert_missing(GRANT, 1);
    // What is held may be overwritten at the limit.
    guest.put_ok(0, &[9999]);
    guest.assert_pages(0, &[9999]);
    // Room comes back with a flush, page by page.
    assert_eq!(guest.flush(7, 2), 2);
    guest.put_ok(GRANT, &[1]);
    guest.put_ok(GRANT + 1, &[2]);
    assert_eq!(guest.put(POOL, GRANT + 2, &[3]), [result::REFUSED_FULL]);
    assert_eq!(guest.driver.stat(POOL).unwrap().pages, u64::from(GRANT));
    // A batch that crosses the limit is stored as far as it goes.
    assert_eq!(guest.flush(0, 3), 3);
    let results = guest.put(POOL, GRANT + 10, &[1, 2, 3, 4, 5]);
    assert_eq!(results.iter().filter(|r| **r == result::OK).count(), 3);
    assert_eq!(
        results
            .iter()
            .filter(|r| **r == result::REFUSED_FULL)
            .count(),
        2
    );
    for index in 10..GRANT {
        guest.assert_pages(index, &[u64::from(index)]);
    }
}

#[test]
fn the_grant_counts_persistent_pages_of_all_pools() {
    let host = Host::start(&Settings {
        grant_pages: 10,
        ..Settings::default()
    });
    let mut guest = Guest::join(&host.socket(0), Options::default());
    guest.driver.create_dense(POOL + 1, 100).unwrap();
    guest.put_ok(0, &[1, 2, 3, 4, 5]);
    assert_eq!(guest.put(POOL + 1, 0, &[1, 2, 3, 4, 5]), [result::OK; 5]);
    assert_eq!(guest.put(POOL + 1, 5, &[6]), [result::REFUSED_FULL]);
    guest.driver.destroy(POOL).unwrap();
    assert_eq!(guest.put(POOL + 1, 5, &[6]), [result::OK]);
}

#[test]
fn an_ephemeral_page_is_the_last_put_or_nothing() {
    const CACHE: u32 = 3;
    let host = Host::one();
    let mut guest = Guest::join(&host.socket(0), Options::default());
    guest
        .driver
        .create(CACHE, pool_kind::EPHEMERAL, pool_layout::SPARSE, 0)
        .unwrap();
    let mut hits = 0;
    for version in 0..3_u64 {
        for object in 0..50 {
            put_object(&mut guest, CACHE, [object, 1, 2], 8, object << 8 | version);
        }
        for object in 0..50 {
            if let Some(page) = get_object(&mut guest, CACHE, [object, 1, 2], 8) {
                assert!(page == page_content(object << 8 | version), "a stale page");
                hits += 1;
            }
        }
    }
    assert!(hits > 0, "nothing is ever kept");
}

#[test]
fn indices_outside_of_a_dense_object_are_named_one_by_one() {
    let host = Host::one();
    let mut guest = Guest::join(&host.socket(0), Options::default());
    let results = guest.put(POOL, POOL_PAGES - 1, &[1, 2]);
    assert_eq!(results, [result::OK, result::BAD_INDEX]);
    assert_eq!(
        guest.get(POOL, POOL_PAGES - 1, 2),
        [result::OK, result::BAD_INDEX]
    );
    assert!(guest.delivered(0) == page_content(1));
}

#[test]
fn pools_are_made_once_and_keep_their_properties() {
    let host = Host::one();
    let mut guest = Guest::join(&host.socket(0), Options::default());
    guest.put_ok(0, &[1]);
    guest.driver.create_dense(POOL, POOL_PAGES).unwrap();
    guest.assert_pages(0, &[1]);
    for (kind, layout, pages) in [
        (pool_kind::EPHEMERAL, pool_layout::DENSE, POOL_PAGES),
        (pool_kind::PERSISTENT, pool_layout::SPARSE, 0),
        (pool_kind::PERSISTENT, pool_layout::DENSE, POOL_PAGES - 1),
    ] {
        let refused = guest.driver.create(POOL, kind, layout, pages);
        assert!(matches!(
            refused,
            Err(Error::Status {
                status: status::EXISTS,
                ..
            })
        ));
    }
    guest.driver.destroy(POOL).unwrap();
    let gone = guest.driver.destroy(POOL);
    assert!(matches!(
        gone,
        Err(Error::Status {
            status: status::NO_POOL,
            ..
        })
    ));
    let get = Request::run(op::GET, POOL, 0, 1, 0);
    let data = [pages_at(guest.get_stage, 1)];
    assert_eq!(guest.get_call(&get, &data).response.status, status::NO_POOL);
    guest.driver.create_dense(POOL, POOL_PAGES).unwrap();
    guest.assert_missing(0, 1);
}

#[test]
fn there_are_as_many_pools_as_the_configuration_says() {
    let host = Host::one();
    let mut guest = Guest::join(&host.socket(0), Options::default());
    let pools = guest.driver.connection().config().pools;
    for pool in 1..pools {
        guest.driver.create_dense(1000 + pool, 16).unwrap();
    }
    let refused = guest.driver.create_dense(5000, 16);
    assert!(matches!(
        refused,
        Err(Error::Status {
            status: status::NO_SPACE,
            ..
        })
    ));
    guest.driver.destroy(1001).unwrap();
    guest.driver.create_dense(5000, 16).unwrap();
}

#[test]
fn counts_of_a_pool_add_up() {
    let host = Host::one();
    let mut guest = Guest::join(&host.socket(0), Options::default());
    let tags: Vec<u64> = (0..u64::from(BATCH_PAGES_MAX)).collect();
    guest.put_ok(0, &tags);
    guest.put_ok(0, &tags[..6]);
    guest.assert_pages(0, &tags[..10]);
    guest.assert_missing(1000, 3);
    guest.flush(100, 20);
    let stat = guest.driver.stat(POOL).unwrap();
    assert_eq!(
        (stat.pages, stat.held, stat.gets, stat.flushes),
        (236, 262, 10, 20)
    );
}
