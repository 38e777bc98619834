// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A host of guests in small steps of time: programs with working sets, balloons that take time, pages
//! that come back over a link.
//!
//! A program touches the pages of its set at random. A page that is resident costs [`HIT_NS`], another
//! one [`MISS_NS`] more and takes the place of a third if there is no room. So a guest that is a little
//! too small is slow, and one that is much too small crawls.

use super::super::{Controller, Decision, Figures, GuestReport, HostReport, Settings};
use super::MIB;
use std::collections::VecDeque;
use std::time::Duration;

/// One step of time.
const TICK: Duration = Duration::from_millis(100);
/// Ticks between two reports of a guest, and two steps of a policy.
const REPORT_TICKS: u32 = 10;
const HIT_NS: u64 = 500;
const MISS_NS: u64 = 200_000;
/// What a program can touch for the first time in a tick.
const FILL: u64 = 40 * MIB;
/// What a balloon takes in a tick if it is free, and if it must be reclaimed first.
const INFLATE_FREE: u64 = 30 * MIB;
const INFLATE_RECLAIM: u64 = 4 * MIB;
const DEFLATE: u64 = 60 * MIB;

/// What a program does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Touches so many pages of a set of so many at random, as fast as it can; then lets go of it, but for
    /// what the next phase keeps.
    Work { set: u64, touches: u64 },
    /// Sleeps for so long on a set that it touches now and then.
    Rest { set: u64, time: Duration },
}

/// A guest with one program.
#[derive(Debug)]
pub(super) struct Guest {
    pub(super) name: String,
    pub(super) ram: u64,
    pub(super) floor: u64,
    kernel: u64,
    pub(super) held: u64,
    pub(super) target: u64,
    phases: VecDeque<Phase>,
    /// Pages of the set that were touched at least once, and those of them that are resident.
    allocated: u64,
    resident: u64,
    counts: Figures,
    reported: Option<(Duration, Figures)>,
    /// When its last phase ended.
    pub(super) ended: Option<Duration>,
}

impl Guest {
    pub(super) fn new(name: &str, ram: u64, phases: &[Phase]) -> Self {
        Self {
            name: name.to_owned(),
            ram,
            floor: ram / 8,
            kernel: ram / 16,
            held: 0,
            target: 0,
            phases: phases.iter().copied().collect(),
            allocated: 0,
            resident: 0,
            counts: Figures {
                refaults: Some(0),
                psi_some_us: Some(0),
                ..Figures::default()
            },
            reported: None,
            ended: None,
        }
    }

    pub(super) fn size(&self) -> u64 {
        self.ram - self.target
    }

    /// What it has resident at most.
    pub(super) fn claimed(&self) -> u64 {
        self.ram - self.held.min(self.target)
    }

    /// Pages that it had to push out to swap so far.
    pub(super) fn swap_outs(&self) -> u64 {
        self.counts.swap_outs
    }

    fn capacity(&self) -> u64 {
        (self.ram - self.held).saturating_sub(self.kernel)
    }

    fn free(&self) -> u64 {
        self.capacity().saturating_sub(self.resident)
    }

    fn tick(&mut self, now: Duration) {
        self.balloon();
        self.evict();
        match self.phases.front().copied() {
            Some(Phase::Work { set, touches }) => {
                let left = touches.saturating_sub(self.work(set));
                if left == 0 {
                    self.next(now);
                } else if let Some(Phase::Work { touches, .. }) = self.phases.front_mut() {
                    *touches = left;
                }
            }
            Some(Phase::Rest { set, time }) => {
                self.fit(set);
                if time <= TICK {
                    self.next(now);
                } else if let Some(Phase::Rest { time, .. }) = self.phases.front_mut() {
                    *time -= TICK;
                }
            }
            None => {}
        }
        self.evict();
    }

    fn next(&mut self, now: Duration) {
        self.phases.pop_front();
        if self.phases.is_empty() {
            self.ended = Some(now);
        }
    }

    fn balloon(&mut self) {
        if self.held < self.target {
            let free = self.free().min(INFLATE_FREE);
            self.held += (self.target - self.held).min(free.max(INFLATE_RECLAIM));
        } else {
            self.held -= (self.held - self.target).min(DEFLATE);
        }
    }

    /// What does not fit goes to swap.
    fn evict(&mut self) {
        let out = self.resident.saturating_sub(self.capacity());
        self.resident -= out;
        self.counts.swap_outs += out;
    }

    /// Lets go of what is beyond `set`, or touches what is missing for the first time.
    fn fit(&mut self, set: u64) -> u64 {
        let new = set.saturating_sub(self.allocated).min(FILL);
        self.allocated = (self.allocated + new).min(set);
        self.resident = (self.resident + new).min(self.allocated);
        new
    }

    /// A tick of touching pages of `set` at random; returns how many were.
    fn work(&mut self, set: u64) -> u64 {
        if self.fit(set) > 0 {
            return 0;
        }
        let mut left_ns = u64::try_from(TICK.as_nanos()).expect("a short tick");
        let mut touches = 0;
        // In slices, since each page that comes in changes the odds.
        for _ in 0..10 {
            let slice = left_ns.min(10_000_000);
            left_ns -= slice;
            let missing = set - self.resident.min(set);
            let mean = HIT_NS + MISS_NS * missing / set.max(1);
            let done = slice / mean.max(1);
            let missed = done * missing / set.max(1);
            touches += done;
            self.counts.swap_ins += missed;
            self.counts.psi_some_us = self
                .counts
                .psi_some_us
                .map(|us| us + missed * MISS_NS / 1000);
            let room = self.capacity().saturating_sub(self.resident);
            self.resident += missed.min(room).min(missing);
            self.counts.swap_outs += missed.saturating_sub(room);
        }
        touches
    }

    fn report(&mut self, now: Duration) {
        self.counts.sequence += 1;
        self.counts.held = self.held;
        self.counts.total = self.ram - self.held - self.kernel;
        self.counts.free = self.free();
        self.counts.available = self.free();
        self.reported = Some((now, self.counts));
    }
}

/// How balloons are driven.
#[derive(Debug)]
pub(super) enum Policy {
    /// Every guest has the same part of the budget, whatever it does.
    Equal,
    /// Every guest starts small, takes what it can when it faults, and keeps it.
    Greedy,
    /// The controller.
    Auto(Box<Controller>),
}

/// Guests on one budget.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) guests: Vec<Guest>,
    pub(super) budget: u64,
    policy: Policy,
    /// Swap-ins of each guest when the greedy policy looked last.
    looked: Vec<u64>,
    now: Duration,
    ticks: u32,
    pub(super) decisions: Vec<Decision>,
}

impl Host {
    /// Guests that all start with the same part of the budget; greedy ones with their floors.
    pub(super) fn new(budget: u64, policy: Policy, mut guests: Vec<Guest>) -> Self {
        let number = u64::try_from(guests.len()).expect("a few guests");
        for guest in &mut guests {
            let size = match policy {
                Policy::Greedy => guest.floor,
                _ => (budget / number).clamp(guest.floor, guest.ram),
            };
            guest.target = guest.ram - size;
            guest.held = guest.target;
        }
        Self {
            looked: vec![0; guests.len()],
            guests,
            budget,
            policy,
            now: Duration::ZERO,
            ticks: 0,
            decisions: Vec::new(),
        }
    }

    pub(super) fn now(&self) -> Duration {
        self.now
    }

    pub(super) fn tick(&mut self) {
        self.now += TICK;
        self.ticks += 1;
        for guest in &mut self.guests {
            guest.tick(self.now);
        }
        if self.ticks.is_multiple_of(REPORT_TICKS) {
            for guest in &mut self.guests {
                guest.report(self.now);
            }
            self.drive();
        }
    }

    fn drive(&mut self) {
        let claimed: u64 = self.guests.iter().map(Guest::claimed).sum();
        match &mut self.policy {
            Policy::Equal => {}
            Policy::Greedy => {
                let mut room = self.budget.saturating_sub(claimed);
                for (guest, looked) in self.guests.iter_mut().zip(&mut self.looked) {
                    let faults = guest.counts.swap_ins + guest.counts.swap_outs;
                    let faulted = faults - std::mem::replace(looked, faults);
                    if faulted >= Settings::default().faults(guest.size()) {
                        let taken = (guest.ram / 4).min(room).min(guest.target);
                        guest.target -= taken;
                        room -= taken;
                    }
                }
            }
            Policy::Auto(controller) => {
                let host = HostReport {
                    budget_pages: Some(self.budget),
                    needed_pages: 0,
                };
                let reports: Vec<_> = self
                    .guests
                    .iter()
                    .map(|guest| GuestReport {
                        guest: &guest.name,
                        ram_pages: guest.ram,
                        floor_pages: guest.floor,
                        weight: 100,
                        target_pages: guest.target,
                        figures: guest.reported,
                    })
                    .collect();
                self.decisions = controller.step(self.now, &host, &reports);
                for (guest, decision) in self.guests.iter_mut().zip(&self.decisions) {
                    guest.target = decision.target_pages;
                }
            }
        }
    }
}
