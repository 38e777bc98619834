// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Records what workers do, without making them wait.
//!
//! Each worker adds its events to a lane, a buffer with a lock that only [`Recorder::pump`] contends
//! for, and only to swap the buffer for an empty one. A lane that is full, and a lane whose lock is
//! taken, lose the event and count it. Someone who has time calls `pump`, which sorts what the lanes
//! had by time and writes it. While nothing is recorded, an event costs the reading of a flag.

use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use super::{Event, Header, TraceError, TraceWriter};

/// How much a recording may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Events that a lane holds between two calls of [`Recorder::pump`], 40 bytes each. As many
    /// again are kept for each lane while they are written.
    pub lane_events: usize,
    /// Bytes of the file. Beyond that events are lost, and counted.
    pub file_bytes: u64,
}

impl Default for Limits {
    /// 16,384 events a lane: 1.6 million a second and worker at 100 pumps a second; and 1 GiB.
    fn default() -> Self {
        Self {
            lane_events: 1 << 14,
            file_bytes: 1 << 30,
        }
    }
}

/// What a recording has come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Events written.
    pub events: u64,
    /// Events lost.
    pub lost: u64,
    /// Bytes of the file, without its end.
    pub bytes: u64,
}

/// One worker's events since the last pump.
#[derive(Debug, Default)]
struct Lane {
    /// None while nothing is recorded.
    events: Option<Vec<Event>>,
    /// Events that found the lane full.
    lost: u64,
}

/// Where a recording goes.
struct Recording {
    writer: TraceWriter<Box<dyn Write + Send>>,
    limits: Limits,
    /// What the lanes are swapped for: the next lane gets the memory of the one before.
    spare: Vec<Event>,
    /// The lanes' events of one pump.
    batch: Vec<Event>,
}

impl std::fmt::Debug for Recording {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recording")
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

impl Recording {
    fn summary(&self) -> Summary {
        Summary {
            events: self.writer.events(),
            lost: self.writer.events_lost(),
            bytes: self.writer.bytes(),
        }
    }

    /// Writes what the lanes have.
    fn drain(&mut self, lanes: &[Mutex<Lane>], missed: &AtomicU64) -> Result<(), TraceError> {
        let mut lost = missed.swap(0, Ordering::Relaxed);
        for lane in lanes {
            let mut lane = lane.lock();
            lost += std::mem::take(&mut lane.lost);
            if let Some(events) = &mut lane.events {
                std::mem::swap(events, &mut self.spare);
            }
            drop(lane);
            // Leaves the spare empty, with its memory.
            self.batch.append(&mut self.spare);
        }
        self.batch.sort_by_key(|event| event.at);
        for event in self.batch.drain(..) {
            if self.writer.bytes() < self.limits.file_bytes {
                self.writer.event(&event)?;
            } else {
                lost += 1;
            }
        }
        self.writer.lost(lost)
    }
}

/// Records one guest's requests while it is switched on.
#[derive(Debug)]
pub struct Recorder {
    on: AtomicBool,
    lanes: Box<[Mutex<Lane>]>,
    /// Events that found their lane's lock taken.
    missed: AtomicU64,
    recording: Mutex<Option<Recording>>,
}

impl Recorder {
    /// A recorder that is off, with a lane for each worker. Workers that share one lose events to
    /// each other.
    #[must_use]
    pub fn new(workers: usize) -> Self {
        let lanes = std::iter::repeat_with(Mutex::default);
        Self {
            on: AtomicBool::new(false),
            lanes: lanes.take(workers.max(1)).collect(),
            missed: AtomicU64::new(0),
            recording: Mutex::new(None),
        }
    }

    /// Begins a recording, which `to` gets. The file is written by [`pump`](Self::pump) and
    /// [`stop`](Self::stop) alone, in parts of up to 64 KiB.
    ///
    /// # Errors
    /// [`TraceError::Recording`] if there is one already, and what
    /// [`TraceWriter::new`] gives.
    pub fn start(
        &self,
        to: Box<dyn Write + Send>,
        header: &Header,
        limits: Limits,
    ) -> Result<(), TraceError> {
        let mut recording = self.recording.lock();
        if recording.is_some() {
            return Err(TraceError::Recording);
        }
        let buffer = || Vec::with_capacity(limits.lane_events);
        *recording = Some(Recording {
            writer: TraceWriter::new(to, header)?,
            limits,
            spare: buffer(),
            batch: Vec::new(),
        });
        self.missed.store(0, Ordering::Relaxed);
        for lane in &self.lanes {
            *lane.lock() = Lane {
                events: Some(buffer()),
                lost: 0,
            };
        }
        self.on.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Whether events are recorded: to be asked before one is made.
    #[must_use]
    #[inline]
    pub fn is_on(&self) -> bool {
        self.on.load(Ordering::Relaxed)
    }

    /// Adds an event to a worker's lane. It is lost if nothing is recorded, and lost and counted if
    /// there is no room for it. Never waits.
    pub fn record(&self, worker: usize, event: Event) {
        if !self.is_on() {
            return;
        }
        let lane = self.lanes.get(worker % self.lanes.len());
        let Some(mut lane) = lane.and_then(Mutex::try_lock) else {
            self.missed.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let Some(events) = &mut lane.events else {
            return;
        };
        // The buffers never grow beyond what they were made with.
        if events.len() < events.capacity() {
            events.push(event);
        } else {
            lane.lost += 1;
        }
    }

    /// Writes what was recorded since the last time. Does nothing if nothing is. To be called a few
    /// dozen times a second, from one thread.
    ///
    /// # Errors
    /// [`TraceError::Write`]; the recording is over then, and its file reads as cut short.
    pub fn pump(&self) -> Result<Summary, TraceError> {
        let mut slot = self.recording.lock();
        let Some(recording) = slot.as_mut() else {
            return Ok(Summary::default());
        };
        match recording.drain(&self.lanes, &self.missed) {
            Ok(()) => Ok(recording.summary()),
            Err(error) => {
                self.switch_off();
                *slot = None;
                Err(error)
            }
        }
    }

    /// Ends the recording, and its file. Does nothing if there is none.
    ///
    /// # Errors
    /// [`TraceError::Write`]; the recording is over all the same.
    pub fn stop(&self) -> Result<Summary, TraceError> {
        let mut slot = self.recording.lock();
        self.on.store(false, Ordering::Relaxed);
        let Some(mut recording) = slot.take() else {
            return Ok(Summary::default());
        };
        let drained = recording.drain(&self.lanes, &self.missed);
        self.switch_off();
        drained?;
        let summary = recording.summary();
        recording.writer.finish()?;
        Ok(summary)
    }

    /// Gives the lanes' memory back.
    fn switch_off(&self) {
        self.on.store(false, Ordering::Relaxed);
        for lane in &self.lanes {
            *lane.lock() = Lane::default();
        }
    }
}
