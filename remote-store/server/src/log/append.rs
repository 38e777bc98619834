// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Records into the tail, and what they mean.
//!
//! A record is in memory until a commit, and the index knows it at once: `commit.rs` writes it.

use tmem_remote_protocol::PAGE_SIZE;

use super::error::LogError;
use super::index::{Entry, Form};
use super::layout::{PUT_UNITS, UNIT, bytes};
use super::record::{ABOUT_MAX, Head, Kind, Place, crc32, same_filled};
use super::segments::RESERVED;
use super::{Appended, PageLog, Record};

/// Bytes that wait to be written, from which on puts wait.
const PENDING_MAX: usize = 8 << 20;

/// A record to write.
#[derive(Clone, Copy, Debug)]
pub(super) struct New<'a> {
    pub(super) kind: Kind,
    pub(super) fill: u8,
    pub(super) place: Place,
    pub(super) generation: u64,
    pub(super) crc: u32,
    pub(super) payload: &'a [u8],
    /// Where older records of the name may lie; that of this record's own segment if nothing is said.
    pub(super) shadow: Option<u64>,
}

impl PageLog {
    /// Adds a record to the log. It is part of it once it is committed.
    ///
    /// # Errors
    /// [`LogError`] if the log has failed, or too much is said about a namespace.
    pub fn append(&mut self, record: Record<'_>) -> Result<Appended, LogError> {
        self.check()?;
        let nowhere = |namespace, pool| Place {
            namespace,
            pool,
            index: 0,
        };
        let new = |kind, place, generation| New {
            kind,
            fill: 0,
            place,
            generation,
            crc: 0,
            payload: &[],
            shadow: None,
        };
        let new = match record {
            Record::Put {
                place,
                generation,
                crc,
                page,
            } => {
                let reserved = u64::from(PUT_UNITS).min(self.reserved_units);
                self.reserved_units -= reserved;
                if self.is_stale(place, generation) {
                    return Ok(Appended::Stale);
                }
                if reserved == 0 {
                    match self.room_for(1) {
                        Room::Yes => {}
                        Room::Full => return Ok(Appended::Full),
                        Room::Wait => return Ok(Appended::Wait),
                    }
                }
                match same_filled(page) {
                    Some(fill) => New {
                        fill,
                        crc,
                        ..new(Kind::Filled, place, generation)
                    },
                    None => New {
                        crc,
                        payload: page,
                        ..new(Kind::Put, place, generation)
                    },
                }
            }
            Record::Flush { place, generation } => match self.index.entry(place) {
                // Nothing that a start could find: nothing to say about it.
                None => return Ok(Appended::Written(self.next_record - 1)),
                Some(entry) if entry.generation > generation => return Ok(Appended::Stale),
                Some(entry) if entry.form == Form::Gone => {
                    return Ok(Appended::Written(self.next_record - 1));
                }
                Some(_) => new(Kind::Flush, place, generation),
            },
            Record::FlushPool {
                namespace,
                pool,
                generation,
            } => {
                let place = nowhere(namespace, pool);
                let floor = self.index.pool(place).and_then(|pool| pool.floor);
                if floor.is_some_and(|(floor, _)| floor > generation) {
                    return Ok(Appended::Stale);
                }
                new(Kind::FlushPool, place, generation)
            }
            Record::Namespace { namespace, about } => {
                if about.len() > ABOUT_MAX {
                    let length = about.len();
                    return Err(LogError::About { length });
                }
                New {
                    crc: crc32(about),
                    payload: about,
                    ..new(Kind::Namespace, nowhere(namespace, 0), 0)
                }
            }
            Record::Forget { namespace } => new(Kind::Forget, nowhere(namespace, 0), 0),
        };
        // What is not a page may be longer than the tail has room for, and leaves the last slots to cleaning.
        let units = 1 + new.payload.len().div_ceil(UNIT);
        let scarce = self.segments.free() < RESERVED - 1 && self.segments.released() == 0;
        if scarce && new.kind != Kind::Put && (self.tail_room() as usize) < units {
            return Ok(Appended::Wait);
        }
        Ok(match self.write(&new) {
            Some(()) => Appended::Written(self.next_record - 1),
            None => Appended::Wait,
        })
    }

    fn is_stale(&self, place: Place, generation: u64) -> bool {
        let entry = self.index.entry(place);
        let pool = self.index.pool(place);
        let gone = self.index.namespaces.get(&place.namespace);
        entry.is_some_and(|entry| entry.generation > generation)
            || pool
                .and_then(|pool| pool.floor)
                .is_some_and(|(floor, _)| floor >= generation)
            || gone.is_some_and(|namespace| namespace.forgotten.is_some())
    }

    /// Sets room for so many puts aside: the next ones that are appended use it up.
    pub fn reserve(&mut self, puts: u32) -> Appended {
        match self.room_for(puts) {
            Room::Yes => {
                self.reserved_units += u64::from(PUT_UNITS) * u64::from(puts);
                Appended::Written(self.next_record - 1)
            }
            Room::Full => Appended::Full,
            Room::Wait => Appended::Wait,
        }
    }

    /// Gives room for so many puts back, which will not be appended.
    pub fn release(&mut self, puts: u32) {
        let units = u64::from(PUT_UNITS) * u64::from(puts);
        self.reserved_units = self.reserved_units.saturating_sub(units);
    }

    fn room_for(&self, puts: u32) -> Room {
        let wanted = self.reserved_units + u64::from(PUT_UNITS) * u64::from(puts);
        if self.live_units + wanted > self.segments.limit() {
            return Room::Full;
        }
        let slots = self.segments.free().saturating_sub(RESERVED);
        let pages = |units: u32| u64::from(units / PUT_UNITS);
        let pages = pages(self.tail_room()) + u64::from(slots) * pages(self.geometry.room());
        let here = u64::from(PUT_UNITS) * pages;
        if wanted <= here && self.pending_bytes < PENDING_MAX {
            Room::Yes
        } else {
            Room::Wait
        }
    }

    fn tail_room(&self) -> u32 {
        let begin = self.geometry.slot_at(self.segments.tail);
        begin + self.geometry.segment_units - self.tail_end
    }

    /// Appends a record and has the index know it. Nothing if there is no free slot for it.
    pub(super) fn write(&mut self, new: &New<'_>) -> Option<()> {
        let length = u16::try_from(new.payload.len()).ok()?;
        let units = 1 + u32::from(length).div_ceil(64);
        if self.tail_room() < units {
            self.begin_segment()?;
        }
        let segment = self.segments.at(self.segments.tail).number;
        let distance = new.shadow.map_or(0, |shadow| segment - shadow);
        let head = Head {
            kind: new.kind,
            fill: new.fill,
            length,
            sequence: self.next_record,
            segment,
            generation: new.generation,
            place: new.place,
            crc: new.crc,
            unsafe_records: clamped(self.next_record - self.committed),
            shadow_distance: clamped(distance),
        };
        let before = self.buffer.len();
        head.write(&mut self.buffer);
        self.buffer.extend_from_slice(new.payload);
        self.buffer.resize(before + units as usize * UNIT, 0);
        self.pending_bytes += units as usize * UNIT;
        let at = self.tail_end;
        self.tail_end += units;
        self.next_record += 1;
        let tail = self.segments.tail;
        self.segments.at_mut(tail).end = self.tail_end - self.geometry.slot_at(tail);
        self.stats.appended_bytes += bytes(units);
        self.apply(&head, at);
        Some(())
    }

    /// What a record at this unit means: live path and recovery are the same.
    pub(super) fn apply(&mut self, head: &Head, at: u32) {
        let place = head.place;
        if head.kind == Kind::Release {
            return;
        }
        let namespace = self.index.namespaces.entry(place.namespace).or_default();
        if namespace.forgotten.is_some() && head.kind != Kind::Forget {
            return;
        }
        match head.kind {
            Kind::Put | Kind::Filled | Kind::Flush => {
                if self.is_stale(place, head.generation) && head.kind != Kind::Flush {
                    return;
                }
                let form = match head.kind {
                    Kind::Put => Form::Whole,
                    Kind::Filled => Form::Filled,
                    _ => Form::Gone,
                };
                let generation = head.generation;
                let entry = Entry {
                    at,
                    generation,
                    form,
                };
                let old = self.index.set(place, Some(entry));
                self.lives(at, form.units());
                self.dies_entry(old);
            }
            Kind::FlushPool => {
                let pool = self.index.pool_mut(place.namespace, place.pool);
                let old = pool.floor.replace((head.generation, at));
                self.lives(at, 1);
                if let Some((_, old)) = old {
                    self.dies(old, 1);
                }
                for (place, entry) in self.index.entries(place.namespace, place.pool) {
                    if entry.generation <= head.generation && entry.form != Form::Gone {
                        let old = self.index.set(place, None);
                        self.dies_entry(old);
                    }
                }
            }
            Kind::Namespace => {
                let old = namespace.about.replace((at, head.length));
                self.lives(at, head.units());
                self.dies_about(old);
            }
            Kind::Release => {}
            Kind::Forget => {
                let (old, about) = (namespace.forgotten.replace(at), namespace.about.take());
                let pools: Vec<u32> = namespace.pools.keys().copied().collect();
                for pool in pools {
                    self.forget_pool(place.namespace, pool);
                }
                self.lives(at, 1);
                self.dies_about(about);
                if let Some(old) = old {
                    self.dies(old, 1);
                }
            }
        }
    }

    fn forget_pool(&mut self, namespace: u32, pool: u32) {
        for (place, _) in self.index.entries(namespace, pool) {
            let old = self.index.set(place, None);
            self.dies_entry(old);
        }
        if let Some((_, at)) = self.index.pool_mut(namespace, pool).floor.take() {
            self.dies(at, 1);
        }
    }

    fn lives(&mut self, at: u32, units: u32) {
        self.segments.of_mut(at).live += units;
        self.live_units += u64::from(units);
    }

    pub(super) fn dies(&mut self, at: u32, units: u32) {
        self.segments.of_mut(at).live -= units;
        self.live_units -= u64::from(units);
    }

    pub(super) fn dies_entry(&mut self, entry: Option<Entry>) {
        if let Some(entry) = entry {
            self.dies(entry.at, entry.form.units());
        }
    }

    fn dies_about(&mut self, about: Option<(u32, u16)>) {
        if let Some((at, length)) = about {
            self.dies(at, 1 + u32::from(length).div_ceil(64));
        }
    }
}

enum Room {
    Yes,
    Full,
    Wait,
}

fn clamped(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

const _: () = assert!(PUT_UNITS as usize * UNIT == UNIT + PAGE_SIZE);
