// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The ring against a device played by hand.

use super::*;

fn ring(event_idx: bool) -> (Arc<GuestMemory>, DriverRing) {
    let memory = GuestMemory::new(1 << 20).unwrap();
    let ring = DriverRing::new(&memory, 8, event_idx).unwrap();
    (memory, ring)
}

/// Plays the device: uses `head` with `length`.
fn device_uses(ring: &DriverRing, index: u16, head: u16, length: u16) {
    let at = 4 + 8 * usize::from(index % 8);
    ring.used.store_u16(at, head, Ordering::Relaxed);
    ring.used.store_u16(at + 2, 0, Ordering::Relaxed);
    ring.used.store_u16(at + 4, length, Ordering::Relaxed);
    ring.used.store_u16(at + 6, 0, Ordering::Relaxed);
    ring.used
        .store_u16(2, index.wrapping_add(1), Ordering::Release);
}

#[test]
fn descriptors_come_back_after_use() {
    let (_memory, mut ring) = ring(true);
    let segments = [Segment::readable(4096, 8), Segment::writable(8192, 8)];
    for round in 0..100 {
        let head = ring.add(&segments, false).unwrap();
        ring.publish();
        device_uses(&ring, round, head, 8);
        assert_eq!(ring.pop_used().unwrap(), Some(Used { head, length: 8 }));
    }
    assert_eq!(ring.free(), 8);
}

#[test]
fn a_full_ring_refuses_and_an_indirect_chain_takes_one_descriptor() {
    let (_memory, mut ring) = ring(true);
    let segments = [Segment::readable(4096, 8); 5];
    ring.add(&segments, false).unwrap();
    assert!(matches!(
        ring.add(&segments, false),
        Err(Error::RingFull { needed: 5, free: 3 })
    ));
    ring.add(&segments, true).unwrap();
    assert_eq!(ring.free(), 2);
}

#[test]
fn a_chain_that_was_never_available_is_an_error() {
    let (_memory, mut ring) = ring(false);
    ring.add(&[Segment::readable(4096, 8)], false).unwrap();
    device_uses(&ring, 0, 5, 0);
    assert!(matches!(ring.pop_used(), Err(Error::NotInFlight { id: 5 })));
}

#[test]
fn kicks_follow_the_devices_wish() {
    let (_memory, mut ring) = ring(true);
    let event = 4 + 8 * 8;
    let mut kick_when_event_is = |value: u16| {
        ring.used.store_u16(event, value, Ordering::Relaxed);
        ring.add(&[Segment::readable(4096, 8)], false).unwrap();
        ring.publish()
    };
    assert!(kick_when_event_is(0));
    assert!(!kick_when_event_is(0));
    assert!(kick_when_event_is(2));
}
