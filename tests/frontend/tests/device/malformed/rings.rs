// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Rings whose own indices lie.

use std::time::Duration;

use tmem_frontend::{Options, RawDescriptor, Segment};

use super::Arena;
use crate::guest::{EPOCH, Guest};

/// Breaks the ring itself, then shows that the other queue pair, the other guest, and the same
/// guest after a reconnect all work.
fn after_a_broken_ring(mut break_it: impl FnMut(&mut Arena)) {
    let mut arena = Arena::new();
    break_it(&mut arena);
    arena.bystander.assert_works(0);
    arena.broken.assert_works(1);
    let Arena {
        host,
        broken,
        mut bystander,
        ..
    } = arena;
    drop(broken);
    let mut again = Guest::join(&host.socket(0), Options::default());
    again.assert_pages(0, &[1]);
    again.assert_works(0);
    bystander.assert_works(1);
}

#[test]
fn an_available_index_that_jumps_breaks_that_queue_at_most() {
    for jump in [257, 1000, 0x8000, u16::MAX] {
        after_a_broken_ring(|arena| {
            let queue = arena.put_queue();
            let index = queue.ring().next_available();
            queue.ring().raw_available_index(index.wrapping_add(jump));
            queue.kick().unwrap();
        });
    }
}

#[test]
fn a_head_outside_of_the_table_breaks_that_queue_at_most() {
    for head in [256, 4096, u16::MAX] {
        after_a_broken_ring(|arena| {
            let queue = arena.put_queue();
            queue.ring().raw_available(head);
            queue.notify().unwrap();
            queue.kick().unwrap();
        });
    }
}

#[test]
fn the_same_head_twice_is_served_or_refused_but_no_more() {
    after_a_broken_ring(|arena| {
        arena.write_header(&arena.put_header());
        let chain = arena.put_chain();
        let ring = arena.put_queue().ring();
        let places = ring.raw_reserve(chain.len()).unwrap();
        for (at, descriptor) in chain.iter().enumerate() {
            let next = places
                .get(usize::from(descriptor.next))
                .copied()
                .unwrap_or(0);
            ring.raw_descriptor(
                places[at],
                RawDescriptor {
                    next,
                    ..*descriptor
                },
            );
        }
        for _ in 0..5 {
            ring.raw_available(places[0]);
        }
        let queue = arena.put_queue();
        queue.notify().unwrap();
        queue.wait_used().unwrap();
    });
}

#[test]
fn a_used_index_written_by_the_guest_harms_nobody_else() {
    for jump in [1, 100, 0x8000] {
        after_a_broken_ring(|arena| {
            let queue = arena.put_queue();
            let index = queue.ring().next_used();
            queue.ring().raw_used_index(index.wrapping_add(jump));
            queue.kick().unwrap();
            // The device may overwrite it with its own count at the next request.
            queue.set_limit(Duration::from_millis(200));
        });
    }
}

#[test]
fn a_storm_of_kicks_without_requests_is_harmless() {
    let mut arena = Arena::new();
    for _ in 0..10_000 {
        arena.put_queue().kick().unwrap();
    }
    arena.check("kicks");
}

#[test]
fn chains_on_the_event_queue_that_are_wrong_are_used_or_left() {
    let mut arena = Arena::new();
    let memory_end = arena.broken.memory.end();
    let segments = [
        Segment::readable(arena.header, 16),
        Segment::writable(arena.answer, 0),
        Segment::writable(arena.answer, 8),
        Segment::writable(memory_end, 16),
        Segment::writable(u64::MAX - 8, 16),
    ];
    for segment in segments {
        arena
            .broken
            .driver
            .event_queue()
            .ring()
            .add(&[segment], false)
            .unwrap();
        arena.broken.driver.event_queue().notify().unwrap();
        // Every HELLO makes an event, which the device must try to deliver.
        arena.broken.driver.hello(EPOCH).unwrap();
        arena.check(&format!("{segment:?} for an event"));
    }
}
