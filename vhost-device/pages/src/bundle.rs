// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Free frames: a shared list, and a bundle for each worker that moves to and from it in bulk.
//!
//! A worker takes from and gives to its own bundle, so two workers meet at the shared list once in
//! [`BULK`] frames. When the list is empty, a worker takes half of another's bundle. No two of the
//! locks here are ever held together.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use parking_lot::Mutex;

use crate::frame_list::FrameList;
use crate::stats::Aligned;
use crate::sys::OwnedFrame;
use crate::tier::window_ahead;

/// Frames that a worker keeps at most.
pub(crate) const BUNDLE_MAX: usize = 64;
/// Frames that move between a bundle and the shared list at a time.
pub(crate) const BULK: usize = BUNDLE_MAX / 2;

#[derive(Debug, Default)]
struct Bundle {
    frames: Mutex<Vec<OwnedFrame>>,
    /// Frames that the worker has outside its bundle between two calls: 0 or 1. For the check alone.
    in_hand: AtomicU32,
}

/// The shared list, and which window of its neighbours is the next to be reached.
#[derive(Debug)]
struct Shared {
    list: FrameList,
    window: Option<u32>,
}

/// All free frames of an engine.
#[derive(Debug)]
pub(crate) struct FreeFrames {
    shared: Mutex<Shared>,
    /// Another window will be reached soon, and nobody has been told.
    nears_window: AtomicBool,
    bundles: Box<[Aligned<Bundle>]>,
}

impl FreeFrames {
    /// Makes the lists, with all frames in the shared one.
    pub(crate) fn new(frames: FrameList, workers: u16) -> Self {
        Self {
            shared: Mutex::new(Shared {
                list: frames,
                window: None,
            }),
            nears_window: AtomicBool::new(false),
            bundles: (0..workers).map(|_| Aligned::default()).collect(),
        }
    }

    /// Takes a frame: from the worker's bundle, the shared list, or another's bundle. Two calls at
    /// the same time may each miss a frame that the other is moving.
    pub(crate) fn take(&self, worker: u16) -> Option<OwnedFrame> {
        let own = &self.bundles[usize::from(worker)].0.frames;
        if let Some(frame) = own.lock().pop() {
            return Some(frame);
        }
        let mut bulk = self.take_bulk();
        if bulk.is_empty() {
            bulk = self.steal(worker);
        }
        let frame = bulk.pop();
        if !bulk.is_empty() {
            own.lock().append(&mut bulk);
        }
        frame
    }

    fn take_bulk(&self) -> Vec<OwnedFrame> {
        let mut shared = self.shared.lock();
        let bulk = shared.list.take(BULK);
        let window = shared.list.next_run().map(|run| window_ahead(run.start));
        if window.is_some() && window != shared.window {
            shared.window = window;
            self.nears_window.store(true, Ordering::Relaxed);
        }
        bulk
    }

    /// Whether frames that lie in another huge page will be taken soon. Says so once.
    #[inline]
    pub(crate) fn nears_window(&self) -> bool {
        self.nears_window.load(Ordering::Relaxed)
            && self.nears_window.swap(false, Ordering::Relaxed)
    }

    /// The numbers of the neighbours that are taken from when nothing else is free.
    pub(crate) fn next_run(&self) -> Option<Range<u32>> {
        self.shared.lock().list.next_run()
    }

    /// Half of the first bundle that has frames, looking from the next worker on.
    fn steal(&self, worker: u16) -> Vec<OwnedFrame> {
        let (before, from) = self.bundles.split_at(usize::from(worker));
        for victim in from.iter().skip(1).chain(before) {
            let mut frames = victim.0.frames.lock();
            let half = frames.len().div_ceil(2);
            if half > 0 {
                return take_tail(&mut frames, half);
            }
        }
        Vec::new()
    }

    /// Gives a frame to the worker's bundle.
    pub(crate) fn give(&self, worker: u16, frame: OwnedFrame) {
        let Some(bundle) = self.bundles.get(usize::from(worker)) else {
            // Of one who has no worker's number, such as an admin who reclaims.
            return self.shared.lock().list.append(&mut vec![frame]);
        };
        let mut own = bundle.0.frames.lock();
        own.push(frame);
        if own.len() > BUNDLE_MAX {
            let mut bulk = take_tail(&mut own, BULK);
            drop(own);
            self.shared.lock().list.append(&mut bulk);
        }
    }

    /// Takes up to `most` frames from the shared list, the highest first.
    pub(crate) fn take_end(&self, most: usize) -> FrameList {
        self.shared.lock().list.take_end(most)
    }

    /// Gives a list of frames back.
    pub(crate) fn absorb(&self, frames: FrameList) {
        self.shared.lock().list.absorb(frames);
    }

    /// Gives many frames to the shared list.
    pub(crate) fn give_all(&self, frames: &mut Vec<OwnedFrame>) {
        self.shared.lock().list.append(frames);
    }

    /// Gives a worker's bundle to the shared list.
    pub(crate) fn dissolve(&self, worker: u16) {
        let mut bundle = std::mem::take(&mut *self.bundles[usize::from(worker)].0.frames.lock());
        self.shared.lock().list.append(&mut bundle);
    }

    /// Notes whether the worker has a frame in hand.
    #[inline]
    pub(crate) fn note_in_hand(&self, worker: u16, frames: u32) {
        let noted = &self.bundles[usize::from(worker)].0.in_hand;
        noted.store(frames, Ordering::Relaxed);
    }

    /// Bytes of the lists.
    pub(crate) fn bytes(&self) -> usize {
        let bundles: usize = self
            .bundles
            .iter()
            .map(|bundle| bundle.0.frames.lock().capacity())
            .sum();
        self.shared.lock().list.bytes()
            + bundles * size_of::<OwnedFrame>()
            + size_of_val(&*self.bundles)
    }

    /// Calls `seen` with the number of each frame in a list; returns how many are in hands.
    pub(crate) fn visit(&self, mut seen: impl FnMut(u32)) -> u64 {
        self.shared.lock().list.visit(&mut seen);
        let mut in_hand = 0;
        for bundle in &self.bundles {
            let frames = bundle.0.frames.lock();
            frames.iter().for_each(|frame| seen(frame.number().0));
            in_hand += u64::from(bundle.0.in_hand.load(Ordering::Relaxed));
        }
        in_hand
    }
}

/// The last `most` frames of `from`.
fn take_tail(from: &mut Vec<OwnedFrame>, most: usize) -> Vec<OwnedFrame> {
    from.split_off(from.len().saturating_sub(most))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frames::Frames;

    fn free(frames: u32, workers: u16) -> (Frames, FreeFrames) {
        let (arena, mut owned) = crate::frames::tests::frames(frames);
        let mut list = FrameList::default();
        list.append(&mut owned);
        (arena, FreeFrames::new(list, workers))
    }

    fn held(free: &FreeFrames, worker: u16) -> usize {
        free.bundles[usize::from(worker)].0.frames.lock().len()
    }

    #[test]
    fn bundle_refills_and_drains_in_bulk() {
        let (_arena, free) = free(256, 2);
        let first = free.take(0).unwrap();
        assert_eq!(held(&free, 0), BULK - 1);
        assert_eq!(free.shared.lock().list.len(), 256 - BULK);
        let mut taken: Vec<_> = (0..2 * BUNDLE_MAX).map(|_| free.take(0).unwrap()).collect();
        taken.push(first);
        for frame in taken {
            free.give(0, frame);
            assert!(held(&free, 0) <= BUNDLE_MAX);
        }
        free.dissolve(0);
        assert_eq!(free.shared.lock().list.len(), 256);
    }

    #[test]
    fn empty_list_makes_a_worker_steal() {
        let (_arena, free) = free(8, 3);
        let frame = free.take(2).unwrap();
        assert_eq!((held(&free, 2), free.shared.lock().list.len()), (7, 0));
        let stolen = free.take(0).unwrap();
        assert_eq!((held(&free, 0), held(&free, 2)), (3, 3));
        assert_ne!(frame.number(), stolen.number());
        let rest: Vec<_> = std::iter::from_fn(|| free.take(1)).collect();
        assert_eq!(rest.len(), 6);
        assert!(free.take(2).is_none());
    }
}
