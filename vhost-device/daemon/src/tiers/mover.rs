// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The thread that moves pages between tiers, and does what else nobody waits for: reclaims, page
//! traces' files, a word in the log when a tier fails.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tmem_pages::{Mover, Step, Tier};

use super::linked;
use super::paths::Paths;
use crate::connection::fence;
use crate::error::Error;
use crate::limits::{IDLE_AFTER, MOVER_PAUSE, TRACE_PAUSE};
use crate::sandbox::{self, ThreadKind};
use crate::snapshot::Running;

/// Between two looks at what else there is while pages are moved.
const LOOK: Duration = Duration::from_millis(10);

/// Wakes the thread.
#[derive(Default)]
struct Bell {
    rung: Mutex<bool>,
    heard: Condvar,
    stop: AtomicBool,
}

impl Bell {
    fn ring(&self) {
        *self.rung.lock() = true;
        self.heard.notify_one();
    }

    fn wait(&self, most: Duration) {
        let mut rung = self.rung.lock();
        if !*rung {
            self.heard.wait_for(&mut rung, most);
        }
        *rung = false;
    }
}

/// The running thread. Ends when this is dropped.
pub(crate) struct MoverThread {
    bell: Arc<Bell>,
    paths: Arc<Paths>,
    thread: Option<JoinHandle<()>>,
}

impl MoverThread {
    /// Starts it.
    ///
    /// # Errors
    /// [`Error::Control`], if there is no thread to be had, or the engine has no worker left.
    pub(crate) fn start(running: &Arc<Running>, mode: sandbox::Mode) -> Result<Self, Error> {
        let bell = Arc::new(Bell::default());
        let ring = {
            let bell = Arc::clone(&bell);
            move || bell.ring()
        };
        running.tiers.on_work(Box::new(ring.clone()));
        let mover = (running.engine.mover(Box::new(ring)))
            .map_err(|error| Error::Control(std::io::Error::other(error)))?;
        let thread = std::thread::Builder::new().name("mover".into()).spawn({
            let (bell, running) = (Arc::clone(&bell), Arc::clone(running));
            move || {
                fence(mode, ThreadKind::Mover);
                linked::be_patient();
                run(&running, mover, &bell);
            }
        });
        Ok(Self {
            bell,
            paths: Arc::clone(&running.tiers.paths),
            thread: Some(thread.map_err(Error::Control)?),
        })
    }
}

impl Drop for MoverThread {
    fn drop(&mut self) {
        self.bell.stop.store(true, Ordering::Relaxed);
        self.paths.end();
        self.bell.ring();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the mover panicked");
        }
    }
}

fn run(running: &Running, mut mover: Mover, bell: &Bell) {
    let mut quiet = Quiet::new(running);
    let mut errors = HashMap::new();
    let mut next_look = Instant::now();
    while !bell.stop.load(Ordering::Relaxed) {
        let mut busy = mover.step(quiet.is_long()) == Step::Busy;
        busy |= running.tiers.tasks.work();
        let now = Instant::now();
        if !busy || now >= next_look {
            next_look = now + LOOK;
            quiet.look(running, now);
            tell_errors(running, &mut errors);
            let tracing = running.pump_traces();
            if !busy {
                bell.wait(if tracing { TRACE_PAUSE } else { MOVER_PAUSE });
            }
        }
    }
}

/// For how long nothing was served.
struct Quiet {
    served: u64,
    since: Instant,
    last: Instant,
}

impl Quiet {
    fn new(running: &Running) -> Self {
        let now = Instant::now();
        Self {
            served: running.served(),
            since: now,
            last: now,
        }
    }

    fn look(&mut self, running: &Running, now: Instant) {
        let served = running.served();
        if served != self.served {
            (self.served, self.since) = (served, now);
        }
        self.last = now;
    }

    fn is_long(&self) -> bool {
        self.last.saturating_duration_since(self.since) >= IDLE_AFTER
    }
}

/// Logs what tiers say when they fail, once each time that it is news.
fn tell_errors(running: &Running, told: &mut HashMap<Tier, String>) {
    for tier in [Tier::Pm, Tier::Remote] {
        if let Some(error) = running.engine.tier_error(tier)
            && told.get(&tier) != Some(&error)
        {
            tracing::error!(tier = tier.name(), error, "a tier failed");
            told.insert(tier, error);
        }
    }
}
