// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Huge pages, where the kernel gives none of itself: it makes one of 2 MiB of a shared mapping when it
//! is asked to. Pages are put and got at random, and with pages of 4 KiB nearly every access to a large
//! engine misses the processor's translation buffer.
//!
//! *Frames* that are about to be used for the first time come in huge pages: one allocation then takes
//! the place of 512 faults, and nothing is copied. A huge page and a half, at most, is not used yet then,
//! and none is beyond DRAM's limit. Where frames are used faster than the mover comes along, it copies what is there
//! into huge pages later, when nobody asks for anything. *The words of large dense pools* are gathered
//! once they are all there.

use std::ops::Range;

use crate::shared::Shared;

/// Frames in a huge page, a window.
pub(crate) const WINDOW_FRAMES: u32 = 512;
/// How long before it is reached a window is gathered, in frames.
const AHEAD_FRAMES: u32 = WINDOW_FRAMES / 2;
/// Steps without an attempt after the kernel had no huge page; each time twice as many, up to this.
const PAUSE_MAX: u32 = 1 << 10;

/// The window that is reached next once the frames up to `next` are in use.
pub(crate) fn window_ahead(next: u32) -> u32 {
    next.saturating_add(AHEAD_FRAMES) / WINDOW_FRAMES
}

/// A set of windows.
#[derive(Debug, Default)]
struct Windows(Vec<u64>);

impl Windows {
    fn has(&self, window: u32) -> bool {
        let word = self.0.get(window as usize / 64);
        word.is_some_and(|word| word >> (window % 64) & 1 == 1)
    }

    fn insert(&mut self, window: u32) {
        let at = window as usize / 64;
        if self.0.len() <= at {
            self.0.resize(at + 1, 0);
        }
        self.0[at] |= 1 << (window % 64);
    }

    fn remove(&mut self, window: u32) {
        if let Some(word) = self.0.get_mut(window as usize / 64) {
            *word &= !(1 << (window % 64));
        }
    }
}

/// Which windows of the frames are huge pages.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    huge: Windows,
    /// Windows with frames that were given back: their memory is not to come again.
    broken: Windows,
    /// All windows below are one or the other.
    settled: u32,
}

impl Gathered {
    fn insert(&mut self, window: u32) {
        self.huge.insert(window);
    }

    /// These frames have no memory any more, and are not to be used.
    pub(crate) fn give_back(&mut self, frames: &Range<u32>) {
        for window in frames.start / WINDOW_FRAMES..frames.end.div_ceil(WINDOW_FRAMES) {
            self.huge.remove(window);
            self.broken.insert(window);
        }
    }

    /// All frames may be used again.
    pub(crate) fn take_back(&mut self) {
        self.broken = Windows::default();
        self.settled = 0;
    }

    /// The window whose turn it is, of `all` frames of which neighbours in `run` were never used: the
    /// one that is reached next; else, if `idle`, one that was passed by.
    fn next(&mut self, run: Option<Range<u32>>, all: u32, idle: bool) -> Option<u32> {
        let used = run.as_ref().map_or(all, |run| run.start) / WINDOW_FRAMES;
        let ahead = run.and_then(|run| {
            let window = window_ahead(run.start);
            let end = window.checked_add(1)?.checked_mul(WINDOW_FRAMES)?;
            (end <= run.end && !self.huge.has(window)).then_some(window)
        });
        if ahead.is_some() || !idle {
            return ahead;
        }
        let is_settled = |window| self.huge.has(window) || self.broken.has(window);
        while self.settled < used && is_settled(self.settled) {
            self.settled += 1;
        }
        (self.settled < used).then_some(self.settled)
    }
}

impl Shared {
    /// Gathers the window of frames whose turn it is, if there is one. Returns whether the kernel did.
    fn gather_frames(&self, idle: bool) -> Option<bool> {
        let mapping = self.frames.mapping();
        if !mapping.may_gather_frames() {
            return None;
        }
        // Held until it is done, so that no frame gets memory after it was given back.
        let mut gathered = self.gathered.lock();
        let all = mapping.layout().counts.all_frames();
        let window = gathered.next(self.free.next_run(), all, idle)?;
        let given = mapping.gather_frames(window).is_ok();
        if given {
            gathered.insert(window);
        }
        Some(given)
    }
}

/// Asks for huge pages, and leaves off for a while where there are none. The mover's.
#[derive(Debug, Default)]
pub(super) struct Gather {
    /// Steps until the next attempt, and how many they were the last time.
    pause: u32,
    last: u32,
}

impl Gather {
    /// Gathers one window, if there is one for which it is time. Returns whether it did.
    pub(super) fn step(&mut self, shared: &Shared, idle: bool) -> bool {
        if self.pause > 0 {
            self.pause -= 1;
            return false;
        }
        let mut gathered = shared.gather_frames(idle);
        if gathered != Some(true) {
            // The words may be in another file, for which there are some.
            let pools = shared.all_pools();
            let words = (pools.iter()).find_map(|pool| pool.index.gather(&shared.frames));
            gathered = words.or(gathered);
        }
        match gathered {
            None => false,
            Some(true) => {
                self.last = 0;
                true
            }
            Some(false) => {
                self.last = (2 * self.last).clamp(1, PAUSE_MAX);
                self.pause = self.last;
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_gathered_ahead_of_use_and_those_passed_by_when_idle() {
        let mut gathered = Gathered::default();
        let all = 10 * WINDOW_FRAMES;
        assert_eq!(gathered.next(Some(0..all), all, false), Some(0));
        gathered.insert(0);
        assert_eq!(gathered.next(Some(255..all), all, true), None);
        assert_eq!(gathered.next(Some(256..all), all, false), Some(1));
        // The mover was late: two windows were passed by.
        assert_eq!(gathered.next(Some(1600..all), all, false), Some(3));
        gathered.insert(3);
        assert_eq!(gathered.next(Some(1600..all), all, false), None);
        for window in [1, 2] {
            assert_eq!(gathered.next(Some(1600..all), all, true), Some(window));
            gathered.insert(window);
        }
        assert_eq!(gathered.next(Some(1600..all), all, true), None);
    }

    #[test]
    fn no_window_goes_beyond_the_frames_that_may_be_used() {
        let mut gathered = Gathered::default();
        let all = 2 * WINDOW_FRAMES + 100;
        assert_eq!(gathered.next(Some(300..900), all, false), None);
        assert_eq!(gathered.next(Some(1000..all), all, false), None);
        // All are in use: the last ones are in no window.
        for window in [0, 1] {
            assert_eq!(gathered.next(None, all, true), Some(window));
            gathered.insert(window);
        }
        assert_eq!(gathered.next(None, all, true), None);
    }

    #[test]
    fn frames_that_were_given_back_are_gathered_when_they_are_used_again() {
        let mut gathered = Gathered::default();
        let all = 4 * WINDOW_FRAMES;
        (0..4).for_each(|window| gathered.insert(window));
        assert_eq!(gathered.next(None, all, true), None);
        gathered.give_back(&(700..1024));
        assert_eq!(gathered.next(None, all, true), None);
        assert_eq!(gathered.next(Some(700..all), all, false), Some(1));
        gathered.take_back();
        assert_eq!(gathered.next(Some(1100..all), all, true), Some(1));
        gathered.insert(1);
        assert_eq!(gathered.next(None, all, true), None);
    }
}
