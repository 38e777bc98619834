// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Several workers at once: each on pages of its own, where every answer is known, and all on the
//! same few pages, where the answer must be one of those put in between.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

#[allow(dead_code, reason = "each test file uses its part of the model")]
mod model;
#[path = "files/slots.rs"]
mod slots;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use model::{Content, ModelGuest, ModelPool, Random, Sink, Source, Way, seed};
use tmem_pages::slots::SlotFile;
use tmem_pages::{
    Engine, EngineConfig, EngineFiles, GetMode, GetResult, Guest, GuestConfig, Layout, Mover,
    ObjectId, PAGE_SIZE, PageBytes, PageIndex, Pool, PoolId, PoolKind, PoolSpec, PoolStats,
    PutResult, Step, Stores, Ticket, Tier, Worker,
};

const THREADS: u64 = 4;
const STEPS: u64 = 40_000;

const SPECS: [PoolSpec; 4] = [
    spec(PoolKind::Persistent, Layout::Dense { pages: 2000 }),
    spec(PoolKind::Persistent, Layout::Sparse),
    spec(PoolKind::Ephemeral, Layout::Dense { pages: 2000 }),
    spec(PoolKind::Ephemeral, Layout::Sparse),
];

const fn spec(kind: PoolKind, layout: Layout) -> PoolSpec {
    PoolSpec { kind, layout }
}

fn engine(frames: u32, grant: u32) -> (Arc<Engine>, Arc<Guest>) {
    let engine = Engine::new(EngineConfig {
        frames,
        workers_max: 8,
        guests_max: 4,
    })
    .unwrap();
    let guest = engine
        .attach_guest(GuestConfig {
            name: "shared".into(),
            grant_pages: u64::from(grant),
        })
        .unwrap();
    (engine, guest)
}

fn pools(guest: &Guest) -> Vec<Arc<Pool>> {
    (0..)
        .zip(SPECS)
        .map(|(id, spec)| guest.create_pool(PoolId(id), spec).unwrap())
        .collect()
}

/// One thread's share: its own pages, in pools, leaves, stripes and shards that all threads share.
fn own_pages(number: u32, seed: u64, pools: &[Arc<Pool>], worker: &mut Worker) -> ModelGuest {
    let mut random = Random::new(seed, u64::from(number));
    let mut models: Vec<_> = SPECS.map(ModelPool::new).into();
    let mut guest = ModelGuest {
        grant: u64::MAX,
        ..ModelGuest::default()
    };
    for step in 1..=STEPS {
        let at = usize::try_from(random.below(4)).unwrap();
        let (pool, model) = (&pools[at], &mut models[at]);
        let dense = matches!(SPECS[at].layout, Layout::Dense { .. });
        let (object, index) = if dense {
            // Neighbours belong to other threads.
            let index = random.below_u32(30) * u32::try_from(THREADS).unwrap() + number;
            (ObjectId::ZERO, index)
        } else {
            let object = ObjectId([u64::from(number), random.below(3), 0]);
            (object, 1000 + random.below_u32(50))
        };
        let page = (object, PageIndex(index));
        let back = random.below(20);
        let ticket = Ticket::new(step.saturating_sub(back)).unwrap();
        match random.below(20) {
            0..10 => {
                let content = Content(random.next());
                let fails = random.one_in(50);
                let source = Source { content, fails };
                let result = worker.put(pool, page.0, page.1, ticket, &source);
                model.put(&mut guest, page, ticket, &source, result);
            }
            10..16 => {
                let way = Way::any(&mut random);
                let mut sink = Sink::default();
                let result = way.get(worker, pool, page, &mut sink);
                model.get(&mut guest, page, way, &sink, result);
            }
            16..19 => {
                let result = worker.flush_page(pool, page.0, page.1, ticket);
                model.flush_page(&mut guest, page, ticket, result);
            }
            _ if dense => {
                let flushed = worker.flush_range(pool, page.0, page.1, 1, ticket);
                let inside = |_, at| at == index;
                model.flush_many(&mut guest, inside, ticket, flushed);
            }
            _ if random.one_in(10) => {
                let flushed = worker.flush_object(pool, object, ticket);
                model.flush_many(&mut guest, |of, _| of == object, ticket, flushed);
            }
            _ => {
                let count = random.below_u32(20);
                let flushed = worker.flush_range(pool, object, page.1, count, ticket);
                let inside = |of, at| of == object && (index..index + count).contains(&at);
                model.flush_many(&mut guest, inside, ticket, flushed);
            }
        }
    }
    guest
}

/// Runs the mover until it is told to stop.
fn move_pages(mut mover: Mover, engine: &Engine, stop: &AtomicBool, seed: u64) {
    let mut random = Random::new(seed, 77);
    while !stop.load(Ordering::Relaxed) {
        if mover.step(random.one_in(4)) == Step::Idle {
            std::thread::yield_now();
        }
        if random.one_in(50) {
            let pages = 20 + random.below(80);
            engine.resize_tier(Tier::Dram, pages).unwrap();
        }
        if random.one_in(200) {
            let guest = engine.guest("shared").unwrap();
            let name = random.pick(&["fifo", "clock", "lru", "random", "s3-fifo"]);
            guest.set_policy(name, 3).unwrap();
        }
    }
}

/// Fewer than the threads' pages need beside DRAM.
const PM_SLOTS: u32 = 100;
/// Rounds after which a way that pages never went is a fault and not the scheduler's whim.
const ROUNDS: u64 = 30;

#[test]
fn threads_get_what_they_put_while_pages_move() {
    let seed = seed("threads_get_what_they_put_while_pages_move");
    until_all_ways_were_met(seed, || SlotFile::memory(PM_SLOTS).unwrap());
}

#[test]
fn threads_get_what_they_put_while_pages_move_and_keep_their_copies() {
    let seed = seed("threads_get_what_they_put_while_pages_move_and_keep_their_copies");
    until_all_ways_were_met(seed, || slots::on_file(PM_SLOTS));
}

fn until_all_ways_were_met(seed: u64, pm: impl Fn() -> SlotFile) {
    let mut hits = [("victim", 0), ("pm", 0), ("remote", 0), ("promoted", 0)];
    for round in 0..ROUNDS {
        let total = get_while_pages_move(seed.wrapping_add(round), pm());
        println!("{total:?}");
        assert_eq!(total.corrupt, 0);
        let ways = [
            total.hits_victim,
            total.hits_pm,
            total.hits_remote,
            total.promoted,
        ];
        for (hit, way) in hits.iter_mut().zip(ways) {
            hit.1 += way;
        }
        if hits.iter().all(|hit| hit.1 > 0) {
            return;
        }
    }
    panic!("in {ROUNDS} rounds pages were never met on some way: {hits:?}");
}

/// Threads with pages of their own, and a mover that is never idle; what the engine counted.
fn get_while_pages_move(seed: u64, pm: SlotFile) -> PoolStats {
    let stores = Stores {
        pm: Some(Arc::new(pm)),
        remote: Some(Arc::new(SlotFile::memory(900).unwrap())),
        keep_over_reboot: false,
    };
    let config = EngineConfig {
        frames: 100,
        workers_max: 8,
        guests_max: 4,
    };
    let files = EngineFiles::anonymous().unwrap();
    let (engine, _) = Engine::open_tiered(config, files, stores).unwrap();
    let config = GuestConfig {
        name: "shared".into(),
        grant_pages: 840,
    };
    let guest = engine.attach_guest(config).unwrap();
    let pools = pools(&guest);
    let mover = engine.mover(Box::new(|| {})).unwrap();
    let stop = AtomicBool::new(false);
    let held: u64 = std::thread::scope(|scope| {
        scope.spawn(|| move_pages(mover, &engine, &stop, seed));
        let threads: Vec<_> = (0..u32::try_from(THREADS).unwrap())
            .map(|number| {
                let mut worker = engine.worker().unwrap();
                let pools = &pools;
                scope.spawn(move || own_pages(number, seed, pools, &mut worker).held)
            })
            .collect();
        let held = threads.into_iter().map(|thread| thread.join());
        let held: Vec<_> = held.collect();
        stop.store(true, Ordering::Relaxed);
        held.into_iter().map(Result::unwrap).sum()
    });
    engine.self_check();
    assert_eq!(guest.stats().persistent_pages, held);
    engine.stats().total
}

#[test]
fn threads_on_pages_of_their_own_get_what_they_put() {
    let seed = seed("threads_on_pages_of_their_own_get_what_they_put");
    let (engine, guest) = engine(900, 840);
    let pools = pools(&guest);
    let held: u64 = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..u32::try_from(THREADS).unwrap())
            .map(|number| {
                let mut worker = engine.worker().unwrap();
                let pools = &pools;
                scope.spawn(move || own_pages(number, seed, pools, &mut worker).held)
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .sum()
    });
    engine.self_check();
    assert_eq!(guest.stats().persistent_pages, held);
    let total = engine.stats().total;
    assert!(
        total.evicted > 0 && total.stale > 0 && total.gets > 0,
        "{total:?}"
    );
}

/// A page that says which page it is and which ticket it was put with.
fn signed(index: u32, ticket: u64) -> PageBytes {
    let mut page = Content(4 * ticket + 1).bytes();
    page[..4].copy_from_slice(&index.to_le_bytes());
    page[PAGE_SIZE - 8..].copy_from_slice(&ticket.to_le_bytes());
    page
}

/// The ticket of a signed page, every byte of which is checked.
fn ticket_of(page: &PageBytes, index: u32) -> u64 {
    let ticket = u64::from_le_bytes(*page.last_chunk().unwrap());
    assert!(
        *page == signed(index, ticket),
        "bytes of another page or of two puts"
    );
    ticket
}

#[test]
fn page_that_all_threads_put_only_gets_newer() {
    const PAGES: usize = 3;
    let seed = seed("page_that_all_threads_put_only_gets_newer");
    let (engine, guest) = engine(16, 16);
    let pool = guest.create_pool(PoolId(0), SPECS[0]).unwrap();
    let issued = AtomicU64::new(0);
    let acknowledged = [const { AtomicU64::new(0) }; PAGES];
    let overlaps = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let mut worker = engine.worker().unwrap();
            let (pool, issued, acknowledged, overlaps) = (&pool, &issued, &acknowledged, &overlaps);
            scope.spawn(move || {
                let mut random = Random::new(seed, thread);
                for _ in 0..STEPS {
                    let at = usize::try_from(random.below(PAGES as u64)).unwrap();
                    let index = u32::try_from(at).unwrap();
                    if random.one_in(2) {
                        let ticket = issued.fetch_add(1, Ordering::SeqCst) + 1;
                        let page = signed(index, ticket);
                        let put = Ticket::new(ticket).unwrap();
                        let result = worker.put(pool, ObjectId::ZERO, PageIndex(index), put, &page);
                        assert!(matches!(result, PutResult::Stored | PutResult::Stale));
                        if result == PutResult::Stale {
                            overlaps.fetch_add(1, Ordering::Relaxed);
                        }
                        // Stored, or something newer is there already.
                        acknowledged[at].fetch_max(ticket, Ordering::SeqCst);
                        continue;
                    }
                    let oldest = acknowledged[at].load(Ordering::SeqCst);
                    let mut page = [0; PAGE_SIZE];
                    let result = worker.get(
                        pool,
                        ObjectId::ZERO,
                        PageIndex(index),
                        GetMode::Copy,
                        &mut page,
                    );
                    if result == GetResult::Miss {
                        assert_eq!(oldest, 0, "an acknowledged page is gone");
                        continue;
                    }
                    assert_eq!(result, GetResult::Hit);
                    let got = ticket_of(&page, index);
                    let newest = issued.load(Ordering::SeqCst);
                    assert!((oldest..=newest).contains(&got), "{oldest} {got} {newest}");
                }
            });
        }
    });
    engine.self_check();
    println!("{} puts were overtaken", overlaps.load(Ordering::Relaxed));
}

#[test]
fn page_that_all_threads_put_get_and_flush_is_never_another() {
    let seed = seed("page_that_all_threads_put_get_and_flush_is_never_another");
    let (engine, guest) = engine(24, 12);
    let pools = pools(&guest);
    let counter = AtomicU64::new(0);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let mut worker = engine.worker().unwrap();
                let (pools, counter) = (&pools, &counter);
                scope.spawn(move || {
                    let mut random = Random::new(seed, thread);
                    let mut hits = 0_u64;
                    for _ in 0..STEPS {
                        let pool = random.pick(pools);
                        let index = random.below_u32(9);
                        let at = PageIndex(index);
                        let number = counter.fetch_add(1, Ordering::Relaxed) + 1;
                        let ticket = Ticket::new(number).unwrap();
                        match random.below(10) {
                            0..5 => {
                                let page = signed(index, number);
                                worker.put(pool, ObjectId::ZERO, at, ticket, &page);
                            }
                            5 => {
                                worker.flush_range(pool, ObjectId::ZERO, at, 4, ticket);
                            }
                            _ => {
                                let way = Way::any(&mut random);
                                let mut page = [0; PAGE_SIZE];
                                let name = (ObjectId::ZERO, at);
                                match way.get(&mut worker, pool, name, &mut page) {
                                    GetResult::Miss => assert_eq!(page, [0; PAGE_SIZE]),
                                    GetResult::Hit => {
                                        let newest = counter.load(Ordering::Relaxed);
                                        assert!(ticket_of(&page, index) <= newest);
                                        hits += 1;
                                    }
                                    other => panic!("{other:?}"),
                                }
                            }
                        }
                    }
                    hits
                })
            })
            .collect();
        // Meanwhile the grant breathes, and a pool comes and goes with a worker in it.
        let control = scope.spawn(|| {
            let mut random = Random::new(seed, THREADS);
            let mut worker = engine.worker().unwrap();
            let mut rounds = 0_u64;
            while !over.load(Ordering::Relaxed) || rounds < 100 {
                // Held pages may forbid a smaller grant; either answer is right.
                let _refused = guest.set_grant(random.below(24));
                let pool = guest.create_pool(PoolId(9), SPECS[1]).unwrap();
                for index in 0..3 {
                    let ticket = Ticket::new(rounds).unwrap();
                    worker.put(
                        &pool,
                        ObjectId::ZERO,
                        PageIndex(index),
                        ticket,
                        &signed(index, 1),
                    );
                }
                guest.destroy_pool(PoolId(9));
                let result = worker.put(
                    &pool,
                    ObjectId::ZERO,
                    PageIndex(0),
                    Ticket::MAX,
                    &signed(0, 1),
                );
                assert_eq!(
                    result,
                    PutResult::RefusedFull,
                    "a destroyed pool takes nothing"
                );
                rounds += 1;
                std::thread::yield_now();
            }
        });
        let results: Vec<_> = threads.into_iter().map(|thread| thread.join()).collect();
        over.store(true, Ordering::Relaxed);
        control.join().unwrap();
        for hits in results {
            assert!(hits.unwrap() > 0, "a thread without a hit");
        }
    });
    engine.self_check();
    let total = engine.stats().total;
    assert!(total.evicted > 0 && total.refused > 0, "{total:?}");
}

#[test]
fn put_within_the_grant_is_never_refused() {
    let seed = seed("put_within_the_grant_is_never_refused");
    const FRAMES: u32 = 64;
    let (engine, guest) = engine(FRAMES, FRAMES / 2);
    let cache = guest.create_pool(PoolId(1), SPECS[2]).unwrap();
    let swap = guest.create_pool(PoolId(0), SPECS[0]).unwrap();
    let mut random = Random::new(seed, 99);
    let mut worker = engine.worker().unwrap();
    let mut put = |worker: &mut Worker, pool: &Pool, index: u32| {
        let page = signed(index, random.next() >> 12);
        worker.put(pool, ObjectId::ZERO, PageIndex(index), Ticket::MAX, &page)
    };
    for index in 0..FRAMES {
        put(&mut worker, &cache, index);
    }
    assert_eq!(cache.stats().pages, u64::from(FRAMES / 2));
    // The rest is promised now as well, while ephemeral pages sit in it.
    guest.set_grant(u64::from(FRAMES)).unwrap();
    for index in 0..FRAMES {
        assert_eq!(put(&mut worker, &swap, index), PutResult::Stored);
    }
    // What is left to the cache are frames of the reserve that no put wanted so far.
    assert!(cache.stats().evicted > 0);
    assert_eq!(put(&mut worker, &swap, FRAMES), PutResult::RefusedFull);
    drop(worker);
    // Every grant is full, so all that the workers have to turn over is the reserve.
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let mut worker = engine.worker().unwrap();
            let (swap, cache) = (&swap, &cache);
            scope.spawn(move || {
                let mut random = Random::new(seed, thread);
                for ticket in 1..STEPS / 2 {
                    let index = random.below_u32(FRAMES);
                    let at = PageIndex(index);
                    let page = signed(index, ticket);
                    let result = worker.put(swap, ObjectId::ZERO, at, Ticket::MAX, &page);
                    assert_eq!(result, PutResult::Stored);
                    if random.one_in(8) {
                        // A flushed page may come back at once; neither may find no frame.
                        worker.flush_page(swap, ObjectId::ZERO, at, Ticket::MAX);
                        let result = worker.put(swap, ObjectId::ZERO, at, Ticket::MAX, &page);
                        assert_eq!(result, PutResult::Stored);
                    }
                    let result = worker.put(cache, ObjectId::ZERO, at, Ticket::MAX, &page);
                    assert_eq!(
                        result,
                        PutResult::RefusedFull,
                        "no frame is left to a cache"
                    );
                }
            });
        }
    });
    engine.self_check();
    assert_eq!(swap.stats().pages, u64::from(FRAMES));
}
