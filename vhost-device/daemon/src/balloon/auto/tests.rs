// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Tests of the controller: single rules, invariants under made-up reports, and whole hosts simulated.

mod comparison;
mod invariants;
mod moods;
mod rules;
mod simulation;

use super::{Controller, Decision, Figures, GuestReport, HostReport, Settings};
use std::time::Duration;

/// Pages in a MiB.
const MIB: u64 = 256;
const SECOND: Duration = Duration::from_secs(1);

/// A guest whose reports a test writes by hand.
#[derive(Clone, Debug)]
struct Puppet {
    name: &'static str,
    ram: u64,
    /// Of it, what its kernel does not manage.
    unmanaged: u64,
    floor: u64,
    weight: u32,
    target: u64,
    figures: Option<Figures>,
    reported: Duration,
}

impl Puppet {
    /// Without a balloon, all of its memory free, and one report already made.
    fn new(name: &'static str, ram: u64) -> Self {
        Self {
            name,
            ram,
            unmanaged: 0,
            floor: ram / 8,
            weight: 100,
            target: 0,
            figures: Some(Figures {
                sequence: 1,
                available: ram,
                free: ram,
                refaults: Some(0),
                ..Figures::default()
            }),
            reported: Duration::ZERO,
        }
    }

    fn size(&self) -> u64 {
        self.ram - self.target
    }

    /// Has reached its target already, with so much memory still available and free.
    fn sized(mut self, size: u64, available: u64) -> Self {
        self.target = self.ram - size;
        if let Some(figures) = &mut self.figures {
            figures.held = self.target;
            figures.available = available;
            figures.free = available;
        }
        self
    }

    /// Makes the next report: the balloon is where it should be, and `change` does the rest.
    fn reports(&mut self, now: Duration, change: impl FnOnce(&mut Figures)) {
        let figures = self.figures.get_or_insert_default();
        figures.sequence += 1;
        figures.held = self.target;
        change(figures);
        self.reported = now;
    }

    fn report(&self) -> GuestReport<'_> {
        GuestReport {
            guest: self.name,
            ram_pages: self.ram,
            floor_pages: self.floor,
            weight: self.weight,
            target_pages: self.target,
            figures: self.figures.map(|figures| {
                let managed = self.ram.saturating_sub(self.unmanaged);
                let total = managed.saturating_sub(figures.held);
                (self.reported, Figures { total, ..figures })
            }),
        }
    }
}

/// A step of the controller over `puppets`, which are told their targets.
fn step(
    controller: &mut Controller,
    now: Duration,
    budget: Option<u64>,
    puppets: &mut [&mut Puppet],
) -> Vec<Decision> {
    let host = HostReport {
        budget_pages: budget,
        needed_pages: 0,
    };
    let reports: Vec<_> = puppets.iter().map(|puppet| puppet.report()).collect();
    let decisions = controller.step(now, &host, &reports);
    for (puppet, decision) in puppets.iter_mut().zip(&decisions) {
        puppet.target = decision.target_pages;
    }
    decisions
}

/// A controller that has had two reports from each of `puppets`, and the time of the second.
fn started(budget: Option<u64>, puppets: &mut [&mut Puppet]) -> (Controller, Duration) {
    let mut controller = Controller::new(Settings::default());
    for puppet in puppets.iter_mut() {
        puppet.reported = Duration::ZERO;
    }
    step(&mut controller, Duration::ZERO, budget, puppets);
    (controller, Duration::ZERO)
}
