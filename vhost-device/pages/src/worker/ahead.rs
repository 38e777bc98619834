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
const FAR: u32 = 8;
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
        // The first page cannot be helped; with it, those that follow at once are begun with.
        let from = if nth == 0 { 1 } else { FAR };
        for far in (nth + from..=nth + FAR).take_while(|far| *far < count) {
            pool.index.prefetch(frames, index(far));
        }
        let near = nth + NEAR;
        if near < count
            && let Entry::Frame(frame) = pool.index.glance(frames, index(near))
        {
            prefetch(frames.mapping().entry(frame));
            frames.mapping().prefetch(frame);
        }
    }
}
