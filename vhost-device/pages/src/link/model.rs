// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One direction of a link: a virtual clock that says when a transfer is due.
//!
//! ```text
//! start = max(arrival, free)        arrival: when the request came, not when its work is done
//! free  = start + bytes * 8 / rate  the link sends one transfer after the other
//! due   = free + latency + jitter   many may be under way
//! ```
//!
//! The order is that of the reservations, whatever the arrivals say. Jitter may bring a later
//! transfer in before an earlier one. The clock is exact: it keeps the fraction of a nanosecond at
//! which a transfer ends as a remainder over the rate, and only what it tells is rounded, always up.

use std::num::NonZeroU64;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::active::{Active, Fate, Faults};
use super::error::LinkError;
use super::fault::FaultPlan;
use super::random::Stream;
use super::spec::LinkSpec;
use super::stats::{Completions, LinkStats, Reserved};

/// When a transfer starts, is sent and is due, in nanoseconds of the caller's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// The link begins to send it.
    pub start: u64,
    /// Its last bit is sent; the next one can start.
    pub sent: u64,
    /// It may be completed: not before.
    pub due: u64,
    /// What went wrong with it; `due` has the time of that in it.
    pub faults: Faults,
}

impl Transfer {
    /// A transfer that takes no time.
    pub(crate) fn at_once(now: u64) -> Self {
        Self {
            start: now,
            sent: now,
            due: now,
            faults: Faults::default(),
        }
    }
}

/// One direction of a link, for any number of threads.
#[derive(Debug)]
pub struct Link {
    /// Sets this link's random numbers apart from those of others with the same seed.
    stream: u64,
    emulated: AtomicBool,
    state: Mutex<State>,
    completions: Completions,
}

#[derive(Debug)]
struct State {
    spec: LinkSpec,
    wire: Wire,
    jitter: Stream,
    /// Transfers since the spec was set.
    drawn: u64,
    plan: FaultPlan,
    active: Active,
    reserved: Reserved,
}

impl Link {
    /// A link that was never used.
    ///
    /// # Errors
    /// When a number of `spec` is out of its range.
    pub fn new(spec: LinkSpec) -> Result<Self, LinkError> {
        Self::with_stream(spec, 0)
    }

    /// The same, of which the random numbers differ from those of other streams.
    ///
    /// # Errors
    /// When a number of `spec` is out of its range.
    pub fn with_stream(spec: LinkSpec, stream: u64) -> Result<Self, LinkError> {
        spec.check()?;
        Ok(Self {
            stream,
            emulated: AtomicBool::new(spec.adds_delay()),
            state: Mutex::new(State {
                jitter: Stream::new(spec.seed, stream),
                spec,
                wire: Wire::default(),
                drawn: 0,
                plan: FaultPlan::default(),
                active: Active::default(),
                reserved: Reserved::default(),
            }),
            completions: Completions::new(),
        })
    }

    /// Whether it adds a delay, a rate or faults to anything.
    #[must_use]
    pub fn emulated(&self) -> bool {
        self.emulated.load(Ordering::Acquire)
    }

    /// Takes the link's time for `bytes` that came at `now`. A link that is not emulated takes none
    /// and counts nothing.
    #[must_use]
    pub fn reserve(&self, now: u64, bytes: u64) -> Transfer {
        if !self.emulated() {
            return Transfer::at_once(now);
        }
        self.state.lock().reserve(None, now, bytes)
    }

    /// Takes the time of this link and of `wire`, which others use as well. Both are taken from the
    /// arrival on, so a guest that waits for its own rate holds up nobody on the wire.
    pub(crate) fn reserve_over(&self, wire: &Self, now: u64, bytes: u64) -> Transfer {
        if !wire.emulated() {
            return self.reserve(now, bytes);
        }
        // A guest's state before the tier's, always.
        let mut state = self.state.lock();
        let mut wire = wire.state.lock();
        let passed = wire.pass(now, bytes);
        wire.reserved.count(now, bytes, &passed);
        state.reserve(Some(passed), now, bytes)
    }

    /// What it is like.
    #[must_use]
    pub fn spec(&self) -> LinkSpec {
        self.state.lock().spec.clone()
    }

    /// Makes it like `spec` from the next reservation on. What was reserved before keeps its due, and
    /// what comes next still queues behind it, unless the link adds nothing at all from now on: that
    /// ends the queue. The jitter's numbers begin anew.
    ///
    /// # Errors
    /// When a number of `spec` is out of its range; the link stays as it is.
    pub fn set(&self, spec: LinkSpec) -> Result<(), LinkError> {
        spec.check()?;
        let mut state = self.state.lock();
        state.wire.round_up();
        state.jitter = Stream::new(spec.seed, self.stream);
        state.drawn = 0;
        state.spec = spec;
        self.mark(&mut state);
        Ok(())
    }

    /// The faults that were last planned.
    #[must_use]
    pub fn faults(&self) -> FaultPlan {
        self.state.lock().plan.clone()
    }

    /// Plans faults, from `now` on, in place of those that were planned.
    pub fn set_faults(&self, now: u64, plan: &FaultPlan) {
        let mut state = self.state.lock();
        state.active = Active::new(plan, now, self.stream);
        state.plan = plan.clone();
        self.mark(&mut state);
    }

    fn mark(&self, state: &mut State) {
        let emulated = state.spec.adds_delay() || !state.active.is_empty();
        if !emulated {
            // Nothing waits any more, so there is no queue to go on with: a link that was far too
            // slow by mistake is well again once it has been cleared.
            state.wire = Wire::default();
        }
        self.emulated.store(emulated, Ordering::Release);
    }

    /// How long a transfer that came at `now` would wait for those before it.
    #[must_use]
    pub fn backlog_ns(&self, now: u64) -> u64 {
        self.state.lock().wire.told().saturating_sub(now)
    }

    /// Counts a transfer that was `due`, whose real work was done at `ready`, and that was completed
    /// at `done`.
    pub fn completed(&self, due: u64, ready: u64, done: u64) {
        self.completions.count(due, ready, done);
    }

    /// What it has carried.
    #[must_use]
    pub fn stats(&self) -> LinkStats {
        let reserved = self.state.lock().reserved;
        LinkStats::of(reserved, &self.completions)
    }
}

/// What a wire and its faults did to a transfer, before latency and jitter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Passed {
    pub(crate) start: u64,
    pub(crate) sent: u64,
    pub(crate) fate: Fate,
}

impl State {
    fn reserve(&mut self, over: Option<Passed>, now: u64, bytes: u64) -> Transfer {
        let mut passed = self.pass(now, bytes);
        if let Some(wire) = over {
            passed = passed.and(wire);
        }
        self.reserved.count(now, bytes, &passed);
        let jitter = self.spec.jitter.at(self.jitter, self.drawn);
        self.drawn += 1;
        let factor = u64::from(passed.fate.factor_milli);
        let latency = self.spec.latency_ns.saturating_mul(factor).div_ceil(1000);
        let after = latency
            .saturating_add(jitter)
            .saturating_add(passed.fate.lost_ns);
        Transfer {
            start: passed.start,
            sent: passed.sent,
            due: passed.sent.saturating_add(after),
            faults: passed.fate.faults,
        }
    }

    fn pass(&mut self, now: u64, bytes: u64) -> Passed {
        self.wire.wait_for(now);
        let mut fate = Fate::GOOD;
        if !self.active.is_empty() {
            let could = self.wire.told();
            let start = self.active.stall(could);
            fate = self.active.fate(start, bytes);
            // Without a stall the fraction stays: it would add up otherwise.
            if start > could {
                self.wire.wait_for(start);
                fate.faults.stalled = true;
            }
        }
        let start = self.wire.told();
        self.wire
            .send(bytes, self.spec.bandwidth_bps, fate.factor_milli);
        Passed {
            start,
            sent: self.wire.told(),
            fate,
        }
    }
}

impl Passed {
    /// Both, side by side: the later of each.
    fn and(self, other: Self) -> Self {
        let factor = self.fate.factor_milli.max(other.fate.factor_milli);
        Self {
            start: self.start.max(other.start),
            sent: self.sent.max(other.sent),
            fate: Fate {
                faults: self.fate.faults.and(other.fate.faults),
                factor_milli: factor,
                lost_ns: self.fate.lost_ns.saturating_add(other.fate.lost_ns),
            },
        }
    }
}

/// When the wire is free: `ns` and `rest / rate` of one nanosecond more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Wire {
    ns: u64,
    /// Below the rate; 0 without one.
    rest: u64,
}

impl Wire {
    /// The first whole nanosecond at which it is free.
    fn told(self) -> u64 {
        self.ns.saturating_add(u64::from(self.rest > 0))
    }

    /// A transfer that came at `now` starts then if it can.
    fn wait_for(&mut self, now: u64) {
        if now > self.ns {
            *self = Self { ns: now, rest: 0 };
        }
    }

    /// Forgets the fraction, since the rate over which it counts changes.
    fn round_up(&mut self) {
        *self = Self {
            ns: self.told(),
            rest: 0,
        };
    }

    /// Sends `bytes`, `factor_milli` thousandths as slowly as at `rate`.
    fn send(&mut self, bytes: u64, rate: Option<NonZeroU64>, factor_milli: u32) {
        /// Bits in a byte times nanoseconds in a second, in thousands: the factor has the rest.
        const SCALE: u64 = 8 * 1_000_000;
        let Some(rate) = rate else { return };
        let scale = SCALE * u64::from(factor_milli);
        // Up to a mebibyte at full speed this fits, and one narrow division is all it costs.
        let narrow = bytes.checked_mul(scale);
        if let Some(total) = narrow.and_then(|total| total.checked_add(self.rest)) {
            self.ns = self.ns.saturating_add(total / rate);
            self.rest = total % rate;
            return;
        }
        let total = u128::from(bytes) * u128::from(scale) + u128::from(self.rest);
        let rate = u128::from(rate.get());
        let ns = u64::try_from(total / rate).unwrap_or(u64::MAX);
        self.ns = self.ns.saturating_add(ns);
        self.rest = u64::try_from(total % rate).unwrap_or(0);
    }
}
