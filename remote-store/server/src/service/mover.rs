// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The thread that moves pages to the PM file and back, and has the kernel make huge pages.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tmem_pages::{Engine, Mover, Step, Tier};

use super::error::{ServiceError, trying};
use crate::store::Store;

/// Looks around at least so often.
const PAUSE: Duration = Duration::from_millis(100);
/// Without any put or get for so long, pages are brought back to memory that would stay empty.
const IDLE_AFTER: Duration = Duration::from_secs(1);

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

    fn wait(&self) {
        let mut rung = self.rung.lock();
        if !*rung {
            self.heard.wait_for(&mut rung, PAUSE);
        }
        *rung = false;
    }
}

/// The running thread. Ends when this is dropped.
pub(super) struct MoverThread {
    bell: Arc<Bell>,
    thread: Option<JoinHandle<()>>,
}

impl MoverThread {
    /// Starts it.
    pub(super) fn start(store: &Arc<Store>) -> Result<Self, ServiceError> {
        let bell = Arc::new(Bell::default());
        let ring = Arc::clone(&bell);
        let mover = store.mover(Box::new(move || ring.ring()))?;
        let (heard, engine) = (Arc::clone(&bell), Arc::clone(store.engine()));
        let thread = std::thread::Builder::new()
            .name("mover".into())
            .spawn(move || run(&engine, mover, &heard))
            .map_err(trying("start the mover's thread"))?;
        Ok(Self {
            bell,
            thread: Some(thread),
        })
    }
}

impl Drop for MoverThread {
    fn drop(&mut self) {
        self.bell.stop.store(true, Ordering::Relaxed);
        self.bell.ring();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the mover panicked");
        }
    }
}

fn run(engine: &Engine, mut mover: Mover, bell: &Bell) {
    let mut told = None;
    let (mut served, mut since) = (0, Instant::now());
    let mut look = Instant::now();
    while !bell.stop.load(Ordering::Relaxed) {
        let now = Instant::now();
        if now >= look {
            look = now + PAUSE;
            let total = engine.stats().total;
            let all = total.puts + total.gets + total.misses;
            if all != served {
                (served, since) = (all, now);
            }
            let error = engine.tier_error(Tier::Pm);
            if error.is_some() && error != told {
                tracing::error!(error, "the PM file failed");
                told = error;
            }
        }
        if mover.step(now.saturating_duration_since(since) >= IDLE_AFTER) == Step::Idle {
            bell.wait();
        }
    }
}
