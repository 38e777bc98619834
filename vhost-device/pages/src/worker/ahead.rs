// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a request of several pages knows in advance: the processor fetches what the next pages need
//! while this one is copied. Among more pages than caches and translation buffers cover, a page costs
//! two reads that wait for memory, its index word and its frame; this way they wait beside each other.

use super::Worker;
use crate::handle::PageIndex;
use crate::index::Entry;
use crate::pool::Pool;
use crate::sys::prefetch;

/// Pages ahead of which the index word is fetched.
const FAR: u32 = 16;
/// Pages ahead of which the frame is fetched, which the word names that is there by then.
const NEAR: u32 = 2;

impl Worker {
    /// Page `nth` of `count` is about to be put or got; `index` says where each of them is. Changes
    /// nothing but time.
    #[inline]
    pub fn look_ahead(
        &self,
        pool: &Pool,
        (nth, count): (u32, u32),
        index: impl Fn(u32) -> PageIndex,
    ) {
        if count == 1 {
            return;
        }
        let frames = &self.shared.frames;
        if nth == 0 {
            // Nothing was begun for the first ones: so they wait beside each other, once for all.
            (0..count.min(FAR + 1)).for_each(|far| pool.index.prefetch(frames, index(far)));
            (0..count.min(NEAR + 1)).for_each(|near| self.begin(pool, index(near)));
            return;
        }
        let (far, near) = (nth + FAR, nth + NEAR);
        if far < count {
            pool.index.prefetch(frames, index(far));
        }
        if near < count {
            self.begin(pool, index(near));
        }
    }

    /// Has the processor fetch what a put looks at of the page that it takes the place of, whose index
    /// word is there, or nearly.
    #[inline]
    pub(super) fn begin_to_replace(&self, pool: &Pool, index: PageIndex) {
        let frames = &self.shared.frames;
        if let Entry::Frame(frame) = pool.index.glance(frames, index) {
            prefetch(frames.mapping().entry(frame));
        }
    }

    /// Has the processor fetch the frame of a page whose index word is there, or nearly.
    #[inline]
    fn begin(&self, pool: &Pool, index: PageIndex) {
        let frames = &self.shared.frames;
        if let Entry::Frame(frame) = pool.index.glance(frames, index) {
            prefetch(frames.mapping().entry(frame));
            frames.mapping().prefetch(frame);
        }
    }
}
