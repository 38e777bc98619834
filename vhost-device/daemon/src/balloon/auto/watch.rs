// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the controller remembers of one guest, and what it makes of its reports.
//!
//! ```text
//!            two reports                 quiet, rested            surplus
//! learning ──────────────▶ steady ◀────────────────────▶ idle ────────────▶ squeezed
//!                            │  ▲ rest is over                                 │
//!                    pressed ▼  │                                      pressed │
//!                          returning ◀─────────────────────────────────────────┘
//!                                                    soon: that size is sore for a while
//! ```
//! Each report is judged once. A squeeze follows from a report that has led to none yet, so nothing
//! is taken twice on the same evidence.

use super::rates::{follows, per_second, pressure};
use super::reason::Reason;
use super::report::{Figures, GuestReport, Pressure};
use super::settings::Settings;
use super::share::Claim;
use std::time::Duration;

/// Reports that come closer together than this make no rate.
const REPORTS_APART: Duration = Duration::from_millis(200);
/// Weights above this count as this.
const WEIGHT_MAX: u32 = 10_000;
const HUGE: u64 = tmem_abi::balloon_result::HUGE as u64;
const NO_FILE: u64 = tmem_abi::balloon_result::NO_FILE as u64;

/// How a guest is, by its last reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    Learning,
    Refused,
    Stuck,
    Settling,
    Pressed(Reason),
    Resting,
    Idle,
    Steady,
}

/// A size at which a squeeze hurt.
#[derive(Clone, Copy, Debug)]
struct Sore {
    size: u64,
    until: Duration,
}

/// What is remembered of a guest.
#[derive(Debug)]
pub(super) struct Watch {
    seen: Option<(Duration, Figures)>,
    mood: Mood,
    pressure: Pressure,
    /// The size that a pressed guest should have.
    wanted: u64,
    /// Reports in a row that wanted more.
    returns: u32,
    rest_until: Duration,
    sore: Option<Sore>,
    sore_times: u32,
    squeezed_at: Option<Duration>,
    /// The report that led to the last squeeze.
    squeezed_by: Option<u64>,
    /// When the balloon grew last, or had no need to.
    grew_at: Duration,
}

/// A guest in one step of the controller.
#[derive(Clone, Copy, Debug)]
pub(super) struct View {
    pub(super) ram: u64,
    pub(super) floor: u64,
    /// What it was told that it may have.
    pub(super) size: u64,
    /// The greater of what it was told and what it still has: what must be counted for it.
    pub(super) claimed: u64,
    /// What it may get in this step.
    pub(super) claim: Claim,
    pub(super) pressed: bool,
    /// Whether its weight counts for more than an idle guest's.
    pub(super) busy: bool,
    /// Whether what it gets is rounded to what is worth a message.
    pub(super) coarse: bool,
    /// Why, if its size comes out as it would like.
    pub(super) reason: Reason,
    pub(super) pressure: Pressure,
}

impl Watch {
    pub(super) fn new(now: Duration) -> Self {
        Self {
            seen: None,
            mood: Mood::Learning,
            pressure: Pressure::default(),
            wanted: 0,
            returns: 0,
            rest_until: Duration::ZERO,
            sore: None,
            sore_times: 0,
            squeezed_at: None,
            squeezed_by: None,
            grew_at: now,
        }
    }

    /// Judges a report. `scarce` says that somebody waits for memory.
    pub(super) fn look(
        &mut self,
        now: Duration,
        settings: &Settings,
        report: &GuestReport<'_>,
        scarce: bool,
    ) -> View {
        let ram = report.ram_pages;
        let size = ram - report.target_pages.min(ram);
        let Some((at, figures)) = report.figures else {
            *self = Self::new(now);
            return self.fixed(report, size, Reason::Learning);
        };
        let seen_at = self.seen.map(|(seen_at, _)| seen_at);
        if seen_at.is_none_or(|seen_at| at >= seen_at + REPORTS_APART) {
            self.judge(settings, report, at, figures, now);
        }
        if self.sore.is_some_and(|sore| now >= sore.until) {
            self.sore = None;
        }
        let age = now.saturating_sub(at);
        if age >= settings.restored_after {
            return self.restored(settings, report, size, scarce);
        }
        if age >= settings.silent_after {
            return self.fixed(report, size, Reason::Silent);
        }
        let reason = match self.mood {
            Mood::Learning => Reason::Learning,
            Mood::Refused => Reason::Refused,
            Mood::Stuck => Reason::Stuck,
            Mood::Settling => Reason::Settling,
            Mood::Pressed(reason) => reason,
            Mood::Resting => Reason::Resting,
            Mood::Idle | Mood::Steady => Reason::Steady,
        };
        match self.mood {
            Mood::Learning | Mood::Settling => self.fixed(report, size, reason),
            Mood::Refused | Mood::Stuck => {
                // What it holds is all that it will; a target beyond that would be a promise.
                let resident = ram - figures.held.min(ram);
                self.fixed(report, size.max(resident), reason)
            }
            Mood::Pressed(_) => self.pressed(settings, report, size, reason),
            Mood::Resting => self.resting(settings, report, size, figures, scarce),
            Mood::Idle => self.idle(settings, report, size, figures, scarce),
            Mood::Steady => {
                let low = size - size.div_ceil(settings.share_part.max(1));
                let mut view = self.view(report, size, low, size, settings.steady_factor);
                view.reason = reason;
                view
            }
        }
    }

    /// Hears what became of it.
    pub(super) fn decided(&mut self, now: Duration, settings: &Settings, from: u64, to: u64) {
        if to < from {
            self.squeezed_at = Some(now);
            self.squeezed_by = self.seen.map(|(_, figures)| figures.sequence);
        } else if to > from {
            self.rest_until = now + settings.rest;
        }
    }

    /// Draws from a new report what mood the guest is in.
    fn judge(
        &mut self,
        settings: &Settings,
        report: &GuestReport<'_>,
        at: Duration,
        figures: Figures,
        now: Duration,
    ) {
        let before = self.seen.replace((at, figures));
        let Some((before_at, before)) = before.filter(|(_, before)| follows(before, &figures))
        else {
            let seen = self.seen;
            *self = Self::new(now);
            self.seen = seen;
            return;
        };
        let ram = report.ram_pages;
        let size = ram - report.target_pages.min(ram);
        let resident = ram - figures.held.min(ram);
        let took = at - before_at;
        self.pressure = pressure(&before, &figures, took);

        let grown = figures.held.saturating_sub(before.held);
        if grown > 0 || resident <= size {
            self.grew_at = now;
        }
        let pressed = self.pressed_by(settings, size, &before, &figures, took);
        let was_pressed = matches!(self.mood, Mood::Pressed(_));
        if figures.free >= size / 4 {
            // Programs have let go of what they had: what hurt them is over.
            self.sore = None;
            self.sore_times = 0;
        }
        let lag = resident.saturating_sub(size);
        self.mood = if let Some(reason) = pressed {
            if !was_pressed {
                self.note_sore(settings, ram, size, now);
            }
            self.want(settings, ram, size.max(resident));
            Mood::Pressed(reason)
        } else if matches!(figures.refusal, NO_FILE | HUGE) {
            Mood::Refused
        } else if lag > settings.dead_band(ram) && now >= self.grew_at + settings.stuck_after {
            self.rest_until = now + settings.sore_first;
            Mood::Stuck
        } else if lag > size / 16 {
            Mood::Settling
        } else if now < self.rest_until {
            Mood::Resting
        } else if self.is_quiet(settings, size) {
            Mood::Idle
        } else {
            Mood::Steady
        };
        if pressed.is_none() {
            self.returns = 0;
        }
    }

    /// Why the guest wants memory, if it does.
    fn pressed_by(
        &self,
        settings: &Settings,
        size: u64,
        before: &Figures,
        figures: &Figures,
        took: Duration,
    ) -> Option<Reason> {
        if figures.oom_deflated > before.oom_deflated {
            return Some(Reason::Oom);
        }
        let faults = self.pressure.faults_per_s;
        // What is free already must be used up first, or all that was ever swapped out would be
        // read back into memory that others could use.
        if figures.free >= (size / 8).saturating_add(faults.saturating_mul(2)) {
            return None;
        }
        if faults >= settings.faults(size) {
            return Some(Reason::Faulting);
        }
        let stalled = self.pressure.stalled_permille;
        if stalled.is_some_and(|stalled| stalled >= settings.stalled_permille) {
            return Some(Reason::Stalled);
        }
        let squeezed = figures.held.saturating_sub(before.held);
        let out = figures.swap_outs.saturating_sub(before.swap_outs);
        let own_out = out.saturating_sub(squeezed.saturating_mul(2));
        let fell = before.available.saturating_sub(figures.available);
        let own_fall = fell.saturating_sub(squeezed);
        let short = figures.available < settings.reserve(size);
        let filling = short && own_fall >= (size / 32).max(1);
        if filling || per_second(own_out, took) >= settings.faults(size).saturating_mul(2) {
            return Some(Reason::Filling);
        }
        None
    }

    fn is_quiet(&self, settings: &Settings, size: u64) -> bool {
        let Pressure {
            faults_per_s,
            stalled_permille,
        } = self.pressure;
        faults_per_s <= settings.faults(size) / settings.quiet_part.max(1)
            && stalled_permille.is_none_or(|stalled| stalled <= settings.quiet_permille)
    }

    /// The first report under pressure: blames a squeeze that was made a short time ago.
    fn note_sore(&mut self, settings: &Settings, ram: u64, size: u64, now: Duration) {
        let squeezed = self.squeezed_at.take();
        if squeezed.is_some_and(|at| now.saturating_sub(at) <= settings.blame) {
            self.sore_times = self.sore_times.saturating_add(1);
            self.sore = Some(Sore {
                size: size.saturating_add(size / 8).min(ram),
                until: now + settings.sore_for(self.sore_times),
            });
        }
    }

    /// Raises what the guest should have: by more each time in a row.
    fn want(&mut self, settings: &Settings, ram: u64, size: u64) {
        let first = (ram / settings.return_part.max(1)).max(1);
        let step = first.saturating_mul(1 << self.returns.min(20));
        let step = step.saturating_add(self.pressure.faults_per_s.saturating_mul(2));
        self.returns = self.returns.saturating_add(1);
        let sore = self.sore.map_or(0, |sore| sore.size);
        self.wanted = size.saturating_add(step).max(sore).min(ram);
    }

    fn pressed(
        &self,
        settings: &Settings,
        report: &GuestReport<'_>,
        size: u64,
        reason: Reason,
    ) -> View {
        let low = size - size.div_ceil(settings.share_part.max(1));
        let high = self.wanted.max(size);
        let mut view = self.view(report, size, low, high, settings.pressed_factor);
        view.pressed = true;
        view.reason = if size >= report.ram_pages {
            Reason::Full
        } else {
            reason
        };
        view
    }

    /// Memory that nothing uses may go to those who wait, even so soon; nothing else.
    fn resting(
        &self,
        settings: &Settings,
        report: &GuestReport<'_>,
        size: u64,
        figures: Figures,
        scarce: bool,
    ) -> View {
        let unused = figures
            .free
            .min(size)
            .saturating_sub(settings.reserve(size));
        let taken = if scarce {
            unused / settings.asked_part.max(1)
        } else {
            0
        };
        let mut view = self.view(report, size, size - taken, size, settings.steady_factor);
        view.reason = Reason::Resting;
        view
    }

    fn idle(
        &self,
        settings: &Settings,
        report: &GuestReport<'_>,
        size: u64,
        figures: Figures,
        scarce: bool,
    ) -> View {
        let spare = figures
            .available
            .min(size)
            .saturating_sub(settings.reserve(size));
        let sore = self.sore.map_or(0, |sore| sore.size).min(size);
        let high = (size - spare / settings.idle_part.max(1)).max(sore);
        let is_sore = sore > size - size / settings.cold_part.max(1);
        let asked = spare / settings.asked_part.max(1) + size.div_ceil(settings.cold_part.max(1));
        // A sore guest has shown that it needs what it has, as much as one that is pressed now.
        let (low, factor) = if is_sore {
            (
                size - size.div_ceil(settings.share_part.max(1)),
                settings.pressed_factor,
            )
        } else if scarce {
            (size.saturating_sub(asked), 1)
        } else {
            (high, 1)
        };
        let mut view = self.view(report, size, low.min(high), high, factor);
        view.coarse = true;
        view.reason = if high + settings.dead_band(view.ram) <= size {
            Reason::Idle
        } else if size <= view.floor {
            Reason::Floor
        } else if is_sore {
            Reason::Sore
        } else {
            Reason::Steady
        };
        view
    }

    /// A guest whose reports stopped long ago: it may be stuck for want of memory.
    fn restored(
        &self,
        settings: &Settings,
        report: &GuestReport<'_>,
        size: u64,
        scarce: bool,
    ) -> View {
        let step = (report.ram_pages / settings.return_part.max(1)).max(1);
        let high = if scarce {
            size
        } else {
            size.saturating_add(step)
        };
        let mut view = self.view(report, size, size, high, 1);
        view.reason = if size < report.ram_pages {
            Reason::Restored
        } else {
            Reason::Silent
        };
        view
    }

    /// Left as it is, with `size`.
    fn fixed(&self, report: &GuestReport<'_>, size: u64, reason: Reason) -> View {
        let mut view = self.view(report, size, size, size, 1);
        view.reason = reason;
        view
    }

    fn view(&self, report: &GuestReport<'_>, size: u64, low: u64, high: u64, factor: u64) -> View {
        let ram = report.ram_pages;
        let figures = report.figures.map(|(_, figures)| figures);
        let own_floor = figures.map_or(0, |figures| figures.own_floor(ram));
        let floor = report.floor_pages.max(own_floor).min(ram);
        let told = ram - report.target_pages.min(ram);
        let resident = figures.map_or(told, |figures| ram - figures.held.min(ram));
        // One squeeze a report.
        let squeezed = figures.is_some_and(|figures| self.squeezed_by == Some(figures.sequence));
        let (low, high) = if squeezed {
            (low.max(size), high.max(size))
        } else {
            (low, high)
        };
        let low = low.clamp(floor, ram);
        View {
            ram,
            floor,
            size: told,
            claimed: told.max(resident),
            claim: Claim {
                low,
                high: high.clamp(low, ram),
                weight: u64::from(report.weight.clamp(1, WEIGHT_MAX)).saturating_mul(factor),
            },
            pressed: false,
            busy: factor > 1,
            coarse: false,
            reason: Reason::Steady,
            pressure: self.pressure,
        }
    }
}
