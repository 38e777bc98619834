// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the process does until it is killed: every thread has a guest with four pools, whose state
//! it knows exactly, and all put the same few pages of one more guest.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tmem_pages::slots::{Durability, Opened, OpenedAs, SlotError, SlotFile};
use tmem_pages::{
    DramLimits, Engine, EngineConfig, EngineError, EngineFiles, Epoch, FlushResult, GetMode,
    GetResult, Guest, GuestConfig, Layout, ObjectId, PAGE_SIZE, PageIndex, Pool, PoolId, PoolKind,
    PoolSpec, PutResult, Recovery, Step, Stores, Ticket, Worker,
};

use super::log::{Bulk, MISSING, NOTHING, PAGES, POOLS, SHARED, THREADS, ThreadLog};
use super::model::{Content, Random, Sink, Source};

/// Small, so that grants and frames are often full.
pub(crate) const CONFIG: EngineConfig = EngineConfig {
    frames: 420,
    workers_max: 4,
    guests_max: 4,
};
// One for the mover.
const _: () = assert!(CONFIG.workers_max as usize == THREADS + 1);

/// Frames, where there are tiers below, and slots of these.
const TIERED: [u32; 3] = [50, 160, 210];

/// Opens a slot file. A process that is being started has a copy of every descriptor for a moment, and
/// with it every lock.
fn open_slots(file: &File, slots: u32) -> (SlotFile, Opened) {
    // A descriptor of its own, since a lock belongs to what was opened.
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let path = Path::new(&path);
    loop {
        let file = File::options().read(true).write(true).open(path).unwrap();
        match SlotFile::open(file.into(), path, slots, Durability::Process) {
            Ok(opened) => return opened,
            Err(SlotError::Locked { .. }) => std::thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    }
}

/// What a process works on: the engine's files, and those of the tiers below DRAM.
#[derive(Debug)]
pub(crate) struct Places {
    pub(crate) files: EngineFiles,
    pub(crate) slots: Option<[File; 2]>,
}

impl Places {
    /// Opens the engine that is in the files.
    pub(crate) fn open(&self) -> Result<(Arc<Engine>, Recovery), EngineError> {
        let Some(slots) = &self.slots else {
            return Engine::open(CONFIG, self.files.try_clone()?);
        };
        let mut sizes = TIERED[1..].iter();
        let [pm, remote] = slots.each_ref().map(|file| {
            let (store, opened) = open_slots(file, *sizes.next().unwrap());
            assert!(matches!(opened.found, OpenedAs::New | OpenedAs::Kept));
            Some(Arc::new(store) as _)
        });
        let stores = Stores {
            pm,
            remote,
            keep_over_reboot: false,
        };
        let config = EngineConfig {
            frames: TIERED[0],
            ..CONFIG
        };
        Engine::open_tiered(config, self.files.try_clone()?, stores)
    }
}
const GRANT: u64 = 90;
/// Objects of a sparse pool.
const OBJECTS: u64 = 4;
/// Tickets that a process may use up.
const TICKETS: u64 = 1 << 24;

pub(crate) fn spec(pool: usize) -> PoolSpec {
    PoolSpec {
        kind: if pool < 2 {
            PoolKind::Persistent
        } else {
            PoolKind::Ephemeral
        },
        layout: if pool.is_multiple_of(2) {
            Layout::Dense { pages: 2000 }
        } else {
            Layout::Sparse
        },
    }
}

/// The name of a page.
pub(crate) fn name(pool: usize, page: usize) -> (ObjectId, PageIndex) {
    let page = u32::try_from(page).unwrap();
    if pool.is_multiple_of(2) {
        // In four leaves, many to a lock.
        return (ObjectId::ZERO, PageIndex(page % 20 + page / 20 * 700));
    }
    let object = ObjectId([u64::from(page) % OBJECTS, 5, 0]);
    (object, PageIndex(1020 + page))
}

pub(crate) fn guest_name(thread: usize) -> String {
    format!("guest{thread}")
}

/// Attaches the guests of all threads, and the one that they share.
pub(crate) fn attach(engine: &Engine) -> (Vec<Arc<Guest>>, Arc<Guest>) {
    let attach = |name: String, grant_pages| {
        let config = GuestConfig { name, grant_pages };
        engine.attach_guest(config).unwrap()
    };
    let guests = (0..THREADS).map(|thread| attach(guest_name(thread), GRANT));
    (guests.collect(), attach("shared".into(), SHARED as u64))
}

/// Ends what the last process left of a thread's ring. Returns whether there was something.
pub(crate) fn resolve(guest: &Guest, thread: usize, log: &ThreadLog) -> bool {
    let unresolved = guest.unresolved();
    for (ring, position) in &unresolved {
        assert_eq!(*ring as usize, thread, "a ring of another guest");
        guest.resolve(*ring, log.used == u64::from(*position) + 1);
    }
    assert!(guest.unresolved().is_empty());
    unresolved.len() == 1
}

/// Runs until it is killed.
pub(crate) fn run(places: &Places, log: &File, seed: u64) {
    let (engine, _) = places.open().unwrap();
    let (guests, shared) = attach(&engine);
    let mover = places.slots.is_some().then(|| {
        let mover = engine.mover(Box::new(|| {}));
        guests[0].set_policy("lru", 1).unwrap();
        let cap_pages = Some(20);
        let limits = DramLimits {
            cap_pages,
            ..DramLimits::default()
        };
        guests[1].set_dram_limits(limits).unwrap();
        mover.unwrap()
    });
    let shared: Vec<_> = (0..2)
        .map(|pool| shared.create_pool(PoolId(pool), spec(pool as usize)))
        .map(Result::unwrap)
        .collect();
    let logs: Vec<_> = (0..THREADS)
        .map(|thread| ThreadLog::read(log, thread))
        .collect();
    let newest = logs.iter().map(|log| log.tickets).max().unwrap();
    let issued = AtomicU64::new(newest);
    std::thread::scope(|scope| {
        if let Some(mut mover) = mover {
            scope.spawn(move || {
                for round in 0_u32.. {
                    if mover.step(round.is_multiple_of(2)) == Step::Idle {
                        std::thread::yield_now();
                    }
                }
            });
        }
        for ((thread, mut known), guest) in (0..THREADS).zip(logs).zip(guests) {
            resolve(&guest, thread, &known);
            known.tickets = newest + TICKETS;
            known.write(log);
            let mut party = Party {
                thread,
                worker: engine.worker().unwrap(),
                pools: (0..POOLS).map(|pool| guest.pool(id(pool))).collect(),
                guest,
                log: known,
                file: log,
                random: Random::new(seed, thread as u64),
                issued: &issued,
                position: 0,
            };
            let shared = &shared;
            scope.spawn(move || {
                party.check();
                loop {
                    party.step(shared);
                }
            });
        }
    });
}

pub(crate) fn id(pool: usize) -> PoolId {
    PoolId(u32::try_from(pool).unwrap())
}

/// One thread.
struct Party<'a> {
    thread: usize,
    guest: Arc<Guest>,
    worker: Worker,
    pools: Vec<Option<Arc<Pool>>>,
    log: ThreadLog,
    file: &'a File,
    random: Random,
    issued: &'a AtomicU64,
    position: u16,
}

impl Party<'_> {
    fn ticket(&self) -> Ticket {
        Ticket::new(self.issued.fetch_add(1, Ordering::SeqCst) + 1).unwrap()
    }

    fn step(&mut self, shared: &[Arc<Pool>]) {
        let number = usize::try_from(self.random.below(POOLS as u64)).unwrap();
        let page = usize::try_from(self.random.below(PAGES as u64)).unwrap();
        let Some(pool) = self.pools[number].clone() else {
            return self.create(number);
        };
        match self.random.below(1000) {
            0..450 => self.put(&pool, number, page),
            450..550 => self.get(&pool, number, page),
            550..650 => self.flush(&pool, number, page),
            650..700 => self.get_exclusive(&pool, number, page),
            700..900 => self.take(&pool, number),
            900..970 => self.put_shared(shared),
            970..990 => self.flush_many(&pool, number),
            990..998 => self.destroy(number),
            _ => self.epoch(),
        }
    }

    /// Writes down what is about to be asked of a page.
    fn send(&mut self, pool: usize, page: usize, sent: u64) {
        self.log.pages[pool][page].sent = sent;
        self.log.write_page(self.file, pool, page);
    }

    /// Writes down what has been answered.
    fn acknowledge(&mut self, pool: usize, page: usize, now: u64) {
        let known = &mut self.log.pages[pool][page];
        (known.acknowledged, known.sent) = (now, NOTHING);
        self.log.write_page(self.file, pool, page);
    }

    fn put(&mut self, pool: &Pool, number: usize, page: usize) {
        let ticket = self.ticket();
        let content = Content(ticket.get());
        self.send(number, page, content.0);
        let (object, index) = name(number, page);
        let source = Source {
            content,
            fails: false,
        };
        let now = match self.worker.put(pool, object, index, ticket, &source) {
            PutResult::Stored | PutResult::SameFilled => content.0,
            PutResult::RefusedFull => MISSING,
            other => panic!("put: {other:?}"),
        };
        self.acknowledge(number, page, now);
    }

    /// Checks what a get delivered of a page of which nothing is under way.
    fn delivered(&self, number: usize, page: usize, result: GetResult, sink: &Sink) {
        let known = self.log.pages[number][page].acknowledged;
        match result {
            GetResult::Hit | GetResult::HitSameFilled => {
                let bytes = Content(known).bytes();
                assert!(known != MISSING && sink.page.as_deref() == Some(&bytes));
            }
            GetResult::Miss => assert!(number >= 2 || known == MISSING, "a page is lost"),
            other => panic!("get: {other:?}"),
        }
    }

    fn get(&mut self, pool: &Pool, number: usize, page: usize) {
        let (object, index) = name(number, page);
        let mut sink = Sink::default();
        let result = (self.worker).get(pool, object, index, GetMode::Copy, &mut sink);
        self.delivered(number, page, result, &sink);
    }

    fn get_exclusive(&mut self, pool: &Pool, number: usize, page: usize) {
        self.send(number, page, MISSING);
        let (object, index) = name(number, page);
        let mut sink = Sink::default();
        let result = (self.worker).get(pool, object, index, GetMode::Exclusive, &mut sink);
        self.delivered(number, page, result, &sink);
        self.acknowledge(number, page, MISSING);
    }

    fn flush(&mut self, pool: &Pool, number: usize, page: usize) {
        self.send(number, page, MISSING);
        let (object, index) = name(number, page);
        let result = (self.worker).flush_page(pool, object, index, self.ticket());
        assert!(matches!(result, FlushResult::Flushed | FlushResult::Absent));
        self.acknowledge(number, page, MISSING);
    }

    /// A request with a used ring: the log's `used`, written together with what follows from it.
    fn take(&mut self, pool: &Pool, number: usize) {
        self.position = self.position.wrapping_add(1);
        let ring = u32::try_from(self.thread).unwrap();
        self.worker.begin_taking(ring, self.position);
        let count = self.random.below(8) + 1;
        let mut taken = Vec::new();
        for _ in 0..count {
            let page = usize::try_from(self.random.below(PAGES as u64)).unwrap();
            let (object, index) = name(number, page);
            let mut sink = Sink::default();
            let result = self.worker.take(pool, object, index, &mut sink);
            if !taken.contains(&page) {
                self.delivered(number, page, result, &sink);
                taken.push(page);
            }
        }
        if self.random.one_in(5) {
            return self.worker.abort_taken();
        }
        for page in taken {
            self.log.pages[number][page].acknowledged = MISSING;
        }
        self.log.used = u64::from(self.position) + 1;
        self.log.write(self.file);
        self.worker.commit_taken();
    }

    fn put_shared(&mut self, pools: &[Arc<Pool>]) {
        let page = usize::try_from(self.random.below(SHARED as u64)).unwrap();
        let ticket = self.ticket();
        self.log.shared[page].sent = ticket.get();
        self.log.write_shared(self.file, page);
        let (object, index) = name(page % 2, page / 2);
        let bytes = shared_page(ticket.get());
        let result = (self.worker).put(&pools[page % 2], object, index, ticket, &bytes);
        assert!(matches!(result, PutResult::Stored | PutResult::Stale));
        self.log.shared[page].acknowledged = ticket.get();
        self.log.write_shared(self.file, page);
    }

    fn begin(&mut self, bulk: Bulk) {
        self.log.bulk = bulk;
        self.log.write(self.file);
    }

    fn end(&mut self) {
        self.log.bulk = Bulk::None;
        self.log.write(self.file);
    }

    fn forget(&mut self, pool: usize, object: Option<u64>) {
        for page in 0..PAGES {
            if object.is_none_or(|object| page as u64 % OBJECTS == object) {
                self.log.pages[pool][page].acknowledged = MISSING;
            }
        }
    }

    fn flush_many(&mut self, pool: &Pool, number: usize) {
        let ticket = self.ticket();
        let one = self.random.one_in(2) && !number.is_multiple_of(2);
        let object = one.then(|| self.random.below(OBJECTS));
        self.begin(Bulk::Flush {
            pool: number,
            object,
        });
        match object {
            Some(object) => (self.worker).flush_object(pool, ObjectId([object, 5, 0]), ticket),
            None => self.worker.flush_pool(pool, ticket),
        };
        self.forget(number, object);
        self.end();
    }

    fn create(&mut self, number: usize) {
        self.begin(Bulk::Create { pool: number });
        let pool = self.guest.create_pool(id(number), spec(number)).unwrap();
        assert_eq!(pool.stats().pages, 0);
        self.pools[number] = Some(pool);
        self.log.pools |= 1 << number;
        self.end();
    }

    fn destroy(&mut self, number: usize) {
        self.begin(Bulk::Destroy { pool: number });
        self.guest.destroy_pool(id(number)).unwrap();
        self.pools[number] = None;
        self.forget(number, None);
        self.log.pools &= !(1 << number);
        self.end();
    }

    fn epoch(&mut self) {
        self.begin(Bulk::Epoch);
        let epoch = self.log.epoch + 1;
        self.guest.begin_epoch(epoch_of(epoch));
        self.log.epoch = epoch;
        self.log.pools = 0;
        self.pools.fill(None);
        (0..POOLS).for_each(|pool| self.forget(pool, None));
        self.end();
    }

    /// Looks at every page, before anything is under way.
    fn check(&mut self) {
        for number in 0..POOLS {
            if let Some(pool) = self.pools[number].clone() {
                (0..PAGES).for_each(|page| self.get(&pool, number, page));
            }
        }
    }
}

pub(crate) fn epoch_of(number: u64) -> Epoch {
    Epoch(u128::from(number).to_le_bytes())
}

/// A shared page; never one byte repeated.
pub(crate) fn shared_page(ticket: u64) -> [u8; PAGE_SIZE] {
    Content(4 * ticket + 1).bytes()
}
