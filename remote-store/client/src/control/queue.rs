// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Slots that wait for repair: those that somebody pointed at, those that a walk found, and those
//! that failed and are tried again. All bounded; what does not fit is found by the next walk.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Slots that somebody pointed at, at most.
pub(crate) const HINTS_MAX: usize = 1 << 16;

/// A walk stops for as long as so many that it found wait.
pub(crate) const FOUND_MAX: usize = 1 << 10;

/// Slots that wait for another attempt, at most.
const LATER_MAX: usize = 1 << 12;

/// Attempts to copy a page before it is left to a later walk.
pub(crate) const ATTEMPTS_MAX: u32 = 6;

/// A slot to look at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Job {
    pub(crate) slot: u32,
    /// Only to even out the stores.
    pub(crate) moving: bool,
    pub(crate) attempts: u32,
    /// Members that failed as a source, or as a target, in the last attempt.
    pub(crate) avoid: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Queue {
    hints: VecDeque<u32>,
    found: VecDeque<Job>,
    later: BTreeMap<(Duration, u32), Job>,
    /// Whose turn it is when both have some: neither may starve the other.
    hints_turn: bool,
}

impl Queue {
    /// False if there is no room: then a walk has to find it.
    pub(crate) fn hint(&mut self, slot: u32) -> bool {
        let room = self.hints.len() < HINTS_MAX;
        if room {
            self.hints.push_back(slot);
        }
        room
    }

    /// A walk found it. False if the walk should wait now.
    pub(crate) fn found(&mut self, slot: u32, moving: bool) -> bool {
        self.found.push_back(Job {
            slot,
            moving,
            ..Job::default()
        });
        self.found.len() < FOUND_MAX
    }

    /// To be tried again at `at`. False if that has been done often enough.
    pub(crate) fn again(&mut self, job: Job, at: Duration) -> bool {
        let room = job.attempts < ATTEMPTS_MAX && self.later.len() < LATER_MAX;
        if room {
            self.later.insert((at, job.slot), job);
        }
        room
    }

    /// The next to look at.
    pub(crate) fn pop(&mut self, now: Duration) -> Option<Job> {
        if let Some(entry) = self.later.first_entry()
            && entry.key().0 <= now
        {
            return Some(entry.remove());
        }
        self.hints_turn = !self.hints_turn;
        let hint = if self.hints_turn || self.found.is_empty() {
            self.hints.pop_front()
        } else {
            None
        };
        let hint = hint.map(|slot| Job {
            slot,
            ..Job::default()
        });
        hint.or_else(|| self.found.pop_front())
    }

    /// What a walk found is out of date.
    pub(crate) fn forget_found(&mut self) {
        self.found.clear();
    }

    pub(crate) fn wants_more(&self) -> bool {
        self.found.len() < FOUND_MAX
    }

    /// Nothing waits that can be looked at now.
    pub(crate) fn is_ready(&self) -> bool {
        !self.hints.is_empty() || !self.found.is_empty()
    }

    pub(crate) fn next_retry(&self) -> Option<Duration> {
        self.later.keys().next().map(|(at, _)| *at)
    }

    /// All that a walk found has been looked at.
    pub(crate) fn is_settled(&self) -> bool {
        self.found.is_empty() && self.later.is_empty()
    }
}
