// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The host in the model: pools of pages with tickets, and requests that are executed and answered at
//! any time and in any order.

use crate::cells::Random;
use std::collections::HashMap;

/// What a request asks for; the blocks have their stamps in a put.
#[derive(Clone, Debug)]
pub(crate) enum Ask {
    Put(Vec<(u32, u64)>),
    Get(Vec<u32>),
    Flush(Vec<u32>),
}

/// Result of one page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    Stored,
    Page(u64),
    Miss,
    Refused,
    Stale,
    Gone,
}

/// A request that was sent, until its answer is taken.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) id: u64,
    pub(crate) pool: u32,
    pub(crate) ask: Ask,
    pub(crate) ticket: u64,
    pub(crate) answer: Option<Vec<Said>>,
    /// The driver no longer waits for it.
    abandoned: bool,
}

#[derive(Clone, Copy, Debug)]
struct Page {
    stamp: u64,
    ticket: u64,
}

/// The last word that the host gave on a block.
#[derive(Clone, Copy, PartialEq, Eq)]
enum LastAnswer {
    Stored,
    Other,
}

#[derive(Default)]
pub(crate) struct Host {
    pages: HashMap<(u32, u32), Page>,
    /// All that was ever put.
    history: HashMap<(u32, u32), Vec<Page>>,
    last: HashMap<(u32, u32), LastAnswer>,
    pub(crate) requests: Vec<Request>,
    tickets: u64,
    ids: u64,
}

impl Host {
    pub(crate) fn send(&mut self, pool: u32, ask: Ask) -> u64 {
        self.ids += 1;
        self.tickets += 1;
        self.requests.push(Request {
            id: self.ids,
            pool,
            ask,
            ticket: self.tickets,
            answer: None,
            abandoned: false,
        });
        self.ids
    }

    /// The page that the host holds.
    pub(crate) fn page(&self, pool: u32, block: u32) -> Option<u64> {
        self.pages.get(&(pool, block)).map(|page| page.stamp)
    }

    /// Whether a put of the block is still to be executed.
    pub(crate) fn has_put_to_come(&self, pool: u32, block: u32) -> bool {
        self.requests.iter().any(|request| {
            request.pool == pool
                && request.answer.is_none()
                && matches!(&request.ask, Ask::Put(pages) if pages.iter().any(|(b, _)| *b == block))
        })
    }

    /// Executes some request that was not executed yet.
    pub(crate) fn execute_one(&mut self, random: &mut Random) {
        let open: Vec<usize> = (0..self.requests.len())
            .filter(|nth| self.requests[*nth].answer.is_none())
            .collect();
        if open.is_empty() {
            return;
        }
        let nth = open[random.index(open.len())];
        let (pool, ticket) = (self.requests[nth].pool, self.requests[nth].ticket);
        let ask = self.requests[nth].ask.clone();
        let answer = match ask {
            Ask::Put(pages) => pages
                .into_iter()
                .map(|(block, stamp)| self.put((pool, block), Page { stamp, ticket }, random))
                .collect(),
            Ask::Get(blocks) => blocks
                .into_iter()
                .map(|block| self.page(pool, block).map_or(Said::Miss, Said::Page))
                .collect(),
            Ask::Flush(blocks) => blocks
                .into_iter()
                .map(|block| self.flush((pool, block), ticket))
                .collect(),
        };
        if self.requests[nth].abandoned {
            self.requests.swap_remove(nth);
        } else {
            self.requests[nth].answer = Some(answer);
        }
    }

    fn put(&mut self, key: (u32, u32), page: Page, random: &mut Random) -> Said {
        if self
            .pages
            .get(&key)
            .is_some_and(|old| old.ticket > page.ticket)
        {
            return Said::Stale;
        }
        self.pages.remove(&key);
        if random.one_in(8) {
            return Said::Refused;
        }
        self.history.entry(key).or_default().push(page);
        self.pages.insert(key, page);
        Said::Stored
    }

    fn flush(&mut self, key: (u32, u32), ticket: u64) -> Said {
        if self.pages.get(&key).is_some_and(|old| old.ticket > ticket) {
            return Said::Stale;
        }
        self.pages.remove(&key);
        Said::Gone
    }

    /// Takes the answer of some request that has one.
    pub(crate) fn take_answer(&mut self, random: &mut Random) -> Option<Request> {
        let done: Vec<usize> = (0..self.requests.len())
            .filter(|nth| self.requests[*nth].answer.is_some())
            .collect();
        if done.is_empty() {
            return None;
        }
        let request = self.requests.swap_remove(done[random.index(done.len())]);
        let blocks: Vec<u32> = match &request.ask {
            Ask::Put(pages) => pages.iter().map(|(block, _)| *block).collect(),
            Ask::Flush(blocks) => blocks.clone(),
            Ask::Get(_) => Vec::new(),
        };
        for (block, said) in blocks.into_iter().zip(request.answer.iter().flatten()) {
            let last = match said {
                Said::Stored => LastAnswer::Stored,
                _ => LastAnswer::Other,
            };
            self.last.insert((request.pool, block), last);
        }
        Some(request)
    }

    /// The device is reset: what was sent is never answered, and executed at some time or never.
    /// Returns the numbers of the requests.
    pub(crate) fn lose_answers(&mut self, random: &mut Random) -> Vec<u64> {
        let lost = (self.requests.iter().filter(|r| !r.abandoned))
            .map(|r| r.id)
            .collect();
        self.requests.retain_mut(|request| {
            request.abandoned = true;
            request.answer.is_none() && random.one_in(2)
        });
        lost
    }

    /// Drops some page.
    pub(crate) fn evict(&mut self, random: &mut Random) {
        let held: Vec<(u32, u32)> = {
            let mut keys: Vec<_> = self.pages.keys().copied().collect();
            keys.sort_unstable();
            keys
        };
        if !held.is_empty() {
            self.pages.remove(&held[random.index(held.len())]);
        }
    }

    /// Dies and starts again, with whatever pages it finds: of a block that it last acknowledged a
    /// put of, that page or none; of others, any that was ever put.
    pub(crate) fn crash(&mut self, random: &mut Random) {
        let mut keys: Vec<_> = self.history.keys().copied().collect();
        keys.sort_unstable();
        for key in keys {
            if random.one_in(3) {
                self.pages.remove(&key);
            } else if self.last.get(&key) != Some(&LastAnswer::Stored)
                && !self.requests.iter().any(|request| {
                    matches!((&request.ask, &request.answer), (Ask::Put(pages), Some(said))
                        if request.pool == key.0
                            && pages.iter().zip(said).any(|((b, _), s)| *b == key.1 && *s == Said::Stored))
                })
            {
                let history = &self.history[&key];
                let page = history[random.index(history.len())];
                self.pages.insert(key, page);
            }
        }
    }
}
