// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a log says when it is opened: all segments that count are read, oldest first.
//!
//! The newest valid header decides which these are. A segment that it lists was complete before that
//! header was written, so anything in it that cannot be read is damage. Only the tail may end anywhere:
//! its records count up to the first that is not whole. If a record behind that one says that it was
//! committed, then it is damage there, too.
//!
//! After that the tail is never written again: what a crash has left behind its end could otherwise be
//! taken for records of the next life. A new segment is begun, which says where the old one ends.

use std::path::Path;
use std::sync::Arc;

use tmem_remote_protocol::{PAGE_SIZE, PageBytes, crc32};

use super::error::LogError;
use super::headers::{Found, headers, read, whole};
use super::index::{Form, Index};
use super::layout::{Geometry, HEADER_UNITS, UNIT, bytes};
use super::medium::{FileMedium, Medium};
use super::record::{Head, Place};
use super::segments::{Segment, Segments, State};
use super::{LogOptions, LogStats, LogSync, PageLog};

/// Why a log has the pages that it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begun {
    /// The file was new.
    New,
    /// All that was committed is there.
    Recovered,
    /// It was written for the process alone, before the host was started: it begins empty.
    AfterBoot,
    /// It was damaged, and has what could be read.
    Salvaged,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// How it began.
    pub begun: Begun,
    /// The store's identity: the log's if it was recovered or salvaged, else the one that was given.
    pub store_id: [u8; 16],
    /// The store's incarnation: the log's only if it was recovered.
    pub incarnation: u64,
    /// Pages that are there.
    pub pages: u64,
    /// Namespaces, and what the server said about each.
    pub namespaces: Vec<(u32, Vec<u8>)>,
    /// The lowest number that no namespace has, and none that is gone had.
    pub next_namespace: u32,
    /// Bytes behind the last whole record of the tail: of requests that were not answered.
    pub dropped_bytes: u64,
    /// What could not be read, of a log that was salvaged.
    pub damage: Vec<String>,
}

/// A log that was opened, and what was found in it.
#[derive(Debug)]
pub struct Opened {
    /// The log.
    pub log: PageLog,
    /// What was found.
    pub report: Report,
}

impl PageLog {
    /// Opens the log in the file at `path`, or makes one.
    ///
    /// # Errors
    /// [`LogError`] if it cannot be made, read or used, with what to do about it.
    pub fn open(path: &Path, options: &LogOptions) -> Result<Opened, LogError> {
        let size = options.size;
        let geometry = Geometry::of(size).ok_or(LogError::BadSize { size })?;
        let medium = FileMedium::open(path, size)?;
        Self::open_on(Arc::new(medium), geometry, options)
    }

    pub(super) fn open_on(
        medium: Arc<dyn Medium>,
        geometry: Geometry,
        options: &LogOptions,
    ) -> Result<Opened, LogError> {
        let mut damage = Vec::new();
        let (found, next) = headers(&*medium, geometry, options.salvage, &mut damage)?;
        let mut log = Self::empty(medium, geometry, options, next);
        let mut begun = Begun::New;
        let mut dropped_bytes = 0;
        if let Some(found) = found {
            let old_boot = found.newest.boot.is_some_and(|boot| boot != options.boot);
            // A new life has a new identity among those in this file, whatever becomes of it.
            log.log_id = if old_boot {
                fresh_id(options, next)
            } else {
                found.newest.log_id
            };
            log.store_id = found.newest.store_id;
            if old_boot {
                begun = Begun::AfterBoot;
            } else {
                dropped_bytes = log.recover(&found, options.salvage, &mut damage)?;
                begun = if damage.is_empty() {
                    log.incarnation = found.newest.incarnation;
                    Begun::Recovered
                } else {
                    Begun::Salvaged
                };
            }
        }
        if log.sync == LogSync::Host {
            // What the process before wrote and did not sync is what this one goes on from.
            let synced = log.medium.sync();
            synced.map_err(|source| log.write_error(source))?;
        }
        log.begin_segment().ok_or_else(|| LogError::Damaged {
            name: log.medium.name(),
            at: 0,
            what: "no segment is free",
        })?;
        log.commit()?;
        log.leave_damaged_segments()?;
        let namespaces = log.namespaces()?;
        let last = log.index.namespaces.last_key_value();
        let report = Report {
            begun,
            store_id: log.store_id,
            incarnation: log.incarnation,
            pages: log.index.pages,
            namespaces,
            next_namespace: last.map_or(0, |(number, _)| number.saturating_add(1)),
            dropped_bytes,
            damage,
        };
        Ok(Opened { log, report })
    }

    fn empty(medium: Arc<dyn Medium>, geometry: Geometry, options: &LogOptions, next: u64) -> Self {
        Self {
            medium,
            sync: options.sync,
            geometry,
            log_id: fresh_id(options, next),
            store_id: options.store_id,
            incarnation: options.incarnation,
            boot: options.boot,
            index: Index::default(),
            segments: Segments::new(geometry, next),
            tail_end: 0,
            buffer: Vec::new(),
            buffer_at: 0,
            steps: Vec::new(),
            pending_bytes: 0,
            next_record: 1,
            committed: 0,
            next_job: 1,
            running: false,
            failed: false,
            salvaging: false,
            live_units: 0,
            reserved_units: 0,
            stats: LogStats::default(),
        }
    }

    /// Copies what could be read of damaged segments, so that the log is whole again.
    fn leave_damaged_segments(&mut self) -> Result<(), LogError> {
        self.salvaging = true;
        for slot in 0..self.geometry.slots {
            if self.segments.at(slot).state == State::Stuck {
                self.segments.at_mut(slot).state = State::Cleaning(HEADER_UNITS);
                while matches!(self.segments.at(slot).state, State::Cleaning(_)) {
                    if !self.clean_slot(slot) {
                        break;
                    }
                    self.commit()?;
                }
            }
        }
        self.salvaging = false;
        self.commit()?;
        Ok(())
    }

    fn write_error(&self, source: std::io::Error) -> LogError {
        let name = self.medium.name();
        LogError::Write { name, source }
    }

    /// Reads all segments that count, and returns how many bytes of the tail do not.
    fn recover(
        &mut self,
        found: &Found,
        salvage: bool,
        damage: &mut Vec<String>,
    ) -> Result<u64, LogError> {
        let mut dropped = 0;
        for (slot, number, end) in &found.segments {
            *self.segments.at_mut(*slot) = Segment {
                number: *number,
                end: HEADER_UNITS,
                live: 0,
                state: State::Sealed,
                sealed_in: 0,
            };
            dropped = self.recover_segment(*slot, *number, *end, salvage, damage)?;
        }
        self.next_record = self.next_record.max(found.newest.first_record);
        self.committed = self.next_record - 1;
        Ok(dropped)
    }

    fn recover_segment(
        &mut self,
        slot: u32,
        number: u64,
        end: Option<u32>,
        salvage: bool,
        damage: &mut Vec<String>,
    ) -> Result<u64, LogError> {
        let begin = self.geometry.slot_at(slot);
        let units = end.unwrap_or(self.geometry.segment_units);
        let there = self.read_units(begin, units)?;
        let rest = |at: u32| there.get(at as usize * UNIT..).unwrap_or_default();
        let (mut at, mut expected) = (HEADER_UNITS, None);
        let known = damage.len();
        while at < units {
            match whole(rest(at), number, expected) {
                Some(head) => {
                    self.apply(&head, begin + at);
                    self.next_record = head.sequence + 1;
                    expected = Some(head.sequence + 1);
                    at += head.units();
                }
                None => {
                    let what = match end {
                        Some(_) => Some("a record of a full segment cannot be read"),
                        None => committed_behind(&there, at, number, self.next_record),
                    };
                    let Some(what) = what else { break };
                    let error = LogError::Damaged {
                        name: self.medium.name(),
                        at: bytes(begin + at),
                        what,
                    };
                    if !salvage {
                        return Err(error);
                    }
                    damage.push(error.to_string());
                    // On with the next record that can be read, whatever its number.
                    let next = (at + 1..units).find(|at| whole(rest(*at), number, None).is_some());
                    let Some(next) = next else { break };
                    (at, expected) = (next, None);
                }
            }
        }
        let segment = self.segments.at_mut(slot);
        segment.end = end.unwrap_or(at);
        if damage.len() > known {
            // What cannot be parsed cannot be cleaned.
            segment.state = State::Stuck;
        }
        let tail = there.get(at as usize * UNIT..).unwrap_or_default();
        let last = tail.iter().rposition(|byte| *byte != 0);
        Ok(last.map_or(0, |last| last as u64 + 1))
    }

    fn read_units(&self, at: u32, units: u32) -> Result<Vec<u8>, LogError> {
        let mut there = vec![0; units as usize * UNIT];
        self.read_at(bytes(at), &mut there)?;
        Ok(there)
    }

    fn read_at(&self, at: u64, into: &mut [u8]) -> Result<(), LogError> {
        read(&*self.medium, at, into)
    }

    fn namespaces(&self) -> Result<Vec<(u32, Vec<u8>)>, LogError> {
        let mut all = Vec::new();
        for (number, namespace) in &self.index.namespaces {
            let Some((at, length)) = namespace.about else {
                continue;
            };
            let there = self.read_units(at, 1 + u32::from(length).div_ceil(64))?;
            let about = Head::parse(&there).and_then(|head| head.payload(&there));
            let about = about.ok_or_else(|| self.damaged(at))?;
            all.push((*number, about.to_vec()));
        }
        Ok(all)
    }

    fn damaged(&self, at: u32) -> LogError {
        LogError::Damaged {
            name: self.medium.name(),
            at: bytes(at),
            what: "a record that was read before cannot be read any more",
        }
    }

    /// Calls `found` for each page, with its generation and its checksum, in the order in which they lie
    /// in the file. Only what is committed is read: call it before anything is appended.
    ///
    /// # Errors
    /// [`LogError`] if the medium fails, or a page that was there when the log was opened is not.
    pub fn each_page(
        &self,
        found: &mut dyn FnMut(Place, u64, u32, &PageBytes),
    ) -> Result<(), LogError> {
        let mut places = Vec::new();
        for (namespace, about) in &self.index.namespaces {
            for pool in about.pools.keys() {
                let entries = self.index.entries(*namespace, *pool);
                places.extend(
                    entries
                        .into_iter()
                        .filter(|(_, entry)| entry.form != Form::Gone),
                );
            }
        }
        places.sort_unstable_by_key(|(_, entry)| entry.at);
        let mut page = [0; PAGE_SIZE];
        let mut record = [0; UNIT + PAGE_SIZE];
        for (place, entry) in places {
            let there = &mut record[..entry.form.units() as usize * UNIT];
            self.read_at(bytes(entry.at), there)?;
            let head = Head::parse(there).filter(|head| head.place == place);
            let head = head.ok_or_else(|| self.damaged(entry.at))?;
            match (entry.form, head.payload(there)) {
                (Form::Whole, Some(payload)) => page.copy_from_slice(payload),
                (Form::Filled, Some(_)) => page.fill(head.fill),
                _ => return Err(self.damaged(entry.at)),
            }
            if crc32(&page) != head.crc {
                return Err(self.damaged(entry.at));
            }
            found(place, head.generation, head.crc, &page);
        }
        Ok(())
    }
}

/// A name for a new life of the file: it need not be secret, only another than those before.
fn fresh_id(options: &LogOptions, next: u64) -> [u8; 16] {
    let id = u128::from_le_bytes(options.store_id) ^ (u128::from(options.incarnation) << 64);
    (id ^ u128::from(next)).to_le_bytes()
}

/// Whether a record behind the tail's end says that one which cannot be read was committed.
fn committed_behind(there: &[u8], at: u32, segment: u64, lost: u64) -> Option<&'static str> {
    let behind = there.get((at as usize + 1) * UNIT..)?.chunks(UNIT);
    let mut heads = behind
        .filter_map(Head::parse)
        .filter(|head| head.segment == segment);
    heads
        .any(|head| head.sequence > lost && head.committed() >= lost)
        .then_some("a record of the last segment cannot be read, though it was committed")
}
