// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Cleaning: what is live in a segment is appended again, and the segment is free.
//!
//! A step reads a piece of the segment, with the log unlocked if a caller likes: [`PageLog::clean_read`]
//! says which, and [`PageLog::clean`] takes the bytes. Whatever was put or flushed meanwhile has made its
//! old record dead, so it is not copied.

use super::PageLog;
use super::append::New;
use super::index::Form;
use super::layout::{HEADER_UNITS, UNIT, bytes};
use super::record::{Head, Kind};
use super::segments::State;

/// Bytes that a step reads: sixty pages. Copying them takes the log's lock for some tens of microseconds.
const STEP_BYTES: u32 = 256 << 10;

/// A piece of a segment to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CleanRead {
    slot: u32,
    /// The unit at which it begins.
    from: u32,
    /// Where it begins, in bytes.
    pub at: u64,
    /// Bytes.
    pub length: usize,
}

impl PageLog {
    /// What to read for the next step of cleaning, if there is need for one.
    pub fn clean_read(&mut self) -> Option<CleanRead> {
        let on_their_way = |state| matches!(state, State::Excluded(_) | State::Cleaned(_));
        let coming = self.segments.count(on_their_way) + self.segments.released();
        let free = self.segments.free();
        if self.failed || free + coming >= self.segments.low() {
            return None;
        }
        // Records of things that are gone are to take up a sixteenth at most.
        let oldest = self.index.gone * 16 > self.segments.limit();
        let slot = self.segments.victim(oldest)?;
        Some(self.read_of(slot))
    }

    /// What to read of a segment that is being cleaned, or is to be.
    fn read_of(&mut self, slot: u32) -> CleanRead {
        let segment = *self.segments.at(slot);
        let from = match segment.state {
            State::Cleaning(from) => from,
            _ => HEADER_UNITS,
        };
        self.segments.at_mut(slot).state = State::Cleaning(from);
        let units = (segment.end - from).min(STEP_BYTES / 64);
        CleanRead {
            slot,
            from,
            at: bytes(self.geometry.slot_at(slot) + from),
            length: units as usize * UNIT,
        }
    }

    /// What was to be read cannot be: the segment stays as it is, and takes up its room.
    pub fn clean_failed(&mut self, read: CleanRead) {
        self.segments.at_mut(read.slot).state = State::Stuck;
    }

    /// Copies what is live in a piece that was read: true if that was of any use.
    pub fn clean(&mut self, read: CleanRead, piece: &[u8]) -> bool {
        let (slot, mut from) = (read.slot, read.from);
        let segment = *self.segments.at(slot);
        if segment.state != State::Cleaning(from) {
            return false;
        }
        let begin = self.geometry.slot_at(slot);
        while from < segment.end {
            let rest = piece
                .get((from - read.from) as usize * UNIT..)
                .unwrap_or_default();
            let head = Head::parse(rest).filter(|head| head.segment == segment.number);
            let whole = head.filter(|head| rest.len() >= head.units() as usize * UNIT);
            let Some(head) = whole else {
                // The end of the piece, and more of the segment behind it.
                if from > read.from && (rest.is_empty() || head.is_some()) {
                    break;
                }
                if self.salvaging {
                    from += 1;
                    continue;
                }
                self.clean_failed(read);
                return true;
            };
            match self.copy(slot, begin + from, &head, rest) {
                Copied::Yes => from += head.units(),
                Copied::Damaged if self.salvaging => from += 1,
                Copied::Damaged => {
                    self.clean_failed(read);
                    return true;
                }
                Copied::NoRoom => {
                    self.segments.at_mut(slot).state = State::Cleaning(from);
                    return from > read.from;
                }
            }
        }
        let live = self.segments.at(slot).live;
        self.segments.at_mut(slot).state = if from < segment.end {
            State::Cleaning(from)
        } else if live > 0 {
            // The medium has given other bytes than those that were written.
            State::Stuck
        } else {
            self.stats.cleaned += 1;
            State::Cleaned(self.next_job)
        };
        true
    }

    /// Appends a record again, if it is live and still needed.
    fn copy(&mut self, slot: u32, at: u32, head: &Head, bytes_there: &[u8]) -> Copied {
        let place = head.place;
        let namespace = self.index.namespaces.get(&place.namespace);
        let live = match head.kind {
            Kind::Put | Kind::Filled | Kind::Flush => {
                self.index.entry(place).is_some_and(|entry| entry.at == at)
            }
            Kind::FlushPool => {
                let floor = self.index.pool(place).and_then(|pool| pool.floor);
                floor.is_some_and(|(_, floor)| floor == at)
            }
            Kind::Namespace => {
                let about = namespace.and_then(|namespace| namespace.about);
                about.is_some_and(|(about, _)| about == at)
            }
            Kind::Release => false,
            Kind::Forget => namespace.and_then(|namespace| namespace.forgotten) == Some(at),
        };
        if !live {
            return Copied::Yes;
        }
        let says_gone = matches!(head.kind, Kind::Flush | Kind::FlushPool | Kind::Forget);
        if says_gone && self.segments.none_up_to(head.shadow(), slot) {
            self.drop_record(head);
            return Copied::Yes;
        }
        let Some(payload) = head.payload(bytes_there) else {
            return Copied::Damaged;
        };
        let copy = New {
            kind: head.kind,
            fill: head.fill,
            place,
            generation: head.generation,
            crc: head.crc,
            payload,
            shadow: says_gone.then(|| head.shadow()),
        };
        match self.write(&copy) {
            Some(()) => {
                self.stats.copied_bytes += bytes(head.units());
                Copied::Yes
            }
            None => Copied::NoRoom,
        }
    }

    /// Forgets that something is gone: nothing older of it is left.
    fn drop_record(&mut self, head: &Head) {
        let place = head.place;
        match head.kind {
            Kind::Flush => {
                let old = self.index.set(place, None);
                debug_assert!(old.is_some_and(|entry| entry.form == Form::Gone));
                self.dies_entry(old);
            }
            Kind::FlushPool => {
                let pool = self.index.pool_mut(place.namespace, place.pool);
                if let Some((_, at)) = pool.floor.take() {
                    self.dies(at, 1);
                }
            }
            _ => {
                let old = self.index.namespaces.remove(&place.namespace);
                if let Some(at) = old.and_then(|namespace| namespace.forgotten) {
                    self.dies(at, 1);
                }
            }
        }
    }

    /// One step, with its read: true if there was one, and it was of any use.
    pub(super) fn clean_step(&mut self) -> bool {
        let read = self.clean_read();
        read.is_some_and(|read| self.read_and_clean(read))
    }

    /// One step on this segment: true if it was of any use.
    pub(super) fn clean_slot(&mut self, slot: u32) -> bool {
        let read = self.read_of(slot);
        self.read_and_clean(read)
    }

    fn read_and_clean(&mut self, read: CleanRead) -> bool {
        let mut piece = vec![0; read.length];
        if self.medium.read(read.at, &mut piece).is_err() {
            self.clean_failed(read);
            return true;
        }
        self.clean(read, &piece)
    }
}

enum Copied {
    Yes,
    Damaged,
    NoRoom,
}
