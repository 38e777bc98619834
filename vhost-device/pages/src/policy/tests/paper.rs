// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a ghost of one byte a member costs in hits, and what all of it weighs.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::super::{POLICIES, Replacement};
use super::Draw;

/// S3-FIFO of a fixed size with a ghost of names, after the paper's algorithm 1.
struct Paper {
    size: usize,
    small: VecDeque<u64>,
    main: VecDeque<u64>,
    ghost: VecDeque<u64>,
    counts: BTreeMap<u64, u8>,
    /// Names that the ghost has room for.
    remembers: usize,
}

impl Paper {
    fn new(size: usize, remembers: usize) -> Self {
        Self {
            size,
            small: VecDeque::new(),
            main: VecDeque::new(),
            ghost: VecDeque::new(),
            counts: BTreeMap::new(),
            remembers,
        }
    }

    fn access(&mut self, page: u64) -> bool {
        if let Some(count) = self.counts.get_mut(&page) {
            *count = (*count + 1).min(3);
            return true;
        }
        while self.counts.len() >= self.size {
            self.evict();
        }
        if let Some(at) = self.ghost.iter().position(|one| *one == page) {
            self.ghost.remove(at);
            self.main.push_back(page);
        } else {
            self.small.push_back(page);
        }
        self.counts.insert(page, 0);
        false
    }

    fn evict(&mut self) {
        if self.small.len() * 10 >= self.size {
            let page = self.small.pop_front().unwrap();
            if self.counts[&page] > 1 {
                self.counts.insert(page, 0);
                self.main.push_back(page);
            } else {
                self.counts.remove(&page);
                self.ghost.push_back(page);
                if self.ghost.len() > self.remembers {
                    self.ghost.pop_front();
                }
            }
        } else {
            let page = self.main.pop_front().unwrap();
            let count = self.counts[&page];
            if count > 0 {
                self.counts.insert(page, count - 1);
                self.main.push_back(page);
            } else {
                self.counts.remove(&page);
            }
        }
    }
}

/// A cache of frames under a policy; whether each page was a hit.
fn hits(name: &str, size: u32, pages: &[u64]) -> u32 {
    let mut all = Replacement::new();
    all.set(0, name, 1).unwrap();
    let mut frames: BTreeMap<u64, u32> = BTreeMap::new();
    let mut names = vec![0; size as usize];
    let mut hits = 0;
    for page in pages {
        if let Some(frame) = frames.get(page) {
            hits += 1;
            all.touch(*frame);
            continue;
        }
        let frame = if all.len(0) < size {
            all.len(0)
        } else {
            let frame = all.victim(0).unwrap();
            all.left(frame, names[frame as usize]);
            frames.remove(&names[frame as usize]);
            frame
        };
        names[frame as usize] = *page;
        frames.insert(*page, frame);
        all.insert(0, frame, *page);
    }
    hits
}

/// Few pages often, many seldom, and from time to time a run of pages that never come again.
fn pages() -> Vec<u64> {
    let mut draw = Draw(17);
    let mut new = 1 << 32;
    let mut pages = Vec::new();
    while pages.len() < 60_000 {
        if draw.one_in(200) {
            pages.extend(new..new + 60);
            new += 60;
        }
        // The product of three: small numbers are much more likely.
        let skewed = (0..3).fold(4000, |limit, _| draw.next() % limit + 1);
        pages.push(skewed);
    }
    pages
}

#[test]
fn a_byte_of_ghost_costs_less_than_one_hit_in_a_hundred() {
    let pages = pages();
    let count = |paper: &mut Paper| {
        let hits = pages.iter().filter(|page| paper.access(**page)).count();
        f64::from(u32::try_from(hits).unwrap())
    };
    for size in [50_u32, 200, 500, 1000] {
        let ours = f64::from(hits("s3-fifo", size, &pages));
        let size = size as usize;
        // As long as ours: what the fingerprints and the buckets change.
        let names = count(&mut Paper::new(size, size * 5 / 8));
        let part = ours / names;
        assert!((0.99..1.01).contains(&part), "{ours} of {names} at {size}");
        // As long as the paper's: what the shorter memory costs as well.
        let paper = count(&mut Paper::new(size, size * 9 / 10));
        assert!(ours > 0.99 * paper, "{ours} of {paper} at {size}");
    }
}

#[test]
fn a_scan_spares_what_s3_fifo_keeps_and_not_what_lru_keeps() {
    let mut trace: Vec<u64> = (0..20).flat_map(|_| 0..500).collect();
    let warm = trace.len();
    trace.extend(10_000..15_000);
    trace.extend(0..500);
    let after = |name| hits(name, 1000, &trace) - hits(name, 1000, &trace[..warm + 5000]);
    assert_eq!(after("lru"), 0);
    assert_eq!(after("fifo"), 0);
    assert!(after("s3-fifo") > 480, "{}", after("s3-fifo"));
}

#[test]
fn memory_keeps_to_the_budget() {
    const FRAMES: u32 = 1 << 20;
    for kind in POLICIES {
        let mut all = Replacement::new();
        all.set(0, kind.name, 1).unwrap();
        for frame in 0..FRAMES {
            all.insert(0, frame, u64::from(frame));
        }
        // As many leave and come as there are frames.
        for page in u64::from(FRAMES)..2 * u64::from(FRAMES) {
            let frame = all.victim(0).unwrap();
            all.left(frame, page - u64::from(FRAMES));
            all.insert(0, frame, page);
        }
        let tenths = all.bytes() * 10 / FRAMES as usize;
        let allowed = match kind.name {
            "fifo" | "clock" | "lru" => 100,
            "random" => 106,
            _ => 110,
        };
        assert!(
            tenths <= allowed,
            "{}: {tenths} tenths of a byte",
            kind.name
        );
        // A few hundred guests weigh next to nothing.
        for guest in 1..256 {
            all.set(guest, kind.name, 1).unwrap();
        }
        assert!(all.bytes() * 10 / FRAMES as usize <= allowed + 1);
    }
}

#[test]
fn members_are_counted_once_however_often_they_come() {
    let mut all = Replacement::new();
    let mut draw = Draw(3);
    let mut frames = BTreeSet::new();
    for _ in 0..1000 {
        let frame = draw.below(50);
        all.insert(0, frame, draw.next());
        frames.insert(frame);
        assert_eq!(all.len(0) as usize, frames.len());
    }
}
