// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The world of the model: a disk, a host, a filter, and requests in flight, of which some one moves
//! on at each step. What the target does around the decisions is told here a second time, in short.

use crate::cells::{Filter, Random};
use crate::decide::{FILL_BLOCKS, Fill, Flush, Get, Outcome, Plan, Put, Write, plan};
use crate::host::{Ask, Host, Said};

/// Blocks of the disk: five words.
const BLOCKS: u32 = 300;
/// Requests in flight at most.
const BUSY: usize = 24;

/// What a read has to be checked against.
struct Read {
    first: u32,
    /// What each block must not be older than.
    floors: Vec<u64>,
}

enum Flight {
    /// The host was asked.
    Get { read: Read, get: Get, id: u64 },
    /// The disk delivers, block by block.
    Origin {
        read: Read,
        seen: Vec<Option<u64>>,
        fill: Option<Fill>,
        fails: bool,
    },
    /// A copy travels.
    Put {
        put: Put,
        id: u64,
        first: u32,
        blocks: u32,
    },
    /// Flushes travel.
    Flush { flushes: Vec<Flush>, id: u64 },
    /// The disk writes, block by block.
    Write {
        write: Write,
        stamp: u64,
        left: Vec<u32>,
        fails: bool,
    },
}

/// What has happened so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) reads_checked: u64,
    pub(crate) hits: u64,
    pub(crate) misses: u64,
    pub(crate) stored: u64,
    pub(crate) raced: u64,
    pub(crate) writes: u64,
    pub(crate) failed_writes: u64,
    pub(crate) renewals: u64,
    pub(crate) crashes: u64,
}

pub(crate) struct World {
    pub(crate) random: Random,
    filter: Filter,
    host: Host,
    pool: u32,
    /// The pool is to be replaced once nothing is under way in it.
    leaving: bool,
    /// Its successor may hold blocks of writes that failed.
    trust: bool,
    disk: Vec<u64>,
    /// Blocks of failed writes that may still reach the disk.
    ghosts: Vec<(u32, u64)>,
    floors: Vec<u64>,
    stamps: u64,
    flights: Vec<Flight>,
    forget: Vec<(u32, u32)>,
    pub(crate) counts: Counts,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        // With one stripe every word is the other's neighbour.
        let stripes = 1 + random.index(3);
        Self {
            random,
            filter: Filter::new(BLOCKS, stripes),
            host: Host::default(),
            pool: 0,
            leaving: false,
            trust: false,
            disk: vec![0; BLOCKS as usize],
            ghosts: Vec::new(),
            floors: vec![0; BLOCKS as usize],
            stamps: 0,
            flights: Vec::new(),
            forget: Vec::new(),
            counts: Counts::default(),
        }
    }

    /// Lets something happen, and checks the invariants.
    pub(crate) fn step(&mut self) {
        match self.random.below(64) {
            0..=11 if self.flights.len() < BUSY => self.start_read(),
            12 if self.flights.len() < BUSY => self.start_write(),
            13 if self.random.one_in(40) => self.reset_target(),
            14 if self.random.one_in(3) => self.host.evict(&mut self.random),
            15 if self.random.one_in(40) => {
                self.counts.crashes += 1;
                self.host.crash(&mut self.random);
            }
            16 if self.random.one_in(25) => self.reset_device(),
            17 if self.random.one_in(40) => self.filter.clear(),
            18 => self.land_ghost(),
            19..=20 => self.send_flushes(),
            21..=32 => self.host.execute_one(&mut self.random),
            33..=44 => self.take_answer(),
            _ => self.advance_disk(),
        }
        self.renew_if_idle();
        self.check();
    }

    /// Some range, mostly in the first words, where ranges meet.
    fn range(&mut self, most: u32) -> (u32, u32) {
        let span = if self.random.one_in(3) { BLOCKS } else { 70 };
        let first = self.random.below(span);
        let blocks = 1 + self.random.below(most.min(BLOCKS - first));
        (first, blocks)
    }

    fn start_read(&mut self) {
        let most = if self.random.one_in(4) { 90 } else { 6 };
        let (first, blocks) = self.range(most);
        if self.leaving {
            return self.read_origin(first, blocks, None);
        }
        match plan(&self.filter, first, blocks, 256) {
            Plan::Get(get) => {
                let read = self.read(first, get.blocks);
                let ask = Ask::Get((first..first + get.blocks).collect());
                let id = self.host.send(self.pool, ask);
                self.flights.push(Flight::Get { read, get, id });
            }
            Plan::Origin(length) => {
                assert!(
                    length >= 1 && length <= blocks,
                    "{length} of {blocks} planned"
                );
                let length = length.min(FILL_BLOCKS);
                let fill = Fill::begin(&self.filter, first, length);
                self.read_origin(first, length, fill);
            }
        }
    }

    fn read(&self, first: u32, blocks: u32) -> Read {
        let floors = self.floors[first as usize..][..blocks as usize].to_vec();
        Read { first, floors }
    }

    fn read_origin(&mut self, first: u32, blocks: u32, fill: Option<Fill>) {
        let read = self.read(first, blocks);
        self.push_origin(read, fill);
    }

    fn push_origin(&mut self, read: Read, fill: Option<Fill>) {
        let seen = vec![None; read.floors.len()];
        let fails = self.random.one_in(30);
        self.flights.push(Flight::Origin {
            read,
            seen,
            fill,
            fails,
        });
    }

    fn start_write(&mut self) {
        let most = if self.random.one_in(5) { 200 } else { 5 };
        let (first, blocks) = self.range(most);
        let overlaps = self.flights.iter().any(|flight| {
            matches!(flight, Flight::Write { write, .. }
                if write.first < first + blocks && first < write.first + write.blocks)
        });
        if overlaps {
            // Which of two comes last would be up to the disk.
            return;
        }
        self.stamps += 1;
        self.counts.writes += 1;
        let write = Write::begin(&self.filter, first, blocks);
        let fails = self.random.one_in(30);
        self.flights.push(Flight::Write {
            write,
            stamp: self.stamps,
            left: (first..first + blocks).collect(),
            fails,
        });
    }

    /// Something happens on the disk: a block is read or written, or a request ends.
    fn advance_disk(&mut self) {
        let on_disk: Vec<usize> = (0..self.flights.len())
            .filter(|nth| {
                matches!(
                    self.flights[*nth],
                    Flight::Origin { .. } | Flight::Write { .. }
                )
            })
            .collect();
        if on_disk.is_empty() {
            return;
        }
        let nth = on_disk[self.random.index(on_disk.len())];
        let burst = self.random.one_in(3);
        match &mut self.flights[nth] {
            Flight::Origin { read, seen, .. } => {
                for (at, seen) in seen.iter_mut().enumerate() {
                    if seen.is_none() && (burst || self.random.one_in(2)) {
                        *seen = Some(self.disk[read.first as usize + at]);
                    }
                }
                if seen.iter().all(Option::is_some) && self.random.one_in(2) {
                    let flight = self.flights.swap_remove(nth);
                    self.end_origin(flight);
                }
            }
            Flight::Write { stamp, left, .. } => {
                let stamp = *stamp;
                let (disk, random, ghosts) = (&mut self.disk, &mut self.random, &mut self.ghosts);
                left.retain(|block| {
                    let lands = burst || random.one_in(2);
                    if lands {
                        disk[*block as usize] = stamp;
                        ghosts.retain(|(ghost, _)| ghost != block);
                    }
                    !lands
                });
                let (empty, fails) = match &self.flights[nth] {
                    Flight::Write { left, fails, .. } => (left.is_empty(), *fails),
                    _ => return,
                };
                if empty || (fails && self.random.one_in(2)) {
                    let flight = self.flights.swap_remove(nth);
                    self.end_write(flight);
                }
            }
            _ => {}
        }
    }

    fn end_write(&mut self, flight: Flight) {
        let Flight::Write {
            write,
            stamp,
            left,
            fails,
        } = flight
        else {
            return;
        };
        if fails {
            self.counts.failed_writes += 1;
            self.ghosts.extend(left.iter().map(|block| (*block, stamp)));
            write.end(&self.filter, Outcome::Unknown);
        } else {
            write.end(&self.filter, Outcome::Certain);
            for floor in &mut self.floors[write.first as usize..][..write.blocks as usize] {
                *floor = stamp.max(*floor);
            }
        }
        if write.removed > 0 {
            self.forget.push((write.first, write.blocks));
        }
    }

    fn land_ghost(&mut self) {
        if !self.ghosts.is_empty() {
            let nth = self.random.index(self.ghosts.len());
            let (block, stamp) = self.ghosts.swap_remove(nth);
            let at = &mut self.disk[block as usize];
            *at = stamp.max(*at);
        }
    }

    fn end_origin(&mut self, flight: Flight) {
        let Flight::Origin {
            read,
            seen,
            fill,
            fails,
        } = flight
        else {
            return;
        };
        if fails {
            return;
        }
        let seen: Vec<u64> = seen.into_iter().flatten().collect();
        self.deliver(&read, &seen, "the disk");
        if self.leaving {
            return;
        }
        let Some(put) = fill.and_then(|fill| fill.put(&self.filter)) else {
            return;
        };
        if self.random.one_in(12) {
            // No room in the ring.
            let set = put.end(&self.filter, |_| false);
            assert_eq!(set, 0);
            return;
        }
        let (first, blocks) = (read.first, u32::try_from(seen.len()).unwrap_or(0));
        let pages = put
            .numbers()
            .map(|nth| (put.first() + nth, seen[nth as usize]))
            .collect();
        let id = self.host.send(self.pool, Ask::Put(pages));
        self.flights.push(Flight::Put {
            put,
            id,
            first,
            blocks,
        });
    }

    /// Hands a read's contents to whoever asked for them.
    fn deliver(&mut self, read: &Read, seen: &[u64], from: &str) {
        for ((nth, stamp), floor) in seen.iter().enumerate().zip(&read.floors) {
            let block = read.first as usize + nth;
            assert!(
                stamp >= floor,
                "a read got stamp {stamp} of block {block} from {from}, where {floor} was known before"
            );
            self.floors[block] = self.floors[block].max(*stamp);
            self.counts.reads_checked += 1;
        }
    }

    fn take_answer(&mut self) {
        let Some(request) = self.host.take_answer(&mut self.random) else {
            return;
        };
        let said = request.answer.unwrap_or_default();
        let Some(nth) = self.flights.iter().position(|flight| {
            matches!(flight, Flight::Get { id, .. } | Flight::Put { id, .. } | Flight::Flush { id, .. }
                if *id == request.id)
        }) else {
            return;
        };
        match self.flights.swap_remove(nth) {
            Flight::Get { read, get, .. } => self.end_get(read, &get, &said),
            Flight::Put {
                put, first, blocks, ..
            } => {
                let stored = said.iter().filter(|said| **said == Said::Stored).count();
                let set = put.end(&self.filter, |nth| said[nth as usize] == Said::Stored);
                self.counts.stored += u64::from(set);
                if set as usize != stored {
                    self.counts.raced += 1;
                    self.forget.push((first, blocks));
                }
            }
            Flight::Flush { flushes, .. } => {
                for flush in flushes {
                    flush.end(&self.filter);
                }
            }
            Flight::Origin { .. } | Flight::Write { .. } => {}
        }
    }

    fn end_get(&mut self, read: Read, get: &Get, said: &[Said]) {
        let pages: Vec<u64> = said
            .iter()
            .filter_map(|said| match said {
                Said::Page(stamp) => Some(*stamp),
                _ => None,
            })
            .collect();
        if pages.len() == said.len() {
            self.counts.hits += pages.len() as u64;
            self.deliver(&read, &pages, "the host");
        } else {
            self.counts.misses += 1;
            get.missed(&self.filter, |nth| said[nth as usize] == Said::Miss);
            self.push_origin(read, None);
        }
    }

    /// The device is reset. Nobody knows what becomes of the puts that were under way.
    fn reset_device(&mut self) {
        for lost in self.host.lose_answers(&mut self.random) {
            let Some(nth) = self.flights.iter().position(|flight| {
                matches!(flight, Flight::Get { id, .. } | Flight::Put { id, .. } | Flight::Flush { id, .. }
                    if *id == lost)
            }) else {
                continue;
            };
            match self.flights.swap_remove(nth) {
                Flight::Get { read, .. } => self.push_origin(read, None),
                Flight::Flush { flushes, .. } => {
                    for flush in flushes {
                        flush.end(&self.filter);
                    }
                }
                // A put is dropped without its end.
                _ => {}
            }
            self.leaving |= self.random.one_in(2);
        }
    }

    /// Somebody says that failed writes are a matter of the past.
    fn reset_target(&mut self) {
        if !self.leaving {
            self.ghosts.clear();
            self.trust = true;
            self.leaving = true;
        }
    }

    fn renew_if_idle(&mut self) {
        let under_way = self.flights.iter().any(|flight| {
            matches!(
                flight,
                Flight::Get { .. } | Flight::Put { .. } | Flight::Flush { .. }
            )
        });
        if self.leaving && !under_way {
            self.counts.renewals += 1;
            self.pool += 1;
            self.leaving = false;
            self.filter.renew(self.trust && self.ghosts.is_empty());
            self.trust = false;
        }
    }

    fn send_flushes(&mut self) {
        let Some((first, blocks)) = self.forget.pop() else {
            return;
        };
        if self.leaving {
            return;
        }
        let flushes: Vec<Flush> = Flush::begin(&self.filter, first, blocks).collect();
        let blocks: Vec<u32> = flushes.iter().flat_map(Flush::indices).collect();
        let count: u32 = flushes.iter().map(Flush::count).sum();
        assert_eq!(blocks.len(), count as usize);
        if !blocks.is_empty() {
            let id = self.host.send(self.pool, Ask::Flush(blocks));
            self.flights.push(Flight::Flush { flushes, id });
        }
    }

    /// Where a bit is set, the host has the disk's contents or nothing, no write is under way, and
    /// no put that could change the page.
    fn check(&self) {
        for block in (0..BLOCKS).filter(|block| self.filter.is_present(*block)) {
            if let Some(stamp) = self.host.page(self.pool, block) {
                let disk = self.disk[block as usize];
                assert_eq!(
                    stamp, disk,
                    "block {block}: the host's page is not the disk's"
                );
            }
            assert!(
                !self.host.has_put_to_come(self.pool, block),
                "block {block}: a put is still to come"
            );
            let written = self.flights.iter().any(|flight| {
                matches!(flight, Flight::Write { write, .. }
                    if (write.first..write.first + write.blocks).contains(&block))
            });
            assert!(!written, "block {block} is being written");
        }
    }
}
