// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Random operations on the engine and on the model, from one thread: every answer is compared.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod model;
#[path = "files/slots.rs"]
mod slots;

use std::sync::Arc;

use model::{Content, ModelGuest, ModelPool, Random, Sink, Source, Way, seed};
use tmem_pages::slots::SlotFile;
use tmem_pages::{
    DramLimits, Engine, EngineConfig, EngineFiles, Epoch, EpochOutcome, GetResult, Guest,
    GuestConfig, GuestError, Layout, LimitsError, Mover, ObjectId, PageIndex, Pool, PoolId,
    PoolKind, PoolSpec, ResizeError, Step, Stores, Ticket, Tier, Worker,
};

const FRAMES: u32 = 160;
/// Frames, slots of the PM tier and of the remote tier: as many together.
const TIERED: [u32; 3] = [40, 50, 70];
const POLICIES: [&str; 5] = ["fifo", "clock", "lru", "random", "s3-fifo"];
const GUESTS: u64 = 3;
const GRANTS: [u64; 3] = [40, 50, 10];
const DENSE_PAGES: u32 = 1100;
const STEPS: u64 = 400_000;

/// A guest, its model, and the pools it has or had.
struct Both {
    guest: Arc<Guest>,
    model: ModelGuest,
    pools: Vec<(Arc<Pool>, ModelPool)>,
    epoch: u8,
}

struct Run {
    engine: Arc<Engine>,
    workers: Vec<Worker>,
    guests: Vec<Both>,
    random: Random,
    ticket: u64,
    same_filled_hits: u64,
    /// Where there are tiers below DRAM.
    mover: Option<Mover>,
    /// Pages that all tiers hold.
    room: u64,
    /// How often a drain left nothing in its tier.
    drained: u64,
}

fn spec(number: u64) -> PoolSpec {
    PoolSpec {
        kind: if number & 1 == 0 {
            PoolKind::Persistent
        } else {
            PoolKind::Ephemeral
        },
        layout: if number & 2 == 0 {
            Layout::Dense { pages: DENSE_PAGES }
        } else {
            Layout::Sparse
        },
    }
}

impl Run {
    fn new(seed: u64) -> Self {
        Self::with(seed, EngineFiles::anonymous().unwrap(), None)
    }

    /// An engine with tiers below DRAM, if there are any.
    fn with(seed: u64, files: EngineFiles, stores: Option<Stores>) -> Self {
        let tiered = stores.is_some();
        let config = EngineConfig {
            frames: if tiered { TIERED[0] } else { FRAMES },
            workers_max: 3 + u16::from(tiered),
            guests_max: 4,
        };
        let stores = stores.unwrap_or_default();
        let (engine, _) = Engine::open_tiered(config, files, stores).unwrap();
        let mover = tiered.then(|| engine.mover(Box::new(|| {})).unwrap());
        let guests = (0..GUESTS).zip(GRANTS).map(|(number, grant)| Both {
            guest: engine
                .attach_guest(GuestConfig {
                    name: format!("guest{number}"),
                    grant_pages: grant,
                })
                .unwrap(),
            model: ModelGuest {
                grant,
                ..ModelGuest::default()
            },
            pools: Vec::new(),
            epoch: 0,
        });
        Self {
            guests: guests.collect(),
            workers: (0..3).map(|_| engine.worker().unwrap()).collect(),
            engine,
            random: Random::new(seed, 0),
            ticket: 0,
            same_filled_hits: 0,
            mover,
            room: FRAMES.into(),
            drained: 0,
        }
    }

    /// A new ticket, or one of the last few.
    fn ticket(&mut self) -> Ticket {
        self.ticket += 1;
        let back = if self.random.one_in(4) {
            self.random.below(200)
        } else {
            0
        };
        Ticket::new(self.ticket.saturating_sub(back)).unwrap()
    }

    fn step(&mut self) {
        let guest = usize::try_from(self.random.below(GUESTS)).unwrap();
        match self.random.below(1000) {
            0..=2 => self.control(guest),
            3..=6 => self.pool_comes_or_goes(guest),
            7..=60 if self.mover.is_some() => self.tiers(guest),
            _ if self.guests[guest].pools.is_empty() => self.pool_comes_or_goes(guest),
            _ => self.page(guest),
        }
    }

    /// What the mover does, and what admins do to tiers: no answer changes.
    fn tiers(&mut self, number: usize) {
        let random = &mut self.random;
        let guest = &self.guests[number].guest;
        match random.below(40) {
            0 => guest.set_policy(random.pick::<&str>(&POLICIES), 7).unwrap(),
            1 => {
                let cap = 1 + random.below_u32(40);
                let limits = DramLimits {
                    cap_pages: random.one_in(2).then_some(cap),
                    floor_pages: random.below_u32(cap.min(12)),
                    weight: 1 + random.below_u32(4),
                };
                match guest.set_dram_limits(limits) {
                    Ok(()) => assert_eq!(guest.dram_limits(), limits),
                    Err(LimitsError::FloorsAboveDram { floor_max, .. }) => {
                        assert!(floor_max < limits.floor_pages.into());
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            2 => {
                let wanted = random.below(30);
                assert!(guest.reclaim_some(wanted) <= wanted);
            }
            3 => {
                let high = 0.5 / (1.0 + f64::from(random.below_u32(50)));
                self.engine.set_watermarks(high / 2.0, high);
            }
            4 => {
                let tier = *random.pick(&Tier::ALL);
                let most = TIERED[tier as usize];
                let pages = u64::from(1 + random.below_u32(most));
                let now = self.engine.tier(tier).unwrap().capacity_pages;
                let room = self.room - now + pages;
                let promised: u64 = self.guests.iter().map(|both| both.model.grant).sum();
                match self.engine.resize_tier(tier, pages) {
                    Ok(()) => self.room = room,
                    Err(ResizeError::Promised { .. }) => assert!(promised > room),
                    Err(ResizeError::Floors { floors, .. }) => assert!(floors > pages),
                    Err(error) => panic!("{error}"),
                }
            }
            5 => {
                let tier = *random.pick(&[Tier::Pm, Tier::Remote]);
                let now = self.engine.tier(tier).unwrap();
                let drain = !now.draining;
                match self.engine.drain_tier(tier, drain) {
                    Ok(()) if drain => self.room -= now.capacity_pages,
                    Ok(()) => self.room += now.capacity_pages,
                    Err(ResizeError::Promised { .. }) => assert!(drain),
                    Err(error) => panic!("{error}"),
                }
                // So that sizes and promises are those of all tiers again.
                if drain && self.engine.tier(tier).unwrap().draining {
                    self.drained += u64::from(self.settle(tier) == 0);
                    self.engine.drain_tier(tier, false).unwrap();
                    self.room += now.capacity_pages;
                }
            }
            n => {
                let mover = self.mover.as_mut().unwrap();
                mover.step(n % 2 == 0);
            }
        }
    }

    /// Lets the mover work until it is done. Returns the pages that are left in a tier.
    fn settle(&mut self, tier: Tier) -> u64 {
        let mover = self.mover.as_mut().unwrap();
        for _ in 0..1000 {
            if mover.step(false) == Step::Idle {
                break;
            }
        }
        self.engine.tier(tier).unwrap().used_pages
    }

    fn control(&mut self, number: usize) {
        let frozen = self.random.one_in(3);
        let kind = self.random.below(4);
        let grant = self.random.below(90);
        let room = self.room;
        let others: u64 = (self.guests.iter().enumerate())
            .filter(|(other, _)| *other != number)
            .map(|(_, both)| both.model.grant)
            .sum();
        let both = &mut self.guests[number];
        match kind {
            0 | 1 => {
                if frozen {
                    both.guest.freeze();
                } else {
                    both.guest.thaw();
                }
                both.model.frozen = frozen;
            }
            2 => match both.guest.set_grant(grant) {
                Ok(()) => {
                    assert!(others + grant <= room && grant >= both.model.held);
                    both.model.grant = grant;
                }
                Err(GuestError::Overcommitted { pages_max, .. }) => {
                    assert_eq!(pages_max, room - others);
                    assert!(grant > pages_max);
                }
                Err(error) => {
                    assert!(
                        matches!(error, GuestError::GrantBelowUse { held, .. } if held > grant)
                    );
                }
            },
            _ => self.epoch(number, grant == 0),
        }
    }

    fn epoch(&mut self, number: usize, same: bool) {
        let both = &mut self.guests[number];
        both.epoch += u8::from(!same);
        let known = both.guest.epoch();
        let epoch = Epoch([both.epoch; 16]);
        let live = both.pools.iter().filter(|(_, pool)| !pool.destroyed);
        let pools = live.count() as u64;
        match both.guest.begin_epoch(epoch) {
            EpochOutcome::Same { .. } => assert_eq!(known, Some(epoch)),
            EpochOutcome::New {
                pools_destroyed,
                pages_flushed,
            } => {
                assert_eq!(pools_destroyed, pools);
                let held: u64 = both.pools.iter().map(|(_, pool)| pool.len()).sum();
                assert!(pages_flushed <= held);
                for (_, pool) in both.pools.iter_mut().filter(|(_, pool)| !pool.destroyed) {
                    let len = pool.len();
                    pool.destroy(&mut both.model, len);
                }
                assert_eq!(both.guest.ticket_high(), 0);
            }
        }
    }

    fn pool_comes_or_goes(&mut self, number: usize) {
        let id = PoolId(self.random.below_u32(6));
        let spec = spec(u64::from(id.0));
        let destroy = self.random.one_in(3);
        let both = &mut self.guests[number];
        let known = both.guest.pool(id);
        let model = |pools: &mut Vec<(Arc<Pool>, ModelPool)>| {
            pools
                .iter()
                .position(|(pool, model)| pool.id() == id && !model.destroyed)
        };
        if destroy {
            let flushed = both.guest.destroy_pool(id);
            assert_eq!(flushed.is_some(), known.is_some());
            if let Some(flushed) = flushed {
                let at = model(&mut both.pools).unwrap();
                both.pools[at].1.destroy(&mut both.model, flushed);
            }
            // A few pools that are gone stay in hands, as a slow worker would have them.
            let gone = both.pools.iter().filter(|(_, pool)| pool.destroyed);
            if gone.count() > 2 {
                both.pools.retain(|(_, pool)| !pool.destroyed);
            }
            return;
        }
        let pool = both.guest.create_pool(id, spec).unwrap();
        if let Some(known) = known {
            assert!(Arc::ptr_eq(&pool, &known), "the same pool again");
        } else {
            both.pools.push((pool, ModelPool::new(spec)));
        }
    }

    fn page(&mut self, number: usize) {
        let ticket = self.ticket();
        let Self {
            guests,
            workers,
            random,
            same_filled_hits,
            ..
        } = self;
        let Both {
            guest: _,
            model: guest,
            pools,
            ..
        } = &mut guests[number];
        let at = usize::try_from(random.below(pools.len() as u64)).unwrap();
        let (pool, model) = &mut pools[at];
        let worker_at = usize::try_from(random.below(workers.len() as u64)).unwrap();
        let worker = &mut workers[worker_at];
        let (object, index) = name(random, model.spec);
        match random.below(100) {
            0..45 => {
                let content = Content(random.next());
                let fails = random.one_in(20);
                let source = Source { content, fails };
                let result = worker.put(pool, object, index, ticket, &source);
                model.put(guest, (object, index), ticket, &source, result);
            }
            45..80 => {
                let way = Way::any(random);
                let mut sink = Sink {
                    fails: random.one_in(20),
                    page: None,
                };
                let result = way.get(worker, pool, (object, index), &mut sink);
                *same_filled_hits += u64::from(result == GetResult::HitSameFilled);
                model.get(guest, (object, index), way, &sink, result);
            }
            80..95 => {
                let result = worker.flush_page(pool, object, index, ticket);
                model.flush_page(guest, (object, index), ticket, result);
            }
            95..98 => {
                let count = random.below_u32(40);
                let flushed = worker.flush_range(pool, object, index, count, ticket);
                let inside = |of: ObjectId, at: u32| {
                    of == object
                        && at >= index.0
                        && u64::from(at) < u64::from(index.0) + u64::from(count)
                };
                model.flush_many(guest, inside, ticket, flushed);
            }
            98 if random.one_in(4) => {
                let flushed = worker.flush_object(pool, object, ticket);
                model.flush_many(guest, |of, _| of == object, ticket, flushed);
            }
            _ if random.one_in(20) => {
                let flushed = worker.flush_pool(pool, ticket);
                model.flush_many(guest, |_, _| true, ticket, flushed);
            }
            _ => {}
        }
    }

    fn check(&self) {
        self.engine.self_check();
        for both in &self.guests {
            for (pool, model) in &both.pools {
                let stats = pool.stats();
                if model.spec.kind == PoolKind::Persistent {
                    assert_eq!(stats.pages, model.len());
                    assert_eq!(stats.same_filled, model.same_filled());
                } else {
                    assert!(stats.pages <= model.len());
                }
            }
            assert_eq!(both.guest.stats().persistent_pages, both.model.held);
        }
    }
}

/// A page's name: few enough of them that they meet, with some at the edges.
fn name(random: &mut Random, spec: PoolSpec) -> (ObjectId, PageIndex) {
    match spec.layout {
        Layout::Dense { .. } => {
            let index = match random.below(30) {
                0 => *random.pick(&[DENSE_PAGES - 1, DENSE_PAGES, u32::MAX, 511, 512]),
                n => random.below_u32(30) + 70 * u32::from(n > 20),
            };
            let object = if random.one_in(100) {
                ObjectId([0, 0, 1])
            } else {
                ObjectId::ZERO
            };
            (object, PageIndex(index))
        }
        Layout::Sparse => {
            let object = match random.below(4) {
                0 => ObjectId::ZERO,
                n => ObjectId([7, n % 2, n]),
            };
            let index = match random.below(4) {
                0 => u32::MAX - random.below_u32(3),
                1 => 1020 + random.below_u32(10),
                _ => random.below_u32(20),
            };
            (object, PageIndex(index))
        }
    }
}

#[test]
fn engine_answers_as_the_model_does() {
    let mut run = Run::new(seed("engine_answers_as_the_model_does"));
    for step in 0..STEPS {
        run.step();
        if step % 1000 == 0 {
            run.check();
        }
    }
    run.check();
    // A run that never came here or there would prove little.
    let total = run.engine.stats().total;
    println!("{total:?}");
    for (count, what) in [
        (total.puts, "put"),
        (total.gets, "hit"),
        (total.misses, "miss"),
        (total.evicted, "eviction"),
        (total.refused, "refusal"),
        (total.stale, "stale request"),
        (total.flushes, "flush"),
        (run.same_filled_hits, "same-filled hit"),
    ] {
        assert!(count > 0, "no {what} in the whole run");
    }
    assert_eq!(total.corrupt, 0);
    all_go(run);
}

/// Detaches all guests, after which nothing is left.
fn all_go(run: Run) {
    let names: Vec<_> = run
        .engine
        .guests()
        .iter()
        .map(|guest| guest.name().to_owned())
        .collect();
    drop((run.workers, run.mover));
    for name in names {
        run.engine.detach_guest(&name).unwrap();
    }
    run.engine.self_check();
    let stats = run.engine.stats();
    assert_eq!(
        (stats.frames_used, stats.granted_pages, stats.workers),
        (0, 0, 0)
    );
}

#[test]
fn tiered_engine_answers_as_the_model_does() {
    let seed = seed("tiered_engine_answers_as_the_model_does");
    tiered(seed, SlotFile::memory(TIERED[1]).unwrap());
}

#[test]
fn engine_whose_pages_keep_their_copies_answers_as_the_model_does() {
    let seed = seed("engine_whose_pages_keep_their_copies_answers_as_the_model_does");
    tiered(seed, slots::on_file(TIERED[1]));
}

fn tiered(seed: u64, pm: SlotFile) {
    let remote = SlotFile::memory(TIERED[2]).unwrap();
    let stores = Stores {
        pm: Some(Arc::new(pm)),
        remote: Some(Arc::new(remote)),
        keep_over_reboot: false,
    };
    let files = EngineFiles::anonymous().unwrap();
    let mut run = Run::with(seed, files, Some(stores));
    for step in 0..STEPS {
        run.step();
        if step % 1000 == 0 {
            run.check();
        }
    }
    run.check();
    let total = run.engine.stats().total;
    println!("{total:?}, {} drains", run.drained);
    for (count, what) in [
        (total.hits_victim, "hit of a victim"),
        (total.hits_pm, "hit in the PM tier"),
        (total.hits_remote, "hit in the remote tier"),
        (total.demoted, "demotion"),
        (total.promoted, "promotion"),
        (total.evicted, "eviction"),
        (total.refused, "refusal"),
        (run.drained, "drain that left nothing"),
    ] {
        assert!(count > 0, "no {what} in the whole run");
    }
    assert_eq!(total.corrupt, 0);
    all_go(run);
}
