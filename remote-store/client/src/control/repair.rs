// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Bringing every page to its number of copies, away from stores that are to be empty, and evenly
//! onto the others, within a bound on bytes per second and on copies under way.
//!
//! ```text
//!           something changed                   nothing to do
//!   Idle ─────────────────────▶ Survey ───────────────────────────▶ Idle, or Rebalance
//!                                 ▲ │ counts pages by condition
//!            all done, or changed │ ▼
//!                   Pass(Endangered) ─▶ Pass(Thin) ─▶ Pass(Leaving)
//! ```
//! A survey walks the whole table and copies nothing: so totals are known before the first copy, and
//! pages with one copy left come before all others. When the passes are done, another survey says
//! whether it worked. Slots that somebody points at are looked at between, without a walk.
//!
//! What `copy.rs` decides about one page, it decides when the page's turn comes, by what the table
//! says then.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::action::{Action, Notice};
use super::balance::Balance;
use super::bucket::TokenBucket;
use super::config::{Config, PAGE_BYTES};
use super::copy::Flight;
use super::event::MemberNo;
use super::member::{Health, Intent};
use super::members::Members;
use super::progress::{Meter, Progress, Task};
use super::queue::{Job, Queue};
use super::random::Random;
use super::table::{Condition, Standing, Table};
use super::view::View;
use super::walk::{Counts, Walk};

/// What repair is shown of the rest, for one event.
pub(crate) struct Scene<'a, T: ?Sized> {
    pub(crate) now: Duration,
    pub(crate) config: &'a Config,
    pub(crate) members: &'a mut Members,
    pub(crate) view: &'a View,
    pub(crate) standing: Standing,
    pub(crate) table: &'a T,
    pub(crate) random: &'a mut Random,
}

#[derive(Debug)]
enum Phase {
    Idle,
    Survey(Walk, Box<Counts>),
    Pass(Condition, Walk),
    Rebalance(Walk),
}

/// The order of the passes.
const PASSES: [Condition; 3] = [Condition::Endangered, Condition::Thin, Condition::Leaving];

/// Slots that are looked at for one event, at most.
const LOOKS_MAX: usize = 1 << 12;

/// The pause after a survey that changed nothing grows up to so many times its first length.
const PAUSES_MAX: u32 = 8;

#[derive(Debug)]
pub(crate) struct Repair {
    phase: Phase,
    wanted: bool,
    rebalance_wanted: bool,
    rescan_at: Option<Duration>,
    pauses: u32,
    walk_at: Duration,
    looks_left: bool,
    /// What the last whole survey counted.
    pub(crate) counts: Counts,
    pub(crate) queue: Queue,
    pub(crate) flights: BTreeMap<u32, Flight>,
    /// Slots trimmed for this event: until the driver has done it, the table does not say so.
    pub(crate) trimmed: BTreeSet<u32>,
    pub(crate) bucket: TokenBucket,
    pub(crate) meter: Meter,
    pub(crate) totals: Totals,
    /// Since the last survey: pages that were helped, and pages that could not be.
    pub(crate) helped: u64,
    pub(crate) stuck: u64,
    campaign: Option<Campaign>,
    told_no_room: u64,
}

/// Counts since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Totals {
    /// Copies that were made.
    pub copied_pages: u64,
    /// Of these, only to even out the stores.
    pub moved_pages: u64,
    /// Copies that were struck off.
    pub trimmed_pages: u64,
    /// Attempts that failed.
    pub failed_copies: u64,
    /// Copies that turned out to be missing or damaged at their source.
    pub bad_copies: u64,
    /// Whole walks through the table.
    pub surveys: u64,
}

/// Work from the first survey that found some to the one that finds none.
#[derive(Clone, Copy, Debug)]
struct Campaign {
    task: Task,
    done: u64,
    total: u64,
    copied_before: u64,
}

pub(crate) fn bucket(rate: u64, now: Duration) -> TokenBucket {
    TokenBucket::new(rate, burst(rate), now)
}

/// 50 ms at full pace, and at least 64 pages.
pub(crate) fn burst(rate: u64) -> u64 {
    (rate / 20).max(64 * PAGE_BYTES)
}

impl Repair {
    pub(crate) fn new(config: &Config, now: Duration) -> Self {
        Self {
            phase: Phase::Idle,
            wanted: true,
            rebalance_wanted: false,
            rescan_at: None,
            pauses: 1,
            walk_at: now,
            looks_left: false,
            counts: Counts::default(),
            queue: Queue::default(),
            flights: BTreeMap::new(),
            trimmed: BTreeSet::new(),
            bucket: bucket(config.repair_bytes_per_second, now),
            meter: Meter::new(now),
            totals: Totals::default(),
            helped: 0,
            stuck: 0,
            campaign: None,
            told_no_room: 0,
        }
    }

    /// Something changed: look at every page.
    pub(crate) fn want(&mut self) {
        self.wanted = true;
        self.pauses = 1;
        (self.helped, self.stuck) = (0, 0);
    }

    /// Even out the stores when nothing more important is left to do.
    pub(crate) fn want_rebalance(&mut self) {
        self.rebalance_wanted = true;
        self.want();
    }

    /// A store takes pages that took none before.
    pub(crate) fn there_is_room(&mut self) {
        if self.told_no_room > 0 {
            self.want();
        }
    }

    /// Look at this slot.
    pub(crate) fn hint(&mut self, slot: u32, config: &Config, now: Duration) {
        if !self.queue.hint(slot) {
            self.rescan_by(now + config.rescan_interval);
        }
    }

    fn rescan_by(&mut self, at: Duration) {
        self.rescan_at = Some(self.rescan_at.map_or(at, |before| before.min(at)));
    }

    /// When there will be something to do without an event.
    pub(crate) fn due(&self, config: &Config, now: Duration) -> Option<Duration> {
        let walks = match &self.phase {
            Phase::Idle => false,
            Phase::Survey(..) => true,
            Phase::Pass(_, walk) | Phase::Rebalance(walk) if walk.is_done() => self.is_settled(),
            Phase::Pass(..) | Phase::Rebalance(_) => self.queue.wants_more(),
        };
        let walk = (walks || self.wanted).then_some(self.walk_at);
        let paid = self.bucket.ready_at(PAGE_BYTES, now);
        let paid = paid.filter(|_| self.flights.len() < config.repair_in_flight);
        let copy = paid.filter(|_| self.looks_left || self.queue.is_ready());
        let retry = paid.and_then(|paid| Some(self.queue.next_retry()?.max(paid)));
        [walk, copy, retry, self.rescan_at]
            .into_iter()
            .flatten()
            .min()
    }

    /// What the walk found has been dealt with.
    fn is_settled(&self) -> bool {
        self.queue.is_settled() && self.flights.is_empty()
    }

    /// Does what can be done now.
    pub(crate) fn advance<T: Table + ?Sized>(
        &mut self,
        scene: &mut Scene<'_, T>,
        out: &mut Vec<Action>,
    ) {
        if self.rescan_at.is_some_and(|at| scene.now >= at) {
            self.wanted = true;
            (self.helped, self.stuck) = (0, 0);
        }
        if self.wanted {
            self.wanted = false;
            self.rescan_at = None;
            self.queue.forget_found();
            self.phase = Phase::Survey(Walk::new(scene.now), Box::default());
        }
        if scene.now >= self.walk_at {
            self.step(scene, out);
        }
        self.copy(scene, out);
    }

    /// One step of whatever walk is under way.
    fn step<T: Table + ?Sized>(&mut self, scene: &mut Scene<'_, T>, out: &mut Vec<Action>) {
        let (table, standing) = (scene.table, scene.standing);
        let slots = scene.config.walk_slots;
        match &mut self.phase {
            Phase::Idle => return,
            Phase::Survey(walk, counts) => {
                walk.step(table, slots, |_, mask| {
                    counts.see(mask, &standing);
                    true
                });
                if walk.is_done() {
                    let began = walk.began;
                    self.counts = (**counts).clone();
                    self.surveyed(began, scene, out);
                }
            }
            Phase::Pass(condition, walk) => {
                let wanted = *condition;
                if self.queue.wants_more() {
                    walk.step(table, slots, |slot, mask| {
                        standing.judge(mask) != wanted || self.queue.found(slot, false)
                    });
                }
                if walk.is_done() && self.queue.is_settled() && self.flights.is_empty() {
                    self.next_pass(Some(wanted), scene);
                }
            }
            Phase::Rebalance(walk) => {
                let balance = Balance::of(scene.members, scene.config, scene.now);
                if self.queue.wants_more() && balance.is_uneven() {
                    walk.step(table, (slots / 16).max(1), |slot, mask| {
                        let fine = standing.judge(mask) == Condition::Fine;
                        let moves = fine && balance.better(mask, &standing, scene.view).is_some();
                        !moves || self.queue.found(slot, true)
                    });
                }
                let over = walk.is_done() || !balance.is_uneven();
                if over && self.is_settled() {
                    self.phase = Phase::Idle;
                    self.end_campaign(out);
                    // By figures that were a little old. Look again when there are new ones.
                    if std::mem::take(&mut self.helped) > 0 {
                        self.rebalance_wanted = true;
                        self.rescan_by(scene.now + scene.config.advert_period * 2);
                    }
                }
            }
        }
        self.walk_at = scene.now + scene.config.walk_pause;
    }

    /// Looks at slots that wait, for as long as the bounds allow.
    fn copy<T: Table + ?Sized>(&mut self, scene: &mut Scene<'_, T>, out: &mut Vec<Action>) {
        self.looks_left = false;
        self.trimmed.clear();
        for _ in 0..LOOKS_MAX {
            let room = self.flights.len() < scene.config.repair_in_flight;
            if !room || !self.bucket.has(PAGE_BYTES, scene.now) {
                return;
            }
            let Some(job) = self.queue.pop(scene.now) else {
                return;
            };
            self.look(job, scene, out);
        }
        self.looks_left = true;
    }

    /// A walk through the whole table is over.
    fn surveyed<T: Table + ?Sized>(
        &mut self,
        began: Duration,
        scene: &mut Scene<'_, T>,
        out: &mut Vec<Action>,
    ) {
        self.totals.surveys += 1;
        self.phase = Phase::Idle;
        self.mark_the_empty(began, scene, out);
        let work = self.counts.work();
        let helped = std::mem::take(&mut self.helped);
        let stuck = std::mem::take(&mut self.stuck);
        if work == 0 {
            self.told_no_room = 0;
            self.end_campaign(out);
            self.pauses = 1;
            // Whatever nobody has pointed at, a walk finds: soon, if pages were as they should not be.
            let pauses = if self.counts.below > 0 { 1 } else { PAUSES_MAX };
            self.rescan_by(scene.now + scene.config.rescan_interval * pauses);
            if self.rebalance_wanted {
                self.start_rebalance(scene, out);
            }
            return;
        }
        if stuck > 0 && helped == 0 {
            // Another pass now would end as the last one did.
            if self.told_no_room != work {
                out.push(Action::Notice(Notice::NoRoom { pages: work }));
                self.told_no_room = work;
            }
            self.rescan_at = Some(scene.now + scene.config.rescan_interval * self.pauses);
            self.pauses = (self.pauses * 2).min(PAUSES_MAX);
            return;
        }
        self.start_campaign(work, scene, out);
        self.next_pass(None, scene);
    }

    fn next_pass<T: Table + ?Sized>(&mut self, after: Option<Condition>, scene: &Scene<'_, T>) {
        let mut left = PASSES
            .into_iter()
            .skip_while(|pass| after.is_some() && Some(*pass) != after)
            .skip(usize::from(after.is_some()));
        match left.find(|pass| self.counts.of(*pass) > 0) {
            Some(pass) => self.phase = Phase::Pass(pass, Walk::new(scene.now)),
            None => {
                self.phase = Phase::Idle;
                self.wanted = true;
                // A pass that met nothing it could do counts as one that was stuck.
                self.stuck += u64::from(self.helped == 0);
            }
        }
    }

    fn start_campaign<T: Table + ?Sized>(
        &mut self,
        work: u64,
        scene: &Scene<'_, T>,
        out: &mut Vec<Action>,
    ) {
        if let Some(campaign) = &mut self.campaign {
            campaign.total = campaign.done + work;
            return;
        }
        let counts = &self.counts;
        let drains = scene
            .members
            .iter()
            .any(|member| matches!(member.intent, Intent::Drain { .. }));
        let task = if counts.endangered + counts.thin == 0 && drains {
            Task::Drain
        } else {
            Task::Repair
        };
        self.campaign = Some(Campaign {
            task,
            done: 0,
            total: work,
            copied_before: self.totals.copied_pages,
        });
        out.push(Action::Notice(Notice::RepairStarted {
            endangered: counts.endangered,
            thin: counts.thin,
            leaving: counts.leaving,
        }));
    }

    fn end_campaign(&mut self, out: &mut Vec<Action>) {
        if let Some(campaign) = self.campaign.take() {
            let pages = self.totals.copied_pages - campaign.copied_before;
            out.push(Action::Notice(match campaign.task {
                Task::Rebalance => Notice::RebalanceDone { pages },
                Task::Repair | Task::Drain => Notice::RepairDone { pages },
            }));
        }
    }

    fn start_rebalance<T: Table + ?Sized>(&mut self, scene: &Scene<'_, T>, out: &mut Vec<Action>) {
        self.rebalance_wanted = false;
        self.helped = 0;
        let balance = Balance::of(scene.members, scene.config, scene.now);
        if balance.is_uneven() {
            self.phase = Phase::Rebalance(Walk::new(scene.now));
            self.campaign = Some(Campaign {
                task: Task::Rebalance,
                done: 0,
                total: balance.pages_to_move(),
                copied_before: self.totals.copied_pages,
            });
            out.push(Action::Notice(Notice::RebalanceStarted));
        }
    }

    /// One page less to do.
    pub(crate) fn one_done(&mut self) {
        self.helped += 1;
        if let Some(campaign) = &mut self.campaign {
            campaign.done += 1;
        }
    }

    /// Nothing of the kind is under way.
    pub(crate) fn is_idle(&self) -> bool {
        matches!(self.phase, Phase::Idle) && !self.wanted && self.flights.is_empty()
    }

    pub(crate) fn progress(&self, now: Duration) -> Option<Progress> {
        let campaign = self.campaign?;
        let rate = self.meter.rate(now);
        Some(Progress::new(
            campaign.task,
            campaign.done,
            campaign.total,
            rate,
        ))
    }

    /// Says who holds how much, and lets go of those that no page names and nobody wants.
    fn mark_the_empty<T: Table + ?Sized>(
        &mut self,
        began: Duration,
        scene: &mut Scene<'_, T>,
        out: &mut Vec<Action>,
    ) {
        let (config, now) = (scene.config, scene.now);
        let mut gone = scene.members.absent(config, now);
        gone.retain(|number| self.counts.held(*number) == 0);
        let busy = (self.flights.values()).fold(0, |busy, flight| busy | flight.members());
        let mut again = None;
        for member in scene.members.iter_mut() {
            let held = self.counts.held(member.number);
            member.held = Some(held);
            let leaves_since = match (member.intent, member.health) {
                (Intent::Drain { since } | Intent::GiveUp { since }, _) => Some(since),
                (Intent::Keep, Health::Dead { since }) if !member.listed => Some(since),
                (Intent::Keep, _) => None,
            };
            let Some(since) = leaves_since else {
                continue;
            };
            member.held_at_first.get_or_insert(held);
            // Writes placed before everybody knew may have ended behind the walk.
            let sure_at = since + config.settle;
            let empty = held == 0 && began >= sure_at && busy & member.number.bit() == 0;
            if held == 0 && !empty {
                let at = sure_at.max(now + config.advert_period);
                again = Some(again.map_or(at, |before: Duration| before.min(at)));
            }
            let unwanted = !member.listed && matches!(member.health, Health::Dead { .. });
            if empty && (member.given_up() || unwanted) {
                gone.push(member.number);
            }
            member.drained = empty && member.intent != Intent::Keep;
        }
        if let Some(at) = again {
            self.rescan_by(at);
        }
        for number in gone {
            self.forget(number, scene, out);
        }
    }

    fn forget<T: Table + ?Sized>(
        &mut self,
        number: MemberNo,
        scene: &mut Scene<'_, T>,
        out: &mut Vec<Action>,
    ) {
        if let Some(mut member) = scene.members.forget(number, out) {
            member.hang_up(scene.now, out);
        }
    }

    /// Takes a slot that failed back in line, unless it has failed too often.
    pub(crate) fn again(&mut self, job: Job, config: &Config, now: Duration) {
        let pause = config.backoff_min * (1 << job.attempts.min(8));
        let next = Job {
            attempts: job.attempts + 1,
            ..job
        };
        if !self.queue.again(next, now + pause) {
            self.give_up(config, now);
        }
    }

    /// A page needs something that cannot be done now: a later walk finds it.
    pub(crate) fn give_up(&mut self, config: &Config, now: Duration) {
        self.stuck += 1;
        self.rescan_by(now + config.rescan_interval);
    }
}
