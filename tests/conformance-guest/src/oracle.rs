// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the device must hold: a slow, obvious model of one object of a persistent pool.

use crate::bench::{Ask, Bench, Handle, Split, UNTOUCHED};
use crate::content::Content;
use crate::why::{Context, Result, ensure, same};
use crate::wire::{BATCH_PAGES_MAX, op, result, status};

/// A page that the device holds.
#[derive(Clone, Copy, Debug)]
struct Held {
    content: Content,
    ticket: u64,
}

/// The pages 0 to `N` of an object.
#[derive(Debug)]
pub(crate) struct Oracle<const N: usize> {
    handle: Handle,
    pages: [Option<Held>; N],
}

impl<const N: usize> Oracle<N> {
    /// An object without pages.
    pub(crate) const fn new(handle: Handle) -> Self {
        Self {
            handle,
            pages: [None; N],
        }
    }

    /// The object.
    pub(crate) const fn handle(&self) -> Handle {
        self.handle
    }

    /// Pages held.
    pub(crate) fn held(&self) -> u64 {
        self.pages.iter().flatten().count() as u64
    }

    /// Pages of one repeated word held. A device may count fewer of them as same-filled: which it
    /// keeps without a frame is its affair.
    pub(crate) fn same_filled(&self) -> u64 {
        let held = self.pages.iter().flatten();
        held.filter(|held| matches!(held.content, Content::Filled(_)))
            .count() as u64
    }

    /// Carries out the PUT of a page; returns its result.
    pub(crate) fn put(&mut self, index: u32, content: Content, ticket: u64) -> u8 {
        let Some(page) = self.pages.get_mut(index as usize) else {
            return result::BAD_INDEX;
        };
        if page.is_some_and(|held| held.ticket > ticket) {
            return result::STALE;
        }
        *page = Some(Held { content, ticket });
        result::OK
    }

    /// Carries out the FLUSH of a page; returns its result, and whether it was there.
    pub(crate) fn flush(&mut self, index: u32, ticket: u64) -> (u8, bool) {
        let Some(page) = self.pages.get_mut(index as usize) else {
            return (result::BAD_INDEX, false);
        };
        if page.is_some_and(|held| held.ticket > ticket) {
            return (result::STALE, false);
        }
        (result::OK, page.take().is_some())
    }

    /// The content of a page, if it is held.
    pub(crate) fn content(&self, index: u32) -> Option<Content> {
        let page = self.pages.get(index as usize)?;
        page.map(|held| held.content)
    }

    /// Forgets a page, as an exclusive get does.
    pub(crate) fn forget(&mut self, index: u32) {
        if let Some(page) = self.pages.get_mut(index as usize) {
            *page = None;
        }
    }

    /// Gets every page and holds it against the model.
    pub(crate) fn check(&self, bench: &mut Bench) -> Result {
        let pages = u32::try_from(N).unwrap_or(u32::MAX);
        let mut first = 0;
        while first < pages {
            let count = (pages - first).min(BATCH_PAGES_MAX);
            self.check_run(bench, first, count)
                .during(format_args!("pool {}", self.handle.pool))?;
            first += count;
        }
        Ok(())
    }

    fn check_run(&self, bench: &mut Bench, first: u32, count: u32) -> Result {
        let stage = bench.areas.get.pages(0, count as usize);
        for nth in 0..count {
            // Enough to see whether a page was written.
            stage.page(nth as usize).write(0, UNTOUCHED);
        }
        let answer = bench.ask(&Ask {
            header: self.handle.header(op::GET, first, count),
            list: &[],
            data: Some(stage),
            split: Split::Whole,
        })?;
        same!(answer.status, status::OK, "status");
        for (index, code) in (first..).zip(answer.results()) {
            self.check_page(bench, index, *code, stage.page((index - first) as usize))?;
        }
        Ok(())
    }

    /// Holds the result and the buffer of one got page against the model. Before the get, the
    /// buffer's first word was [`UNTOUCHED`].
    pub(crate) fn check_page(
        &self,
        bench: &Bench,
        index: u32,
        code: u8,
        page: crate::memory::Region,
    ) -> Result {
        let Some(content) = self.content(index) else {
            let expected = if (index as usize) < N {
                result::MISS
            } else {
                result::BAD_INDEX
            };
            same!(code, expected, "result of page {index}, which is not held");
            same!(page.read::<u64>(0), UNTOUCHED, "buffer of page {index}");
            return Ok(());
        };
        same!(code, result::OK, "result of page {index}");
        ensure!(
            bench.holds(page, content),
            "page {index} holds {:#x}, expected {content:?}",
            page.read::<u64>(0)
        );
        Ok(())
    }
}
