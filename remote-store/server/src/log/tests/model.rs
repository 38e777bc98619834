// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The slow, obvious log: for each page what it was at the last commit, and what it has been since.
//!
//! After a crash a page may be any of these; after anything else it is the last.

use std::collections::{BTreeMap, BTreeSet};

use super::work::Content;
use crate::log::{PageLog, Place};

/// What a page is: nothing, or a write.
pub(super) type Value = Option<(u64, Content)>;

/// What a page may be.
#[derive(Clone, Debug, Default)]
struct Page {
    /// As it was committed, and then every step since.
    steps: Vec<Value>,
}

impl Page {
    fn now(&self) -> Value {
        self.steps.last().copied().flatten()
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    pages: BTreeMap<Place, Page>,
    abouts: BTreeMap<u32, Vec<Option<Vec<u8>>>>,
    floors: BTreeMap<(u32, u32), u64>,
    forgotten: BTreeSet<u32>,
}

impl Model {
    fn page(&mut self, place: Place) -> &mut Page {
        let page = self.pages.entry(place).or_default();
        if page.steps.is_empty() {
            page.steps.push(None);
        }
        page
    }

    pub(super) fn now(&self, place: Place) -> Value {
        self.pages.get(&place).and_then(Page::now)
    }

    pub(super) fn put(&mut self, place: Place, generation: u64, content: Content) {
        self.page(place).steps.push(Some((generation, content)));
    }

    /// The newest flush of a pool: puts that are not newer are stale.
    pub(super) fn floor(&self, place: Place) -> u64 {
        let floor = self.floors.get(&(place.namespace, place.pool));
        floor.copied().unwrap_or_default()
    }

    pub(super) fn flush(&mut self, place: Place, generation: u64) {
        let page = self.page(place);
        if page.now().is_some_and(|(there, _)| there <= generation) {
            page.steps.push(None);
        }
    }

    pub(super) fn flush_pool(&mut self, namespace: u32, pool: u32, generation: u64) {
        for (place, page) in &mut self.pages {
            let here = place.namespace == namespace && place.pool == pool;
            if here && page.now().is_some_and(|(there, _)| there <= generation) {
                page.steps.push(None);
            }
        }
        self.floors.insert((namespace, pool), generation);
    }

    pub(super) fn about(&mut self, namespace: u32, about: &[u8]) {
        let steps = self.abouts.entry(namespace).or_insert_with(|| vec![None]);
        steps.push(Some(about.to_vec()));
    }

    pub(super) fn forget(&mut self, namespace: u32) {
        for (place, page) in &mut self.pages {
            if place.namespace == namespace {
                page.steps.push(None);
            }
        }
        if let Some(steps) = self.abouts.get_mut(&namespace) {
            steps.push(None);
        }
        self.forgotten.insert(namespace);
    }

    pub(super) fn is_forgotten(&self, namespace: u32) -> bool {
        self.forgotten.contains(&namespace)
    }

    /// All that was done is committed.
    pub(super) fn commit(&mut self) {
        for page in self.pages.values_mut() {
            page.steps = vec![page.now()];
        }
        for steps in self.abouts.values_mut() {
            steps.drain(..steps.len() - 1);
        }
    }

    /// What was sent by then is committed, and nothing that was sent since.
    pub(super) fn commit_as_of(&mut self, sent: &Self) {
        for (place, page) in &mut self.pages {
            let steps = sent.pages.get(place).map_or(1, |page| page.steps.len());
            page.steps.drain(..steps.min(page.steps.len()) - 1);
        }
        for (number, steps) in &mut self.abouts {
            let sent = sent.abouts.get(number).map_or(1, Vec::len);
            steps.drain(..sent.min(steps.len()) - 1);
        }
    }

    /// Compares with a log that was opened after a crash, and goes on from what is there.
    pub(super) fn check_and_adopt(&mut self, log: &PageLog, abouts: &[(u32, Vec<u8>)]) {
        let mut there = BTreeMap::new();
        log.each_page(&mut |place, generation, _, page| {
            let twice = there.insert(place, (generation, *page));
            assert_eq!(
                twice.map(|(generation, _)| generation),
                None,
                "{place:?} twice"
            );
        })
        .expect("all pages");
        for place in there.keys() {
            assert!(self.pages.contains_key(place), "{place:?} was never put");
        }
        for (place, page) in &mut self.pages {
            let found = there.get(place);
            let fits = |value: &Value| match (value, found) {
                (None, None) => true,
                (Some((generation, content)), Some((there, page))) => {
                    generation == there && content.bytes() == *page
                }
                _ => false,
            };
            // Of two steps that look the same the later.
            let step = page.steps.iter().copied().rev().find(fits);
            let found = found.map(|(generation, _)| generation);
            let value = step.unwrap_or_else(|| {
                panic!("{place:?} has generation {found:?}, of {:?}", page.steps)
            });
            page.steps = vec![value];
        }
        for (number, steps) in &mut self.abouts {
            let found = abouts.iter().find(|(other, _)| other == number);
            let found = found.map(|(_, about)| about.clone());
            assert!(
                steps.contains(&found),
                "namespace {number} has {found:?}, of {steps:?}"
            );
            *steps = vec![found];
        }
    }
}
