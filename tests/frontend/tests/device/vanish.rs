// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The VMM vanishes: after every message, in the middle of one, and with requests in flight.

use tmem_abi::{BATCH_PAGES_MAX, op, result};
use tmem_frontend::{Connection, Driver, GuestMemory, Options, Request, Shape, Style, pages_at};

use crate::guest::{EPOCH, Guest, POOL, POOL_PAGES, STAGE};
use crate::host::{Host, Settings};

/// Bytes of a message that a VMM may have sent when it died: number, version 1, length; body.
fn message(request: u32, claimed: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in [request, 1, claimed] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend(body);
    bytes
}

/// What is left on the wire in place of the next message.
fn remains() -> Vec<(&'static str, Vec<u8>)> {
    let (set_owner, set_mem_table, set_vring_num, set_vring_addr, get_config) = (3, 5, 8, 9, 24);
    vec![
        ("nothing", vec![]),
        ("a byte", vec![3]),
        ("half a header", message(set_owner, 0, &[])[..5].to_vec()),
        (
            "a header without its body",
            message(set_vring_addr, 40, &[]),
        ),
        ("half a body", message(set_vring_num, 8, &[0, 0, 0])),
        (
            "a memory table without descriptors",
            message(set_mem_table, 40, &[1, 0, 0, 0, 0, 0]),
        ),
        (
            "a configuration read cut short",
            message(get_config, 76, &[0; 20]),
        ),
        ("a message of an unknown number", message(4000, 0, &[])),
        (
            "a claim of a huge body",
            message(set_vring_num, u32::MAX, &[0; 64]),
        ),
    ]
}

#[test]
fn pages_outlive_a_vmm_that_vanishes_after_any_message() {
    for style in [Style::Qemu, Style::CloudHypervisor] {
        let host = Host::one();
        let options = Options {
            style,
            ..Options::default()
        };
        let mut guest = Guest::join(&host.socket(0), options);
        guest.put_ok(0, &[100, 101, 102]);
        drop(guest);
        let mut steps = 0;
        let mut finished = false;
        while !finished {
            for (what, bytes) in remains() {
                let memory = GuestMemory::new(8 << 20).unwrap();
                let mut connection = Connection::open(&host.socket(0), &memory, options).unwrap();
                let mut last = None;
                for _ in 0..steps {
                    last = connection.advance().unwrap();
                }
                finished = connection.next_step().is_none();
                if !bytes.is_empty() {
                    // The device may have closed its end already.
                    let _ = connection.send_raw(&bytes);
                }
                println!("{style:?}: {steps} messages, the last {last:?}, then {what}");
                drop(connection);
            }
            let mut guest = Guest::join(&host.socket(0), options);
            guest.assert_pages(0, &[100, 101, 102]);
            steps += 1;
        }
        assert!(steps > 20, "the handshake has more steps than {steps}");
        let mut guest = Guest::join(&host.socket(0), options);
        guest.assert_works(0);
    }
}

#[test]
fn pages_outlive_a_vmm_that_vanishes_with_requests_in_flight() {
    let host = Host::start(&Settings {
        grant_pages: 1 << 15,
        ..Settings::default()
    });
    let options = Options {
        queue_size: 1024,
        ..Options::default()
    };
    for round in 0..25_u64 {
        let mut guest = Guest::join(&host.socket(0), options);
        let kept: Vec<u64> = (0..64).map(|at| round << 20 | at).collect();
        guest.put_ok(40_000, &kept);
        // Whole batches of one content each, so that any of them that was carried out is whole.
        let tag = round + 1;
        guest.stage(&[tag; STAGE]);
        let (from, to) = (guest.put_stage, guest.get_stage);
        for batch in 0..12 {
            let ticket = guest.driver.ticket();
            let pair = guest.driver.pair(batch as usize % 2);
            let put = Request::run(op::PUT, POOL, batch * 256, BATCH_PAGES_MAX, ticket);
            let data = [pages_at(from, BATCH_PAGES_MAX)];
            pair.put.submit(&put, &data, Shape::default()).unwrap();
            let get = Request::run(op::GET, POOL, 40_000, 64, 0);
            pair.get
                .submit(&get, &[pages_at(to, 64)], Shape::default())
                .unwrap();
            pair.put.notify().unwrap();
            pair.get.notify().unwrap();
        }
        if round % 2 == 0 {
            // Some are answered, some are not.
            guest.driver.pair(0).put.wait().unwrap();
        }
        drop(guest);

        let mut guest = Guest::join(&host.socket(0), options);
        guest.assert_pages(40_000, &kept);
        for index in (0..12 * 256).step_by(37) {
            if guest.get(POOL, index, 1) == [result::OK] {
                let page = guest.delivered(0);
                let mut tags = (1..=tag).rev();
                let whole = tags.any(|tag| page == tmem_frontend::page_content(tag));
                assert!(whole, "page {index} is a mixture of puts");
            }
        }
    }
}

#[test]
fn a_second_vmm_waits_or_is_turned_away_and_the_first_goes_on() {
    let host = Host::one();
    let mut first = Guest::join(&host.socket(0), Options::default());
    let memory = GuestMemory::new(8 << 20).unwrap();
    let second = Connection::open(&host.socket(0), &memory, Options::default());
    first.assert_works(0);
    drop(second);
    first.assert_works(1);
    drop(first);
    Guest::join(&host.socket(0), Options::default()).assert_works(0);
}

#[test]
fn a_vmm_that_comes_back_with_its_rings_gets_every_answer() {
    for from_used in [true, false] {
        let host = Host::one();
        let memory = GuestMemory::new(32 << 20).unwrap();
        let options = Options {
            style: Style::CloudHypervisor,
            ..Options::default()
        };
        let mut connection = Connection::establish(&host.socket(0), &memory, options).unwrap();
        // The rings stay in guest memory, with their indices, as in a guest that did not notice.
        let mut get = connection.take_queue(tmem_abi::get_queue(0)).unwrap();
        connection = greet(connection);
        let header = tmem_abi::RequestHeader {
            op: op::GET,
            pool: POOL,
            index: 9,
            pages: 1,
            ..Default::default()
        };
        let at = memory.allocate_pages(3).unwrap();
        memory.write(at, &header.to_bytes()).unwrap();
        let chain = [
            tmem_frontend::Segment::readable(at, 48),
            tmem_frontend::Segment::writable(at + 4096, 9),
            tmem_frontend::Segment::writable(at + 8192, 4096),
        ];
        for _ in 0..10 {
            get.ring().add(&chain, false).unwrap();
            get.notify().unwrap();
            assert_eq!(get.wait_used().unwrap().length, 9, "a miss");
        }
        let (used, available) = (get.ring().next_used(), get.ring().next_available());
        // Made available while nobody listens.
        let base = if from_used { used } else { available };
        let lost = connection;
        let mut connection = Connection::reestablish(&host.socket(0), lost, |queue| {
            if queue == tmem_abi::get_queue(0) {
                base
            } else {
                u16::from(queue == 0) * 2
            }
        })
        .unwrap();
        for _ in 0..10 {
            get.ring().add(&chain, false).unwrap();
            get.notify().unwrap();
            assert_eq!(get.wait_used().unwrap().length, 9, "a miss");
        }
        assert!(
            connection.take_queue(0).is_none(),
            "the control queue is out"
        );
    }
}

/// Sends HELLO and makes the pool on a connection's control queue; two requests.
fn greet(mut connection: Connection) -> Connection {
    let memory = std::sync::Arc::clone(connection.memory());
    let mut control = connection.take_queue(0).unwrap();
    let at = memory.allocate_pages(1).unwrap();
    let hello = tmem_abi::ControlRequest {
        op: tmem_abi::control::HELLO,
        version: 1,
        epoch_low: 5,
        ..Default::default()
    };
    let create = tmem_abi::ControlRequest {
        op: tmem_abi::control::POOL_CREATE,
        pool: POOL,
        kind: 1,
        layout: 1,
        object_pages: POOL_PAGES,
        ..Default::default()
    };
    for request in [hello, create] {
        memory.write(at, &request.to_bytes()).unwrap();
        let chain = [
            tmem_frontend::Segment::readable(at, 40),
            tmem_frontend::Segment::writable(at + 64, 48),
        ];
        control.ring().add(&chain, false).unwrap();
        control.notify().unwrap();
        assert_eq!(control.wait_used().unwrap().length, 48);
    }
    connection
}

#[test]
fn a_guest_that_never_reads_its_answers_can_leave() {
    let host = Host::one();
    let memory = GuestMemory::new(32 << 20).unwrap();
    let driver = Driver::connect(&host.socket(0), &memory, Options::default(), 128).unwrap();
    let mut guest = Guest::over(driver);
    guest.driver.hello(EPOCH).unwrap();
    guest.driver.create_dense(POOL, POOL_PAGES).unwrap();
    let data = [pages_at(guest.get_stage, 1)];
    let queue = &mut guest.driver.pair(0).get;
    while queue.has_slot() {
        let get = Request::run(op::GET, POOL, 0, 1, 0);
        if queue.submit(&get, &data, Shape::default()).is_err() {
            break;
        }
    }
    queue.notify().unwrap();
    drop(guest);
    Guest::join(&host.socket(0), Options::default()).assert_works(0);
}

/// What a VMM does to a running device before it is gone.
type LastAct = fn(&mut Guest);

#[test]
fn pages_outlive_a_vmm_that_vanishes_while_it_stops_resets_or_remaps() {
    let host = Host::one();
    let mut guest = Guest::join(&host.socket(0), Options::default());
    guest.put_ok(0, &[5, 6, 7]);
    drop(guest);
    let (get_vring_base, get_config, reset_device) = (11, 24, 34);
    let acts: [(&str, LastAct); 5] = [
        ("stopped a ring", |guest| {
            guest.driver.connection().stop_ring(4).unwrap();
        }),
        ("stopped every ring", |guest| {
            for queue in 0..guest.driver.connection().queue_count() {
                guest.driver.connection().stop_ring(queue).unwrap();
            }
        }),
        ("disabled a ring", |guest| {
            guest.driver.connection().enable(4, false).unwrap();
        }),
        ("reset the device", |guest| {
            guest.driver.connection().reset_device().unwrap();
        }),
        ("sent its memory again", |guest| {
            let same = guest.memory.moved(&[0]).unwrap();
            guest.driver.connection().set_memory(&same).unwrap();
        }),
    ];
    for (what, act) in acts {
        let mut guest = in_flight(&host);
        act(&mut guest);
        println!("the VMM {what} and is gone");
        drop(guest);
        Guest::join(&host.socket(0), Options::default()).assert_pages(0, &[5, 6, 7]);
    }
    for (what, bytes) in [
        (
            "stop of a ring",
            message(get_vring_base, 8, &[4, 0, 0, 0, 0, 0, 0, 0]),
        ),
        ("reset", message(reset_device, 0, &[])),
        ("configuration", {
            let mut body = vec![0; 12 + 64];
            body[4] = 64;
            message(get_config, 76, &body)
        }),
    ] {
        let mut guest = in_flight(&host);
        guest.driver.connection().send_raw(&bytes).unwrap();
        println!("the VMM asked for a {what} and is gone before the answer");
        drop(guest);
        Guest::join(&host.socket(0), Options::default()).assert_pages(0, &[5, 6, 7]);
    }
    Guest::join(&host.socket(0), Options::default()).assert_works(0);
}

/// A guest with long puts under way, away from the pages that the test looks at.
fn in_flight(host: &Host) -> Guest {
    let options = Options {
        queue_size: 1024,
        ..Options::default()
    };
    let mut guest = Guest::join(&host.socket(0), options);
    guest.stage(&[1; STAGE]);
    for batch in 1..8 {
        let ticket = guest.driver.ticket();
        let data = [pages_at(guest.put_stage, BATCH_PAGES_MAX)];
        let put = Request::run(op::PUT, POOL, batch * 256, BATCH_PAGES_MAX, ticket);
        guest
            .driver
            .pair(0)
            .put
            .submit(&put, &data, Shape::default())
            .unwrap();
    }
    guest.driver.pair(0).put.notify().unwrap();
    guest
}
