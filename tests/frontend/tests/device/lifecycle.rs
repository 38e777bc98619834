// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Guests that reboot, share a host, are stopped, moved and reset; and a daemon that ends.

use tmem_abi::{event, get_queue, health, op, put_queue, queue_count, result};
use tmem_frontend::{Driver, GuestMemory, Options, Request, Shape, Style, page_content, pages_at};

use crate::guest::{EPOCH, Guest, POOL, POOL_PAGES, check_get, check_put};
use crate::host::{Host, Settings};

#[test]
fn pages_stay_across_a_reconnect_with_the_same_epoch() {
    let host = Host::one();
    let mut guest = Guest::join(&host.socket(0), Options::default());
    let tags: Vec<u64> = (0..256).collect();
    guest.put_ok(500, &tags);
    let highest = guest.driver.ticket();
    guest.put_with(POOL, 499, &[499], highest);
    drop(guest);
    let memory = GuestMemory::new(32 << 20).unwrap();
    let options = Options {
        style: Style::CloudHypervisor,
        ..Options::default()
    };
    let mut driver = Driver::connect(&host.socket(0), &memory, options, 8).unwrap();
    let hello = driver.hello(EPOCH).unwrap();
    assert!(hello.same_epoch);
    assert_eq!((hello.held, hello.ticket), (257, highest));
    let mut guest = Guest::over(driver);
    guest.assert_pages(500, &tags);
    guest.put_ok(500, &[1]);
    guest.assert_pages(500, &[1]);
}

#[test]
fn pages_are_gone_after_a_reboot() {
    let host = Host::start(&Settings {
        grant_pages: 256,
        ..Settings::default()
    });
    let mut guest = Guest::join(&host.socket(0), Options::default());
    let tags: Vec<u64> = (0..256).collect();
    guest.put_ok(0, &tags);
    // A kernel that is loaded anew without a disconnect: the same rings, another epoch.
    let hello = guest.driver.hello(EPOCH + 1).unwrap();
    assert!(!hello.same_epoch);
    assert_eq!((hello.held, hello.ticket), (0, 0));
    guest.driver.create_dense(POOL, POOL_PAGES).unwrap();
    guest.assert_missing(0, 256);
    guest.put_ok(0, &tags);
    drop(guest);
    // And one with a disconnect, in the upper half of the epoch.
    let mut guest = Guest::join_as(&host.socket(0), Options::default(), EPOCH + 1 + (1 << 64));
    guest.assert_missing(0, 256);
    guest.put_ok(0, &tags);
    guest.assert_pages(0, &tags);
}

#[test]
fn guests_never_see_each_others_pages() {
    let host = Host::start(&Settings {
        guests: 2,
        ..Settings::default()
    });
    let mut first = Guest::join(&host.socket(0), Options::default());
    let mut second = Guest::join(&host.socket(1), Options::default());
    first.put_ok(0, &[1, 2, 3]);
    second.assert_missing(0, 3);
    second.put_ok(0, &[7, 8, 9]);
    first.assert_pages(0, &[1, 2, 3]);
    second.assert_pages(0, &[7, 8, 9]);
    assert_eq!(first.flush(0, 3), 3);
    second.assert_pages(0, &[7, 8, 9]);
    second.driver.hello(EPOCH + 9).unwrap();
    first.put_ok(5, &[5]);
    first.assert_pages(5, &[5]);
}

#[test]
fn one_guests_full_grant_leaves_the_other_its_own() {
    let host = Host::start(&Settings {
        guests: 2,
        grant_pages: 300,
        ..Settings::default()
    });
    let mut first = Guest::join(&host.socket(0), Options::default());
    let mut second = Guest::join(&host.socket(1), Options::default());
    for index in 0..300 {
        first.put_ok(index, &[u64::from(index)]);
    }
    assert_eq!(first.put(POOL, 300, &[1]), [result::REFUSED_FULL]);
    for index in 0..300 {
        second.put_ok(index, &[u64::from(index) + 1000]);
    }
    for index in 0..300 {
        first.assert_pages(index, &[u64::from(index)]);
        second.assert_pages(index, &[u64::from(index) + 1000]);
    }
}

#[test]
fn sigterm_tells_the_guests_and_ends_with_code_0() {
    let host = Host::start(&Settings {
        guests: 2,
        ..Settings::default()
    });
    let mut guest = Guest::join(&host.socket(0), Options::default());
    let _other = Guest::join(&host.socket(1), Options::default());
    guest.put_ok(0, &[1]);
    let ended = host.terminate();
    assert_eq!(ended.status.code(), Some(0));
    let told = guest.driver.wait_event(event::HEALTH).unwrap();
    assert_eq!(told.value, health::ENDING);
}

#[test]
fn sigterm_ends_a_daemon_that_nobody_uses() {
    let host = Host::one();
    assert_eq!(host.terminate().status.code(), Some(0));
}

#[test]
fn stopping_a_ring_under_load_loses_no_request() {
    let host = Host::one();
    for style in [Style::Qemu, Style::CloudHypervisor] {
        let options = Options {
            style,
            queue_size: 1024,
            ..Options::default()
        };
        let mut guest = Guest::join(&host.socket(0), options);
        guest.stage(&[4; 256]);
        let data = [pages_at(guest.put_stage, 256)];
        for round in 0..20 {
            for batch in 0..8 {
                let ticket = guest.driver.ticket();
                let put = Request::run(op::PUT, POOL, batch * 256, 256, ticket);
                guest
                    .driver
                    .pair(0)
                    .put
                    .submit(&put, &data, Shape::default())
                    .unwrap();
            }
            guest.driver.pair(0).put.notify().unwrap();
            let queue = put_queue(0);
            let base = guest.driver.connection().stop_ring(queue).unwrap();
            // What the device took it has finished: the ring goes on where the used index stands.
            let mut finished = 0;
            while let Some(done) = guest.driver.pair(0).put.poll().unwrap() {
                check_put(&done, 256);
                finished += 1;
            }
            let used = guest.driver.pair(0).put.queue().ring().next_used();
            assert_eq!(base, used, "round {round}: {finished} finished");
            guest.driver.connection().start_ring(queue).unwrap();
            guest.driver.pair(0).put.queue().kick().unwrap();
            while guest.driver.pair(0).put.in_flight() > 0 {
                check_put(&guest.driver.pair(0).put.wait().unwrap(), 256);
            }
            // The other ring of the pair was never stopped.
            guest.assert_pages(0, &[4; 256]);
        }
        // With all rings stopped and started, one after the other.
        for queue in 0..guest.driver.connection().queue_count() {
            guest.driver.connection().stop_ring(queue).unwrap();
            guest.driver.connection().start_ring(queue).unwrap();
        }
        guest.assert_works(0);
        guest.assert_works(1);
        guest.driver.hello(EPOCH).unwrap();
    }
}

#[test]
fn a_disabled_ring_is_served_once_it_is_enabled_again() {
    let host = Host::one();
    let mut guest = Guest::join(&host.socket(0), Options::default());
    guest.put_ok(3, &[3]);
    guest
        .driver
        .connection()
        .enable(get_queue(0), false)
        .unwrap();
    guest.scrub(1);
    let get = Request::run(op::GET, POOL, 3, 1, 0);
    let data = [pages_at(guest.get_stage, 1)];
    guest
        .driver
        .pair(0)
        .get
        .submit(&get, &data, Shape::default())
        .unwrap();
    guest.driver.pair(0).get.notify().unwrap();
    guest
        .driver
        .connection()
        .enable(get_queue(0), true)
        .unwrap();
    check_get(&guest.driver.pair(0).get.wait().unwrap(), 1);
    assert!(guest.delivered(0) == page_content(3));
}

#[test]
fn a_new_memory_table_under_load_takes_effect_without_loss() {
    let host = Host::one();
    let layout = vec![(0, 32 << 20), (1 << 30, 4 << 20)];
    let memory = GuestMemory::with_layout(&layout).unwrap();
    let options = Options {
        style: Style::CloudHypervisor,
        ..Options::default()
    };
    let mut guest = Guest::with_memory(&host.socket(0), options, EPOCH, &memory);
    let tags: Vec<u64> = (0..256).collect();
    guest.stage(&tags);
    let data = [pages_at(guest.put_stage, 256)];
    for round in 0..30_u64 {
        for batch in 0..4 {
            let ticket = guest.driver.ticket();
            let put = Request::run(op::PUT, POOL, batch * 256, 256, ticket);
            guest
                .driver
                .pair(0)
                .put
                .submit(&put, &data, Shape::default())
                .unwrap();
        }
        guest.driver.pair(0).put.notify().unwrap();
        // The second region moves, as after unplugging and plugging a module; the first stays.
        let moved = memory.moved(&[0, (1 << 30) + (round << 28)]).unwrap();
        guest.driver.connection().set_memory(&moved).unwrap();
        while guest.driver.pair(0).put.in_flight() > 0 {
            check_put(&guest.driver.pair(0).put.wait().unwrap(), 256);
        }
        guest.assert_pages(0, &tags);
        let place = (1 << 30) + (round << 28) + 8192;
        moved.write(place, &page_content(round)).unwrap();
        let ticket = guest.driver.ticket();
        let put = Request::run(op::PUT, POOL, 9000, 1, ticket);
        let done = guest.put_call(&put, &[pages_at(place, 1)]);
        assert_eq!(done.results, [result::OK]);
        guest.assert_pages(9000, &[round]);
        if round > 0 {
            // Where the region was there is nothing now.
            let ticket = guest.driver.ticket();
            let put = Request::run(op::PUT, POOL, 9001, 1, ticket);
            let done = guest.put_call(&put, &[pages_at((1 << 30) + 8192, 1)]);
            assert_eq!(done.results, [result::IO_ERROR]);
        }
    }
}

#[test]
fn a_reset_in_mid_flight_leaves_the_pages_and_a_device_that_starts_again() {
    let host = Host::one();
    for style in [Style::Qemu, Style::CloudHypervisor] {
        let options = Options {
            style,
            queue_size: 512,
            ..Options::default()
        };
        let memory = GuestMemory::new(96 << 20).unwrap();
        let mut guest = Guest::with_memory(&host.socket(0), options, EPOCH, &memory);
        let tags: Vec<u64> = (1000..1256).collect();
        for _ in 0..5 {
            guest.put_ok(0, &tags);
            let data = [pages_at(guest.put_stage, 256)];
            for batch in 1..8 {
                let ticket = guest.driver.ticket();
                let put = Request::run(op::PUT, POOL, batch * 256, 256, ticket);
                guest
                    .driver
                    .pair(0)
                    .put
                    .submit(&put, &data, Shape::default())
                    .unwrap();
            }
            guest.driver.pair(0).put.notify().unwrap();
            guest.driver.connection().reset_device().unwrap();
            guest = restart(guest);
            guest.driver.hello(EPOCH).unwrap();
            guest.assert_pages(0, &tags);
            guest.assert_works(1);
        }
    }
}

/// What a VMM and a guest do after a reset: rings stopped, laid out anew, and started.
fn restart(guest: Guest) -> Guest {
    let mut connection = guest.driver.into_connection();
    for queue in 0..connection.queue_count() {
        connection.stop_ring(queue).unwrap();
    }
    connection.renew_queues().unwrap();
    connection.start_all().unwrap();
    Guest::over(Driver::over(connection, 32).unwrap())
}

#[test]
fn a_device_with_the_most_queues_serves_its_last_pair() {
    let host = Host::start(&Settings {
        queue_pairs: 8,
        poll_us: 0,
        ..Settings::default()
    });
    let mut guest = Guest::join(&host.socket(0), Options::default());
    assert_eq!(guest.driver.connection().queue_count(), queue_count(8));
    for pair in 0..8 {
        guest.assert_works(pair);
    }
}
