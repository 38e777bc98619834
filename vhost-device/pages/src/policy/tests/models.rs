// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The policies as a textbook has them: queues that are searched, a clock with a hand that moves, a
//! ghost that is a list of lists.

use std::collections::VecDeque;

use super::Draw;

/// A policy, slow and obvious.
pub(super) trait Model {
    fn insert(&mut self, frame: u32, page: Option<u64>);
    /// The page came to this frame, and is in the other one as well, until that is removed.
    fn renew(&mut self, frame: u32, page: u64, _before: u32) {
        self.insert(frame, Some(page));
    }
    fn touch(&mut self, frame: u32);
    fn remove(&mut self, frame: u32);
    /// The victim, and whether it comes from the small queue of s3-fifo, or of a policy with one.
    fn victim(&mut self) -> Option<(u32, bool)>;
    fn left(&mut self, _page: u64) {}
    /// Pages that were known when they came.
    fn remembered(&self) -> u64 {
        0
    }
    /// Whether a hit on a victim that waits gives it back.
    fn wants_hits(&self) -> bool {
        true
    }
}

pub(super) fn model(name: &str, seed: u64) -> Option<Box<dyn Model>> {
    Some(match name {
        "fifo" => Box::new(Fifo::default()),
        "lru" => Box::new(Lru::default()),
        "clock" => Box::new(Clock::default()),
        "random" => Box::new(Random {
            groups: Vec::new(),
            draw: Draw(seed),
        }),
        "s3-fifo" => Box::new(S3Fifo::default()),
        _ => return None,
    })
}

#[derive(Default)]
struct Fifo(VecDeque<u32>);

impl Model for Fifo {
    fn insert(&mut self, frame: u32, _page: Option<u64>) {
        self.0.push_back(frame);
    }
    fn touch(&mut self, _frame: u32) {}
    fn remove(&mut self, frame: u32) {
        self.0.retain(|one| *one != frame);
    }
    fn victim(&mut self) -> Option<(u32, bool)> {
        Some((self.0.pop_front()?, true))
    }
    fn wants_hits(&self) -> bool {
        false
    }
}

/// Members with the time of their last use.
#[derive(Default)]
struct Lru {
    members: Vec<(u32, u64)>,
    now: u64,
}

impl Model for Lru {
    fn insert(&mut self, frame: u32, _page: Option<u64>) {
        self.now += 1;
        self.members.push((frame, self.now));
    }
    fn touch(&mut self, frame: u32) {
        self.now += 1;
        for member in self.members.iter_mut().filter(|member| member.0 == frame) {
            member.1 = self.now;
        }
    }
    fn remove(&mut self, frame: u32) {
        self.members.retain(|member| member.0 != frame);
    }
    fn victim(&mut self) -> Option<(u32, bool)> {
        let (frame, _) = *self.members.iter().min_by_key(|member| member.1)?;
        self.remove(frame);
        Some((frame, true))
    }
}

/// A dial that stands still, and a hand that moves.
#[derive(Default)]
struct Clock {
    dial: Vec<(u32, bool)>,
    hand: usize,
}

impl Model for Clock {
    fn insert(&mut self, frame: u32, _page: Option<u64>) {
        // Behind the hand, which looks at it last.
        self.dial.insert(self.hand, (frame, false));
        self.hand = (self.hand + 1) % self.dial.len();
    }
    fn touch(&mut self, frame: u32) {
        for member in self.dial.iter_mut().filter(|member| member.0 == frame) {
            member.1 = true;
        }
    }
    fn remove(&mut self, frame: u32) {
        let at = self.dial.iter().position(|member| member.0 == frame);
        let at = at.unwrap();
        self.dial.remove(at);
        if at < self.hand {
            self.hand -= 1;
        }
        if self.hand == self.dial.len() {
            self.hand = 0;
        }
    }
    fn victim(&mut self) -> Option<(u32, bool)> {
        if self.dial.is_empty() {
            return None;
        }
        while self.dial[self.hand].1 {
            self.dial[self.hand].1 = false;
            self.hand = (self.hand + 1) % self.dial.len();
        }
        let (frame, _) = self.dial[self.hand];
        self.remove(frame);
        Some((frame, true))
    }
}

/// Groups of eight, all full but the last, the newest member of a group last.
struct Random {
    groups: Vec<Vec<u32>>,
    draw: Draw,
}

impl Model for Random {
    fn insert(&mut self, frame: u32, _page: Option<u64>) {
        match self.groups.last_mut() {
            Some(group) if group.len() < 8 => group.push(frame),
            _ => self.groups.push(vec![frame]),
        }
    }
    fn touch(&mut self, _frame: u32) {}
    fn remove(&mut self, frame: u32) {
        let group = (self.groups.iter().position(|group| group.contains(&frame))).unwrap();
        self.groups[group].retain(|one| *one != frame);
        let last = self.groups.len() - 1;
        if group != last {
            let other = self.groups[last].pop().unwrap();
            self.groups[group].push(other);
        }
        if self.groups[last].is_empty() {
            self.groups.pop();
        }
    }
    fn victim(&mut self) -> Option<(u32, bool)> {
        let len: usize = self.groups.iter().map(Vec::len).sum();
        if len == 0 {
            return None;
        }
        let scaled = (u128::from(self.draw.next()) * len as u128) >> 64;
        let drawn = usize::try_from(scaled).unwrap();
        let group = &self.groups[drawn / 8];
        let frame = group[group.len() - 1 - drawn % 8];
        self.remove(frame);
        Some((frame, true))
    }
    fn wants_hits(&self) -> bool {
        false
    }
}

/// The queues of the paper, and the ghost as `ghost.rs` describes it.
#[derive(Default)]
struct S3Fifo {
    small: VecDeque<(u32, u8)>,
    main: VecDeque<(u32, u8)>,
    /// Buckets with their fingerprints, the newest last.
    ghost: Vec<VecDeque<u64>>,
    remembered: u64,
}

/// A page's bucket out of `buckets`, and its fingerprint.
fn haunt(page: u64, buckets: usize) -> (usize, u64) {
    let hash = Draw(page.wrapping_sub(0x9e37_79b9_7f4a_7c15)).next();
    // As many low bits as it takes, or one less where there is no such bucket yet.
    let mut range = 1;
    while range < buckets {
        range *= 2;
    }
    let mut bucket = usize::try_from(hash % range as u64).unwrap();
    if bucket >= buckets {
        bucket -= range / 2;
    }
    (bucket, (hash / (1 << 52)).max(1))
}

/// The bucket whose pages `new` takes over in part: they differ in the highest bit.
fn split_from(new: usize) -> usize {
    let mut bit = 1;
    while bit * 2 <= new {
        bit *= 2;
    }
    new - bit
}

impl S3Fifo {
    fn fit_ghost(&mut self) {
        let members = self.small.len() + self.main.len();
        let wanted = members.div_ceil(8).max(1);
        let had = self.ghost.len();
        while self.ghost.len() < wanted {
            let new = self.ghost.len();
            let contents = if new == 0 {
                VecDeque::new()
            } else {
                self.ghost[split_from(new)].clone()
            };
            self.ghost.push(contents);
        }
        if wanted < had - had / 4 {
            while self.ghost.len() > wanted {
                let mut other = self.ghost.pop().unwrap();
                let into = split_from(self.ghost.len());
                // An empty place is 0, as there.
                let mut one = std::mem::take(&mut self.ghost[into]);
                let mut newest = Vec::new();
                while newest.len() < 5 {
                    newest.push(one.pop_back().unwrap_or(0));
                    newest.push(other.pop_back().unwrap_or(0));
                }
                newest.truncate(5);
                self.ghost[into] = newest.into_iter().rev().collect();
            }
        }
    }

    fn known(&mut self, page: u64) -> bool {
        if self.ghost.is_empty() {
            return false;
        }
        let (bucket, fingerprint) = haunt(page, self.ghost.len());
        let bucket = &mut self.ghost[bucket];
        match bucket.iter().rposition(|one| *one == fingerprint) {
            Some(at) => bucket.remove(at).is_some(),
            None => false,
        }
    }
}

impl Model for S3Fifo {
    fn insert(&mut self, frame: u32, page: Option<u64>) {
        if page.is_some_and(|page| self.known(page)) {
            self.remembered += 1;
            self.main.push_back((frame, 0));
        } else {
            self.small.push_back((frame, 0));
        }
    }
    fn renew(&mut self, frame: u32, page: u64, before: u32) {
        let is_before = |member: &&(u32, u8)| member.0 == before;
        let hits = match self.main.iter().find(is_before).copied() {
            Some((_, hits)) => {
                self.main.push_back((frame, 0));
                hits
            }
            None => {
                let (_, hits) = *self.small.iter().find(is_before).unwrap();
                self.insert(frame, Some(page));
                hits
            }
        };
        (0..=hits).for_each(|_| self.touch(frame));
    }
    fn touch(&mut self, frame: u32) {
        let members = self.small.iter_mut().chain(&mut self.main);
        for member in members.filter(|member| member.0 == frame) {
            member.1 = (member.1 + 1).min(3);
        }
    }
    fn remove(&mut self, frame: u32) {
        self.small.retain(|member| member.0 != frame);
        self.main.retain(|member| member.0 != frame);
    }
    fn victim(&mut self) -> Option<(u32, bool)> {
        loop {
            let members = self.small.len() + self.main.len();
            if members == 0 {
                return None;
            }
            if 10 * self.small.len() >= members {
                let (frame, hits) = self.small.pop_front().unwrap();
                if hits <= 1 {
                    return Some((frame, true));
                }
                self.main.push_back((frame, 0));
            } else {
                let (frame, hits) = self.main.pop_front().unwrap();
                if hits == 0 {
                    return Some((frame, false));
                }
                self.main.push_back((frame, hits - 1));
            }
        }
    }
    fn left(&mut self, page: u64) {
        self.fit_ghost();
        let (bucket, fingerprint) = haunt(page, self.ghost.len());
        let bucket = &mut self.ghost[bucket];
        bucket.push_back(fingerprint);
        if bucket.len() > 5 {
            bucket.pop_front();
        }
    }
    fn remembered(&self) -> u64 {
        self.remembered
    }
}
