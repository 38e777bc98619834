// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Going through the table in steps, and what a whole walk counted.

use std::time::Duration;

use super::config::MEMBERS_MAX;
use super::event::MemberNo;
use super::table::{Condition, Standing, Table};

/// A walk from the first slot to the last.
#[derive(Clone, Debug)]
pub(crate) struct Walk {
    at: u32,
    done: bool,
    pub(crate) began: Duration,
}

impl Walk {
    pub(crate) fn new(now: Duration) -> Self {
        Self {
            at: 0,
            done: false,
            began: now,
        }
    }

    /// Shows `see` the next pages, of at most `slots` slots, until it says that it has enough.
    pub(crate) fn step<T: Table + ?Sized>(
        &mut self,
        table: &T,
        slots: u32,
        mut see: impl FnMut(u32, u64) -> bool,
    ) {
        let end = self.at.saturating_add(slots).min(table.slots());
        while self.at < end {
            let slot = self.at;
            self.at += 1;
            if table.copies(slot).is_some_and(|mask| !see(slot, mask)) {
                break;
            }
        }
        self.done = self.at >= table.slots();
    }

    pub(crate) fn is_done(&self) -> bool {
        self.done
    }
}

/// How many pages are how.
#[derive(Clone, Debug)]
pub(crate) struct Counts {
    pub(crate) pages: u64,
    pub(crate) endangered: u64,
    pub(crate) thin: u64,
    pub(crate) leaving: u64,
    pub(crate) lost: u64,
    pub(crate) unreachable: u64,
    /// Pages with fewer readable copies than they should have, whatever is done about it.
    pub(crate) below: u64,
    pub(crate) held: [u64; MEMBERS_MAX],
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            pages: 0,
            endangered: 0,
            thin: 0,
            leaving: 0,
            lost: 0,
            unreachable: 0,
            below: 0,
            held: [0; MEMBERS_MAX],
        }
    }
}

impl Counts {
    pub(crate) fn see(&mut self, mask: u64, standing: &Standing) {
        self.pages += 1;
        if (mask & standing.good).count_ones() < standing.copies {
            self.below += 1;
        }
        for member in MemberNo::all_in(mask) {
            if let Some(held) = self.held.get_mut(member.index()) {
                *held += 1;
            }
        }
        match standing.judge(mask) {
            Condition::Fine => {}
            Condition::Lost => self.lost += 1,
            Condition::Unreachable => self.unreachable += 1,
            Condition::Endangered => self.endangered += 1,
            Condition::Thin => self.thin += 1,
            Condition::Leaving => self.leaving += 1,
        }
    }

    pub(crate) fn held(&self, member: MemberNo) -> u64 {
        self.held.get(member.index()).copied().unwrap_or(0)
    }

    /// Pages that something is to be done about.
    pub(crate) fn work(&self) -> u64 {
        self.endangered + self.thin + self.leaving
    }

    pub(crate) fn of(&self, condition: Condition) -> u64 {
        match condition {
            Condition::Fine => self.pages,
            Condition::Lost => self.lost,
            Condition::Unreachable => self.unreachable,
            Condition::Endangered => self.endangered,
            Condition::Thin => self.thin,
            Condition::Leaving => self.leaving,
        }
    }
}
