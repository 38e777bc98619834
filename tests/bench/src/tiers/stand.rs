// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! An engine with tiers, a guest with one swap area, one worker and the mover.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{Advice, fadvise, fdatasync};
use tmem_frontend::Random;
use tmem_pages::slots::{Durability, SlotFile};
use tmem_pages::{
    Engine, EngineConfig, EngineFiles, Epoch, GetMode, GetResult, Guest, GuestConfig, Layout,
    Mover, ObjectId, PAGE_SIZE, PageBytes, PageIndex, Pool, PoolId, PoolKind, PoolSpec, PutResult,
    Step, Stores, Ticket, Tier, Worker,
};

use crate::{Error, Result};

const GUEST: &str = "guest";
const POOL: PoolId = PoolId(0);
const EPOCH: Epoch = Epoch([1; 16]);
/// Our name where something fails.
const NAME: &str = "the engine";
/// The mover rests after fewer steps than this, or something is wrong with it.
const STEPS_MAX: usize = 1 << 20;

/// Sizes of a stand, in pages.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    /// Frames.
    pub(super) frames: u32,
    /// Pages that the guest may hold, and that its swap area has.
    pub(super) pages: u32,
}

/// See the module's head.
pub(super) struct Stand {
    pub(super) engine: Arc<Engine>,
    pub(super) guest: Arc<Guest>,
    pub(super) pool: Arc<Pool>,
    pub(super) worker: Worker,
    /// Away while another thread makes its steps.
    mover: Option<Mover>,
    ticket: u64,
    pages: u32,
    page: Box<PageBytes>,
}

impl Stand {
    /// A stand in these files; with what they hold, if they hold something.
    pub(super) fn open(files: EngineFiles, size: Size, stores: Stores) -> Result<Self> {
        let failed = "open an engine with tiers";
        let config = EngineConfig {
            frames: size.frames,
            workers_max: 4,
            guests_max: 1,
        };
        let (engine, _) =
            Engine::open_tiered(config, files, stores).map_err(Error::other(failed))?;
        let config = GuestConfig {
            name: GUEST.into(),
            grant_pages: size.pages.into(),
        };
        let guest = engine.attach_guest(config).map_err(Error::other(failed))?;
        let spec = PoolSpec {
            kind: PoolKind::Persistent,
            layout: Layout::Dense { pages: size.pages },
        };
        // A file that outlives the map keeps pools of a known boot of their guest alone.
        guest.begin_epoch(EPOCH);
        let pool = match guest.pool(POOL) {
            Some(pool) => pool,
            None => (guest.create_pool(POOL, spec)).map_err(Error::other(failed))?,
        };
        let mover = engine.mover(Box::new(|| {}));
        Ok(Self {
            worker: engine.worker().map_err(Error::other(failed))?,
            mover: Some(mover.map_err(Error::other(failed))?),
            ticket: guest.ticket_high(),
            pages: size.pages,
            page: noise(),
            engine,
            guest,
            pool,
        })
    }

    /// A stand in memory that ends with it, over a slot file.
    pub(super) fn new(size: Size, pm: Option<SlotFile>) -> Result<Self> {
        let files = EngineFiles::anonymous().map_err(Error::other("make shared memory"))?;
        Self::open(files, size, stores(pm, false))
    }

    /// Puts a page that says its number.
    pub(super) fn put(&mut self, number: u32) -> Result<()> {
        self.put_version(number, 0)
    }

    /// Puts a page that says its number and a version.
    pub(super) fn put_version(&mut self, number: u32, version: u64) -> Result<()> {
        self.ticket += 1;
        let ticket = Ticket::new(self.ticket).unwrap_or(Ticket::MAX);
        write_number(&mut self.page, number, version);
        let index = PageIndex(number);
        let put = (self.worker).put(&self.pool, ObjectId::ZERO, index, ticket, &*self.page);
        match put {
            PutResult::Stored => Ok(()),
            result => Err(Error::Refused {
                what: NAME,
                answer: format!("{result:?}"),
            }),
        }
    }

    /// Gets a page; an error if it is not there or another one.
    pub(super) fn get(&mut self, number: u32) -> Result<()> {
        let (pool, index) = (&self.pool, PageIndex(number));
        let got = (self.worker).get(pool, ObjectId::ZERO, index, GetMode::Copy, &mut *self.page);
        if got != GetResult::Hit {
            return Err(Error::Refused {
                what: NAME,
                answer: format!("{got:?}"),
            });
        }
        check_number(NAME, &*self.page, number)
    }

    /// The version of the page that was got last.
    pub(super) fn version(&self) -> Option<u64> {
        let bytes = self.page.get(8..16)?;
        Some(u64::from_le_bytes(bytes.try_into().ok()?))
    }

    /// Lets the mover work until it rests.
    pub(super) fn settle(&mut self) -> Result<()> {
        self.settle_until(|_| false)
    }

    /// Lets the mover work until `done` says so, or it rests.
    pub(super) fn settle_until(&mut self, done: impl Fn(&Engine) -> bool) -> Result<()> {
        let Some(mover) = &mut self.mover else {
            return Ok(());
        };
        for _ in 0..STEPS_MAX {
            if mover.step(false) == Step::Idle || done(&self.engine) {
                return Ok(());
            }
        }
        Err(Error::Refused {
            what: NAME,
            answer: "the mover never rests".to_owned(),
        })
    }

    /// The mover, for another thread.
    pub(super) fn lend_mover(&mut self) -> Option<Mover> {
        self.mover.take()
    }

    /// The mover is back.
    pub(super) fn return_mover(&mut self, mover: Option<Mover>) {
        self.mover = mover;
    }

    /// Puts pages 0 to `pages`, with the mover where it is needed.
    pub(super) fn fill(&mut self, pages: u32) -> Result<()> {
        for number in 0..pages {
            self.put(number)?;
            if number % 64 == 63 {
                self.settle()?;
            }
        }
        self.settle()
    }

    /// Flushes every page.
    pub(super) fn flush(&mut self) {
        self.ticket += 1;
        let ticket = Ticket::new(self.ticket).unwrap_or(Ticket::MAX);
        self.worker.flush_pool(&self.pool, ticket);
    }

    /// Some pages that are in a tier.
    pub(super) fn pages_in(&self, tier: Tier, count: usize) -> Result<Vec<u32>> {
        let is_there = |number: &u32| {
            let index = PageIndex(*number);
            (self.worker).tier_of(&self.pool, ObjectId::ZERO, index) == Some(tier)
        };
        let found: Vec<_> = (0..self.pages).filter(is_there).take(count).collect();
        if found.len() == count {
            return Ok(found);
        }
        Err(Error::Refused {
            what: NAME,
            answer: format!("{} when asked for {count} pages in {tier}", found.len()),
        })
    }

    /// Pages that take room in a tier.
    pub(super) fn used(&self, tier: Tier) -> u64 {
        self.engine.tier(tier).map_or(0, |stats| stats.used_pages)
    }

    /// Gets random pages of the first `pages`, for some time, so many a request. Returns how many a
    /// second.
    pub(super) fn random_gets(
        &mut self,
        random: &mut Random,
        pages: u32,
        batch: usize,
        time: Duration,
    ) -> Result<f64> {
        self.gets(&mut || random.below(pages), batch, time)
    }

    /// Gets pages for some time, so many a request, as a worker of the daemon does. Returns how many a
    /// second.
    pub(super) fn gets(
        &mut self,
        next: &mut dyn FnMut() -> u32,
        batch: usize,
        time: Duration,
    ) -> Result<f64> {
        let mut request = vec![0; batch];
        let requests = rate(time, || {
            request.fill_with(&mut *next);
            if batch > 1 {
                let indices = request.iter().map(|number| PageIndex(*number));
                self.worker.will_get(&self.pool, ObjectId::ZERO, indices);
            }
            for (nth, number) in (0..).zip(&request) {
                self.look_ahead(nth, &request);
                self.get(*number)?;
            }
            Ok(())
        })?;
        #[expect(clippy::cast_precision_loss, reason = "pages of a request")]
        Ok(requests * batch as f64)
    }

    /// What a worker does before each page of a request.
    fn look_ahead(&self, nth: u32, request: &[u32]) {
        let count = u32::try_from(request.len()).unwrap_or(u32::MAX);
        let index = |nth: u32| PageIndex(request[nth as usize]);
        self.worker.look_ahead(&self.pool, (nth, count), index);
    }

    /// Puts pages as one request, which is over when this returns.
    pub(super) fn put_request(&mut self, pages: &[(u32, u64)]) -> Result<()> {
        self.worker.begin_request();
        let mut pages = pages.iter();
        let put = pages.try_for_each(|(number, version)| self.put_version(*number, *version));
        self.worker.end_request();
        put
    }
}

/// Stores with this file as the PM tier.
pub(super) fn stores(pm: Option<SlotFile>, keep_over_reboot: bool) -> Stores {
    Stores {
        pm: pm.map(|file| Arc::new(file) as Arc<dyn tmem_pages::SlotStore>),
        remote: None,
        keep_over_reboot,
    }
}

/// A slot file at `path`, as it is found there or new.
pub(super) fn slot_file(path: &Path, slots: u32, durability: Durability) -> Result<SlotFile> {
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(Error::system("make a file in the folder to measure in"))?;
    let opened = SlotFile::open(file.into(), path, slots, durability);
    Ok(opened.map_err(Error::other("open a slot file"))?.0)
}

/// Writes back what the page cache has of a file, and drops it.
pub(super) fn drop_cache(path: &Path) -> Result<()> {
    let failed = "drop a file's page cache";
    let file = File::open(path).map_err(Error::system(failed))?;
    fdatasync(&file).map_err(Error::system(failed))?;
    fadvise(&file, 0, None, Advice::DontNeed).map_err(Error::system(failed))
}

/// Repeats a piece of work for some time. Returns how often a second.
pub(super) fn rate(time: Duration, mut work: impl FnMut() -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    let mut count = 0;
    while start.elapsed() < time {
        for _ in 0..16 {
            work()?;
        }
        count += 16;
    }
    Ok(crate::floors::per_second(count, start))
}

/// A page that does not compress.
pub(super) fn noise() -> Box<PageBytes> {
    let mut page = Box::new([0; PAGE_SIZE]);
    let mut random = Random::new(7);
    for bytes in page.chunks_exact_mut(8) {
        bytes.copy_from_slice(&random.next_u64().to_le_bytes());
    }
    page
}

/// Says which page this is, and which version of it.
pub(super) fn write_number(page: &mut PageBytes, number: u32, version: u64) {
    page[..4].copy_from_slice(&number.to_le_bytes());
    page[8..16].copy_from_slice(&version.to_le_bytes());
}

/// An error if it is another page.
pub(super) fn check_number(what: &'static str, page: &[u8], number: u32) -> Result<()> {
    if page.starts_with(&number.to_le_bytes()) {
        Ok(())
    } else {
        Err(Error::Mismatch {
            what,
            index: number,
        })
    }
}
