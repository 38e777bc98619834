// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The slow, obvious engine that the real one is held against: maps from names to what was put.
//!
//! Of a persistent page it knows exactly what must come back. Of an ephemeral one it knows what may:
//! the last put, or nothing.

use std::collections::BTreeMap;

use tmem_pages::{
    CopyFault, FlushResult, GetMode, GetResult, Layout, ObjectId, PAGE_SIZE, PageBytes, PageIndex,
    PageSink, PageSource, Pool, PoolKind, PoolSpec, PutResult, Ticket, Worker,
};

/// A small random number generator (SplitMix64): the same seed gives the same numbers everywhere.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// Numbers that depend on the seed of the run and on `salt`.
    pub(crate) fn new(seed: u64, salt: u64) -> Self {
        let mut random = Self(seed ^ salt.wrapping_mul(0xd6e8_feb8_6659_fd93));
        random.next();
        random
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `limit`.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub(crate) fn below_u32(&mut self, limit: u32) -> u32 {
        u32::try_from(self.below(u64::from(limit))).unwrap()
    }

    /// True once in `n` times.
    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[usize::try_from(self.below(from.len() as u64)).unwrap()]
    }
}

fn mix(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// The seed of this run: `TMEM_SEED`, or a new one. Printed with the command that runs it again.
pub(crate) fn seed(test: &str) -> u64 {
    let seed = std::env::var("TMEM_SEED").map_or_else(
        |_| {
            use std::hash::{BuildHasher, RandomState};
            RandomState::new().hash_one(test)
        },
        |seed| seed.parse().expect("TMEM_SEED is a number"),
    );
    println!("replay: TMEM_SEED={seed} cargo test -p tmem-pages {test} -- --nocapture");
    seed
}

/// A page's contents, as one number. One in four is one byte repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Content(pub(crate) u64);

impl Content {
    pub(crate) fn same_filled(self) -> Option<u8> {
        self.0.is_multiple_of(4).then(|| self.0.to_le_bytes()[1])
    }

    pub(crate) fn bytes(self) -> PageBytes {
        if let Some(value) = self.same_filled() {
            return [value; PAGE_SIZE];
        }
        let mut bytes = [0; PAGE_SIZE];
        for (word, at) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(0..) {
            *word = mix(self.0 ^ (at << 48)).to_le_bytes();
        }
        bytes
    }
}

/// A source that delivers a content, or fails halfway.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source {
    pub(crate) content: Content,
    pub(crate) fails: bool,
}

impl PageSource for Source {
    fn read_into(&self, page: &mut PageBytes) -> Result<(), CopyFault> {
        let bytes = self.content.bytes();
        if self.fails {
            page[..PAGE_SIZE / 2].copy_from_slice(&bytes[..PAGE_SIZE / 2]);
            return Err(CopyFault);
        }
        *page = bytes;
        Ok(())
    }
}

/// A way to get a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Copy,
    Exclusive,
    /// Taken, and forgotten when it has arrived.
    Taken,
    /// Taken, and put back.
    Returned,
}

impl Way {
    pub(crate) fn any(random: &mut Random) -> Self {
        *random.pick(&[
            Self::Copy,
            Self::Copy,
            Self::Copy,
            Self::Exclusive,
            Self::Taken,
            Self::Returned,
        ])
    }

    /// Gets a page in this way.
    pub(crate) fn get(
        self,
        worker: &mut Worker,
        pool: &Pool,
        (object, index): (ObjectId, PageIndex),
        sink: &mut impl PageSink,
    ) -> GetResult {
        match self {
            Self::Copy => return worker.get(pool, object, index, GetMode::Copy, sink),
            Self::Exclusive => return worker.get(pool, object, index, GetMode::Exclusive, sink),
            Self::Taken | Self::Returned => worker.begin_taking(7, 9),
        }
        let result = worker.take(pool, object, index, sink);
        if self == Self::Taken {
            worker.commit_taken();
        } else {
            worker.abort_taken();
        }
        result
    }

    /// The page is gone after it.
    fn takes(self) -> bool {
        matches!(self, Self::Exclusive | Self::Taken)
    }
}

/// A sink that keeps what it is given, or fails.
#[derive(Debug, Default)]
pub(crate) struct Sink {
    pub(crate) page: Option<Box<PageBytes>>,
    pub(crate) fails: bool,
}

impl PageSink for Sink {
    fn write_from(&mut self, page: &PageBytes) -> Result<(), CopyFault> {
        if self.fails {
            return Err(CopyFault);
        }
        assert!(self.page.is_none(), "a sink is written once");
        self.page = Some(Box::new(*page));
        Ok(())
    }
}

type Key = (ObjectId, u32);

#[derive(Clone, Copy, Debug)]
struct Stored {
    content: Content,
    ticket: u64,
}

/// What the model knows of a guest.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ModelGuest {
    pub(crate) grant: u64,
    /// Persistent pages held.
    pub(crate) held: u64,
    pub(crate) frozen: bool,
}

/// What the model knows of a pool.
#[derive(Clone, Debug)]
pub(crate) struct ModelPool {
    pub(crate) spec: PoolSpec,
    pub(crate) destroyed: bool,
    pages: BTreeMap<Key, Stored>,
}

impl ModelPool {
    pub(crate) fn new(spec: PoolSpec) -> Self {
        Self {
            spec,
            destroyed: false,
            pages: BTreeMap::new(),
        }
    }

    fn persistent(&self) -> bool {
        self.spec.kind == PoolKind::Persistent
    }

    /// A page of one repeated byte takes no frame; see `Pool::takes_same_filled`.
    fn takes_same_filled(&self, content: Content) -> bool {
        let in_index = self.spec.layout != Layout::Sparse || !self.persistent();
        in_index && content.same_filled().is_some()
    }

    /// Pages in the pool; for an ephemeral one, the most there can be.
    pub(crate) fn len(&self) -> u64 {
        self.pages.len() as u64
    }

    pub(crate) fn same_filled(&self) -> u64 {
        let pages = self.pages.values();
        pages
            .filter(|page| self.takes_same_filled(page.content))
            .count() as u64
    }

    fn holds(&self, (object, index): Key) -> bool {
        match self.spec.layout {
            Layout::Dense { pages } => object == ObjectId::ZERO && index < pages,
            Layout::Sparse => true,
        }
    }

    fn remove(&mut self, guest: &mut ModelGuest, key: Key) -> Option<Stored> {
        let removed = self.pages.remove(&key);
        if removed.is_some() && self.persistent() {
            guest.held -= 1;
        }
        removed
    }

    fn newer(&self, key: Key, ticket: Ticket) -> bool {
        (self.pages.get(&key)).is_some_and(|page| page.ticket > ticket.get())
    }

    /// Checks what became of a put.
    pub(crate) fn put(
        &mut self,
        guest: &mut ModelGuest,
        (object, index): (ObjectId, PageIndex),
        ticket: Ticket,
        source: &Source,
        result: PutResult,
    ) {
        let key = (object, index.0);
        let newer = self.newer(key, ticket);
        let full = self.persistent() && !self.pages.contains_key(&key) && guest.held >= guest.grant;
        let stored = if self.takes_same_filled(source.content) {
            PutResult::SameFilled
        } else {
            PutResult::Stored
        };
        let expected = match () {
            () if !self.holds(key) => PutResult::BadIndex,
            () if guest.frozen && newer => PutResult::Stale,
            () if guest.frozen => PutResult::RefusedFrozen,
            () if source.fails => PutResult::Fault,
            () if self.destroyed => PutResult::RefusedFull,
            () if newer => PutResult::Stale,
            () if full => PutResult::RefusedFull,
            () => stored,
        };
        // An ephemeral page may be refused, and one that made this put stale may have vanished.
        let vanished = match expected {
            PutResult::Stale if guest.frozen => result == PutResult::RefusedFrozen,
            PutResult::Stale => result == stored || result == PutResult::RefusedFull,
            PutResult::Stored | PutResult::SameFilled => result == PutResult::RefusedFull,
            _ => false,
        };
        let allowed = result == expected || (!self.persistent() && vanished);
        assert!(
            allowed,
            "put {key:?} {ticket:?}: {result:?}, not {expected:?}"
        );
        match result {
            PutResult::Stored | PutResult::SameFilled => {
                self.remove(guest, key);
                guest.held += u64::from(self.persistent());
                let page = Stored {
                    content: source.content,
                    ticket: ticket.get(),
                };
                self.pages.insert(key, page);
            }
            PutResult::RefusedFull | PutResult::RefusedFrozen => {
                self.remove(guest, key);
            }
            PutResult::Stale | PutResult::BadIndex | PutResult::Fault | PutResult::BadSum => {}
        }
    }

    /// Checks what became of a get.
    pub(crate) fn get(
        &mut self,
        guest: &mut ModelGuest,
        (object, index): (ObjectId, PageIndex),
        way: Way,
        sink: &Sink,
        result: GetResult,
    ) {
        let key = (object, index.0);
        let expected = match self.pages.get(&key) {
            _ if !self.holds(key) => GetResult::BadIndex,
            None => GetResult::Miss,
            Some(_) if sink.fails => GetResult::Fault,
            Some(page) if self.takes_same_filled(page.content) => GetResult::HitSameFilled,
            Some(_) => GetResult::Hit,
        };
        let vanished = !self.persistent() && result == GetResult::Miss;
        assert!(
            result == expected || vanished,
            "get {key:?}: {result:?}, not {expected:?}"
        );
        match result {
            GetResult::Hit | GetResult::HitSameFilled => {
                let bytes = self.pages[&key].content.bytes();
                assert!(
                    sink.page.as_deref() == Some(&bytes),
                    "get {key:?}: other bytes"
                );
                if way.takes() {
                    self.remove(guest, key);
                }
            }
            // What an ephemeral pool has lost stays lost.
            GetResult::Miss => {
                self.remove(guest, key);
                assert!(sink.page.is_none(), "get {key:?}: bytes of nothing");
            }
            GetResult::Corrupt | GetResult::BadIndex | GetResult::Fault => {
                assert!(sink.page.is_none(), "get {key:?}: bytes of a failed get");
            }
        }
    }

    /// Checks what became of the flush of a page.
    pub(crate) fn flush_page(
        &mut self,
        guest: &mut ModelGuest,
        (object, index): (ObjectId, PageIndex),
        ticket: Ticket,
        result: FlushResult,
    ) {
        let key = (object, index.0);
        let expected = match () {
            () if !self.holds(key) => FlushResult::BadIndex,
            () if self.newer(key, ticket) => FlushResult::Stale,
            () if self.pages.contains_key(&key) => FlushResult::Flushed,
            () => FlushResult::Absent,
        };
        let vanished = !self.persistent() && result == FlushResult::Absent;
        let allowed = result == expected || (vanished && expected != FlushResult::BadIndex);
        assert!(allowed, "flush {key:?}: {result:?}, not {expected:?}");
        if matches!(result, FlushResult::Flushed | FlushResult::Absent) {
            self.remove(guest, key);
        }
    }

    /// Checks how many pages a flush of many took: those that `inside` says, and that are no newer.
    pub(crate) fn flush_many(
        &mut self,
        guest: &mut ModelGuest,
        inside: impl Fn(ObjectId, u32) -> bool,
        ticket: Ticket,
        flushed: u64,
    ) {
        let keys: Vec<Key> = (self.pages.iter())
            .filter(|((object, index), page)| {
                inside(*object, *index) && page.ticket <= ticket.get()
            })
            .map(|(key, _)| *key)
            .collect();
        let expected = keys.len() as u64;
        if self.persistent() {
            assert_eq!(flushed, expected, "pages flushed");
        } else {
            assert!(flushed <= expected, "{flushed} flushed of {expected}");
        }
        for key in keys {
            self.remove(guest, key);
        }
    }

    /// Checks how many pages the end of the pool flushed.
    pub(crate) fn destroy(&mut self, guest: &mut ModelGuest, flushed: u64) {
        self.flush_many(guest, |_, _| true, Ticket::MAX, flushed);
        self.destroyed = true;
    }
}
