// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What to do about one page: strike off copies that it can do without, or copy it from a store
//! that has it to one that takes it.

use super::action::Action;
use super::balance::Balance;
use super::config::PAGE_BYTES;
use super::event::{CopyResult, MemberNo};
use super::members::Members;
use super::queue::Job;
use super::repair::{Repair, Scene};
use super::table::{Condition, Table};

/// A copy under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flight {
    job: Job,
    from: MemberNo,
    to: MemberNo,
    drop: u64,
    /// Somebody pointed at the slot meanwhile.
    recheck: bool,
}

impl Repair {
    /// Looks at a slot whose turn it is.
    pub(crate) fn look<T: Table + ?Sized>(
        &mut self,
        job: Job,
        scene: &mut Scene<'_, T>,
        out: &mut Vec<Action>,
    ) {
        if let Some(flight) = self.flights.get_mut(&job.slot) {
            flight.recheck = true;
            return;
        }
        if self.trimmed.contains(&job.slot) {
            return;
        }
        let Some(mask) = scene.table.copies(job.slot) else {
            return;
        };
        let mask = self.trim(job.slot, mask, scene, out);
        let standing = &scene.standing;
        match standing.judge(mask) {
            Condition::Lost | Condition::Unreachable => {}
            Condition::Fine if job.moving => self.even_out(job, mask, scene, out),
            Condition::Fine => {}
            Condition::Endangered | Condition::Thin | Condition::Leaving => {
                let there = (mask & (standing.staying | standing.awaited)).count_ones();
                if there < standing.copies {
                    self.add_copy(job, mask, scene, out);
                } else {
                    // What should go is all that is well: until a suspect has spoken.
                    self.give_up(scene.config, scene.now);
                }
            }
        }
    }

    /// Strikes off what the page can do without, and says where it is then.
    fn trim<T: Table + ?Sized>(
        &mut self,
        slot: u32,
        mask: u64,
        scene: &mut Scene<'_, T>,
        out: &mut Vec<Action>,
    ) -> u64 {
        let drop = scene.standing.surplus(mask);
        if drop == 0 {
            return mask;
        }
        out.push(Action::Trim {
            slot,
            expected: mask,
            drop,
        });
        self.trimmed.insert(slot);
        self.totals.trimmed_pages += u64::from(drop.count_ones());
        self.one_done();
        for member in MemberNo::all_in(drop) {
            let Some(member) = scene.members.get_mut(member) else {
                continue;
            };
            member.since_advert -= 1;
            member.held = member.held.map(|held| held.saturating_sub(1));
        }
        mask & !drop
    }

    /// One copy more, on a store that has none of this page.
    fn add_copy<T: Table + ?Sized>(
        &mut self,
        job: Job,
        mask: u64,
        scene: &mut Scene<'_, T>,
        out: &mut Vec<Action>,
    ) {
        let standing = &scene.standing;
        let holders = mask & (standing.staying | standing.awaited);
        let mut place = |avoid| scene.view.place(1, holders, avoid, scene.random);
        let placement = place(mask | job.avoid);
        // Better the store that failed a moment ago than none.
        let placement = if placement.is_empty() {
            place(mask)
        } else {
            placement
        };
        match placement.members().next() {
            Some(to) => self.start(job, mask, to, 0, scene, out),
            None => self.give_up(scene.config, scene.now),
        }
    }

    /// A copy to an emptier store, instead of one on a fuller store.
    fn even_out<T: Table + ?Sized>(
        &mut self,
        job: Job,
        mask: u64,
        scene: &mut Scene<'_, T>,
        out: &mut Vec<Action>,
    ) {
        let balance = Balance::of(scene.members, scene.config, scene.now);
        let Some((from, to)) = balance.better(mask, &scene.standing, scene.view) else {
            return;
        };
        // A page that has a suspect among its stores stays where it is.
        let well = (mask | to.bit()) & !from.bit() & scene.standing.well;
        if well.count_ones() >= scene.standing.copies {
            self.start(job, mask, to, from.bit(), scene, out);
        }
    }

    fn start<T: Table + ?Sized>(
        &mut self,
        job: Job,
        mask: u64,
        to: MemberNo,
        instead_of: u64,
        scene: &mut Scene<'_, T>,
        out: &mut Vec<Action>,
    ) {
        let order = || scene.view.order(mask, &mut scene.random.clone());
        let untried = order().find(|member| job.avoid & member.bit() == 0);
        let Some(from) = untried.or_else(|| order().next()) else {
            self.give_up(scene.config, scene.now);
            return;
        };
        scene.random.next();
        let Some(to_trust) = scene.view.trust(to) else {
            self.give_up(scene.config, scene.now);
            return;
        };
        if !self.bucket.take(PAGE_BYTES, scene.now) {
            self.again(job, scene.config, scene.now);
            return;
        }
        let after = (mask | to.bit()) & !instead_of;
        let drop = (scene.standing.surplus(after) | instead_of) & !to.bit();
        let flight = Flight {
            job,
            from,
            to,
            drop,
            recheck: false,
        };
        flight.account(scene.members, 1);
        self.flights.insert(job.slot, flight);
        out.push(Action::Copy {
            slot: job.slot,
            expected: mask,
            from,
            to,
            to_trust,
            drop,
        });
    }

    /// A copy ended.
    pub(crate) fn ended<T: ?Sized>(
        &mut self,
        slot: u32,
        result: CopyResult,
        scene: &mut Scene<'_, T>,
    ) {
        let Some(flight) = self.flights.remove(&slot) else {
            return;
        };
        let (config, now) = (scene.config, scene.now);
        flight.account(scene.members, -1);
        let mut job = flight.job;
        match result {
            CopyResult::Done => {
                flight.settle(scene.members);
                self.meter.add(PAGE_BYTES, now);
                self.totals.copied_pages += 1;
                self.totals.moved_pages += u64::from(job.moving);
                self.one_done();
            }
            // Whoever changed it has said so if there is something to look at.
            CopyResult::Changed => self.helped += 1,
            CopyResult::SourceUnreachable | CopyResult::SourceBad => {
                self.totals.bad_copies += u64::from(result == CopyResult::SourceBad);
                job.avoid = flight.from.bit();
            }
            CopyResult::TargetFull | CopyResult::TargetFailed => {
                job.avoid = flight.to.bit();
                if result == CopyResult::TargetFull
                    && let Some(target) = scene.members.get_mut(flight.to)
                {
                    target.full_until = now + config.advert_period * 2;
                }
            }
        }
        if !matches!(result, CopyResult::Done | CopyResult::Changed) {
            self.totals.failed_copies += 1;
            self.again(job, config, now);
        }
        if flight.recheck {
            self.hint(slot, config, now);
        }
    }
}

impl Flight {
    /// The members whose pages it changes.
    pub(crate) fn members(&self) -> u64 {
        self.to.bit() | self.drop
    }

    fn account(&self, members: &mut Members, pages: i64) {
        if let Some(target) = members.get_mut(self.to) {
            target.under_way += pages;
        }
        for member in MemberNo::all_in(self.drop) {
            if let Some(member) = members.get_mut(member) {
                member.under_way -= pages;
            }
        }
    }

    fn settle(&self, members: &mut Members) {
        if let Some(target) = members.get_mut(self.to) {
            target.since_advert += 1;
            target.held = target.held.map(|held| held + 1);
        }
        for member in MemberNo::all_in(self.drop) {
            if let Some(member) = members.get_mut(member) {
                member.since_advert -= 1;
                member.held = member.held.map(|held| held.saturating_sub(1));
            }
        }
    }
}
