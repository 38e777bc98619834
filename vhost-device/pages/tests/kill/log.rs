// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the workload writes down, in a file that outlives it: for each page what was last
//! acknowledged and what was last sent. The judge knows nothing else.
//!
//! ```text
//! thread t: page 2t      0 ..  64   header
//!                      256 .. 4096  60 pages of each of 4 pools: acknowledged, sent
//!           page 2t + 1             16 shared pages: acknowledged, sent
//! ```
//! A kill does not cut a write within one page of a file short, so each is there or not.

use std::fs::File;
use std::os::unix::fs::FileExt;

/// Threads of the workload.
pub(crate) const THREADS: usize = 3;
/// Pools of each thread's guest.
pub(crate) const POOLS: usize = 4;
/// Pages of each pool that the workload uses.
pub(crate) const PAGES: usize = 60;
/// Pages that all threads put.
pub(crate) const SHARED: usize = 16;

/// Nothing is sent that is not acknowledged.
pub(crate) const NOTHING: u64 = u64::MAX;
/// The page is not there.
pub(crate) const MISSING: u64 = 0;

const BLOCK: usize = 4096;
const PAGES_AT: usize = 256;
const _: () = assert!(PAGES_AT + POOLS * PAGES * 16 == BLOCK);

/// A request about many pages that is not acknowledged yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bulk {
    None,
    /// All pages of a pool, or of one of its objects.
    Flush {
        pool: usize,
        object: Option<u64>,
    },
    Create {
        pool: usize,
    },
    Destroy {
        pool: usize,
    },
    /// The next epoch.
    Epoch,
}

impl Bulk {
    fn to_word(self) -> u64 {
        match self {
            Self::None => 0,
            Self::Flush { pool, object } => {
                1 | (pool as u64) << 8 | object.map_or(0, |object| object + 1) << 16
            }
            Self::Create { pool } => 2 | (pool as u64) << 8,
            Self::Destroy { pool } => 3 | (pool as u64) << 8,
            Self::Epoch => 4,
        }
    }

    fn from_word(word: u64) -> Self {
        let pool = usize::try_from(word >> 8 & 0xff).unwrap();
        match word & 0xff {
            0 => Self::None,
            1 => Self::Flush {
                pool,
                object: (word >> 16).checked_sub(1),
            },
            2 => Self::Create { pool },
            3 => Self::Destroy { pool },
            _ => Self::Epoch,
        }
    }
}

/// What is known of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) acknowledged: u64,
    pub(crate) sent: u64,
}

impl Known {
    const FRESH: Self = Self {
        acknowledged: MISSING,
        sent: NOTHING,
    };

    fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.acknowledged.to_le_bytes());
        bytes[8..].copy_from_slice(&self.sent.to_le_bytes());
        bytes
    }
}

/// One thread's part of the log.
#[derive(Clone, Debug)]
pub(crate) struct ThreadLog {
    thread: usize,
    /// Tickets below this are used up.
    pub(crate) tickets: u64,
    /// Place in the ring of the last exclusive get that the used ring speaks of, plus 1.
    pub(crate) used: u64,
    pub(crate) bulk: Bulk,
    pub(crate) epoch: u64,
    /// A bit for each pool that is there.
    pub(crate) pools: u64,
    pub(crate) pages: [[Known; PAGES]; POOLS],
    pub(crate) shared: [Known; SHARED],
}

impl ThreadLog {
    fn new(thread: usize) -> Self {
        Self {
            thread,
            tickets: 0,
            used: 0,
            bulk: Bulk::None,
            epoch: 0,
            pools: 0,
            pages: [[Known::FRESH; PAGES]; POOLS],
            shared: [Known::FRESH; SHARED],
        }
    }

    fn at(&self) -> u64 {
        (self.thread * 2 * BLOCK) as u64
    }

    /// Writes all that is known of the thread's own pages, at once.
    pub(crate) fn write(&self, file: &File) {
        let mut block = [0; BLOCK];
        let header = [
            self.tickets,
            self.used,
            self.bulk.to_word(),
            self.epoch,
            self.pools,
        ];
        for (to, word) in block.as_chunks_mut().0.iter_mut().zip(header) {
            *to = u64::to_le_bytes(word);
        }
        let pages = self.pages.iter().flatten();
        for (to, known) in block[PAGES_AT..].as_chunks_mut().0.iter_mut().zip(pages) {
            *to = known.to_bytes();
        }
        file.write_all_at(&block, self.at()).unwrap();
    }

    /// Writes what is known of one page.
    pub(crate) fn write_page(&self, file: &File, pool: usize, page: usize) {
        let at = self.at() + (PAGES_AT + (pool * PAGES + page) * 16) as u64;
        let known = self.pages[pool][page].to_bytes();
        file.write_all_at(&known, at).unwrap();
    }

    /// Writes what this thread knows of a shared page.
    pub(crate) fn write_shared(&self, file: &File, page: usize) {
        let at = self.at() + (BLOCK + page * 16) as u64;
        let known = self.shared[page].to_bytes();
        file.write_all_at(&known, at).unwrap();
    }

    pub(crate) fn read(file: &File, thread: usize) -> Self {
        let mut log = Self::new(thread);
        let mut block = [0; 2 * BLOCK];
        file.read_exact_at(&mut block, log.at()).unwrap();
        let words: Vec<u64> = (block.as_chunks().0.iter())
            .map(|word| u64::from_le_bytes(*word))
            .collect();
        let known = |words: &[u64]| Known {
            acknowledged: words[0],
            sent: words[1],
        };
        (log.tickets, log.used) = (words[0], words[1]);
        log.bulk = Bulk::from_word(words[2]);
        (log.epoch, log.pools) = (words[3], words[4]);
        let pages = log.pages.as_flattened_mut().iter_mut();
        for (page, words) in pages.zip(words[PAGES_AT / 8..].chunks(2)) {
            *page = known(words);
        }
        for (page, words) in log.shared.iter_mut().zip(words[BLOCK / 8..].chunks(2)) {
            *page = known(words);
        }
        log
    }

    /// The log of threads that have done nothing.
    pub(crate) fn begin(file: &File) {
        file.set_len((THREADS * 2 * BLOCK) as u64).unwrap();
        for thread in 0..THREADS {
            let log = Self::new(thread);
            log.write(file);
            (0..SHARED).for_each(|page| log.write_shared(file, page));
        }
    }
}
