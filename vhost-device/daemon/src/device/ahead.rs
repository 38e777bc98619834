// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Looks at the GET requests that a worker has taken and not served yet, and tells the tiers which pages
//! these will ask for.
//!
//! A page that is on a store elsewhere takes a round trip, and one in a file on a disk an access. Told
//! before, a tier is asked for all pages of a request at once, and for those of the requests behind it as
//! well. What is told is a hint: a request
//! is parsed again when it is served, and a page may have moved by then.
//!
//! Tiers are told of some requests together, and then of the next ones when these have been served:
//! whoever keeps pages that were asked for early has to keep few.

use std::sync::Arc;

use tmem_pages::Worker;

use super::batch::Batch;
use super::request::serve::{Foreseen, Slot};
use super::ring::Taken;
use crate::limits::AHEAD_PAGES;
use crate::tiers::paths::Paths;

/// See the module's head. One for each worker.
#[derive(Debug)]
pub(super) struct Ahead {
    paths: Arc<Paths>,
    slot: Slot,
    /// Requests of which the tiers know and that are not served yet.
    told: usize,
}

impl Ahead {
    pub(super) fn new(paths: Arc<Paths>) -> Self {
        Self {
            paths,
            slot: Slot::default(),
            told: 0,
        }
    }

    /// Another batch begins.
    pub(super) fn begin(&mut self) {
        self.told = 0;
    }

    /// `next` is about to be served, and then the `rest`.
    pub(super) fn look(
        &mut self,
        gets: &Batch<'_>,
        next: &Taken<'_>,
        rest: &[Option<Taken<'_>>],
        engine: &mut Worker,
    ) {
        if !self.paths.is_far() {
            return;
        }
        if self.told > 0 {
            self.told -= 1;
            return;
        }
        let Some(mut pages) = self.foresee(gets, next) else {
            return;
        };
        for request in rest.iter().flatten() {
            if pages.pages() >= AHEAD_PAGES {
                break;
            }
            let more = self.foresee(gets, request);
            if !more
                .is_some_and(|more| pages.pages() + more.pages() <= AHEAD_PAGES && pages.add(&more))
            {
                break;
            }
            self.told += 1;
        }
        pages.tell(engine);
    }

    fn foresee(&mut self, gets: &Batch<'_>, request: &Taken<'_>) -> Option<Foreseen> {
        // One that is not whole is counted when it is served.
        self.slot.chain.gather(request.clone()).ok()?;
        Foreseen::of(gets.mem, &mut self.slot, gets.context.guest)
    }
}
