// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A pool that nobody disturbs: what it holds must stay what it is.

use crate::Counts;
use tmem_user::program::fill;
use tmem_user::{Gets, Interface, Kind, PageBuffer, Pool, PoolOptions, Puts};

const PAGES: u32 = 300;

/// A pool with known pages.
pub(crate) struct Witness {
    pool: Pool,
    memory: PageBuffer,
    version: u64,
}

impl Witness {
    pub(crate) fn new() -> Result<Self, String> {
        let make = || {
            let pool = Interface::open()?.create(&PoolOptions::new(Kind::Persistent, PAGES))?;
            Ok::<_, tmem_user::Error>(Self {
                pool,
                memory: PageBuffer::new(PAGES as usize)?,
                version: 0,
            })
        };
        let mut witness = make().map_err(|error| error.to_string())?;
        witness.put()?;
        Ok(witness)
    }

    fn put(&mut self) -> Result<(), String> {
        self.version += 1;
        for (page, index) in self.memory.iter_mut().zip(0..) {
            fill(&mut page[..], index, self.version);
        }
        let mut puts = Puts::new();
        puts.add(0, &self.memory);
        match self.pool.put(&mut puts) {
            Ok(PAGES) => Ok(()),
            other => Err(format!("the witness's pages were not all put: {other:?}")),
        }
    }

    /// Gets the pages, compares them, and puts others in their place.
    pub(crate) fn check(&mut self, counts: &Counts) -> Result<(), String> {
        let expected = self.memory.to_vec();
        self.memory.iter_mut().for_each(|page| page.fill(0));
        let mut gets = Gets::new();
        gets.add(0, &mut self.memory);
        let got = self.pool.get(&mut gets);
        drop(gets);
        let different = self
            .memory
            .iter()
            .zip(&expected)
            .filter(|(one, other)| one != other)
            .count();
        if different > 0 || !matches!(got, Ok(PAGES)) {
            counts.mismatch(&format!(
                "{different} of the witness's pages have changed; the get said {got:?}"
            ));
        }
        self.put()
    }
}
