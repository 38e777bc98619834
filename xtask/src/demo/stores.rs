// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The stores of the demo: they are started, one of them falls, its pages are made up for, and it comes
//! back.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tmem_admin_api::{PAGE_BYTES, Store, StoreList, StoreState};
use tmem_vm_tests::daemon::{Daemon, Programs};
use tmem_vm_tests::stores::{NAMES, Stores};
use vm_images::Progress;

use super::report::OnStores;

/// Which of the stores falls.
const VICTIM: usize = 1;
/// What repair may copy in a second: slow enough to be watched.
const BANDWIDTH: &str = "24MiB";
/// For every page to have its copies again.
const REPAIR_DEADLINE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(100);

/// The fall of a store.
struct Fall {
    at: Instant,
    copies: u64,
    /// Pages with a copy too few have been seen, so their absence means something.
    noticed: bool,
    repaired: Option<Duration>,
}

/// All stores, and what happens to one of them.
pub(super) struct Cast {
    stores: Stores,
    size_mib: u32,
    /// With so many pages on stores one falls.
    falls_at_pages: u64,
    fall: Option<Fall>,
    back: bool,
    /// When the stores were last looked at, and how they were.
    seen: Option<(Instant, String)>,
}

impl Cast {
    /// Three stores for `size_mib` of a guest's pages, any two of which hold all of them.
    pub(super) fn start(programs: &Programs, size_mib: u32, logs: &Path) -> Result<Self> {
        let stores = Stores::start(&programs.remote_store, size_mib, logs);
        Ok(Self {
            stores: stores.context("Cannot start the stores")?,
            size_mib,
            falls_at_pages: u64::MAX,
            fall: None,
            back: false,
            seen: None,
        })
    }

    /// The daemon's remote tier.
    pub(super) fn tables(&self) -> String {
        self.stores
            .tables(&format!("{}MiB", self.size_mib), BANDWIDTH)
    }

    /// One store falls when half of what a program needs is on stores.
    pub(super) fn falls_in(&mut self, need_mib: u64) {
        self.falls_at_pages = (need_mib << 20) / PAGE_BYTES / 2;
    }

    /// Looks at the stores, lets one fall when it is time, and says how they are.
    pub(super) fn tick(&mut self, daemon: &Daemon, progress: &Progress) -> String {
        if let Some((at, said)) = &self.seen
            && at.elapsed() < PAUSE
        {
            return said.clone();
        }
        let Ok(list) = daemon.stores() else {
            return "the stores' state is not known".to_owned();
        };
        if self.fall.is_none() && list.replication.pages >= self.falls_at_pages {
            self.kill(&list, progress);
        }
        self.look(&list, progress);
        let said = tell(&list);
        self.seen = Some((Instant::now(), said.clone()));
        said
    }

    fn kill(&mut self, list: &StoreList, progress: &Progress) {
        let copies = list.stores.get(VICTIM).map_or(0, |store| store.copies);
        self.stores.kill(VICTIM);
        progress.line(&format!(
            "kill -9 of {}, with {} MiB of the guest's pages on it",
            NAMES[VICTIM],
            mib(copies)
        ));
        self.fall = Some(Fall {
            at: Instant::now(),
            copies,
            noticed: false,
            repaired: None,
        });
    }

    /// Notes when all pages have their copies again.
    fn look(&mut self, list: &StoreList, progress: &Progress) {
        let Some(fall) = &mut self.fall else { return };
        let below = list.replication.below_pages;
        if !fall.noticed && below > 0 {
            fall.noticed = true;
            let (seconds, pages) = (fall.at.elapsed().as_secs_f64(), mib(below));
            progress.line(&format!(
                "after {seconds:.1} s: {pages} MiB have one copy only; the guest goes on, and they are copied anew"
            ));
        }
        if fall.noticed && fall.repaired.is_none() && below == 0 {
            let took = fall.at.elapsed();
            fall.repaired = Some(took);
            progress.line(&format!(
                "after {:.1} s: all pages have two copies again, on two stores",
                took.as_secs_f64()
            ));
        }
    }

    /// Between two programs: waits for the repair, and lets the store come back.
    pub(super) fn between(&mut self, daemon: &Daemon, progress: &Progress) -> Result<()> {
        ensure!(
            self.fall.is_some(),
            "So few pages went to the stores that none of these was killed"
        );
        if self.back {
            return Ok(());
        }
        let start = Instant::now();
        loop {
            let list = daemon.stores()?;
            self.look(&list, progress);
            // With a program's end its pages are flushed, and there may be nothing left to be seen.
            if list.replication.below_pages == 0 {
                break;
            }
            ensure!(
                start.elapsed() < REPAIR_DEADLINE,
                "Pages have too few copies for {} s: {list:?}",
                REPAIR_DEADLINE.as_secs()
            );
            std::thread::sleep(PAUSE);
        }
        self.stores.start_again(VICTIM)?;
        self.back = true;
        progress.line(&format!("{} is back, and empty", NAMES[VICTIM]));
        Ok(())
    }

    /// What came of it all.
    pub(super) fn outcome(&self, daemon: &Daemon) -> Result<OnStores> {
        let list = daemon.stores()?;
        let fall = self.fall.as_ref();
        let repaired = fall.and_then(|fall| fall.repaired);
        Ok(OnStores {
            killed: NAMES[VICTIM].to_owned(),
            copies_lost: fall.map_or(0, |fall| fall.copies),
            repaired_after_seconds: repaired.unwrap_or_default().as_secs_f64(),
            repaired_pages: list.replication.repaired_pages,
            failovers: list.replication.failovers,
            hedged: list.replication.hedged,
            lost_pages: list.replication.lost_pages,
        })
    }
}

/// `store1 180 MiB, store2 dead, store3 177 MiB; 12 MiB await a second copy, 96 MiB/s`.
fn tell(list: &StoreList) -> String {
    let one = |store: &Store| match store.state {
        StoreState::Up => format!("{} {} MiB", store.name, mib(store.copies)),
        state => format!("{} {}", store.name, state.as_str()),
    };
    let mut said: Vec<String> = list.stores.iter().map(one).collect();
    let replication = &list.replication;
    if replication.below_pages > 0 {
        said.push(format!(
            "{} MiB await a copy, {} MiB/s",
            mib(replication.below_pages),
            replication.repair_bytes_per_second >> 20
        ));
    }
    said.join(", ")
}

fn mib(pages: u64) -> u64 {
    pages.saturating_mul(PAGE_BYTES) >> 20
}

#[cfg(test)]
mod tests {
    use super::*;
    use tmem_admin_api::Replication;

    #[test]
    fn stores_are_told_in_a_line() {
        let store = |name: &str, state, copies| Store {
            name: name.to_owned(),
            state,
            copies,
            ..Store::default()
        };
        let mut list = StoreList {
            stores: vec![
                store("store1", StoreState::Up, 512),
                store("store2", StoreState::Dead, 99),
            ],
            ..StoreList::default()
        };
        assert_eq!(tell(&list), "store1 2 MiB, store2 dead");
        list.replication = Replication {
            below_pages: 256,
            repair_bytes_per_second: 96 << 20,
            ..Replication::default()
        };
        assert!(tell(&list).ends_with("1 MiB await a copy, 96 MiB/s"));
    }
}
