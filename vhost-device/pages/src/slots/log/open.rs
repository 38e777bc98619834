// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What of a log is found when its file is opened.
//!
//! | found of a page | made of it |
//! | --- | --- |
//! | two sound twins | gone on with |
//! | one sound twin | the other is made the same |
//! | none, and it was never known to be safe | it was under way: its first word is emptied |
//! | none, but it was safe | an error: nobody knows which slots are empty |
//!
//! A page that was under way must not be left as it is: a later one in its place, torn by another
//! crash, could have just what the first lacks. Its first word goes by one store of 8 bytes, which
//! cannot complete it, and is safe before anything else is written there.

use std::io;

use super::super::layout::Geometry;
use super::super::medium::Medium;
use super::page::LogPage;
use crate::handle::{PAGE_SIZE, PageBytes};

/// What a file's log says.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Sound pages, in order.
    pub(super) pages: Vec<LogPage>,
    /// Twins that were made good from the other one.
    pub(super) repaired: u32,
    /// A page that was safe is gone.
    pub(super) is_damaged: bool,
}

impl Found {
    /// What the newest page that is safe says of it, or a later one.
    pub(super) fn settled(&self) -> u64 {
        let settled = self.pages.iter().map(|page| page.settled);
        settled.max().unwrap_or(0)
    }
}

/// Places that are read at a time.
const READ_PLACES: usize = 64;

type Twins = [PageBytes; 2];

/// Reads a log, and makes it one that can be gone on with. All of the file is safe.
pub(super) fn read(medium: &dyn Medium, geometry: Geometry, id: &[u8; 16]) -> io::Result<Found> {
    let mut found = Found::default();
    let mut torn = Vec::new();
    let since = medium.mark();
    let pages = u64::from(geometry.log_pages);
    let mut chunk: Vec<Twins> = vec![[[0; PAGE_SIZE]; 2]; READ_PLACES];
    let mut from = 0;
    while let Some(first) = next_written(medium, geometry, from) {
        let left = usize::try_from(pages - first).unwrap_or(READ_PLACES);
        let these = chunk.get_mut(..left.min(READ_PLACES)).unwrap_or_default();
        let bytes = these.as_flattened_mut().as_flattened_mut();
        medium.load(geometry.log_at(first, 0), bytes)?;
        from = first;
        for twins in these {
            look(medium, geometry, id, (from, twins), &mut found, &mut torn)?;
            from += 1;
        }
    }
    for at in &torn {
        medium.store(*at, &[0; 8])?;
        medium.flush(*at, 8)?;
    }
    if found.repaired > 0 || !torn.is_empty() {
        medium.fence(since)?;
    }
    found.pages.sort_unstable_by_key(|page| page.sequence);
    fill(medium, geometry, id, &mut found)?;
    Ok(found)
}

/// Looks at what a place holds; notes in `torn` where the first words are to be emptied.
fn look(
    medium: &dyn Medium,
    geometry: Geometry,
    id: &[u8; 16],
    (place, twins): (u64, &Twins),
    found: &mut Found,
    torn: &mut Vec<u64>,
) -> io::Result<()> {
    let at = [0, 1].map(|twin| geometry.log_at(place, twin));
    let said = twins.each_ref().map(|twin| {
        let page = LogPage::parse(twin, id);
        page.filter(|page| page.sequence % u64::from(geometry.log_pages) == place)
    });
    let [first, second] = said.each_ref().map(Option::as_ref).map(sequence);
    let Some(page) = said.into_iter().flatten().max_by_key(|page| page.sequence) else {
        let begun = at.iter().zip(twins).filter(|(_, twin)| is_begun(twin));
        torn.extend(begun.map(|(at, _)| *at));
        return Ok(());
    };
    if first != second {
        let stale = usize::from(first > second);
        store(medium, at[stale], &page.bytes(id))?;
        found.repaired += 1;
    }
    found.pages.push(page);
    Ok(())
}

/// Pages that were under way beside later ones that are there are lost: empty ones take their place.
fn fill(
    medium: &dyn Medium,
    geometry: Geometry,
    id: &[u8; 16],
    found: &mut Found,
) -> io::Result<()> {
    let Some(last) = found.pages.last().map(|page| page.sequence) else {
        return Ok(());
    };
    let pages = u64::from(geometry.log_pages);
    let safe = found.pages.iter().map(|page| page.safe).max().unwrap_or(0);
    let settled = found.settled();
    // Pages before these may have been written over by those that were under way.
    let first = (last + geometry.log_under_way()).saturating_sub(pages) + 1;
    let since = medium.mark();
    let mut filled = false;
    for sequence in first..last {
        let is_there = found
            .pages
            .binary_search_by_key(&sequence, |page| page.sequence);
        if is_there.is_ok() {
            continue;
        }
        if sequence <= safe {
            found.is_damaged = true;
            return Ok(());
        }
        let page = LogPage {
            sequence,
            safe,
            settled,
            boot: [0; 16],
            records: Vec::new(),
        };
        for twin in [0, 1] {
            store(
                medium,
                geometry.log_at(sequence % pages, twin),
                &page.bytes(id),
            )?;
        }
        filled = true;
    }
    if filled {
        medium.fence(since)?;
    }
    Ok(())
}

fn sequence(page: Option<&LogPage>) -> Option<u64> {
    page.map(|page| page.sequence)
}

fn is_begun(page: &PageBytes) -> bool {
    page[..8] != [0; 8]
}

fn store(medium: &dyn Medium, at: u64, page: &PageBytes) -> io::Result<()> {
    medium.store(at, page)?;
    medium.flush(at, PAGE_SIZE as u64)
}

/// The next place of the ring that may have been written: of most files' logs, hardly any is.
fn next_written(medium: &dyn Medium, geometry: Geometry, from: u64) -> Option<u64> {
    let pages = u64::from(geometry.log_pages);
    if from >= pages {
        return None;
    }
    let data = medium.next_data(geometry.log_at(from, 0))?;
    let place = data.saturating_sub(geometry.log_at(0, 0)) / (2 * PAGE_SIZE as u64);
    let place = place.max(from);
    (place < pages).then_some(place)
}
