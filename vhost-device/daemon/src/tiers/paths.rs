// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The links between guests and tiers, and what a worker needs to know of them: nothing, while none is
//! emulated.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use tmem_pages::link::{Calibration, Clock, Direction, Faults, Links, Pacer, Route, SystemClock};
use tmem_pages::{PAGE_SIZE, Tier};

/// Tiers below DRAM.
pub(crate) const LOWER: usize = 2;
/// They themselves, nearest first.
pub(crate) const LOWER_TIERS: [Tier; LOWER] = [Tier::Pm, Tier::Remote];

/// A lower tier's place in [`LOWER_TIERS`].
pub(crate) fn lower(tier: Tier) -> Option<usize> {
    LOWER_TIERS.iter().position(|of| *of == tier)
}

/// All links, and whether any of them is emulated.
pub(crate) struct Paths {
    /// Read before each get; everything else only if it is set.
    on: AtomicBool,
    /// There is a tier below DRAM.
    tiered: AtomicBool,
    /// The way to one of them is long, whether or not a link is emulated.
    far: AtomicBool,
    /// The daemon is about to end: nobody waits any more.
    ending: AtomicBool,
    links: Option<Arc<Links>>,
    pacer: OnceLock<Pacer<SystemClock>>,
}

impl fmt::Debug for Paths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Paths").finish_non_exhaustive()
    }
}

impl Default for Paths {
    fn default() -> Self {
        Self::new()
    }
}

impl Paths {
    /// Links of all lower tiers, none of them emulated.
    #[must_use]
    pub(crate) fn new() -> Self {
        Self {
            on: AtomicBool::new(false),
            tiered: AtomicBool::new(false),
            far: AtomicBool::new(false),
            ending: AtomicBool::new(false),
            // No two of these have one name.
            links: Links::new(LOWER_TIERS.map(Tier::name)).ok(),
            pacer: OnceLock::new(),
        }
    }

    /// A link is emulated.
    #[inline]
    pub(crate) fn is_on(&self) -> bool {
        self.on.load(Ordering::Relaxed)
    }

    /// There is a tier below DRAM.
    #[inline]
    pub(crate) fn is_tiered(&self) -> bool {
        self.tiered.load(Ordering::Relaxed)
    }

    /// Pages are worth asking for before they are got.
    #[inline]
    pub(crate) fn is_far(&self) -> bool {
        self.far.load(Ordering::Relaxed)
    }

    pub(crate) fn set_far(&self) {
        self.far.store(true, Ordering::Relaxed);
    }

    /// Ends the waits of whoever moves pages.
    pub(crate) fn end(&self) {
        self.ending.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Relaxed)
    }

    pub(crate) fn set_tiered(&self) {
        self.tiered.store(true, Ordering::Relaxed);
    }

    /// Looks whether any is, after a change.
    pub(crate) fn look_again(&self) {
        let on = self.links.as_ref().is_some_and(|links| links.emulated());
        self.on.store(on, Ordering::Relaxed);
    }

    pub(crate) fn links(&self) -> Option<&Arc<Links>> {
        self.links.as_ref()
    }

    /// What waiting costs here, if it was measured.
    pub(crate) fn known_calibration(&self) -> Option<Calibration> {
        self.pacer.get().map(|pacer| *pacer.calibration())
    }

    /// Takes another process's measurement on this machine for its own.
    pub(crate) fn set_calibration(&self, calibration: Calibration) {
        // One's own is as good, if there is one.
        let _ = self.pacer.set(Pacer::new(SystemClock, calibration));
    }

    /// The same, measured now if it was not before: takes a tenth of a second.
    pub(crate) fn calibration(&self) -> Calibration {
        *self.pacer.get_or_init(Pacer::calibrated).calibration()
    }

    pub(crate) fn route(&self, tier: Tier, guest: &str) -> Option<Route> {
        self.links.as_ref()?.route(tier.name(), guest).ok()
    }

    /// Now, on the links' clock.
    pub(crate) fn now(&self) -> u64 {
        SystemClock.now()
    }

    /// How long a thread may sleep at `now` that has to act at `due`.
    pub(crate) fn may_sleep(&self, now: u64, due: u64) -> Option<u64> {
        self.pacer.get()?.may_sleep(now, due)
    }

    /// Waits until `due`, or until `enough` says so of the time that it is. Returns that time.
    pub(crate) fn wait(&self, due: u64, enough: &dyn Fn(u64) -> bool) -> u64 {
        loop {
            let now = self.now();
            if now >= due || enough(now) {
                return now;
            }
            match self.may_sleep(now, due) {
                Some(sleep) => SystemClock.sleep(sleep.min(SLEEP_MAX_NS)),
                None => std::hint::spin_loop(),
            }
        }
    }
}

/// The longest sleep at a time: so soon anything else is looked at.
const SLEEP_MAX_NS: u64 = 500_000;

/// One worker's ways to the tiers.
#[derive(Debug)]
pub(crate) struct Ways {
    paths: Arc<Paths>,
    routes: [Option<Route>; LOWER],
}

/// What the links say of one request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flight {
    /// When its answer may be given.
    pub(crate) due: u64,
    /// When it was taken from its ring.
    pub(crate) arrival: u64,
    /// When each tier's part is due, where there is one.
    pub(crate) parts: [Option<u64>; LOWER],
    /// What is to go wrong with the reading.
    pub(crate) strikes: [Option<Faults>; 2],
}

impl Ways {
    /// Of a worker of `guest`.
    pub(crate) fn new(paths: &Arc<Paths>, guest: &str) -> Self {
        Self {
            routes: LOWER_TIERS.map(|tier| paths.route(tier, guest)),
            paths: Arc::clone(paths),
        }
    }

    #[inline]
    pub(crate) fn is_on(&self) -> bool {
        self.paths.is_on()
    }

    pub(crate) fn paths(&self) -> &Paths {
        &self.paths
    }

    pub(crate) fn paths_shared(&self) -> Arc<Paths> {
        Arc::clone(&self.paths)
    }

    /// Takes the links' time for a get of so many pages of each lower tier, which came at `arrival`.
    /// Nothing if none of the links adds anything.
    pub(crate) fn reserve(&mut self, pages: [u32; LOWER], arrival: u64) -> Option<Flight> {
        let mut flight = Flight {
            due: 0,
            arrival,
            parts: [None; LOWER],
            strikes: [None; 2],
        };
        for ((route, pages), part) in (self.routes.iter_mut().zip(pages)).zip(&mut flight.parts) {
            let Some(route) = route.as_mut().filter(|_| pages > 0) else {
                continue;
            };
            let pair = route.pair();
            if !pair.emulated() {
                continue;
            }
            let bytes = u64::from(pages) * PAGE_SIZE as u64;
            let mut transfer = pair.reserve(Direction::In, arrival, bytes);
            if transfer.faults.corrupt.is_some() {
                // What arrives is not what was sent: it is asked for once more, whole.
                let again = pair.reserve(Direction::In, transfer.due, bytes);
                flight.strikes = [Some(transfer.faults), Some(again.faults)];
                transfer = again;
            }
            *part = Some(transfer.due);
            flight.due = flight.due.max(transfer.due);
        }
        let struck = flight.strikes.iter().any(Option::is_some);
        (flight.due > arrival || struck).then_some(flight)
    }

    /// A flight whose pages were `ready` was answered at `done`.
    pub(crate) fn landed(&mut self, flight: &Flight, ready: u64, done: u64) {
        for (route, due) in self.routes.iter_mut().zip(flight.parts) {
            if let (Some(route), Some(due)) = (route, due) {
                let link = route.pair().link(Direction::In);
                link.completed(due.max(flight.due), ready, done);
            }
        }
    }
}
