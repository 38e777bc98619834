// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The tail onto the medium.
//!
//! A commit has three parts, so that nobody waits for the disk with the log locked:
//! [`PageLog::begin`] takes what there is to write as a [`Job`], [`Job::run`] writes it, and
//! [`PageLog::finish`] notes that it is safe.

use std::io;
use std::sync::Arc;

use super::append::New;
use super::error::LogError;
use super::layout::{HEADER_UNITS, Header, UNIT, bytes};
use super::medium::Medium;
use super::record::{Kind, Place};
use super::segments::State;
use super::{LogStats, LogSync, PageLog};

/// Bytes that are set aside for the next batch at most.
const BUFFER_BYTES: usize = 1 << 20;

/// A step of a job.
#[derive(Debug)]
pub(super) enum Step {
    Write(u64, Vec<u8>),
    Sync,
}

/// A batch to write.
#[derive(Debug)]
#[must_use = "a job that does not run loses records"]
pub struct Job {
    number: u64,
    steps: Vec<Step>,
    medium: Arc<dyn Medium>,
    /// The last record in it.
    up_to: u64,
}

impl Job {
    /// Writes it.
    ///
    /// # Errors
    /// The medium's. The log has failed then; [`PageLog::finish`] has to hear of it.
    pub fn run(&self) -> io::Result<()> {
        for step in &self.steps {
            match step {
                Step::Write(at, bytes) => self.medium.write(*at, bytes)?,
                Step::Sync => self.medium.sync()?,
            }
        }
        Ok(())
    }
}

impl PageLog {
    /// Ends the segment of the tail and begins another, if a slot is free. What the old one still has to
    /// be written is safe before the new header says how long it is.
    pub(super) fn begin_segment(&mut self) -> Option<()> {
        let old = self.segments.tail;
        if !self.segments.may_begin() {
            return None;
        }
        if self.segments.at(old).state == State::Tail {
            let sealed_in = self.next_job;
            let segment = self.segments.at_mut(old);
            (segment.state, segment.sealed_in) = (State::Sealed, sealed_in);
            self.take_buffer();
            if self.sync == LogSync::Host {
                self.steps.push(Step::Sync);
            }
        }
        let slot = self.segments.begin(self.next_job)?;
        let header = Header {
            geometry: self.geometry,
            slot,
            segment: self.segments.at(slot).number,
            first_record: self.next_record,
            log_id: self.log_id,
            store_id: self.store_id,
            incarnation: self.incarnation,
            boot: (self.sync == LogSync::Process).then_some(self.boot),
            listed: self.segments.listed(),
        };
        let at = self.geometry.slot_at(slot);
        self.steps.push(Step::Write(bytes(at), header.to_bytes()));
        self.tail_end = at + HEADER_UNITS;
        self.buffer_at = self.tail_end;
        Some(())
    }

    fn take_buffer(&mut self) {
        if !self.buffer.is_empty() {
            // The next batch is likely to be as long as this one.
            let next = Vec::with_capacity(self.buffer.len().min(BUFFER_BYTES));
            let bytes_there = std::mem::replace(&mut self.buffer, next);
            self.steps
                .push(Step::Write(bytes(self.buffer_at), bytes_there));
        }
        self.buffer_at = self.tail_end;
    }

    /// Writes that segments do not count any more. Their slots are free once that is safe.
    fn exclude_released(&mut self) {
        for slot in 0..self.geometry.slots {
            if self.segments.at(slot).state != State::Released {
                continue;
            }
            let place = Place {
                namespace: 0,
                pool: 0,
                index: slot,
            };
            let new = New {
                kind: Kind::Release,
                fill: 0,
                place,
                generation: self.segments.at(slot).number,
                crc: 0,
                payload: &[],
                shadow: None,
            };
            // Where there is no room for that, a new header says the same of all of them.
            if self.write(&new).is_some() {
                self.segments.at_mut(slot).state = State::Excluded(self.next_job);
            }
        }
    }

    /// There are slots that another job would make free, and they are needed.
    pub(super) fn wants_release(&self) -> bool {
        self.segments.released() > 0 && self.segments.free() < self.segments.low()
    }

    /// What there is to write, if there is anything. One job at a time.
    pub fn begin(&mut self) -> Option<Job> {
        if self.running || self.failed {
            return None;
        }
        if self.buffer.is_empty() && self.steps.is_empty() {
            // Cleaning may have found nothing to copy: a job without steps is done.
            self.segments.note_done(self.next_job);
            self.next_job += 1;
        }
        self.exclude_released();
        self.take_buffer();
        if self.steps.is_empty() {
            return None;
        }
        if self.sync == LogSync::Host {
            self.steps.push(Step::Sync);
        }
        let number = self.next_job;
        self.next_job += 1;
        self.running = true;
        self.pending_bytes = 0;
        Some(Job {
            number,
            steps: std::mem::take(&mut self.steps),
            medium: Arc::clone(&self.medium),
            up_to: self.next_record - 1,
        })
    }

    /// Notes how a job went, and says up to which record all is safe.
    ///
    /// # Errors
    /// [`LogError::Write`] if it did not: the log takes nothing any more, since nobody knows what is on
    /// the medium.
    pub fn finish(&mut self, job: &Job, result: io::Result<()>) -> Result<u64, LogError> {
        self.running = false;
        match result {
            Ok(()) => {
                self.segments.note_done(job.number);
                self.committed = job.up_to;
                self.stats.commits += 1;
                Ok(self.committed)
            }
            Err(source) => {
                self.failed = true;
                let name = self.medium.name();
                Err(LogError::Write { name, source })
            }
        }
    }

    /// Writes all that was appended, cleans as far as there is need, and says up to which record all is
    /// safe. For callers that may wait for the medium.
    ///
    /// # Errors
    /// [`LogError`] if the log has failed, or fails now.
    pub fn commit(&mut self) -> Result<u64, LogError> {
        self.check()?;
        self.flush()?;
        // A segment takes a few steps; more than all of them in one go help nobody.
        for _ in 0..self.geometry.slots * 4 {
            if !self.clean_step() && !self.wants_release() {
                break;
            }
            self.flush()?;
        }
        Ok(self.committed)
    }

    fn flush(&mut self) -> Result<(), LogError> {
        if let Some(job) = self.begin() {
            let result = job.run();
            self.finish(&job, result)?;
        }
        Ok(())
    }

    pub(super) fn check(&self) -> Result<(), LogError> {
        if self.failed {
            let name = self.medium.name();
            return Err(LogError::Failed { name });
        }
        Ok(())
    }

    /// All records up to this one are safe.
    #[must_use]
    pub const fn committed(&self) -> u64 {
        self.committed
    }

    /// Nothing was appended that is not committed.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.buffer.is_empty() && self.steps.is_empty() && !self.running
    }

    /// How full it is, and what it has done.
    #[must_use]
    pub fn stats(&self) -> LogStats {
        LogStats {
            pages: self.index.pages,
            live_bytes: self.live_units * UNIT as u64,
            limit_bytes: self.segments.limit() * UNIT as u64,
            segments: (self.geometry.slots, self.segments.free()),
            stuck: u64::from(self.segments.count(|state| state == State::Stuck)),
            ..self.stats
        }
    }
}
