// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a read may return: for each key a window from the last acknowledged change to the last sent.
//!
//! A key has one writer at a time, as a slot has in the engine; reads may overlap writes. A change
//! (a write of a version, or a flush) that was acknowledged is the only thing to be read from then
//! on. One that failed may have happened or not, or have left nothing. A read may return what any
//! moment of its own duration allows, and what was read once is never older at the next read.
//!
//! The oracle judges bytes; whether a read may *fail* is for those to say who know what is broken.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use tmem_pages::PageBytes;

use crate::page::Stamp;

/// How a key's pages are to be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// What was acknowledged is there until it is flushed.
    Persistent,
    /// It may be gone at any time.
    Ephemeral,
}

/// One moment of a key: the number of the change that brought it about, and what there is then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Moment {
    /// Twice the change's number; one more for the emptiness that a failed write may leave.
    order: u64,
    /// The version that is there, or nothing.
    version: Option<u64>,
}

const NOTHING_YET: Moment = Moment {
    order: 0,
    version: None,
};

/// What a reader saw.
#[derive(Clone, Copy, Debug)]
pub enum Seen<'a> {
    /// These bytes.
    Page(&'a PageBytes),
    /// That there is no page.
    Nothing,
}

/// What is wrong with what was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// Bytes that nobody wrote.
    Garbage,
    /// Another key's page, or another writer's.
    Foreign(Stamp),
    /// A page that must not be there any more.
    Stale {
        /// The version that came.
        read: u64,
        /// The versions that may come, and whether nothing may.
        allowed: Vec<Option<u64>>,
    },
    /// No page where one must be.
    Lost {
        /// The versions that may come.
        allowed: Vec<Option<u64>>,
    },
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Garbage => write!(f, "bytes that nobody wrote"),
            Self::Foreign(stamp) => write!(f, "the page of another: {stamp:?}"),
            Self::Stale { read, allowed } => write!(f, "version {read} of {allowed:?}"),
            Self::Lost { allowed } => write!(f, "nothing, of {allowed:?}"),
        }
    }
}

/// A read under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReadId(u64);

#[derive(Debug)]
struct Key {
    kind: Kind,
    changes: u64,
    versions: u64,
    /// The acknowledged moment, and after it those that may have come about.
    window: BTreeSet<Moment>,
    under_way: bool,
    readers: BTreeMap<ReadId, BTreeSet<Moment>>,
}

impl Key {
    fn new(kind: Kind) -> Self {
        Self {
            kind,
            changes: 0,
            versions: 0,
            window: BTreeSet::from([NOTHING_YET]),
            under_way: false,
            readers: BTreeMap::new(),
        }
    }

    fn add(&mut self, moment: Moment) {
        self.window.insert(moment);
        for seen in self.readers.values_mut() {
            seen.insert(moment);
        }
    }

    fn begin(&mut self, version: Option<u64>) {
        assert!(!self.under_way, "a key has one writer at a time");
        self.under_way = true;
        self.changes += 1;
        let order = 2 * self.changes;
        self.add(Moment { order, version });
    }

    fn acknowledge(&mut self) {
        assert!(self.under_way, "what was not begun cannot be acknowledged");
        self.under_way = false;
        self.window = self.window.pop_last().into_iter().collect();
    }
}

/// The windows of one writer's keys.
#[derive(Debug)]
pub struct Oracle {
    writer: u32,
    keys: BTreeMap<u32, Key>,
    reads: u64,
}

impl Oracle {
    /// Knows nothing yet: no key has a page.
    #[must_use]
    pub fn new(writer: u32) -> Self {
        Self {
            writer,
            keys: BTreeMap::new(),
            reads: 0,
        }
    }

    /// Says how a key is kept; without this it is persistent.
    pub fn set_kind(&mut self, key: u32, kind: Kind) {
        self.keys.entry(key).or_insert_with(|| Key::new(kind)).kind = kind;
    }

    fn key(&mut self, key: u32) -> &mut Key {
        let persistent = || Key::new(Kind::Persistent);
        self.keys.entry(key).or_insert_with(persistent)
    }

    /// A write is about to be sent: the page to send.
    pub fn begin_write(&mut self, key: u32) -> Stamp {
        let writer = self.writer;
        let state = self.key(key);
        state.versions += 1;
        let version = state.versions;
        state.begin(Some(version));
        Stamp {
            writer,
            key,
            version,
        }
    }

    /// A flush is about to be sent.
    pub fn begin_flush(&mut self, key: u32) {
        self.key(key).begin(None);
    }

    /// The change under way was acknowledged.
    pub fn acknowledge(&mut self, key: u32) {
        self.key(key).acknowledge();
    }

    /// The change under way failed, or nobody knows: it may have happened, or have left nothing.
    pub fn fail(&mut self, key: u32) {
        let state = self.key(key);
        state.under_way = false;
        let order = 2 * state.changes + 1;
        state.add(Moment {
            order,
            version: None,
        });
    }

    /// A key's page is gone for good, beyond what was promised: it may be missing, never older.
    pub fn forgive(&mut self, key: u32) {
        let state = self.key(key);
        let ended = state.changes - u64::from(state.under_way);
        state.add(Moment {
            order: 2 * ended + 1,
            version: None,
        });
    }

    /// A read begins.
    pub fn begin_read(&mut self, key: u32) -> ReadId {
        self.reads += 1;
        let id = ReadId(self.reads);
        let state = self.key(key);
        let window = state.window.clone();
        state.readers.insert(id, window);
        id
    }

    /// A read failed: it says nothing.
    pub fn drop_read(&mut self, key: u32, id: ReadId) {
        self.key(key).readers.remove(&id);
    }

    /// A read ended.
    ///
    /// # Errors
    /// [`Wrong`] if no moment of its duration allows what it returned.
    pub fn end_read(&mut self, key: u32, id: ReadId, seen: Seen<'_>) -> Result<(), Wrong> {
        let writer = self.writer;
        let state = self.key(key);
        let allowed = state.readers.remove(&id).unwrap_or_default();
        let version = match seen {
            Seen::Page(page) => {
                let stamp = Stamp::of(page).ok_or(Wrong::Garbage)?;
                if stamp.writer != writer || stamp.key != key {
                    return Err(Wrong::Foreign(stamp));
                }
                Some(stamp.version)
            }
            Seen::Nothing if state.kind == Kind::Ephemeral => return Ok(()),
            Seen::Nothing => None,
        };
        let last = allowed
            .iter()
            .rev()
            .find(|moment| moment.version == version);
        let Some(moment) = last.copied() else {
            let allowed = allowed.iter().map(|moment| moment.version).collect();
            return Err(match version {
                Some(read) => Wrong::Stale { read, allowed },
                None => Wrong::Lost { allowed },
            });
        };
        // Two reads beside one write may see its page come and go, as the engine expects of a slot
        // that is being written. Once it has ended they may not.
        if !state.under_way {
            state.window.retain(|kept| kept.order >= moment.order);
        }
        Ok(())
    }

    /// The one version that a key must have now; none if more than one thing may be there, or nothing.
    #[must_use]
    pub fn settled(&self, key: u32) -> Option<Stamp> {
        let state = self.keys.get(&key)?;
        let mut window = state.window.iter();
        let (Some(moment), None) = (window.next(), window.next()) else {
            return None;
        };
        Some(Stamp {
            writer: self.writer,
            key,
            version: moment.version?,
        })
    }

    /// Whether a key certainly has no page now.
    #[must_use]
    pub fn is_gone(&self, key: u32) -> bool {
        let state = self.keys.get(&key);
        state.is_none_or(|state| state.window.iter().all(|moment| moment.version.is_none()))
    }

    /// Whether a version may still be what a key holds.
    #[must_use]
    pub fn may_hold(&self, stamp: Stamp) -> bool {
        let state = self.keys.get(&stamp.key);
        stamp.writer == self.writer
            && state.is_some_and(|state| {
                let mut window = state.window.iter();
                window.any(|moment| moment.version == Some(stamp.version))
            })
    }

    /// Ends all that is under way as failed: the process that did it is gone.
    pub fn crash(&mut self) {
        let under_way = self.keys.iter().filter(|(_, state)| state.under_way);
        for key in under_way.map(|(key, _)| *key).collect::<Vec<_>>() {
            self.fail(key);
        }
        for state in self.keys.values_mut() {
            state.readers.clear();
        }
    }

    /// All keys that were ever touched.
    #[must_use]
    pub fn keys(&self) -> Vec<u32> {
        self.keys.keys().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(oracle: &mut Oracle, key: u32, version: Option<u64>) -> Result<(), Wrong> {
        let id = oracle.begin_read(key);
        end(oracle, key, id, version)
    }

    fn end(oracle: &mut Oracle, key: u32, id: ReadId, version: Option<u64>) -> Result<(), Wrong> {
        let page = version.map(|version| {
            let writer = oracle.writer;
            Stamp {
                writer,
                key,
                version,
            }
            .page()
        });
        oracle.end_read(key, id, page.as_ref().map_or(Seen::Nothing, Seen::Page))
    }

    #[test]
    fn acknowledged_write_is_the_only_thing_to_be_read() {
        let mut oracle = Oracle::new(1);
        assert_eq!(oracle.begin_write(5).version, 1);
        oracle.acknowledge(5);
        oracle.begin_write(5);
        oracle.acknowledge(5);
        assert_eq!(read(&mut oracle, 5, Some(2)), Ok(()));
        assert!(matches!(
            read(&mut oracle, 5, Some(1)),
            Err(Wrong::Stale { read: 1, .. })
        ));
        assert!(matches!(
            read(&mut oracle, 5, None),
            Err(Wrong::Lost { .. })
        ));
        assert_eq!(oracle.settled(5).map(|stamp| stamp.version), Some(2));
    }

    #[test]
    fn failed_write_may_be_there_or_the_one_before_or_nothing_but_never_go_back() {
        for first in [Some(1), Some(2), None] {
            let mut oracle = Oracle::new(1);
            oracle.begin_write(5);
            oracle.acknowledge(5);
            oracle.begin_write(5);
            oracle.fail(5);
            assert_eq!(oracle.settled(5), None);
            assert_eq!(read(&mut oracle, 5, first), Ok(()));
            // Order: version 1, version 2, nothing.
            let back = match first {
                Some(1) => None,
                Some(_) => Some(1),
                None => Some(2),
            };
            let result = read(&mut oracle, 5, back);
            assert_eq!(result.is_ok(), first == Some(1), "{first:?} then {back:?}");
        }
    }

    #[test]
    fn read_beside_a_write_may_see_either() {
        let mut oracle = Oracle::new(1);
        oracle.begin_write(5);
        oracle.acknowledge(5);
        let before = oracle.begin_read(5);
        oracle.begin_write(5);
        let beside = oracle.begin_read(5);
        oracle.acknowledge(5);
        assert_eq!(end(&mut oracle, 5, before, Some(1)), Ok(()));
        assert_eq!(end(&mut oracle, 5, beside, Some(1)), Ok(()));
        assert!(read(&mut oracle, 5, Some(1)).is_err());
    }

    #[test]
    fn flushed_page_that_comes_back_is_stale() {
        let mut oracle = Oracle::new(1);
        oracle.begin_write(5);
        oracle.acknowledge(5);
        oracle.begin_flush(5);
        oracle.acknowledge(5);
        assert!(oracle.is_gone(5));
        assert_eq!(read(&mut oracle, 5, None), Ok(()));
        assert!(read(&mut oracle, 5, Some(1)).is_err());
    }

    #[test]
    fn ephemeral_page_may_vanish_but_never_be_old() {
        let mut oracle = Oracle::new(1);
        oracle.set_kind(5, Kind::Ephemeral);
        oracle.begin_write(5);
        oracle.acknowledge(5);
        oracle.begin_write(5);
        oracle.acknowledge(5);
        assert_eq!(read(&mut oracle, 5, None), Ok(()));
        assert_eq!(read(&mut oracle, 5, Some(2)), Ok(()));
        assert!(read(&mut oracle, 5, Some(1)).is_err());
    }

    #[test]
    fn damaged_and_foreign_pages_are_told_apart() {
        let mut oracle = Oracle::new(1);
        let mut page = oracle.begin_write(5).page();
        oracle.acknowledge(5);
        page[4095] ^= 1;
        let id = oracle.begin_read(5);
        let result = oracle.end_read(5, id, Seen::Page(&page));
        assert_eq!(result, Err(Wrong::Garbage));
        let other = Stamp {
            writer: 1,
            key: 6,
            version: 1,
        };
        let id = oracle.begin_read(5);
        let result = oracle.end_read(5, id, Seen::Page(&other.page()));
        assert_eq!(result, Err(Wrong::Foreign(other)));
    }

    #[test]
    fn crash_leaves_what_was_under_way_open() {
        let mut oracle = Oracle::new(1);
        oracle.begin_write(5);
        oracle.crash();
        assert_eq!(read(&mut oracle, 5, Some(1)), Ok(()));
        oracle.begin_write(5);
        oracle.acknowledge(5);
        assert_eq!(oracle.settled(5).map(|stamp| stamp.version), Some(2));
    }
}
