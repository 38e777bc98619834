// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which copies of pages that may vanish are still the newest.
//!
//! Such a page has one copy, on the store that its index hashes to among those that are up, and nobody
//! keeps a table. So a store may have an old one: it was away when the page was put to another store, or
//! it got the page while another was away. A copy counts only if its store was the page's own all the
//! time since the copy's generation; for that, each change of who is up is noted with the generation at
//! which it came. What is older than the notes does not count, nor what is older than this process.
//!
//! A put or a flush that may have failed leaves the copy before it in doubt: its index is noted with the
//! generation below which nothing counts.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::control::{Kind, MemberNo, State, View, name_id};

/// Changes of who is up that are remembered.
const CHANGES_MAX: usize = 64;
/// Indices in doubt that are remembered. With one more, nothing that is older than now counts.
const DOUBTS_MAX: usize = 4096;

/// Stores that are up, with the hashes of their names.
type Up = Vec<(MemberNo, u64)>;

#[derive(Debug)]
struct Inner {
    /// From which generation on these were up, the newest last.
    changes: VecDeque<(u64, Up)>,
    doubts: BTreeMap<u32, u64>,
    /// What is older does not count.
    floor: u64,
}

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Owners {
    inner: Mutex<Inner>,
    /// Odd while a change is noted.
    version: AtomicU64,
}

impl Owners {
    /// Nobody is up, and nothing of older generations counts.
    pub(crate) fn new(generation: u64) -> Self {
        Self {
            inner: Mutex::new(Inner {
                changes: VecDeque::from([(generation, Up::new())]),
                doubts: BTreeMap::new(),
                floor: generation,
            }),
            version: AtomicU64::new(0),
        }
    }

    /// Another view holds. `next` is the generation that no write has yet; it is asked for once
    /// everybody can see that something changes.
    pub(crate) fn publish(&self, view: &View, next: impl FnOnce() -> u64) {
        let up: Up = (view.members())
            .filter(|(_, known)| known.state == State::Up && known.kind == Kind::Remote)
            .map(|(member, known)| (member, name_id(&known.name)))
            .collect();
        let mut inner = self.inner.lock();
        if inner.changes.back().is_some_and(|(_, last)| *last == up) {
            return;
        }
        self.version.fetch_add(1, Ordering::SeqCst);
        inner.changes.push_back((next(), up));
        if inner.changes.len() > CHANGES_MAX {
            inner.changes.pop_front();
            let oldest = inner.changes.front().map(|(since, _)| *since);
            inner.floor = inner.floor.max(oldest.unwrap_or(0));
        }
        self.version.fetch_add(1, Ordering::SeqCst);
    }

    /// The store that an index belongs to now, and a number that is another one when that may change.
    pub(crate) fn owner(&self, index: u32) -> Option<(MemberNo, u64)> {
        let inner = self.inner.lock();
        let version = self.version.load(Ordering::SeqCst);
        let (_, up) = inner.changes.back()?;
        Some((owner(up, index)?, version))
    }

    /// Nothing has changed since.
    pub(crate) fn is_still(&self, version: u64) -> bool {
        self.version.load(Ordering::SeqCst) == version
    }

    /// A copy of this generation on this store is the newest that was acknowledged.
    pub(crate) fn counts(&self, index: u32, member: MemberNo, generation: u64) -> bool {
        let inner = self.inner.lock();
        let doubt = inner.doubts.get(&index).copied().unwrap_or(0);
        if generation < inner.floor.max(doubt) {
            return false;
        }
        for (since, up) in inner.changes.iter().rev() {
            if owner(up, index) != Some(member) {
                return false;
            }
            if *since <= generation {
                return true;
            }
        }
        false
    }

    /// Copies of this index that are older than this do not count.
    pub(crate) fn doubt(&self, index: u32, generation: u64) {
        let mut inner = self.inner.lock();
        let doubt = inner.doubts.entry(index).or_default();
        *doubt = generation.max(*doubt);
        if inner.doubts.len() > DOUBTS_MAX {
            let highest = inner.doubts.values().max().copied();
            inner.floor = inner.floor.max(highest.unwrap_or(0));
            inner.doubts.clear();
        }
    }

    /// A put of this generation was acknowledged: what was in doubt is over.
    pub(crate) fn trust(&self, index: u32, generation: u64) {
        let mut inner = self.inner.lock();
        if inner
            .doubts
            .get(&index)
            .is_some_and(|doubt| *doubt <= generation)
        {
            inner.doubts.remove(&index);
        }
    }
}

/// Each store draws a number for the index, and the highest has it: a store more or less moves only the
/// indices that it draws highest for.
fn owner(up: &Up, index: u32) -> Option<MemberNo> {
    let drawn = |name: u64| {
        let mixed = (name ^ u64::from(index)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mixed = (mixed ^ (mixed >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
        mixed ^ (mixed >> 32)
    };
    (up.iter())
        .max_by_key(|(_, name)| drawn(*name))
        .map(|(member, _)| *member)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn up(members: &[u8]) -> Up {
        (members.iter())
            .map(|number| {
                (
                    MemberNo::new(*number).unwrap(),
                    name_id(&number.to_string()),
                )
            })
            .collect()
    }

    impl Owners {
        fn change(&self, generation: u64, members: &[u8]) {
            self.inner
                .lock()
                .changes
                .push_back((generation, up(members)));
        }
    }

    #[test]
    fn copy_on_a_store_that_was_away_never_counts_again() {
        let owners = Owners::new(1);
        owners.change(10, &[0, 1]);
        let index = (0..)
            .find(|index| owner(&up(&[0, 1]), *index).unwrap().get() == 0)
            .unwrap();
        let (a, b) = (MemberNo::new(0).unwrap(), MemberNo::new(1).unwrap());
        assert!(owners.counts(index, a, 12));
        assert!(!owners.counts(index, b, 12));
        // It is away, and the other has the index.
        owners.change(20, &[1]);
        assert!(owners.counts(index, b, 22));
        assert!(!owners.counts(index, a, 12));
        // It is back: its old copy does not count, nor does the other's, which may be old next time.
        owners.change(30, &[0, 1]);
        assert!(!owners.counts(index, a, 12));
        assert!(!owners.counts(index, b, 22));
        assert!(owners.counts(index, a, 30));
        owners.change(40, &[1]);
        assert!(
            !owners.counts(index, b, 22),
            "it was put elsewhere in between"
        );
    }

    #[test]
    fn store_more_leaves_most_indices_where_they_are() {
        let (three, four) = (up(&[0, 1, 2]), up(&[0, 1, 2, 3]));
        let moved = (0..1000).filter(|index| owner(&three, *index) != owner(&four, *index));
        assert!((150..350).contains(&moved.count()));
        assert_eq!(owner(&up(&[]), 1), None);
    }

    #[test]
    fn copy_in_doubt_does_not_count_until_a_put_is_acknowledged() {
        let owners = Owners::new(1);
        owners.change(2, &[0]);
        let a = MemberNo::new(0).unwrap();
        assert!(!owners.counts(7, a, 0), "of a process before");
        owners.doubt(7, 10);
        assert!(!owners.counts(7, a, 9));
        assert!(owners.counts(7, a, 10), "it arrived after all");
        owners.trust(7, 11);
        for index in 100..100 + 5000 {
            owners.doubt(index, 20);
        }
        assert!(
            !owners.counts(7, a, 19),
            "too many doubts: all that is old is in doubt"
        );
        assert!(owners.counts(7, a, 21));
    }
}
