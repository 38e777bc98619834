// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! foyer's hybrid cache: memory, and blocks in files that are read and written around the page cache.
//!
//! It writes what memory evicts, in the background, and drops what its queue has no room for. An entry
//! takes whole pages of the file, so one of ours takes two; its files have room for that and for its
//! cleaning, three times the pages' bytes, so that it drops nothing for want of room.

use std::future::Future;
use std::path::Path;
use std::time::{Duration, Instant};

use foyer::{BlockEngineConfig, DeviceBuilder, FsDeviceBuilder, HybridCache, HybridCacheBuilder};
use futures_util::future::try_join_all;
use tmem_pages::{PAGE_SIZE, PageBytes};
use tokio::runtime::{Builder, Runtime};

use super::{Store, prepare, version_of};
use crate::floors::per_second;
use crate::tiers::Scale;
use crate::tiers::stand::check_number;
use crate::{Error, Result};

const NAME: &str = "foyer 0.22, hybrid cache";
/// Bytes of a block; several fit into the smallest cache that is measured.
const BLOCK: usize = 4 << 20;

/// See the module's head.
pub(super) struct Foyer {
    runtime: Runtime,
    cache: HybridCache<u64, Vec<u8>>,
}

impl Foyer {
    pub(super) fn new(scale: &Scale, folder: &Path) -> Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .on_thread_start(|| {
                // Where it stays, it is slower, not wrong.
                let _ = crate::pin::anywhere();
            })
            .enable_all()
            .build()
            .map_err(Error::system("start a runtime"))?;
        let memory = scale.frames as usize * PAGE_SIZE;
        let device = FsDeviceBuilder::new(folder)
            .with_capacity(3 * 4 * memory)
            .with_direct(true)
            .build()
            .map_err(Error::other("make foyer's files"))?;
        let cache = runtime.block_on(
            HybridCacheBuilder::new()
                .memory(memory)
                .with_weighter(|_: &u64, page: &Vec<u8>| page.len())
                .storage()
                .with_engine_config(BlockEngineConfig::new(device).with_block_size(BLOCK))
                .build(),
        );
        Ok(Self {
            runtime,
            cache: cache.map_err(Error::other("make a foyer cache"))?,
        })
    }

    /// Gets a page out of memory or files.
    async fn get(&self, number: u32, page: &mut PageBytes) -> Result<bool> {
        let got = self.cache.get(&u64::from(number)).await;
        let Some(entry) = got.map_err(Error::other("get a page of foyer"))? else {
            return Ok(false);
        };
        check_number(NAME, entry.value(), number)?;
        page.copy_from_slice(entry.value());
        Ok(true)
    }

    fn run<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }
}

impl Store for Foyer {
    fn name(&self) -> &'static str {
        NAME
    }

    fn put_all(&mut self, pages: &[(u32, u64)], page: &mut PageBytes) -> Result<()> {
        for (number, version) in pages {
            prepare(page, (*number, *version));
            self.cache.insert(u64::from(*number), page.to_vec());
        }
        Ok(())
    }

    fn get_for(
        &mut self,
        next: &mut dyn FnMut() -> u32,
        at_once: usize,
        time: Duration,
    ) -> Result<f64> {
        self.run(async {
            let mut pages = vec![[0; PAGE_SIZE]; at_once];
            let (start, mut count) = (Instant::now(), 0);
            while start.elapsed() < time {
                for _ in 0..16 {
                    if let [page] = &mut pages[..] {
                        self.get(next(), page).await?;
                        continue;
                    }
                    let gets = pages.iter_mut().map(|page| self.get(next(), page));
                    try_join_all(gets).await?;
                }
                count += 16 * at_once as u64;
            }
            Ok(per_second(count, start))
        })
    }

    fn rest(&mut self) -> Result<()> {
        self.run(self.cache.storage().wait());
        Ok(())
    }

    fn version(&mut self, number: u32) -> Result<Option<u64>> {
        let mut page = [0; PAGE_SIZE];
        let found = self.run(self.get(number, &mut page))?;
        Ok(version_of(&page).filter(|_| found))
    }
}
