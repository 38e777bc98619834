// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What all parts of one simulated run share: the plan, the oracles, the record of what happened.
//!
//! A run is one thread. Simulated hosts reach this by `Rc`; nobody holds the borrow across an await.

use std::cell::RefCell;
use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use super::plan::Plan;
use super::work::EPHEMERAL;
use crate::oracle::Oracle;
use crate::page::Stamp;
use crate::random::mix;

/// Lines of the record that are kept for whoever reads a failure.
const LINES: usize = 4000;

/// What happened, in order: a digest of all of it, and the last lines.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    digest: u64,
    events: u64,
    lines: VecDeque<String>,
}

impl Trace {
    fn note(&mut self, line: String) {
        for byte in line.bytes() {
            self.digest = (self.digest ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        self.digest = mix(self.digest);
        self.events += 1;
        if self.lines.len() == LINES {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }
}

/// How often things happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Writes acknowledged.
    pub writes: u64,
    /// Writes that failed.
    pub writes_failed: u64,
    /// Reads that returned a page.
    pub reads: u64,
    /// Reads that found nothing, rightly.
    pub misses: u64,
    /// Reads that failed where they may.
    pub reads_failed: u64,
    /// Flushes.
    pub flushes: u64,
    /// Operations on ephemeral pages.
    pub ephemeral: u64,
    /// Requests of latecomers, all of which were refused.
    pub refused: u64,
    /// Pages damaged where they lay.
    pub rotten: u64,
    /// Times that all copies were found to be there again.
    pub whole: u64,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.writes += other.writes;
        self.writes_failed += other.writes_failed;
        self.reads += other.reads;
        self.misses += other.misses;
        self.reads_failed += other.reads_failed;
        self.flushes += other.flushes;
        self.ephemeral += other.ephemeral;
        self.refused += other.refused;
        self.rotten += other.rotten;
        self.whole += other.whole;
    }
}

/// What all parts of a run share.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) plan: Rc<Plan>,
    pub(crate) oracles: Vec<Oracle>,
    pub(crate) counts: Counts,
    /// Clients begin no operation.
    pub(crate) paused: bool,
    /// Operations under way, by client.
    pub(crate) busy: Vec<u32>,
    /// Every read of a page that is certainly there must succeed.
    pub(crate) strict: bool,
    /// Simulated time, as of the last step.
    pub(crate) now: Duration,
    /// Slots that resting clients write again, and those that they read.
    pub(crate) due: Vec<Due>,
    trace: Trace,
    failure: Option<String>,
}

/// What a resting client is to do with its slots.
#[derive(Debug, Default)]
pub(crate) struct Due {
    pub(crate) writes: BTreeSet<u32>,
    pub(crate) reads: BTreeSet<u32>,
}

impl World {
    /// Has all slots written again of which nobody knows what they hold: as the engine does with
    /// pages whose write has failed.
    pub(crate) fn rewrite_unsettled(&mut self) {
        for (due, oracle) in self.due.iter_mut().zip(&self.oracles) {
            let slots = 0..self.plan.slots;
            due.writes.extend(
                slots.filter(|slot| oracle.settled(*slot).is_none() && !oracle.is_gone(*slot)),
            );
        }
    }

    /// Notes pages that have a damaged copy: nobody may know of it, so they are written again.
    pub(crate) fn rotten(&mut self, stamps: &[Stamp]) {
        for stamp in stamps {
            if stamp.key < EPHEMERAL
                && let Some(due) = self.due.get_mut(stamp.writer as usize)
            {
                due.writes.insert(stamp.key);
            }
        }
        self.counts.rotten += stamps.len() as u64;
    }

    /// Pages that are still to be written again.
    pub(crate) fn unsettled(&self) -> usize {
        self.due.iter().map(|due| due.writes.len()).sum()
    }

    /// Has every page read.
    pub(crate) fn read_everything(&mut self) {
        for due in &mut self.due {
            due.reads = (0..self.plan.slots).collect();
        }
    }

    /// Pages that are still to be read.
    pub(crate) fn to_read(&self) -> usize {
        self.due.iter().map(|due| due.reads.len()).sum()
    }

    /// The persistent pages of a client that are certainly there.
    pub(crate) fn settled(&self, client: usize) -> Vec<(u32, Stamp)> {
        let oracle = &self.oracles[client];
        let slots = 0..self.plan.slots;
        slots
            .filter_map(|slot| Some((slot, oracle.settled(slot)?)))
            .collect()
    }
}

/// The one handle on it that everybody has.
#[derive(Clone, Debug)]
pub(crate) struct Shared(Rc<RefCell<World>>);

impl Shared {
    pub(crate) fn new(plan: Rc<Plan>, strict: bool) -> Self {
        let writers = 0..u32::try_from(plan.clients).unwrap_or(0);
        Self(Rc::new(RefCell::new(World {
            oracles: writers.map(Oracle::new).collect(),
            counts: Counts::default(),
            paused: false,
            busy: vec![0; plan.clients],
            strict,
            now: Duration::ZERO,
            due: (0..plan.clients).map(|_| Due::default()).collect(),
            trace: Trace::default(),
            failure: None,
            plan,
        })))
    }

    /// Looks at the world, or changes it; never across an await.
    pub(crate) fn with<T>(&self, act: impl FnOnce(&mut World) -> T) -> T {
        act(&mut self.0.borrow_mut())
    }

    /// Records what happened.
    pub(crate) fn note(&self, what: fmt::Arguments<'_>) {
        self.with(|world| {
            let at = turmoil::sim_elapsed().unwrap_or(world.now).as_millis();
            world.trace.note(format!("{at:>6} {what}"));
        });
    }

    /// Records that a promise was broken. The first counts.
    pub(crate) fn fail(&self, what: fmt::Arguments<'_>) {
        self.note(format_args!("BROKEN: {what}"));
        self.with(|world| world.failure.get_or_insert_with(|| what.to_string()).len());
    }

    /// The broken promise, if there is one.
    pub(crate) fn failure(&self) -> Option<String> {
        self.with(|world| world.failure.clone())
    }

    /// A number that depends on everything that was recorded, and how many records there are.
    pub(crate) fn digest(&self) -> (u64, u64) {
        self.with(|world| (world.trace.digest, world.trace.events))
    }

    /// The last lines of the record.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.with(|world| world.trace.lines.iter().cloned().collect())
    }
}
