// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Ours: an engine with frames and a slot file, its mover on a thread that sleeps until it is called.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tmem_frontend::Random;
use tmem_pages::slots::Durability;
use tmem_pages::{Engine, PAGE_SIZE, PageBytes, Step, Tier};

use super::{BATCH, Store};
use crate::tiers::Scale;
use crate::tiers::stand::{Size, Stand, rate, slot_file};
use crate::{Error, Result};

/// How long the mover sleeps when nobody calls it.
const NAP: Duration = Duration::from_millis(10);

/// Where reads begin: behind the first headers. What is read is not looked at.
const BEHIND_HEADERS: u64 = 4 << 20;

/// See the module's head.
pub(super) struct Ours {
    stand: Stand,
    durability: Durability,
    /// Its slot file once more, and slots that are read of it for the floor.
    file: File,
    slots: u32,
    mover: Option<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
}

impl Ours {
    pub(super) fn new(scale: &Scale, folder: &Path, durability: Durability) -> Result<Self> {
        let pages = 4 * scale.frames;
        let size = Size {
            frames: scale.frames,
            pages,
        };
        let path = folder.join("slots");
        let file = slot_file(&path, pages, durability)?;
        // With the policy of a guest for which none was set.
        let mut stand = Stand::new(size, Some(file))?;
        // The stand's own mover has no thread.
        drop(stand.lend_mover());
        let stop = Arc::new(AtomicBool::new(false));
        let mover = Some(run_mover(&stand.engine, &stop)?);
        Ok(Self {
            stand,
            durability,
            file: File::open(&path).map_err(Error::system("open our slot file"))?,
            slots: pages / 2,
            mover,
            stop,
        })
    }
}

/// Starts the mover's thread.
fn run_mover(engine: &Arc<Engine>, stop: &Arc<AtomicBool>) -> Result<JoinHandle<()>> {
    let (send, called) = std::sync::mpsc::sync_channel(1);
    // A call that finds another one waiting is one with it.
    let waker = move || {
        let _ = send.try_send(());
    };
    let mover = engine.mover(Box::new(waker));
    let mut mover = mover.map_err(Error::other("make a mover"))?;
    let stop = Arc::clone(stop);
    Ok(thread::spawn(move || {
        let _unpinned = crate::pin::anywhere();
        while !stop.load(Ordering::Relaxed) {
            if mover.step(false) == Step::Idle {
                // Whether it was called or has slept enough, it looks.
                let _ = called.recv_timeout(NAP);
            }
        }
    }))
}

impl Drop for Ours {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(mover) = self.mover.take() {
            // It has nothing to say.
            let _ = mover.join();
        }
    }
}

impl Store for Ours {
    fn name(&self) -> &'static str {
        match self.durability {
            Durability::Process => "durability process",
            Durability::Host => "durability host of what leaves DRAM",
        }
    }

    fn put_all(&mut self, pages: &[(u32, u64)], _page: &mut PageBytes) -> Result<()> {
        let mut requests = pages.chunks(BATCH);
        requests.try_for_each(|request| self.stand.put_request(request))
    }

    fn get_for(
        &mut self,
        next: &mut dyn FnMut() -> u32,
        at_once: usize,
        time: Duration,
    ) -> Result<f64> {
        self.stand.gets(next, at_once, time)
    }

    fn rest(&mut self) -> Result<()> {
        let demoted = || {
            self.stand
                .engine
                .tier(Tier::Pm)
                .map_or(0, |tier| tier.demoted)
        };
        let mut before = demoted();
        loop {
            thread::sleep(3 * NAP);
            let now = demoted();
            if now == before {
                return Ok(());
            }
            before = now;
        }
    }

    fn reads(&mut self, random: &mut Random, time: Duration) -> Result<f64> {
        let failed = "read our slot file";
        let mut page = [0; PAGE_SIZE];
        rate(time, || {
            let slot = u64::from(random.below(self.slots));
            let at = BEHIND_HEADERS + slot * PAGE_SIZE as u64;
            let read = self.file.read_exact_at(&mut page, at);
            read.map_err(Error::system(failed))
        })
    }

    fn version(&mut self, number: u32) -> Result<Option<u64>> {
        self.stand.get(number)?;
        Ok(self.stand.version())
    }
}
