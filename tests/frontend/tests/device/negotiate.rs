// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! From the socket to a greeted device, the way each VMM does it.

use tmem_abi::{
    BATCH_PAGES_MAX, Config, ControlRequest, MAGIC, PAGE_SHIFT, VERSION, capability, control,
    event, op, status,
};
use tmem_frontend::{Connection, Driver, GuestMemory, Options, Request, Step, Style, pages_at};

use crate::guest::{EPOCH, Guest, POOL};
use crate::host::Host;

#[test]
fn both_vmms_read_the_same_configuration() {
    let host = Host::one();
    let mut seen = Vec::new();
    for style in [Style::Qemu, Style::CloudHypervisor] {
        let memory = GuestMemory::new(16 << 20).unwrap();
        let options = Options {
            style,
            ..Options::default()
        };
        let connection = Connection::establish(&host.socket(0), &memory, options).unwrap();
        let config = connection.config();
        assert_eq!((config.magic, config.version), (MAGIC, VERSION));
        assert_eq!(config.batch_pages, BATCH_PAGES_MAX);
        assert_eq!(config.page_shift, PAGE_SHIFT);
        let needed = capability::PERSISTENT
            | capability::EPHEMERAL
            | capability::EXCLUSIVE_GET
            | capability::LIST
            | capability::SPARSE
            | capability::EVENTS;
        assert_eq!(config.capabilities & needed, needed);
        assert_eq!(
            connection.queue_count(),
            tmem_abi::queue_count(config.queue_pairs)
        );
        seen.push(config);
    }
    assert_eq!(seen[0], seen[1]);
}

#[test]
fn any_part_of_the_configuration_is_answered_at_its_length() {
    let host = Host::one();
    let memory = GuestMemory::new(16 << 20).unwrap();
    let mut connection =
        Connection::establish(&host.socket(0), &memory, Options::default()).unwrap();
    let whole = connection.config().to_bytes();
    for offset in 0..Config::SIZE {
        for length in [1, 2, 4, 8, Config::SIZE - offset] {
            if offset + length <= Config::SIZE {
                let mut part = vec![0; length];
                connection
                    .get_config(u32::try_from(offset).unwrap(), &mut part)
                    .unwrap();
                assert_eq!(
                    part,
                    whole[offset..offset + length],
                    "{length} bytes at {offset}"
                );
            }
        }
    }
    // QEMU may be told of a space larger than the device's.
    let mut long = [0xff; 256];
    connection.get_config(0, &mut long).unwrap();
    assert_eq!(long[..Config::SIZE], whole);
}

#[test]
fn features_that_the_specification_rules_out_are_not_offered() {
    let host = Host::one();
    let memory = GuestMemory::new(16 << 20).unwrap();
    let connection = Connection::establish(&host.socket(0), &memory, Options::default()).unwrap();
    for (name, bit) in [
        ("RING_PACKED", 34),
        ("ACCESS_PLATFORM", 33),
        ("NOTIFICATION_DATA", 38),
    ] {
        assert_eq!(connection.offered() >> bit & 1, 0, "{name} is offered");
    }
    assert_eq!(
        connection.offered() & 0xff_ffff,
        0,
        "device feature bits do not reach every guest"
    );
}

#[test]
fn every_combination_of_ring_features_moves_a_page() {
    let host = Host::one();
    for style in [Style::Qemu, Style::CloudHypervisor] {
        for call in [true, false] {
            for event_idx in [true, false] {
                for indirect in [true, false] {
                    let options = Options {
                        style,
                        call,
                        event_idx,
                        indirect,
                        ..Options::default()
                    };
                    let mut guest = Guest::join(&host.socket(0), options);
                    guest.assert_works(0);
                    println!("{options:?} works");
                }
            }
        }
    }
}

#[test]
fn a_vmm_with_fewer_queues_uses_the_pairs_that_it_has() {
    let host = Host::one();
    let options = Options {
        queues_max: tmem_abi::queue_count(1),
        ..Options::default()
    };
    let mut guest = Guest::join(&host.socket(0), options);
    assert_eq!(guest.driver.pair_count(), 1);
    guest.assert_works(0);
}

#[test]
fn requests_before_hello_are_not_ready() {
    let host = Host::one();
    let memory = GuestMemory::new(16 << 20).unwrap();
    let driver = Driver::connect(&host.socket(0), &memory, Options::default(), 4).unwrap();
    let mut guest = Guest::over(driver);
    for op in [
        control::POOL_CREATE,
        control::POOL_DESTROY,
        control::POOL_STAT,
    ] {
        let mut request = ControlRequest {
            op,
            pool: POOL,
            ..ControlRequest::default()
        };
        if op == control::POOL_CREATE {
            (request.kind, request.layout, request.object_pages) = (1, 1, 16);
        }
        assert_eq!(
            guest.driver.control(&request).unwrap().status,
            status::NOT_READY
        );
    }
    let (from, to) = (guest.put_stage, guest.get_stage);
    let put = guest.put_call(&Request::run(op::PUT, POOL, 0, 1, 1), &[pages_at(from, 1)]);
    assert_eq!(put.response.status, status::NOT_READY);
    let get = guest.get_call(&Request::run(op::GET, POOL, 0, 1, 0), &[pages_at(to, 1)]);
    assert_eq!(get.response.status, status::NOT_READY);

    guest.driver.hello(EPOCH).unwrap();
    guest
        .driver
        .create_dense(POOL, crate::guest::POOL_PAGES)
        .unwrap();
    guest.assert_works(0);
}

#[test]
fn the_grant_is_told_after_each_hello() {
    let host = Host::one();
    let memory = GuestMemory::new(16 << 20).unwrap();
    let mut driver = Driver::connect(&host.socket(0), &memory, Options::default(), 4).unwrap();
    let config = driver.connection().config();
    for before in 0..3 {
        let hello = driver.hello(EPOCH).unwrap();
        assert_eq!(hello.grant, config.grant_pages);
        assert_eq!(hello.same_epoch, before > 0);
        let event = driver.wait_event(event::GRANT).unwrap();
        // Two of the balloon's follow it each time.
        let sequence = 3 * before + 1;
        assert_eq!((event.sequence, event.value), (sequence, hello.grant));
    }
}

#[test]
fn a_hello_of_an_unknown_version_is_refused() {
    let host = Host::one();
    let memory = GuestMemory::new(16 << 20).unwrap();
    let mut driver = Driver::connect(&host.socket(0), &memory, Options::default(), 4).unwrap();
    for version in [0, u32::MAX] {
        let request = ControlRequest {
            op: control::HELLO,
            version,
            ..ControlRequest::default()
        };
        assert_eq!(
            driver.control(&request).unwrap().status,
            status::UNSUPPORTED
        );
    }
    driver.hello(EPOCH).unwrap();
}

#[test]
fn ring_addresses_outside_of_memory_are_refused_and_the_next_connection_works() {
    let host = Host::one();
    let memory = GuestMemory::new(16 << 20).unwrap();
    for part in 0..3 {
        for wrong in [0, u64::MAX - 4095] {
            let options = Options {
                style: Style::CloudHypervisor,
                ..Options::default()
            };
            let mut connection = Connection::open(&host.socket(0), &memory, options).unwrap();
            while connection.next_step() != Some(Step::VringAddr(0)) {
                connection.advance().unwrap();
            }
            let inside = memory.host_address(4096).unwrap();
            let mut parts = [inside, inside + 8192, inside + 16384];
            parts[part] = wrong;
            let refused = connection.raw_ring_addresses(0, parts[0], parts[1], parts[2]);
            assert!(
                crate::guest::is_refused(&refused),
                "part {part} at {wrong:#x}"
            );
        }
    }
    Guest::join(&host.socket(0), Options::default()).assert_works(0);
}
