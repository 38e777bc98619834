// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The event queue: what the device says unasked, kept until the driver has a buffer for it.

use std::collections::VecDeque;

use parking_lot::Mutex;
use tmem_abi::Event;
use vm_memory::GuestMemoryMmap;

use super::request::chain::total_bytes;
use super::request::serve::Served;
use super::request::{Chain, Cursor, EVENT_BYTES, Malformed};
use crate::limits::EVENTS_PENDING_MAX;

/// Events of one connection that wait to be delivered.
#[derive(Debug, Default)]
pub struct Events {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Event>,
    sequence: u32,
}

impl Events {
    /// Adds an event. The oldest is dropped if too many wait; the driver sees the gap.
    pub fn push(&self, kind: u32, value: u64) {
        let mut state = self.state.lock();
        state.sequence = state.sequence.wrapping_add(1);
        let sequence = state.sequence;
        if state.waiting.len() == EVENTS_PENDING_MAX {
            state.waiting.pop_front();
        }
        state.waiting.push_back(Event {
            kind,
            sequence,
            value,
        });
    }

    /// As [`Events::push`], in the place of events of this kind that still wait: only the last counts.
    pub fn push_last(&self, kind: u32, value: u64) {
        self.state.lock().waiting.retain(|event| event.kind != kind);
        self.push(kind, value);
    }

    /// Nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.state.lock().waiting.is_empty()
    }

    /// Delivers the oldest event into the driver's buffer. A buffer that cannot take one is given
    /// back empty, and the event stays.
    pub fn deliver(&self, mem: &GuestMemoryMmap, chain: &Chain) -> Served {
        if !chain.readable().is_empty() {
            return Served::silent(Malformed::Order);
        }
        if total_bytes(chain.writable()) < u64::from(EVENT_BYTES) {
            return Served::silent(Malformed::Response);
        }
        let mut state = self.state.lock();
        let Some(event) = state.waiting.front() else {
            return Served::default();
        };
        match Cursor::new(chain.writable()).write(mem, &event.to_bytes()) {
            Ok(()) => {
                state.waiting.pop_front();
                Served {
                    used_bytes: EVENT_BYTES,
                    ..Served::default()
                }
            }
            Err(kind) => Served::silent(kind),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_takes_the_place_of_one_of_its_kind() {
        let events = Events::default();
        events.push(1, 10);
        events.push_last(3, 20);
        events.push_last(3, 30);
        let state = events.state.lock();
        let waiting = state.waiting.iter();
        let told: Vec<_> = waiting.map(|event| (event.sequence, event.value)).collect();
        assert_eq!(told, [(1, 10), (3, 30)]);
    }

    #[test]
    fn the_oldest_event_is_dropped_and_its_number_is_missing() {
        let events = Events::default();
        assert!(events.is_empty());
        for value in 0..=EVENTS_PENDING_MAX as u64 {
            events.push(1, value);
        }
        let state = events.state.lock();
        let sequences: Vec<u32> = state.waiting.iter().map(|event| event.sequence).collect();
        assert_eq!(sequences.len(), EVENTS_PENDING_MAX);
        assert_eq!(sequences[0], 2);
        assert_eq!(state.waiting[0].value, 1);
    }
}
