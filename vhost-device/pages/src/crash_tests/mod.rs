// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Every request, killed before every single store that it makes to the map.
//!
//! Before each store the files are copied and an engine is opened on the copy: what is found must be
//! what was there before the request or what is there after it. The same for recovery, which is a
//! request as well. A flush of many pages is done or not begun for each page on its own.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

#[path = "../../tests/files/mod.rs"]
mod files;
mod requests;
mod store;
mod taking;
mod tiers;

use crate::kept::hook;
use crate::*;
use files::copy;
use store::FakeStore;

const CONFIG: EngineConfig = EngineConfig {
    frames: 20,
    workers_max: 1,
    guests_max: 2,
};
const RING: u32 = 3;
const FILE: ObjectId = ObjectId([1, 2, 3]);
const SPECS: [PoolSpec; 4] = [
    spec(PoolKind::Persistent, Layout::Dense { pages: 700 }),
    spec(PoolKind::Persistent, Layout::Sparse),
    spec(PoolKind::Ephemeral, Layout::Dense { pages: 700 }),
    spec(PoolKind::Ephemeral, Layout::Sparse),
];
/// Indices that the tests use.
const INDICES: [u32; 5] = [0, 1, 2, 600, 601];

const fn spec(kind: PoolKind, layout: Layout) -> PoolSpec {
    PoolSpec { kind, layout }
}

/// Everything that can be seen of an engine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Seen {
    guests: BTreeMap<String, (Option<Epoch>, u64, bool)>,
    pools: Vec<(String, PoolId)>,
    /// First byte, and the one that makes a page differ, of each page.
    pages: BTreeMap<(String, u32, u32), (u8, u8)>,
}

/// An engine, and its files.
struct House {
    files: EngineFiles,
    /// The PM tier, if there is one.
    store: Option<Arc<FakeStore>>,
    engine: Arc<Engine>,
    worker: Worker,
}

fn open(files: EngineFiles, store: Option<Arc<FakeStore>>) -> House {
    let kept = files.try_clone().unwrap();
    let (engine, recovery) = engine(files, store.clone());
    engine.self_check();
    assert_eq!(recovery.damaged, 0);
    House {
        files: kept,
        store,
        worker: engine.worker().unwrap(),
        engine,
    }
}

fn engine(files: EngineFiles, store: Option<Arc<FakeStore>>) -> (Arc<Engine>, Recovery) {
    let stores = Stores {
        pm: store.map(|store| store as _),
        keep_over_reboot: true,
        ..Stores::default()
    };
    Engine::open_tiered(CONFIG, files, stores).unwrap()
}

fn object(pool: &Pool) -> ObjectId {
    match pool.spec().layout {
        Layout::Dense { .. } => ObjectId::ZERO,
        Layout::Sparse => FILE,
    }
}

/// A page that takes a frame.
fn framed(number: u8) -> PageBytes {
    let mut page = [number; PAGE_SIZE];
    page[100] = 0xff;
    page
}

fn ticket(number: u64) -> Ticket {
    Ticket::new(number).unwrap()
}

impl House {
    /// A house whose guest has the pools of all kinds, with pages 0 (framed) and 1 (one byte).
    fn new() -> Self {
        Self::with(None)
    }

    fn with(store: Option<FakeStore>) -> Self {
        let mut house = open(EngineFiles::anonymous().unwrap(), store.map(Arc::new));
        let guest = house.attach("guest");
        guest.begin_epoch(Epoch([1; 16]));
        for id in 0..4 {
            let pool = guest.create_pool(PoolId(id), SPECS[id as usize]).unwrap();
            house.put(&pool, 0, 10, &framed(1));
            house.put(&pool, 1, 10, &[2; PAGE_SIZE]);
        }
        house
    }

    fn attach(&self, name: &str) -> Arc<Guest> {
        let config = GuestConfig {
            name: name.into(),
            grant_pages: 10,
        };
        self.engine.attach_guest(config).unwrap()
    }

    fn guest(&self) -> Arc<Guest> {
        self.engine.guest("guest").unwrap()
    }

    fn pool(&self, id: u32) -> Arc<Pool> {
        self.guest().pool(PoolId(id)).unwrap()
    }

    fn put(&mut self, pool: &Pool, index: u32, number: u64, page: &PageBytes) -> PutResult {
        let at = (object(pool), PageIndex(index));
        self.worker.put(pool, at.0, at.1, ticket(number), page)
    }

    /// Ends what a dead process left, and looks at everything.
    fn see(&mut self, used: bool) -> Seen {
        let mut seen = Seen::default();
        for guest in self.engine.all_guests() {
            for (ring, _) in guest.unresolved() {
                assert_eq!(ring, RING);
                guest.resolve(ring, used);
            }
            let name = guest.name().to_owned();
            let facts = (guest.epoch(), guest.grant_pages(), guest.is_frozen());
            seen.guests.insert(name.clone(), facts);
            for pool in guest.pools() {
                seen.pools.push((name.clone(), pool.id()));
                for index in INDICES {
                    let mut page = [0; PAGE_SIZE];
                    let at = (object(&pool), PageIndex(index));
                    let got = self.worker.get(&pool, at.0, at.1, GetMode::Copy, &mut page);
                    match got {
                        GetResult::Miss => continue,
                        GetResult::Hit | GetResult::HitSameFilled => {}
                        other => panic!("page {index} of pool {:?}: {other:?}", pool.id()),
                    }
                    let key = (name.clone(), pool.id().0, index);
                    seen.pages.insert(key, (page[0], page[100]));
                }
            }
        }
        self.engine.self_check();
        self.make_pools();
        seen
    }

    /// A pool that takes the place of one that has ended finds nothing of it.
    fn make_pools(&mut self) {
        for guest in self.engine.all_guests() {
            for id in (0..4).filter(|id| guest.pool(PoolId(*id)).is_none()) {
                let pool = guest.create_pool(PoolId(id), SPECS[id as usize]).unwrap();
                for index in INDICES {
                    let mut page = [0; PAGE_SIZE];
                    let at = (object(&pool), PageIndex(index));
                    let got = self.worker.get(&pool, at.0, at.1, GetMode::Copy, &mut page);
                    assert_eq!(got, GetResult::Miss, "page {index} of a new pool {id}");
                }
                // Leaves that are not made are not looked at, until they are.
                let put = self.put(&pool, 2, 1, &framed(1));
                assert!(matches!(put, PutResult::Stored | PutResult::RefusedFull));
                let mut page = [0; PAGE_SIZE];
                let at = (object(&pool), PageIndex(0));
                let got = self.worker.get(&pool, at.0, at.1, GetMode::Copy, &mut page);
                assert_eq!(got, GetResult::Miss, "page 0 of a new pool {id}");
            }
        }
        self.engine.self_check();
    }

    /// What a kill now would leave.
    fn killed(&self, used: bool) -> Seen {
        self.copy().see(used)
    }

    fn copy(&self) -> Self {
        open(copy(&self.files), copied(self.store.as_ref()))
    }
}

fn copied(store: Option<&Arc<FakeStore>>) -> Option<Arc<FakeStore>> {
    store.map(|store| Arc::new(store.copy()))
}

/// What a kill within a request may leave of what the request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    /// What was before, or what is after.
    Either,
    /// For each page on its own: what was before, what is after.
    EachPage,
    /// As [`Rule::EachPage`], or the page is gone: it was ephemeral.
    EachPageOrNone,
}

fn compare(rule: Rule, found: &Seen, before: &Seen, after: &Seen, step: usize) {
    let either = found == before || found == after;
    let beside = |seen: &Seen| (seen.guests.clone(), seen.pools.clone());
    let each = |none: bool| {
        let keys = before.pages.keys().chain(after.pages.keys());
        let pages = keys.map(|key| [found, before, after].map(|seen| seen.pages.get(key)));
        beside(found) == beside(before)
            && found
                .pages
                .keys()
                .all(|key| before.pages.contains_key(key) || after.pages.contains_key(key))
            && pages.into_iter().all(|[found, before, after]| {
                found == before || found == after || (none && found.is_none())
            })
    };
    let allowed = match rule {
        Rule::Either => either,
        Rule::EachPage => either || each(false),
        Rule::EachPageOrNone => either || each(true),
    };
    assert!(
        allowed,
        "before store {step}: found {found:#?}\nbefore {before:#?}\nafter {after:#?}"
    );
}

/// Runs a request, and kills it before each of its stores. `used` is what the ring says of an
/// exclusive get meanwhile.
fn kill_everywhere(house: &mut House, rule: Rule, used: bool, request: impl FnOnce(&mut House)) {
    let before = house.killed(false);
    let copies = Rc::new(RefCell::new(Vec::new()));
    let (files, kept) = (house.files.try_clone().unwrap(), Rc::clone(&copies));
    let store = house.store.clone();
    let take = move || (kept.borrow_mut()).push((copy(&files), copied(store.as_ref())));
    hook::around(take, || request(house));
    house.engine.self_check();
    let after = house.killed(true);
    let copies = copies.take();
    assert!(!copies.is_empty(), "a request that changes nothing");
    for (step, (files, store)) in copies.into_iter().enumerate() {
        let again = (files.try_clone().unwrap(), copied(store.as_ref()));
        // A kill within the recovery, before each of its stores.
        let nested = Rc::new(RefCell::new(Vec::new()));
        let (from, kept) = (files.try_clone().unwrap(), Rc::clone(&nested));
        let own = store.clone();
        let take = move || (kept.borrow_mut()).push((copy(&from), copied(own.as_ref())));
        let (engine, _) = hook::around(take, || engine(files, store));
        drop(engine);
        for (files, store) in nested.take() {
            compare(rule, &open(files, store).see(used), &before, &after, step);
        }
        compare(
            rule,
            &open(again.0, again.1).see(used),
            &before,
            &after,
            step,
        );
    }
}
