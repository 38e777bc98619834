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

/// Reads a log, and makes it one that can be gone on with. All of the file is safe.
pub(super) fn read(medium: &dyn Medium, geometry: Geometry, id: &[u8; 16]) -> io::Result<Found> {
    let mut found = Found::default();
    let mut torn = Vec::new();
    let since = medium.mark();
    for place in written(medium, geometry) {
        let at = [0, 1].map(|twin| geometry.log_at(place, twin));
        let mut twins = [[0; PAGE_SIZE]; 2];
        for (at, twin) in at.iter().zip(&mut twins) {
            medium.load(*at, twin)?;
        }
        let said = twins.map(|twin| {
            let page = LogPage::parse(&twin, id);
            page.filter(|page| page.sequence % u64::from(geometry.log_pages) == place)
        });
        let [first, second] = said.each_ref().map(Option::as_ref).map(sequence);
        let Some(page) = said.into_iter().flatten().max_by_key(|page| page.sequence) else {
            torn.extend(
                at.iter()
                    .zip(&twins)
                    .filter(|(_, twin)| is_begun(twin))
                    .map(|(at, _)| *at),
            );
            continue;
        };
        if first != second {
            let stale = usize::from(first > second);
            store(medium, at[stale], &page.bytes(id))?;
            found.repaired += 1;
        }
        found.pages.push(page);
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

/// Places of the ring that may have been written: of most files' logs, hardly any.
fn written(medium: &dyn Medium, geometry: Geometry) -> impl Iterator<Item = u64> {
    let begin = geometry.log_at(0, 0);
    let pages = u64::from(geometry.log_pages);
    let mut place = 0;
    std::iter::from_fn(move || {
        let data = medium.next_data(geometry.log_at(place, 0))?;
        place = place.max(data.saturating_sub(begin) / (2 * PAGE_SIZE as u64));
        (place < pages).then(|| {
            place += 1;
            place - 1
        })
    })
}
