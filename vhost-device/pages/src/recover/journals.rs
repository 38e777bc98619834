// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Journals that a dead process left armed.

use std::collections::HashMap;

use super::FoundPool;
use crate::frames::Frames;
use crate::journal::TakenPage;
use crate::limbo::Unresolved;

/// Where a journal names a page, and whether the page is still taken.
#[derive(Clone, Copy, Debug)]
struct Line {
    journal: u32,
    at: u32,
    confirmed: bool,
}

/// The armed journals, by page.
#[derive(Debug)]
pub(super) struct Journals {
    lines: HashMap<TakenPage, Line>,
    armed: Vec<u32>,
}

impl Journals {
    /// Reads what the journals say of pools that are there.
    pub(super) fn read(frames: &Frames, pools: &[FoundPool]) -> Self {
        let mapping = frames.mapping();
        let (mut lines, mut armed) = (HashMap::new(), Vec::new());
        for (number, journal) in (0..).zip(mapping.journals()) {
            let count = journal.count();
            if count > 0 {
                armed.push(number);
            }
            for at in 0..count {
                let page = journal.get(at).filter(|page| {
                    let place = pools.binary_search_by_key(&page.pool, |pool| pool.slot);
                    let record = mapping.pools().get(page.pool as usize);
                    place.is_ok() && record.is_some_and(|pool| pool.serial() == page.serial)
                });
                if let Some(page) = page {
                    lines.entry(page).or_insert(Line {
                        journal: number,
                        at,
                        confirmed: false,
                    });
                }
            }
        }
        Self { lines, armed }
    }

    /// Whether a journal names this page.
    pub(super) fn name(&self, page: &TakenPage) -> bool {
        self.lines.contains_key(page)
    }

    /// Notes that a page which a journal names is still taken.
    pub(super) fn confirm(&mut self, page: &TakenPage) {
        if let Some(line) = self.lines.get_mut(page) {
            line.confirmed = true;
        }
    }

    /// All pages that are named.
    pub(super) fn pages(&self) -> Vec<TakenPage> {
        self.lines.keys().copied().collect()
    }

    /// Leaves in the journals what is still taken. Returns the requests that still have pages.
    pub(super) fn settle(&self, frames: &Frames) -> Vec<Unresolved> {
        let mut unresolved = Vec::new();
        for number in &self.armed {
            let journal = &frames.mapping().journals()[*number as usize];
            let mut kept: Vec<_> = (self.lines.iter())
                .filter(|(_, line)| line.journal == *number && line.confirmed)
                .collect();
            kept.sort_unstable_by_key(|(_, line)| line.at);
            // Each moves towards the front, so none is overwritten before it was moved; one that is
            // there twice after a kill in between counts once.
            for (at, (page, line)) in (0..).zip(&kept) {
                if at != line.at {
                    journal.write(at, page);
                }
            }
            let count = u32::try_from(kept.len()).unwrap_or(0);
            journal.truncate(count);
            let (ring, position) = journal.request();
            if let Some((page, _)) = kept.first() {
                unresolved.push(Unresolved {
                    journal: *number,
                    guest: page.pool / tmem_abi::POOLS_MAX,
                    ring,
                    position,
                });
            }
        }
        unresolved
    }
}
