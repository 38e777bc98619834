// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A buffer manager: more pages than frames, and the cold ones in tmem.
//!
//! A page is hot (in a frame) or cold (in the pool) or was never written (zero, nowhere). A get leaves the
//! page in the pool, so that a page that is only read costs nothing to evict; a page that was written
//! since is put when its turn comes, together with others: the clock hand goes on until a batch is full.

use std::collections::HashMap;
use tmem_user::{Error, Gets, Page, PageBuffer, Pool, Puts};

/// Pages that are evicted together.
const BATCH: usize = 64;

/// A frame's page.
#[derive(Clone, Copy, Default)]
struct Frame {
    page: Option<u32>,
    /// Used since the clock hand came by.
    used: bool,
    /// Written since it was put.
    dirty: bool,
}

/// What the manager did.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) hits: u64,
    pub(crate) gets: u64,
    pub(crate) puts: u64,
    pub(crate) dropped_clean: u64,
}

/// Pages by number, of which as many as there are frames are in memory.
pub(crate) struct Manager {
    pool: Pool,
    memory: PageBuffer,
    frames: Vec<Frame>,
    /// Where each hot page is.
    hot: HashMap<u32, usize>,
    /// Whether each page is in the pool.
    cold: Vec<bool>,
    hand: usize,
    free: Vec<usize>,
    pub(crate) counts: Counts,
}

impl Manager {
    /// A manager of `pages` pages, all zero, with `frames` frames; `pool` has as many indices.
    pub(crate) fn new(pool: Pool, pages: u32, frames: usize) -> Result<Self, Error> {
        let frames = frames.max(BATCH);
        Ok(Self {
            pool,
            memory: PageBuffer::new(frames)?,
            frames: vec![Frame::default(); frames],
            hot: HashMap::new(),
            cold: vec![false; pages as usize],
            hand: 0,
            free: (0..frames).collect(),
            counts: Counts::default(),
        })
    }

    /// The page, to read.
    pub(crate) fn read(&mut self, page: u32) -> Result<&Page, Error> {
        let frame = self.fix(page)?;
        Ok(&self.memory[frame])
    }

    /// The page, to write.
    pub(crate) fn write(&mut self, page: u32) -> Result<&mut Page, Error> {
        let frame = self.fix(page)?;
        self.frames[frame].dirty = true;
        Ok(&mut self.memory[frame])
    }

    /// Brings a page into a frame.
    fn fix(&mut self, page: u32) -> Result<usize, Error> {
        if let Some(&frame) = self.hot.get(&page) {
            self.frames[frame].used = true;
            self.counts.hits += 1;
            return Ok(frame);
        }
        if self.free.is_empty() {
            self.evict()?;
        }
        let Some(frame) = self.free.pop() else {
            return Err(Error::NoRoom);
        };
        if let Err(error) = self.load(page, frame) {
            self.free.push(frame);
            return Err(error);
        }
        self.frames[frame] = Frame {
            page: Some(page),
            used: true,
            dirty: false,
        };
        self.hot.insert(page, frame);
        Ok(frame)
    }

    fn load(&mut self, page: u32, frame: usize) -> Result<(), Error> {
        if !self.cold[page as usize] {
            self.memory[frame].fill(0);
            return Ok(());
        }
        let mut gets = Gets::new();
        gets.add(page, std::slice::from_mut(&mut self.memory[frame]));
        self.pool.get(&mut gets)?;
        self.counts.gets += 1;
        // The pool is persistent: what was put is there, or the host has failed.
        if gets.results()[0].is_ok() {
            Ok(())
        } else {
            Err(Error::System(std::io::Error::other("a page is lost")))
        }
    }

    /// Frees a batch of frames that have not been used lately, with one call.
    fn evict(&mut self) -> Result<(), Error> {
        let mut victims = Vec::with_capacity(BATCH);
        while victims.len() < BATCH {
            let at = self.hand;
            self.hand = (self.hand + 1) % self.frames.len();
            let frame = &mut self.frames[at];
            if frame.page.is_none() || victims.contains(&at) {
                continue;
            }
            if !std::mem::take(&mut frame.used) {
                victims.push(at);
            }
        }
        let mut puts = Puts::new();
        for &at in &victims {
            match self.frames[at] {
                Frame {
                    page: Some(page),
                    dirty: true,
                    ..
                } => {
                    puts.add(page, std::slice::from_ref(&self.memory[at]));
                }
                _ => self.counts.dropped_clean += 1,
            }
        }
        if !puts.is_empty() {
            let wanted = puts.len();
            let put = self.pool.put(&mut puts)?;
            self.counts.puts += u64::from(put);
            if (put as usize) < wanted {
                // All of them stay hot and dirty, and are put again later.
                return Err(Error::NoRoom);
            }
        }
        drop(puts);
        for at in victims {
            let frame = std::mem::take(&mut self.frames[at]);
            if let Some(page) = frame.page {
                self.cold[page as usize] |= frame.dirty;
                self.hot.remove(&page);
            }
            self.free.push(at);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tmem_user::fake::Fake;
    use tmem_user::program::Rng;
    use tmem_user::{Interface, Kind, PoolOptions};

    fn manager(pages: u32, frames: usize) -> (Manager, Fake) {
        let fake = Fake::new(10_000);
        let pool = Interface::with(fake.clone())
            .create(&PoolOptions::new(Kind::Persistent, pages))
            .expect("a pool");
        (Manager::new(pool, pages, frames).expect("memory"), fake)
    }

    #[test]
    fn pages_come_back_as_they_were_written() {
        let (mut manager, _) = manager(1000, 100);
        let mut model = vec![0u8; 1000];
        let mut rng = Rng::new(3);
        for _ in 0..20_000 {
            let page = rng.below(1000);
            if rng.one_in(3) {
                let value = rng.byte();
                manager.write(page).expect("room").fill(value);
                model[page as usize] = value;
            } else {
                let found = manager.read(page).expect("it is there");
                assert!(found.iter().all(|byte| *byte == model[page as usize]));
            }
        }
        assert!(manager.counts.gets > 1000 && manager.counts.puts > 1000);
    }

    #[test]
    fn pages_that_are_only_read_are_put_once() {
        let (mut manager, fake) = manager(200, 64);
        for page in 0..200 {
            manager.write(page).expect("room")[0] = 1;
        }
        for _ in 0..3 {
            for page in 0..200 {
                assert_eq!(manager.read(page).expect("there")[0], 1);
            }
        }
        assert_eq!(manager.counts.puts, 200);
        assert_eq!(fake.held(), 200);
        assert!(manager.counts.dropped_clean > 200);
    }

    #[test]
    fn refused_put_keeps_the_page_in_memory() {
        let (mut manager, fake) = manager(200, 64);
        for page in 0..64 {
            manager.write(page).expect("room")[0] = 9;
        }
        fake.set_full(true);
        assert!(matches!(manager.write(100), Err(Error::NoRoom)));
        for page in 0..64 {
            assert_eq!(manager.read(page).expect("still hot")[0], 9);
        }
        fake.set_full(false);
        assert!(manager.write(100).is_ok());
    }
}
