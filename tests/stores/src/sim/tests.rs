// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Tests of the tests: the tasks and the oracle over pages in a map, right or wrong in one way.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use tmem_pages::PageBytes;
use tmem_pages::slots::SlotHeader;

use super::plan::{Acknowledge, Mode, Plan};
use super::work::{NoPage, Pages, Task};
use super::world::Shared;

/// What a map of pages does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    None,
    /// Now and then a write fails, having done its work, or not.
    Fails,
    KeepsFlushed,
    GoesBack,
    Forgets,
    FlipsBit,
    Mixes,
    KeepsOldEphemeral,
    FailsToRead,
}

#[derive(Debug)]
struct Map {
    flaw: Flaw,
    calls: u64,
    pages: BTreeMap<u32, Vec<PageBytes>>,
    ephemeral: BTreeMap<u32, PageBytes>,
}

impl Map {
    fn strikes(&mut self, flaw: Flaw) -> bool {
        self.calls += 1;
        self.flaw == flaw && self.calls.is_multiple_of(5)
    }
}

#[derive(Clone, Debug)]
struct Fake(Rc<RefCell<Map>>);

impl Pages for Fake {
    async fn write(&mut self, batch: &[(u32, &SlotHeader, &PageBytes)]) -> Result<u8, String> {
        tokio::time::sleep(Duration::from_millis(1)).await;
        let mut map = self.0.borrow_mut();
        let fails = map.strikes(Flaw::Fails);
        if fails && map.calls.is_multiple_of(2) {
            return Err("nothing done".into());
        }
        for (slot, _, page) in batch {
            if !map.strikes(Flaw::Forgets) {
                map.pages.entry(*slot).or_default().push(**page);
            }
        }
        if fails { Err("done".into()) } else { Ok(1) }
    }

    async fn read(
        &mut self,
        slot: u32,
        _: Option<u32>,
        page: &mut PageBytes,
    ) -> Result<(), NoPage> {
        tokio::time::sleep(Duration::from_millis(1)).await;
        let mut map = self.0.borrow_mut();
        if map.strikes(Flaw::FailsToRead) {
            return Err(NoPage::Failed("a bad day".into()));
        }
        let back = usize::from(map.strikes(Flaw::GoesBack));
        let slot = slot + u32::from(map.strikes(Flaw::Mixes));
        let flips = map.strikes(Flaw::FlipsBit);
        let versions = map.pages.get(&slot);
        let found = versions.and_then(|all| all.get(all.len().checked_sub(1 + back)?));
        *page = *found.ok_or_else(|| NoPage::Nothing("empty".into()))?;
        page[77] ^= u8::from(flips);
        Ok(())
    }

    fn invalidate(&mut self, slots: &[u32]) {
        let mut map = self.0.borrow_mut();
        if !map.strikes(Flaw::KeepsFlushed) {
            map.pages.retain(|slot, _| !slots.contains(slot));
        }
    }

    async fn put_ephemeral(&mut self, index: u32, page: &PageBytes) -> bool {
        let mut map = self.0.borrow_mut();
        let refused = map.strikes(Flaw::KeepsOldEphemeral);
        if !refused {
            map.ephemeral.insert(index, *page);
        }
        !refused
    }

    async fn get_ephemeral(&mut self, index: u32, page: &mut PageBytes) -> bool {
        let map = self.0.borrow();
        let found = map.ephemeral.get(&index);
        if let Some(found) = found {
            *page = *found;
        }
        found.is_some()
    }

    async fn flush_ephemeral(&mut self, indexes: &[u32]) {
        let mut map = self.0.borrow_mut();
        map.ephemeral.retain(|index, _| !indexes.contains(index));
    }
}

/// What the tasks find wrong with a map in some seconds.
fn work(flaw: Flaw, seed: u64) -> (Option<String>, (u64, u64)) {
    let mut plan = Plan::new(seed);
    plan.mode = Mode::Within;
    plan.acknowledge = Acknowledge::All;
    plan.clients = 1;
    plan.slots = 24;
    plan.tasks = 2;
    plan.ephemeral = true;
    plan.mix = (35, 15);
    let world = Shared::new(Rc::new(plan), true);
    let map = Fake(Rc::new(RefCell::new(Map {
        flaw,
        calls: 0,
        pages: BTreeMap::new(),
        ephemeral: BTreeMap::new(),
    })));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let tasks = tokio::task::LocalSet::new();
        for number in 0..2 {
            tasks.spawn_local(Task::new(&world, 0, number, 1).run(map.clone()));
        }
        tasks
            .run_until(tokio::time::sleep(Duration::from_secs(4)))
            .await;
        world.with(|world| {
            world.paused = true;
            world.rewrite_unsettled();
            world.read_everything();
        });
        tasks
            .run_until(tokio::time::sleep(Duration::from_secs(2)))
            .await;
    });
    let left = world.with(|world| world.unsettled() + world.to_read());
    assert!(
        flaw != Flaw::None || left == 0,
        "{left} pages were not visited"
    );
    (world.failure(), world.digest())
}

#[test]
fn nothing_is_found_wrong_with_a_map() {
    for seed in 0..5 {
        for flaw in [Flaw::None, Flaw::Fails] {
            let (failure, (_, events)) = work(flaw, seed);
            assert_eq!(failure, None, "seed {seed}, {flaw:?}");
            assert!(events > 300, "{events} events");
        }
    }
}

#[test]
fn every_flaw_of_a_map_is_found() {
    for flaw in [
        Flaw::KeepsFlushed,
        Flaw::GoesBack,
        Flaw::Forgets,
        Flaw::FlipsBit,
        Flaw::Mixes,
        Flaw::KeepsOldEphemeral,
        Flaw::FailsToRead,
    ] {
        assert!(work(flaw, 3).0.is_some(), "{flaw:?}");
    }
}

#[test]
fn same_seed_gives_the_same_digest() {
    assert_eq!(work(Flaw::Fails, 9).1, work(Flaw::Fails, 9).1);
    assert_ne!(work(Flaw::Fails, 9).1, work(Flaw::Fails, 10).1);
}
