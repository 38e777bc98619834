// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The life of each slot, and which segment is worth cleaning.
//!
//! ```text
//!          begun             full            chosen            all copied
//!  Free ──────────▶ Tail ──────────▶ Sealed ────────▶ Cleaning ──────────▶ Cleaned
//!   ▲                                                                        │ copies are safe
//!   │ that is safe           a record says so, or a header is made without it ▼
//!   └───────────────────── Excluded ◀──────────────────────────────────── Released
//! ```
//! Headers list what is sealed, being cleaned, or cleaned.

use super::layout::{Geometry, HEADER_UNITS, Listed};

/// What a slot is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Free,
    Tail,
    Sealed,
    /// As sealed, but a record of it cannot be read: it is never cleaned.
    Stuck,
    /// Copied up to this unit.
    Cleaning(u32),
    /// All copies are in this job.
    Cleaned(u64),
    Released,
    /// The record or the header that says so is in this job.
    Excluded(u64),
}

impl State {
    const fn counts(self) -> bool {
        matches!(
            self,
            Self::Sealed | Self::Stuck | Self::Cleaning(_) | Self::Cleaned(_)
        )
    }
}

/// A slot.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    /// The number of its segment, or of the last that it had.
    pub(super) number: u64,
    /// Units that are used, with the header.
    pub(super) end: u32,
    /// Units of live records.
    pub(super) live: u32,
    pub(super) state: State,
    /// The job that writes the last of it, once it is sealed: nobody can read it before.
    pub(super) sealed_in: u64,
}

/// All slots.
#[derive(Debug)]
pub(super) struct Segments {
    pub(super) geometry: Geometry,
    pub(super) all: Vec<Segment>,
    /// The slot of the tail.
    pub(super) tail: u32,
    /// The number of the next segment.
    pub(super) next: u64,
    /// All jobs up to this one are done.
    pub(super) done: u64,
}

/// Slots that puts leave for cleaning and flushes.
pub(super) const RESERVED: u32 = 4;

impl Segments {
    pub(super) fn new(geometry: Geometry, next: u64) -> Self {
        let free = Segment {
            number: 0,
            end: HEADER_UNITS,
            live: 0,
            state: State::Free,
            sealed_in: 0,
        };
        Self {
            geometry,
            all: vec![free; geometry.slots as usize],
            tail: 0,
            next,
            done: 0,
        }
    }

    pub(super) fn at(&self, slot: u32) -> &Segment {
        &self.all[slot as usize]
    }

    pub(super) fn at_mut(&mut self, slot: u32) -> &mut Segment {
        &mut self.all[slot as usize]
    }

    /// The segment that a unit lies in.
    pub(super) fn of_mut(&mut self, unit: u32) -> &mut Segment {
        let slot = self.geometry.slot_of(unit);
        self.at_mut(slot)
    }

    fn slots(&self) -> impl Iterator<Item = (u32, &Segment)> {
        (0..).zip(&self.all)
    }

    pub(super) fn count(&self, which: impl Fn(State) -> bool) -> u32 {
        let count = self.all.iter().filter(|segment| which(segment.state));
        u32::try_from(count.count()).unwrap_or(u32::MAX)
    }

    pub(super) fn free(&self) -> u32 {
        self.count(|state| state == State::Free)
    }

    pub(super) fn released(&self) -> u32 {
        self.count(|state| state == State::Released)
    }

    /// Free slots below which cleaning begins.
    pub(super) fn low(&self) -> u32 {
        (RESERVED + 2).max(self.geometry.slots / 16)
    }

    /// Units of live records from which on puts are refused.
    pub(super) fn limit(&self) -> u64 {
        // Those that cleaning keeps free, the tail, and one under way hold nothing that stays.
        let slots = u64::from(self.geometry.slots - self.low() - 2);
        slots * u64::from(self.geometry.room()) * 85 / 100
    }

    /// A segment may be begun: there is a slot for it, and slots can still be freed after that. The last
    /// one is taken only by a header that frees others.
    pub(super) fn may_begin(&self) -> bool {
        let tail = self.at(self.tail).state == State::Tail;
        match self.free() {
            0 => false,
            1 => self.released() > 0 || !tail,
            _ => true,
        }
    }

    /// What a header of the next segment lists.
    pub(super) fn listed(&self) -> Vec<(u32, Listed)> {
        let listed = self.slots().filter(|(_, segment)| segment.state.counts());
        let listed = listed.map(|(slot, segment)| {
            let (segment, end) = (segment.number, segment.end);
            (slot, Listed { segment, end })
        });
        listed.collect()
    }

    /// Begins a segment in the free slot that was used longest ago, if there is one. Its job is `job`.
    pub(super) fn begin(&mut self, job: u64) -> Option<u32> {
        let free = self
            .slots()
            .filter(|(_, segment)| segment.state == State::Free);
        let (slot, _) = free.min_by_key(|(_, segment)| segment.number)?;
        for segment in &mut self.all {
            if segment.state == State::Released {
                segment.state = State::Excluded(job);
            }
        }
        let number = self.next;
        self.next += 1;
        *self.at_mut(slot) = Segment {
            number,
            end: HEADER_UNITS,
            live: 0,
            state: State::Tail,
            sealed_in: 0,
        };
        self.tail = slot;
        Some(slot)
    }

    /// All jobs up to this one are done.
    pub(super) fn note_done(&mut self, job: u64) {
        self.done = job;
        for segment in &mut self.all {
            segment.state = match segment.state {
                State::Cleaned(with) if with <= job => State::Released,
                State::Excluded(with) if with <= job => State::Free,
                other => other,
            };
        }
    }

    /// No segment but those on their way out may have records from segments up to `shadow`.
    pub(super) fn none_up_to(&self, shadow: u64, besides: u32) -> bool {
        !self.slots().any(|(slot, segment)| {
            let there = matches!(
                segment.state,
                State::Tail | State::Sealed | State::Stuck | State::Cleaning(_)
            );
            there && slot != besides && segment.number <= shadow
        })
    }

    /// The segment to clean: the one under way, or the one where the most is gained for what has to be
    /// copied, and old ones sooner, since what has lived long will live on. The oldest of all if
    /// `oldest` asks for it: records that something is gone wait for that.
    pub(super) fn victim(&self, oldest: bool) -> Option<u32> {
        let under_way = |state: State| matches!(state, State::Cleaning(_));
        if let Some((slot, _)) = self.slots().find(|(_, segment)| under_way(segment.state)) {
            return Some(slot);
        }
        let sealed = self.slots().filter(|(_, segment)| {
            segment.state == State::Sealed && segment.sealed_in <= self.done
        });
        if oldest {
            return sealed
                .min_by_key(|(_, segment)| segment.number)
                .map(|(slot, _)| slot);
        }
        let room = u64::from(self.geometry.room());
        let worth = |segment: &Segment| {
            let live = u64::from(segment.live).min(room);
            (room - live) * (self.next - segment.number) * 1000 / (room + live)
        };
        let gains = sealed.filter(|(_, segment)| u64::from(segment.live) * 20 <= room * 19);
        gains
            .max_by_key(|(_, segment)| worth(segment))
            .map(|(slot, _)| slot)
    }
}
