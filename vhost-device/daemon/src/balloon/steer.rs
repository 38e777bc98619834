// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The thread that asks the controller, once a second, what guests on auto shall have, and tells them.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use super::auto::{Controller, Figures, GuestReport, HostReport, Settings};
use super::state::Report;
use crate::connection::fence;
use crate::error::Error;
use crate::limits::{BALLOON_KEEP, BALLOON_STEP};
use crate::sandbox::{self, ThreadKind};
use crate::snapshot::Running;

/// The running thread. Ends when this is dropped.
pub(crate) struct SteeringThread {
    stop: Arc<(Mutex<bool>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl SteeringThread {
    /// Starts it.
    ///
    /// # Errors
    /// [`Error::Control`], if there is no thread to be had.
    pub(crate) fn start(running: &Arc<Running>, mode: sandbox::Mode) -> Result<Self, Error> {
        let stop = Arc::<(Mutex<bool>, Condvar)>::default();
        let thread = std::thread::Builder::new().name("balloons".into()).spawn({
            let (running, stop) = (Arc::clone(running), Arc::clone(&stop));
            move || {
                // It does what administrators do, and tells the keeper as they do.
                fence(mode, ThreadKind::Admin);
                run(&running, &stop);
            }
        });
        Ok(Self {
            stop,
            thread: Some(thread.map_err(Error::Control)?),
        })
    }
}

impl Drop for SteeringThread {
    fn drop(&mut self) {
        *self.stop.0.lock() = true;
        self.stop.1.notify_one();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that steers balloons panicked");
        }
    }
}

fn run(running: &Running, (stop, stopped): &(Mutex<bool>, Condvar)) {
    let start = Instant::now();
    let mut steering = Steering::default();
    let mut over = stop.lock();
    while !*over {
        stopped.wait_for(&mut over, BALLOON_STEP);
        if !*over {
            parking_lot::MutexGuard::unlocked(&mut over, || {
                steering.step(running, start, Instant::now());
            });
        }
    }
}

/// What is remembered from step to step.
#[derive(Default)]
struct Steering {
    /// There is one while a guest is on auto.
    controller: Option<Controller>,
    /// Some target has changed that the keeper has not heard of.
    news: bool,
    kept: Option<Instant>,
}

impl Steering {
    fn step(&mut self, running: &Running, start: Instant, now: Instant) {
        let guests: Vec<(&str, Report)> = (running.guests.iter())
            .filter(|guest| guest.has_driver() && guest.station.balloon.is_offered())
            .map(|guest| (guest.station.guest.name(), guest.station.balloon.report()))
            .filter(|(_, report)| report.setting.auto && report.memory_pages > 0)
            .collect();
        if guests.is_empty() {
            self.controller = None;
            return;
        }
        let reports: Vec<_> = (guests.iter())
            .map(|(name, report)| told(name, report, start))
            .collect();
        let controller = self
            .controller
            .get_or_insert_with(|| Controller::new(Settings::default()));
        let time = now.saturating_duration_since(start);
        let decisions = controller.step(time, &running.host_report(), &reports);
        for (mut decision, (_, report)) in decisions.into_iter().zip(&guests) {
            let Some(guest) = running.find(&decision.guest) else {
                continue;
            };
            decision.target_pages = decision.target_pages.saturating_add(beyond(report));
            let (target, reason) = (decision.target_pages, decision.reason.word());
            if guest.station.balloon.decided(decision) {
                tracing::debug!(
                    guest = guest.station.guest.name(),
                    target,
                    reason,
                    "a balloon is steered"
                );
                self.news = true;
            }
        }
        let due = |kept: Instant| now.saturating_duration_since(kept) >= BALLOON_KEEP;
        if self.news && self.kept.is_none_or(due) {
            running.tiers.keep_settings(&running.engine);
            (self.news, self.kept) = (false, Some(now));
        }
    }
}

/// What the controller hears of a guest. Memory beyond its ceiling stays in the balloon, and is nothing
/// that the controller knows of.
fn told<'a>(guest: &'a str, report: &Report, start: Instant) -> GuestReport<'a> {
    let beyond = beyond(report);
    let figures = report.stats.as_ref().map(|(at, stats)| {
        let mut figures = Figures::from(stats);
        figures.held = figures.held.saturating_sub(beyond);
        (at.saturating_duration_since(start), figures)
    });
    GuestReport {
        guest,
        ram_pages: report.memory_pages - beyond,
        floor_pages: report.setting.floor_pages,
        weight: report.setting.weight,
        target_pages: report.target_pages.saturating_sub(beyond),
        figures,
    }
}

/// Pages of a guest's memory beyond its ceiling.
fn beyond(report: &Report) -> u64 {
    let ceiling = report.setting.ceiling_pages.unwrap_or(u64::MAX);
    let ceiling = ceiling.max(report.setting.floor_pages);
    report.memory_pages.saturating_sub(ceiling)
}

impl Running {
    /// What the controller hears of the host.
    fn host_report(&self) -> HostReport {
        let (budget_pages, reserve_bytes) = self.tiers.balloon_host();
        let short =
            |reserve: u64| reserve.saturating_sub(self.available_bytes().unwrap_or(reserve));
        HostReport {
            budget_pages,
            needed_pages: reserve_bytes.map_or(0, short) / tmem_admin_api::PAGE_BYTES,
        }
    }
}
