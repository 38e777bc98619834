// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One guest's balloon: what it shall hold, what it holds, and what the driver tells.
//!
//! Thread 0 of the guest's device changes the account; administrators and the controller change what is
//! set. Both tell the driver by its event queue, through the [`Speaker`] of the connection that there is.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tmem_abi::{BalloonRange, BalloonStats, STATS_UNKNOWN, balloon_result, event};
use tmem_admin_api::{
    Balloon, BalloonCounts, BalloonDecision, BalloonDriver, BalloonMode, BalloonRefusal,
    BalloonRefusalReason as Reason, BalloonStatistics,
};
use vmm_sys_util::eventfd::EventFd;

use super::auto::Decision;
use super::settings::{BalloonConfig, BalloonSetting};
use crate::device::event::Events;
use crate::limits::{BALLOON_SILENCE, BALLOON_STATS_MS};

/// How a connection's driver is told something.
#[derive(Debug)]
pub(crate) struct Speaker {
    pub(crate) events: Arc<Events>,
    pub(crate) wake: EventFd,
}

impl Speaker {
    fn say(&self, kind: u32, value: u64) {
        self.events.push_last(kind, value);
        // Fails only when as many wake-ups are pending as the counter holds; one is enough.
        let _ = self.wake.write(1);
    }
}

/// See the module's head.
#[derive(Debug, Default)]
pub struct GuestBalloon {
    config: BalloonConfig,
    state: Mutex<State>,
    speaker: Mutex<Option<Speaker>>,
}

#[derive(Debug, Default)]
struct State {
    setting: BalloonSetting,
    memory_pages: u64,
    /// What the driver was told last.
    target: u64,
    /// Pages in the account.
    held: u64,
    stats: Option<(Instant, BalloonStats)>,
    refusal: Option<(Instant, Reason)>,
    decision: Option<Decision>,
    /// The connection's driver has said HELLO, to this worker or the one before.
    greeted: bool,
    /// The worker before this one had told the driver something else, perhaps.
    resumed: bool,
    counts: BalloonCounts,
}

impl State {
    fn refuse(&mut self, results: &[u8]) {
        for reason in results.iter().filter_map(|result| reason(*result)) {
            *self.counts.refused.entry(reason).or_default() += 1;
            self.refusal = Some((Instant::now(), reason));
        }
    }
}

/// A snapshot for the controller.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    pub(crate) setting: BalloonSetting,
    pub(crate) memory_pages: u64,
    pub(crate) target_pages: u64,
    pub(crate) stats: Option<(Instant, BalloonStats)>,
}

impl GuestBalloon {
    /// A balloon as configured, of a guest that is not there yet.
    pub(crate) fn new(config: BalloonConfig) -> Self {
        let state = State {
            setting: config.setting.clone(),
            ..State::default()
        };
        Self {
            config,
            state: Mutex::new(state),
            speaker: Mutex::default(),
        }
    }

    /// The device has a balloon.
    #[must_use]
    pub const fn is_offered(&self) -> bool {
        self.config.enabled
    }

    /// The device takes reports of free pages.
    #[must_use]
    pub const fn takes_reports(&self) -> bool {
        self.config.enabled && self.config.reporting
    }

    pub(crate) const fn frees_huge_pages(&self) -> bool {
        self.config.huge_pages
    }

    /// What a worker before this one had set.
    pub(crate) fn resume(&self, setting: BalloonSetting) {
        let mut state = self.state.lock();
        state.setting = setting;
        state.resumed = true;
    }

    /// The connection's driver has said HELLO.
    pub(crate) fn is_greeted(&self) -> bool {
        self.state.lock().greeted
    }

    /// What the next worker is to know.
    pub(crate) fn setting(&self) -> BalloonSetting {
        self.state.lock().setting.clone()
    }

    /// Another connection begins. A driver that goes on after a worker's restart does not ask, and is
    /// told again.
    pub(crate) fn connected(&self, speaker: Speaker) {
        *self.speaker.lock() = Some(speaker);
        let mut state = self.state.lock();
        state.greeted = state.resumed;
        state.held = 0;
        state.stats = None;
    }

    /// The front-end has told of the guest's memory.
    pub(crate) fn has_memory(&self, pages: u64) {
        let resumed = {
            let mut state = self.state.lock();
            state.memory_pages = pages;
            std::mem::take(&mut state.resumed)
        };
        if self.config.enabled {
            self.retarget(resumed);
        }
    }

    /// The driver has said HELLO; what it is to be told.
    pub(crate) fn greeted(&self) -> Vec<(u32, u64)> {
        if !self.config.enabled {
            return Vec::new();
        }
        let mut state = self.state.lock();
        state.greeted = true;
        state.held = 0;
        state.stats = None;
        state.target = state.setting.target_pages(state.memory_pages);
        vec![
            (event::BALLOON, state.target),
            (event::STATS, BALLOON_STATS_MS),
        ]
    }

    /// Changes what is set, and tells the driver if its target is another now.
    pub(crate) fn set(&self, change: impl FnOnce(&mut BalloonSetting)) {
        change(&mut self.state.lock().setting);
        self.retarget(false);
    }

    /// What the controller decided. Returns whether the driver had to be told.
    pub(crate) fn decided(&self, decision: Decision) -> bool {
        let changed = {
            let mut state = self.state.lock();
            if !state.setting.auto {
                return false;
            }
            let size = state.memory_pages.saturating_sub(decision.target_pages);
            state.setting.size_pages = Some(size);
            let changed = decision.target_pages != state.target;
            state.decision = Some(decision);
            changed
        };
        if changed {
            self.retarget(false);
        }
        changed
    }

    /// Tells the driver its target if that has changed, or in any case.
    fn retarget(&self, in_any_case: bool) {
        let mut state = self.state.lock();
        let target = state.setting.target_pages(state.memory_pages);
        let changed = std::mem::replace(&mut state.target, target) != target;
        // Told under the lock, or an older target might be the last that is heard.
        if let Some(speaker) = &*self.speaker.lock()
            && (changed || in_any_case)
        {
            speaker.say(event::BALLOON, target);
            if in_any_case {
                speaker.say(event::STATS, BALLOON_STATS_MS);
            }
        }
    }

    /// Says which ranges the target has room for.
    pub(crate) fn admit(&self, ranges: &[BalloonRange], results: &mut [u8]) {
        let state = self.state.lock();
        let mut room = state.target.saturating_sub(state.held);
        for (range, result) in ranges.iter().zip(results) {
            *result = match room.checked_sub(range.pages.into()) {
                Some(rest) => {
                    room = rest;
                    balloon_result::OK
                }
                None => balloon_result::OVER,
            };
        }
    }

    /// These ranges were freed, or not, by their results.
    pub(crate) fn inflated(&self, ranges: &[BalloonRange], results: &[u8]) {
        let mut state = self.state.lock();
        for (range, result) in ranges.iter().zip(results) {
            if *result == balloon_result::OK {
                state.held += u64::from(range.pages);
                state.counts.inflated_pages += u64::from(range.pages);
            }
        }
        state.refuse(results);
    }

    /// The driver has taken these back. Returns how many are off the account.
    pub(crate) fn deflated(&self, ranges: &[BalloonRange]) -> u64 {
        let mut state = self.state.lock();
        let named: u64 = ranges.iter().map(|range| u64::from(range.pages)).sum();
        let gone = named.min(state.held);
        state.held -= gone;
        state.counts.deflated_pages += gone;
        gone
    }

    /// Free pages were freed here, too, or not, by the ranges' results.
    pub(crate) fn reported(&self, pages: u64, results: &[u8]) {
        let mut state = self.state.lock();
        state.counts.reported_pages += pages;
        state.refuse(results);
    }

    /// The driver tells how its guest is.
    pub(crate) fn told(&self, stats: BalloonStats) {
        let mut state = self.state.lock();
        state.held = stats.held.min(state.memory_pages);
        state.stats = Some((Instant::now(), stats));
    }

    /// What the controller is told.
    pub(crate) fn report(&self) -> Report {
        let state = self.state.lock();
        Report {
            setting: state.setting.clone(),
            memory_pages: state.memory_pages,
            target_pages: state.target,
            stats: state.stats,
        }
    }

    /// What an administrator is shown; `there`: a VMM is connected, and its driver has said HELLO.
    pub(crate) fn show(&self, guest: &str, there: bool) -> Balloon {
        let state = self.state.lock();
        let now = Instant::now();
        let age = |at: Instant| now.saturating_duration_since(at);
        let fresh = |at: Instant| age(at) < BALLOON_SILENCE;
        let driver = match state.stats {
            _ if !there => BalloonDriver::Absent,
            Some((at, _)) if fresh(at) => BalloonDriver::Works,
            _ => BalloonDriver::Silent,
        };
        let held_pages = if there { state.held } else { 0 };
        let auto = state.setting.auto;
        Balloon {
            guest: guest.to_owned(),
            enabled: self.config.enabled,
            driver,
            mode: if auto {
                BalloonMode::Auto
            } else {
                BalloonMode::Fixed
            },
            memory_pages: state.memory_pages,
            size_pages: state.memory_pages.saturating_sub(held_pages),
            target_pages: state.target,
            held_pages,
            floor_pages: state.setting.floor_pages,
            ceiling_pages: state.setting.ceiling_pages,
            weight: state.setting.weight,
            decision: state.decision.as_ref().filter(|_| auto).map(decision),
            refusal: state.refusal.map(|(at, reason)| BalloonRefusal {
                reason,
                tells: reason.tells().to_owned(),
                age_ms: millis(age(at)),
            }),
            statistics: state.stats.map(|(at, stats)| statistics(age(at), &stats)),
            counts: state.counts.clone(),
        }
    }
}

fn decision(of: &Decision) -> BalloonDecision {
    BalloonDecision {
        target_pages: of.target_pages,
        size_pages: of.size_pages,
        reason: of.reason.word().to_owned(),
        tells: of.reason.tells().to_owned(),
        faults_per_s: of.pressure.faults_per_s,
        stalled_permille: of.pressure.stalled_permille,
    }
}

fn statistics(age: Duration, stats: &BalloonStats) -> BalloonStatistics {
    let known = |figure: u64| Some(figure).filter(|figure| *figure != STATS_UNKNOWN);
    BalloonStatistics {
        age_ms: millis(age),
        sequence: stats.sequence,
        held_pages: stats.held,
        target_pages: stats.target,
        total_pages: stats.total,
        available_pages: stats.available,
        free_pages: stats.free,
        swap_ins: stats.swap_ins,
        swap_outs: stats.swap_outs,
        refaults: stats.refaults,
        major_faults: stats.major_faults,
        psi_some_us: known(stats.psi_some_us),
        psi_full_us: known(stats.psi_full_us),
        floor_pages: stats.floor,
        oom_deflated_pages: stats.oom_deflated,
        reason: stats.reason,
        swapped_pages: stats.swapped,
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Why, if a range was refused.
fn reason(result: u8) -> Option<Reason> {
    match result {
        balloon_result::OUTSIDE => Some(Reason::Outside),
        balloon_result::NO_FILE => Some(Reason::NoFile),
        balloon_result::HUGE => Some(Reason::Huge),
        balloon_result::FAILED => Some(Reason::Failed),
        balloon_result::OVER => Some(Reason::Over),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OK: u8 = balloon_result::OK;

    fn range(first: u64, pages: u32) -> BalloonRange {
        BalloonRange { first, pages }
    }

    /// A balloon of a guest of 1000 pages that keeps 900, whose driver has said HELLO.
    fn balloon() -> GuestBalloon {
        let balloon = GuestBalloon::new(BalloonConfig::default());
        balloon.has_memory(1000);
        balloon.set(|setting| setting.size_pages = Some(900));
        let told = balloon.greeted();
        assert_eq!(told[0], (event::BALLOON, 100));
        balloon
    }

    fn inflate(balloon: &GuestBalloon, ranges: &[BalloonRange]) -> Vec<u8> {
        let mut results = vec![OK; ranges.len()];
        balloon.admit(ranges, &mut results);
        balloon.inflated(ranges, &results);
        results
    }

    fn held(balloon: &GuestBalloon) -> u64 {
        balloon.show("web", true).held_pages
    }

    #[test]
    fn more_than_the_target_is_refused_and_told() {
        let balloon = balloon();
        let over = balloon_result::OVER;
        let ranges = [range(0, 60), range(100, 41), range(200, 40)];
        assert_eq!(inflate(&balloon, &ranges), [OK, over, OK]);
        assert_eq!(
            inflate(&balloon, &[range(500, 1), range(0, u32::MAX)]),
            [over; 2]
        );
        let shown = balloon.show("web", true);
        assert_eq!((shown.held_pages, shown.size_pages), (100, 900));
        assert_eq!(shown.counts.inflated_pages, 100);
        assert_eq!(shown.counts.refused[&Reason::Over], 3);
        assert_eq!(shown.refusal.unwrap().reason, Reason::Over);
        assert_eq!(balloon.deflated(&[range(10, 20)]), 20);
        assert_eq!(held(&balloon), 80);
        assert_eq!(balloon.deflated(&[range(0, u32::MAX)]), 80);
        assert_eq!(held(&balloon), 0);
    }

    #[test]
    fn what_the_driver_says_it_holds_is_believed_up_to_its_memory() {
        let balloon = balloon();
        let told = |held| {
            let stats = BalloonStats {
                held,
                ..BalloonStats::default()
            };
            balloon.told(stats);
        };
        // As after a worker's restart, when the account is empty.
        told(70);
        assert_eq!(held(&balloon), 70);
        assert_eq!(balloon.deflated(&[range(0, 30)]), 30);
        inflate(&balloon, &[range(500, 5)]);
        assert_eq!(held(&balloon), 45);
        // As after the guest ran out of memory: pages are back without a word but this.
        told(0);
        assert_eq!(inflate(&balloon, &[range(0, 100)]), [OK]);
        told(u64::MAX);
        assert_eq!(held(&balloon), 1000);
        assert_eq!(balloon.show("web", false).driver, BalloonDriver::Absent);
    }

    #[test]
    fn a_hello_empties_the_account_and_tells_the_target() {
        let balloon = balloon();
        inflate(&balloon, &[range(0, 100)]);
        let told = balloon.greeted();
        assert_eq!(
            told,
            [(event::BALLOON, 100), (event::STATS, BALLOON_STATS_MS)]
        );
        assert_eq!(held(&balloon), 0);
        assert_eq!(inflate(&balloon, &[range(0, 100)]), [OK]);
    }

    #[test]
    fn the_driver_is_told_when_its_target_changes_and_when_a_worker_goes_on() {
        let balloon = GuestBalloon::new(BalloonConfig::default());
        let events = Arc::new(Events::default());
        let wake = EventFd::new(vmm_sys_util::eventfd::EFD_NONBLOCK).unwrap();
        balloon.connected(Speaker {
            events: Arc::clone(&events),
            wake,
        });
        balloon.has_memory(1000);
        balloon.set(|setting| setting.weight = 7);
        assert!(events.is_empty(), "nothing has changed for the driver");
        balloon.set(|setting| setting.size_pages = Some(400));
        assert!(!events.is_empty());
        assert_eq!(balloon.report().target_pages, 600);
        let next = GuestBalloon::new(BalloonConfig::default());
        next.resume(balloon.setting());
        let events = Arc::new(Events::default());
        let wake = EventFd::new(vmm_sys_util::eventfd::EFD_NONBLOCK).unwrap();
        next.connected(Speaker {
            events: Arc::clone(&events),
            wake,
        });
        assert!(events.is_empty(), "its memory is not known yet");
        next.has_memory(1000);
        assert!(!events.is_empty());
        assert_eq!(next.report().target_pages, 600);
    }
}
