// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! For how long to poll before sleeping: a pure state machine; the time is an argument.
//!
//! A sleep costs the guest a kick and the worker a wake-up across cores, tens of microseconds.
//! Polling for about as long pays off when requests come that close after each other, and wastes a
//! core when they do not. So the window follows what happened: it grows when a sleep turns out to
//! have been so short that polling would have caught the request, and shrinks when one was long.

/// Where a window begins to grow from, in ns: about the cost of a wake-up.
const STEP_NS: u64 = 8_000;

/// The adaptive window of one worker. Times are in ns since any fixed moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Poller {
    bound_ns: u64,
    window_ns: u64,
    slept_at: Option<u64>,
}

impl Poller {
    /// A window between 0 and `bound_us`; with 0 there is no polling at all.
    #[must_use]
    pub fn new(bound_us: u32) -> Self {
        let bound_ns = u64::from(bound_us) * 1000;
        Self {
            bound_ns,
            window_ns: bound_ns,
            slept_at: None,
        }
    }

    /// For how long to poll now, in ns; 0: sleep at once.
    #[must_use]
    pub const fn window_ns(&self) -> u64 {
        self.window_ns
    }

    /// Polling found a request. The window is worth its while: it grows with what it took.
    pub fn hit(&mut self, waited_ns: u64) {
        self.window_ns = self
            .window_ns
            .max(waited_ns.saturating_mul(2))
            .min(self.bound_ns);
    }

    /// Polling found nothing, or there was none: the worker goes to sleep.
    pub const fn sleep(&mut self, now: u64) {
        self.slept_at = Some(now);
    }

    /// A kick has woken the worker.
    pub fn wake(&mut self, now: u64) {
        let Some(slept_at) = self.slept_at.take() else {
            return;
        };
        let slept_ns = now.saturating_sub(slept_at);
        if slept_ns <= self.bound_ns {
            self.window_ns = self
                .window_ns
                .saturating_mul(2)
                .max(STEP_NS)
                .min(self.bound_ns);
        } else {
            self.window_ns /= 2;
            if self.window_ns < STEP_NS / 4 {
                self.window_ns = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_of_zero_never_polls() {
        let mut poller = Poller::new(0);
        for now in 0..100 {
            assert_eq!(poller.window_ns(), 0);
            poller.sleep(now);
            poller.wake(now);
            poller.hit(now);
        }
    }

    #[test]
    fn long_sleeps_end_polling() {
        let mut poller = Poller::new(50);
        let mut now = 0;
        let mut before = poller.window_ns();
        assert_eq!(before, 50_000);
        while poller.window_ns() != 0 {
            poller.sleep(now);
            now += 1_000_000;
            poller.wake(now);
            assert!(poller.window_ns() < before, "the window must shrink");
            before = poller.window_ns();
        }
        assert!(now <= 6_000_000, "polling ended after {now} ns");
    }

    #[test]
    fn short_sleeps_bring_polling_back_up_to_the_bound() {
        let mut poller = Poller::new(50);
        poller.window_ns = 0;
        let mut now = 0;
        let mut seen = vec![];
        for _ in 0..5 {
            poller.sleep(now);
            now += 10_000;
            poller.wake(now);
            seen.push(poller.window_ns());
        }
        assert_eq!(seen, [8_000, 16_000, 32_000, 50_000, 50_000]);
    }

    #[test]
    fn a_hit_makes_room_for_twice_the_wait_within_the_bound() {
        let mut poller = Poller::new(50);
        poller.window_ns = 10_000;
        poller.hit(1_000);
        assert_eq!(poller.window_ns(), 10_000, "a hit never shrinks the window");
        poller.hit(9_000);
        assert_eq!(poller.window_ns(), 18_000);
        poller.hit(u64::MAX);
        assert_eq!(poller.window_ns(), 50_000);
    }

    #[test]
    fn a_wake_without_a_sleep_or_from_the_past_changes_nothing_for_the_worse() {
        let mut poller = Poller::new(50);
        poller.window_ns = 20_000;
        poller.wake(1_000_000_000);
        assert_eq!(poller.window_ns(), 20_000);
        poller.sleep(1_000);
        poller.wake(10);
        assert_eq!(
            poller.window_ns(),
            40_000,
            "a clock that steps back counts as no time"
        );
    }
}
