// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which record of each name is the newest, and where it lies: 12 bytes a page.
//!
//! The index says which records are live; all others are garbage. It is made anew from the log at each
//! start.

use std::collections::BTreeMap;

use super::layout::PUT_UNITS;
use super::record::Place;

const CHUNK: usize = 1024;

/// The newest record of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// The unit at which it begins.
    pub(super) at: u32,
    pub(super) generation: u64,
    pub(super) form: Form,
}

/// What a page's newest record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Its bytes.
    Whole,
    /// One byte, repeated.
    Filled,
    /// That it is gone.
    Gone,
}

impl Form {
    pub(super) const fn units(self) -> u32 {
        match self {
            Self::Whole => PUT_UNITS,
            Self::Filled | Self::Gone => 1,
        }
    }
}

const FORM_SHIFT: u32 = 62;

struct Chunk {
    /// 0: there is no record. No record lies at unit 0.
    at: [u32; CHUNK],
    /// The generation, and above it the form.
    marks: [u64; CHUNK],
    used: usize,
}

#[derive(Default)]
pub(super) struct Pool {
    /// Generation and unit of the newest flush of the pool.
    pub(super) floor: Option<(u64, u32)>,
    chunks: BTreeMap<u32, Box<Chunk>>,
}

#[derive(Default)]
pub(super) struct Namespace {
    /// Unit and length of what the server says about it.
    pub(super) about: Option<(u32, u16)>,
    /// The unit of the record that it is gone.
    pub(super) forgotten: Option<u32>,
    pub(super) pools: BTreeMap<u32, Pool>,
}

#[derive(Default)]
pub(super) struct Index {
    pub(super) namespaces: BTreeMap<u32, Namespace>,
    /// Pages that are there.
    pub(super) pages: u64,
    /// Records that say that something is gone.
    pub(super) gone: u64,
}

impl std::fmt::Debug for Index {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Index({} pages, {} gone)", self.pages, self.gone)
    }
}

fn split(index: u32) -> (u32, usize) {
    (index >> 10, index as usize % CHUNK)
}

impl Chunk {
    fn entry(&self, nth: usize) -> Option<Entry> {
        let (at, mark) = (self.at[nth], self.marks[nth]);
        let form = match mark >> FORM_SHIFT {
            0 => Form::Whole,
            1 => Form::Filled,
            _ => Form::Gone,
        };
        (at != 0).then_some(Entry {
            at,
            generation: mark & ((1 << FORM_SHIFT) - 1),
            form,
        })
    }
}

impl Index {
    pub(super) fn pool(&self, place: Place) -> Option<&Pool> {
        self.namespaces
            .get(&place.namespace)?
            .pools
            .get(&place.pool)
    }

    pub(super) fn pool_mut(&mut self, namespace: u32, pool: u32) -> &mut Pool {
        let namespace = self.namespaces.entry(namespace).or_default();
        namespace.pools.entry(pool).or_default()
    }

    /// The newest record of a page.
    pub(super) fn entry(&self, place: Place) -> Option<Entry> {
        let (chunk, nth) = split(place.index);
        self.pool(place)?.chunks.get(&chunk)?.entry(nth)
    }

    /// Replaces the newest record of a page, or removes it, and returns the one that it was.
    pub(super) fn set(&mut self, place: Place, entry: Option<Entry>) -> Option<Entry> {
        let (number, nth) = split(place.index);
        let pool = self.pool_mut(place.namespace, place.pool);
        let chunk = pool.chunks.entry(number).or_insert_with(|| {
            Box::new(Chunk {
                at: [0; CHUNK],
                marks: [0; CHUNK],
                used: 0,
            })
        });
        let old = chunk.entry(nth);
        chunk.at[nth] = entry.map_or(0, |entry| entry.at);
        chunk.marks[nth] = entry.map_or(0, |entry| {
            entry.generation | (entry.form as u64) << FORM_SHIFT
        });
        chunk.used = chunk.used + usize::from(entry.is_some()) - usize::from(old.is_some());
        if chunk.used == 0 {
            pool.chunks.remove(&number);
        }
        for (entry, sign) in [(old, false), (entry, true)] {
            let Some(entry) = entry else { continue };
            let count = match entry.form {
                Form::Gone => &mut self.gone,
                Form::Whole | Form::Filled => &mut self.pages,
            };
            *count = if sign { *count + 1 } else { *count - 1 };
        }
        old
    }

    /// All entries of a pool.
    pub(super) fn entries(&self, namespace: u32, pool: u32) -> Vec<(Place, Entry)> {
        let at = Place {
            namespace,
            pool,
            index: 0,
        };
        let chunks = self.pool(at).into_iter().flat_map(|pool| &pool.chunks);
        let entries = chunks.flat_map(|(number, chunk)| {
            (0_u32..).zip(0..CHUNK).filter_map(move |(low, nth)| {
                let index = (number << 10) + low;
                Some((Place { index, ..at }, chunk.entry(nth)?))
            })
        });
        entries.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_back_and_are_counted() {
        let mut index = Index::default();
        let place = |index| Place {
            namespace: 1,
            pool: 0,
            index,
        };
        let entry = |at, form| Entry {
            at,
            generation: (1 << 52) - 1,
            form,
        };
        let all = [
            (place(0), entry(64, Form::Whole)),
            (place(1023), entry(129, Form::Filled)),
            (place(u32::MAX), entry(u32::MAX, Form::Gone)),
        ];
        for (place, entry) in all {
            assert_eq!(index.set(place, Some(entry)), None);
            assert_eq!(index.entry(place), Some(entry));
        }
        assert_eq!((index.pages, index.gone), (2, 1));
        assert_eq!(index.entries(1, 0), all);
        for (place, entry) in all {
            assert_eq!(index.set(place, None), Some(entry));
        }
        assert_eq!((index.pages, index.gone), (0, 0));
        assert!(index.namespaces[&1].pools[&0].chunks.is_empty());
    }
}
