// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Waiting until a due time: asleep while it is far, spinning when it is near.
//!
//! The only file of this folder that reads a clock or sleeps. A thread that polls anyway needs no
//! more of it than the clock: it keeps a [`Pending`](super::Pending), looks whether the first is due,
//! and asks [`Pacer::may_sleep`] when it has nothing else to do.

use std::hint::spin_loop;
use std::num::NonZeroU64;
use std::time::Duration;

use rustix::thread::{NanosleepRelativeResult, set_current_timer_slack};
use rustix::time::{ClockId, Timespec, clock_gettime};

use super::calibration::{CALIBRATION_SAMPLES, Calibration, CalibrationSamples};

/// Time, as a link counts it.
pub trait Clock {
    /// Nanoseconds since some moment, the same for all threads. Never less than before.
    fn now(&self) -> u64;

    /// Gives the processor away for about that long; may end early or late.
    fn sleep(&self, ns: u64);

    /// One turn of a loop that waits.
    fn relax(&self);
}

/// The system's monotonic clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[inline]
    fn now(&self) -> u64 {
        let Timespec { tv_sec, tv_nsec } = clock_gettime(ClockId::Monotonic);
        // Both are positive: the clock counts from the machine's start.
        let whole = u64::try_from(tv_sec).unwrap_or(0);
        let part = u64::try_from(tv_nsec).unwrap_or(0);
        whole.wrapping_mul(1_000_000_000).wrapping_add(part)
    }

    fn sleep(&self, ns: u64) {
        let Ok(request) = Timespec::try_from(Duration::from_nanos(ns)) else {
            return;
        };
        // Whoever sleeps looks at the clock afterwards, so an interruption needs no answer.
        match rustix::thread::nanosleep(&request) {
            NanosleepRelativeResult::Ok
            | NanosleepRelativeResult::Interrupted(_)
            | NanosleepRelativeResult::Err(_) => {}
        }
    }

    #[inline]
    fn relax(&self) {
        spin_loop();
    }
}

/// Asks the kernel to end this thread's sleeps when they are over, not up to 50 us later, which is
/// its default. A kernel that refuses leaves later wake-ups, which calibration then sees.
pub fn prompt_timers() {
    let _refused = set_current_timer_slack(Some(NonZeroU64::MIN));
}

/// Waits on a clock that was calibrated.
#[derive(Clone, Copy, Debug)]
pub struct Pacer<C> {
    clock: C,
    calibration: Calibration,
}

impl Pacer<SystemClock> {
    /// A pacer for threads of this machine: takes about a tenth of a second to measure it. The
    /// calling thread has [prompt timers](prompt_timers) from then on, and so must those that use it.
    #[must_use]
    pub fn calibrated() -> Self {
        prompt_timers();
        let calibration = calibrate(&SystemClock);
        Self::new(SystemClock, calibration)
    }
}

impl<C: Clock> Pacer<C> {
    /// A pacer that trusts `calibration`.
    pub const fn new(clock: C, calibration: Calibration) -> Self {
        Self { clock, calibration }
    }

    /// What it knows of the machine.
    pub const fn calibration(&self) -> &Calibration {
        &self.calibration
    }

    /// The time.
    pub fn now(&self) -> u64 {
        self.clock.now()
    }

    /// How long a thread may sleep at `now` that must act at `due`; nothing if it has to spin.
    pub const fn may_sleep(&self, now: u64, due: u64) -> Option<u64> {
        let far = due.saturating_sub(now);
        let sleep = far.saturating_sub(self.calibration.sleep_guard_ns);
        if sleep == 0 { None } else { Some(sleep) }
    }

    /// Returns at `due` or, as little as the machine allows, after it: the time that it is then.
    pub fn wait_until(&self, due: u64) -> u64 {
        let mut now = self.clock.now();
        while let Some(sleep) = self.may_sleep(now, due) {
            self.clock.sleep(sleep);
            now = self.clock.now();
        }
        while now < due {
            self.clock.relax();
            now = self.clock.now();
        }
        now
    }
}

/// Measures what waiting on `clock` costs.
pub fn calibrate<C: Clock>(clock: &C) -> Calibration {
    /// Far enough that the spin is one, near enough that a thousand are nothing.
    const SPIN_NS: u64 = 2_000;
    const SLEEP_NS: u64 = 20_000;
    let spinner = Pacer::new(
        clock,
        Calibration {
            sleep_guard_ns: u64::MAX,
            ..Calibration::default()
        },
    );
    let sample = |one: &dyn Fn() -> u64| (0..CALIBRATION_SAMPLES).map(|_| one()).collect();
    let samples = CalibrationSamples {
        clock_reads: sample(&|| {
            let start = clock.now();
            clock.now() - start
        }),
        shortest_waits: sample(&|| {
            let start = clock.now();
            spinner.wait_until(start + 1) - start
        }),
        spins_late: sample(&|| {
            let due = clock.now() + SPIN_NS;
            spinner.wait_until(due) - due
        }),
        sleeps_late: sample(&|| {
            let due = clock.now() + SLEEP_NS;
            clock.sleep(SLEEP_NS);
            clock.now().saturating_sub(due)
        }),
    };
    Calibration::from_samples(&samples)
}

impl<C: Clock> Clock for &C {
    fn now(&self) -> u64 {
        (**self).now()
    }

    fn sleep(&self, ns: u64) {
        (**self).sleep(ns);
    }

    fn relax(&self) {
        (**self).relax();
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// A clock on which each reading takes 30 ns and each sleep ends late.
    struct Fake {
        now: Cell<u64>,
        late: u64,
        slept: Cell<u64>,
        sleeps: Cell<u64>,
        spins: Cell<u64>,
    }

    impl Fake {
        fn new(late: u64) -> Self {
            Self {
                now: Cell::new(1_000_000),
                late,
                slept: Cell::new(0),
                sleeps: Cell::new(0),
                spins: Cell::new(0),
            }
        }
    }

    impl Clock for Fake {
        fn now(&self) -> u64 {
            self.now.set(self.now.get() + 30);
            self.now.get()
        }

        fn sleep(&self, ns: u64) {
            self.now.set(self.now.get() + ns + self.late);
            self.slept.set(self.slept.get() + ns);
            self.sleeps.set(self.sleeps.get() + 1);
        }

        fn relax(&self) {
            self.spins.set(self.spins.get() + 1);
        }
    }

    fn guard(ns: u64) -> Calibration {
        Calibration {
            sleep_guard_ns: ns,
            ..Calibration::default()
        }
    }

    #[test]
    fn a_far_due_time_is_slept_for_and_the_rest_is_spun() {
        let clock = Fake::new(40_000);
        let due = 1_500_000;
        let ended = Pacer::new(&clock, guard(80_000)).wait_until(due);
        assert!((due..due + 30).contains(&ended), "{ended}");
        assert_eq!(clock.sleeps.get(), 1);
        assert!(clock.slept.get() > 400_000);
        assert!(clock.spins.get() > 1000);
    }

    #[test]
    fn a_near_due_time_is_only_spun_for() {
        let clock = Fake::new(40_000);
        let ended = Pacer::new(&clock, guard(80_000)).wait_until(1_080_000);
        assert!((1_080_000..1_080_030).contains(&ended), "{ended}");
        assert_eq!(clock.sleeps.get(), 0);
    }

    #[test]
    fn a_due_time_that_has_passed_is_not_waited_for() {
        let clock = Fake::new(0);
        assert_eq!(Pacer::new(&clock, guard(0)).wait_until(7), 1_000_030);
        assert_eq!((clock.sleeps.get(), clock.spins.get()), (0, 0));
    }

    #[test]
    fn a_sleep_that_ends_late_is_seen_in_the_guard() {
        let clock = Fake::new(55_000);
        let calibration = calibrate(&clock);
        assert_eq!(calibration.clock_read_ns, 30);
        assert_eq!(calibration.floor_ns, 30);
        assert!(calibration.spin_late_p999_ns < 30);
        // Two readings are in it as well.
        assert_eq!(calibration.sleep_guard_ns, 55_030);
        let pacer = Pacer::new(&clock, calibration);
        let due = clock.now.get() + 300_000;
        assert!(pacer.wait_until(due) < due + 30, "it woke in time");
    }

    #[test]
    fn the_systems_clock_does_not_go_back_and_no_wait_ends_early() {
        let pacer = Pacer::new(SystemClock, guard(100_000));
        for far in [0, 100, 5_000, 300_000] {
            let start = pacer.now();
            assert!(pacer.wait_until(start + far) >= start + far);
        }
    }
}
