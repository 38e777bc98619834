// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! redb: a B-tree in a file, with a cache of its own. A transaction is durable when its commit returns;
//! one of 64 pages shares a sync among as many pages as our mover does.

use std::path::Path;
use std::time::Duration;

use redb::{Database, Durability, ReadableDatabase, TableDefinition};
use tmem_pages::{PAGE_SIZE, PageBytes};

use super::{BATCH, Store, prepare, version_of};
use crate::tiers::Scale;
use crate::tiers::stand::{check_number, rate};
use crate::{Error, Result};

const NAME: &str = "redb 4, immediate durability, 64 pages a transaction";
const TABLE: TableDefinition<'_, u32, &[u8]> = TableDefinition::new("pages");

/// See the module's head.
pub(super) struct Redb {
    database: Database,
}

impl Redb {
    pub(super) fn new(scale: &Scale, folder: &Path) -> Result<Self> {
        let database = Database::builder()
            .set_cache_size(scale.frames as usize * PAGE_SIZE)
            .create(folder.join("database"));
        Ok(Self {
            database: database.map_err(Error::other("make a redb database"))?,
        })
    }

    fn put_batch(
        &self,
        pages: &[(u32, u64)],
        page: &mut PageBytes,
    ) -> std::result::Result<(), redb::Error> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        {
            let mut table = transaction.open_table(TABLE)?;
            for (number, version) in pages {
                prepare(page, (*number, *version));
                table.insert(number, page.as_slice())?;
            }
        }
        transaction.commit()?;
        Ok(())
    }

    /// The table as it is now.
    fn table(&self) -> std::result::Result<redb::ReadOnlyTable<u32, &'static [u8]>, redb::Error> {
        Ok(self.database.begin_read()?.open_table(TABLE)?)
    }
}

impl Store for Redb {
    fn name(&self) -> &'static str {
        NAME
    }

    fn put_all(&mut self, pages: &[(u32, u64)], page: &mut PageBytes) -> Result<()> {
        let mut batches = pages.chunks(BATCH);
        let put = batches.try_for_each(|batch| self.put_batch(batch, page));
        put.map_err(Error::other("put pages into redb"))
    }

    fn get_for(
        &mut self,
        next: &mut dyn FnMut() -> u32,
        _at_once: usize,
        time: Duration,
    ) -> Result<f64> {
        let failed = Error::other("get a page of redb");
        let table = self.table().map_err(&failed)?;
        let mut page = [0; PAGE_SIZE];
        rate(time, || {
            let number = next();
            let found = table
                .get(number)
                .map_err(Error::other("get a page of redb"))?;
            let Some(found) = found else {
                return Err(Error::Mismatch {
                    what: NAME,
                    index: number,
                });
            };
            check_number(NAME, found.value(), number)?;
            page.copy_from_slice(found.value());
            Ok(())
        })
    }

    fn rest(&mut self) -> Result<()> {
        Ok(())
    }

    fn version(&mut self, number: u32) -> Result<Option<u64>> {
        let table = self.table().map_err(Error::other("read redb's table"))?;
        let found = table
            .get(number)
            .map_err(Error::other("get a page of redb"))?;
        Ok(found.and_then(|page| version_of(page.value())))
    }
}
