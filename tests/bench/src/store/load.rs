// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The load: one thread that polls some connections, each a closed loop with so many requests in
//! flight. The same for every server.
//!
//! A key belongs to one connection, on which all servers answer in order. So it is known when a get is
//! sent which version of its page must come back, and every page that comes back is looked at.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tmem_frontend::Random;
use tmem_pages::{PAGE_SIZE, PageBytes};

use super::pipe::Pipe;
use crate::floors::per_second;
use crate::row::histogram;
use crate::{Error, Result};

/// Rounds of all connections between two looks at the clock.
const LOOK: u32 = 16;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mix {
    /// Puts among 100 requests.
    pub(super) puts: u32,
    /// Requests in flight on each connection.
    pub(super) depth: usize,
    /// Connections that are used.
    pub(super) connections: usize,
}

/// One timed pass.
#[derive(Clone, Debug)]
pub(super) struct Pass {
    /// Pages a second.
    pub(super) rate: f64,
    /// Pages.
    pub(super) pages: u64,
    /// Nanoseconds of a request; only of passes with one request in flight.
    pub(super) times: Option<Histogram<u64>>,
}

/// The pages of one server, what they should hold, and the connections to it.
pub(super) struct Load {
    what: &'static str,
    pipes: Vec<Pipe>,
    /// By key.
    versions: Vec<u32>,
    random: Random,
    page: Box<PageBytes>,
}

impl Load {
    /// Puts each of `keys` pages once.
    pub(super) fn new(what: &'static str, pipes: Vec<Pipe>, keys: u32, seed: u64) -> Result<Self> {
        let mut load = Self {
            what,
            pipes,
            versions: vec![0; keys as usize],
            random: Random::new(seed),
            page: Box::new(tmem_frontend::page_content(seed)),
        };
        load.fill()?;
        Ok(load)
    }

    fn fill(&mut self) -> Result<()> {
        let count = self.pipes.len();
        let mut next: Vec<usize> = (0..count).collect();
        let mut running = true;
        while running {
            running = false;
            for (pipe, next) in self.pipes.iter_mut().zip(&mut next) {
                while *next < self.versions.len() && pipe.in_flight() < 32 {
                    let key = u32::try_from(*next).expect("fewer than 2^32 keys");
                    self.versions[*next] = 1;
                    write_version(&mut self.page, key, 1);
                    pipe.put(key, &self.page, None);
                    *next += count;
                }
                pipe.send()?;
                pipe.poll(&mut |_, _| Ok(()))?;
                running |= *next < self.versions.len() || pipe.in_flight() > 0;
            }
        }
        Ok(())
    }

    /// Asks for `time`, then takes the last replies.
    pub(super) fn run(&mut self, mix: Mix, time: Duration) -> Result<Pass> {
        let what = self.what;
        let timed = mix.depth == 1 && mix.connections == 1;
        let mut times = histogram();
        let all = self.pipes.len();
        let keys = u32::try_from(self.versions.len()).expect("fewer than 2^32 keys");
        let each = keys / u32::try_from(all).expect("some connections");
        let mut pages = 0;
        let start = Instant::now();
        let (mut running, mut rounds) = (true, 0_u32);
        loop {
            let mut in_flight = 0;
            for (number, pipe) in self.pipes.iter_mut().enumerate().take(mix.connections) {
                while running && pipe.in_flight() < mix.depth {
                    let place = self.random.below(each) as usize * all + number;
                    let key = u32::try_from(place).expect("fewer than 2^32 keys");
                    let put = self.random.below(100) < mix.puts;
                    let at = timed.then(Instant::now);
                    if put {
                        self.versions[place] += 1;
                        write_version(&mut self.page, key, self.versions[place]);
                        pipe.put(key, &self.page, at);
                    } else {
                        pipe.get(key, self.versions[place], at);
                    }
                }
                pipe.send()?;
                pipe.poll(&mut |asked, page| {
                    pages += 1;
                    if let Some(at) = asked.at {
                        let nanoseconds = u64::try_from(at.elapsed().as_nanos()).unwrap_or(0);
                        times.saturating_record(nanoseconds);
                    }
                    match (asked.version, page) {
                        (None, None) => Ok(()),
                        (Some(version), Some(page)) if is_version(page, asked.key, version) => {
                            Ok(())
                        }
                        _ => Err(Error::Mismatch {
                            what,
                            index: asked.key,
                        }),
                    }
                })?;
                in_flight += pipe.in_flight();
            }
            rounds = rounds.wrapping_add(1);
            if rounds.is_multiple_of(LOOK) && start.elapsed() >= time {
                running = false;
            }
            if !running && in_flight == 0 {
                break;
            }
        }
        Ok(Pass {
            rate: per_second(pages, start),
            pages,
            times: timed.then_some(times),
        })
    }
}

/// Makes the page that of this key and version. The rest of it is the same noise in all.
pub(super) fn write_version(page: &mut PageBytes, key: u32, version: u32) {
    for at in [0, PAGE_SIZE - 8] {
        page[at..at + 4].copy_from_slice(&key.to_le_bytes());
        page[at + 4..at + 8].copy_from_slice(&version.to_le_bytes());
    }
}

/// Whether it is.
pub(super) fn is_version(page: &PageBytes, key: u32, version: u32) -> bool {
    let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|byte| page[at + byte]));
    [0, PAGE_SIZE - 8]
        .into_iter()
        .all(|at| (word(at), word(at + 4)) == (key, version))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_is_of_one_key_and_version() {
        let mut page = [9; PAGE_SIZE];
        write_version(&mut page, 5, 6);
        assert!(is_version(&page, 5, 6));
        assert!(!is_version(&page, 5, 7) && !is_version(&page, 6, 6));
        page[PAGE_SIZE - 1] = 1;
        assert!(!is_version(&page, 5, 6));
    }
}
