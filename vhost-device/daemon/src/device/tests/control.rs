// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Control, event and balloon queue.

use tmem_abi::{ControlRequest, Event, control as op, event, hello, status};

use super::*;

fn request(op: u32) -> ControlRequest {
    ControlRequest {
        op,
        ..ControlRequest::default()
    }
}

fn hello(epoch: u64) -> ControlRequest {
    ControlRequest {
        version: 1,
        epoch_high: epoch,
        ..request(op::HELLO)
    }
}

fn create(pool: u32, layout: u16, object_pages: u32) -> ControlRequest {
    ControlRequest {
        pool,
        kind: pool_kind::EPHEMERAL,
        layout,
        object_pages,
        ..request(op::POOL_CREATE)
    }
}

#[test]
fn hello_must_come_first() {
    let mut rig = Rig::new();
    for op in [op::POOL_DESTROY, op::POOL_STAT] {
        assert_eq!(rig.control(&request(op)).0, status::NOT_READY);
    }
    let create = create(1, pool_layout::SPARSE, 0);
    assert_eq!(rig.control(&create).0, status::NOT_READY);
    let put = rig.room(&header(tmem_abi::op::PUT, 0, 1, 1).to_bytes());
    let response = rig.room(&[0xee; 9]);
    let pieces = [
        readable(put, 48),
        readable(DATA, 4096),
        writable(response, 9),
    ];
    assert_eq!(rig.send(Queue::Put, &pieces), 8);
    assert_eq!(rig.bytes(response, 1), [status::NOT_READY]);
}

#[test]
fn the_same_epoch_keeps_the_pools_and_another_destroys_them() {
    let mut rig = Rig::new();
    let (status, answer) = rig.control(&hello(1));
    assert_eq!((status, answer.flags, answer.pages), (status::OK, 0, 512));
    assert_eq!(
        rig.control(&create(3, pool_layout::SPARSE, 0)).0,
        status::OK
    );
    assert_eq!(rig.control(&hello(1)).1.flags, hello::SAME_EPOCH);
    assert_eq!(rig.station.guest.pools().len(), 1);
    assert_eq!(rig.control(&hello(2)).1.flags, 0);
    assert_eq!(rig.station.guest.pools().len(), 0);
}

#[test]
fn an_unknown_version_is_unsupported() {
    let mut rig = Rig::new();
    for version in [0, 2, 0x1_0001] {
        let hello = ControlRequest {
            version,
            ..hello(1)
        };
        assert_eq!(rig.control(&hello).0, status::UNSUPPORTED);
    }
    assert_eq!(rig.station.guest.epoch(), None);
}

#[test]
fn pools_are_made_once_and_destroyed_once() {
    let mut rig = Rig::ready();
    let dense = create(1, pool_layout::DENSE, 10);
    assert_eq!(rig.control(&dense).0, status::OK);
    assert_eq!(rig.control(&dense).0, status::OK);
    assert_eq!(
        rig.control(&create(1, pool_layout::DENSE, 11)).0,
        status::EXISTS
    );
    assert_eq!(
        rig.control(&create(1, pool_layout::SPARSE, 0)).0,
        status::EXISTS
    );
    let destroy = ControlRequest {
        pool: 1,
        ..request(op::POOL_DESTROY)
    };
    assert_eq!(rig.control(&destroy).0, status::OK);
    assert_eq!(rig.control(&destroy).0, status::NO_POOL);
    let stat = ControlRequest {
        pool: 1,
        ..request(op::POOL_STAT)
    };
    assert_eq!(rig.control(&stat).0, status::NO_POOL);
}

#[test]
fn there_is_room_for_so_many_pools() {
    let mut rig = Rig::ready();
    for pool in 100..163 {
        assert_eq!(
            rig.control(&create(pool, pool_layout::SPARSE, 0)).0,
            status::OK
        );
    }
    assert_eq!(
        rig.control(&create(163, pool_layout::SPARSE, 0)).0,
        status::NO_SPACE
    );
}

#[test]
fn fields_that_mean_nothing_must_be_zero_and_kinds_must_exist() {
    let mut rig = Rig::ready();
    let bad = [
        (request(0), status::UNSUPPORTED),
        (request(9), status::UNSUPPORTED),
        (create(1, 3, 0), status::UNSUPPORTED),
        (
            ControlRequest {
                kind: 3,
                ..create(1, pool_layout::SPARSE, 0)
            },
            status::UNSUPPORTED,
        ),
        (create(1, pool_layout::DENSE, 0), status::INVALID),
        (create(1, pool_layout::SPARSE, 5), status::INVALID),
        (
            ControlRequest {
                pool: 1,
                ..hello(1)
            },
            status::INVALID,
        ),
        (
            ControlRequest {
                epoch_low: 1,
                ..request(op::POOL_STAT)
            },
            status::INVALID,
        ),
    ];
    for (request, wanted) in bad {
        assert_eq!(rig.control(&request).0, wanted, "{request:?}");
    }
    let at = rig.room(&{
        let mut bytes = hello(1).to_bytes();
        bytes[39] = 1;
        bytes
    });
    let response = rig.room(&[0xee; 48]);
    rig.send(Queue::Control, &[readable(at, 40), writable(response, 48)]);
    assert_eq!(rig.bytes(response, 1), [status::INVALID]);
    let long = [readable(at, 41), writable(response, 48)];
    rig.send(Queue::Control, &long);
    assert_eq!(rig.bytes(response, 1), [status::INVALID]);
    assert_eq!(
        rig.send(Queue::Control, &[readable(at, 40), writable(response, 47)]),
        0
    );
}

#[test]
fn the_grant_is_told_after_each_hello() {
    let mut rig = Rig::new();
    let buffers: Vec<u64> = (0..6).map(|_| rig.room(&[0xee; 16])).collect();
    for buffer in &buffers {
        let head = rig.link(Queue::Event, &[writable(*buffer, 16)]);
        rig.offer(Queue::Event, head);
    }
    for nth in 1..=2 {
        rig.control(&hello(1));
        let used = rig.used(Queue::Event);
        // The balloon's target and the interval of statistics follow.
        assert_eq!(used.len(), 3);
        assert_eq!(used[0].1, 16);
        let buffer = buffers[3 * (nth as usize - 1)];
        let bytes = rig.bytes(buffer, 16).try_into().unwrap();
        let wanted = Event {
            kind: event::GRANT,
            sequence: 3 * nth - 2,
            value: 512,
        };
        assert_eq!(Event::from_bytes(&bytes), wanted);
    }
}

#[test]
fn an_event_waits_for_a_buffer_that_can_take_it() {
    let mut rig = Rig::new();
    rig.control(&hello(1));
    assert!(!rig.device.told());
    let small = rig.room(&[0xee; 16]);
    assert_eq!(rig.send(Queue::Event, &[writable(small, 15)]), 0);
    assert_eq!(rig.send(Queue::Event, &[readable(small, 16)]), 0);
    assert_eq!(rig.send(Queue::Event, &[writable(MEMORY, 16)]), 0);
    assert!(!rig.device.told());
    assert_eq!(
        rig.send(Queue::Event, &[writable(small, 8), writable(small + 8, 8)]),
        16
    );
    let good = rig.room(&[0xee; 16]);
    for _ in 0..2 {
        assert!(!rig.device.told());
        assert_eq!(rig.send(Queue::Event, &[writable(good, 16)]), 16);
    }
    assert!(rig.device.told());
}
