// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A list of frames that nobody uses. Neighbours that were never apart are kept as a run, so that an
//! engine that may grow does not pay for the frames that it has not.

use std::ops::Range;

use crate::sys::{OwnedFrame, OwnedRun};

/// Shorter runs are kept as single frames: a run takes as much memory as two of them.
const RUN_MIN: u32 = 4;

/// See the module's head.
#[derive(Debug, Default)]
pub(crate) struct FrameList {
    singles: Vec<OwnedFrame>,
    /// The lowest last.
    runs: Vec<OwnedRun>,
}

impl FrameList {
    /// The number of frames.
    pub(crate) fn len(&self) -> usize {
        let runs = self.runs.iter().map(|run| run.numbers().len());
        self.singles.len() + runs.sum::<usize>()
    }

    /// Adds neighbouring frames.
    pub(crate) fn push_run(&mut self, mut run: OwnedRun) {
        let numbers = run.numbers();
        if numbers.end - numbers.start < RUN_MIN {
            self.singles.extend(std::iter::from_fn(|| run.pop()));
            return;
        }
        let at = self
            .runs
            .partition_point(|other| other.numbers().start > numbers.start);
        self.runs.insert(at, run);
    }

    /// Adds single frames.
    pub(crate) fn append(&mut self, frames: &mut Vec<OwnedFrame>) {
        self.singles.append(frames);
    }

    /// Adds all of another list.
    pub(crate) fn absorb(&mut self, mut other: Self) {
        self.singles.append(&mut other.singles);
        other.runs.drain(..).for_each(|run| self.push_run(run));
    }

    /// Takes frames out, those that were used last before others, then the lowest.
    pub(crate) fn take(&mut self, most: usize) -> Vec<OwnedFrame> {
        let mut taken = self
            .singles
            .split_off(self.singles.len().saturating_sub(most));
        while taken.len() < most {
            let Some(run) = self.runs.last_mut() else {
                break;
            };
            match run.pop() {
                Some(frame) => taken.push(frame),
                None => {
                    let _empty = self.runs.pop();
                }
            }
        }
        taken
    }

    /// Takes frames out, single ones first, then the lowest.
    pub(crate) fn take_low(&mut self, most: usize) -> Self {
        let from = self.singles.len().saturating_sub(most);
        let mut taken = Self::default();
        taken.singles.extend(self.singles.drain(from..));
        let mut wanted = most - taken.singles.len();
        while wanted > 0
            && let Some(run) = self.runs.last_mut()
        {
            let start = run.split_start(u32::try_from(wanted).unwrap_or(u32::MAX));
            wanted -= start.numbers().len();
            if run.numbers().is_empty() {
                let _empty = self.runs.pop();
            }
            taken.push_run(start);
        }
        taken
    }

    /// Takes frames out, the highest of the runs first, then single ones.
    pub(crate) fn take_end(&mut self, most: usize) -> Self {
        let mut taken = Self::default();
        let mut wanted = most;
        while wanted > 0 && !self.runs.is_empty() {
            let first = &mut self.runs[0];
            let end = first.split_end(u32::try_from(wanted).unwrap_or(u32::MAX));
            wanted -= end.numbers().len();
            taken.push_run(end);
            if first.numbers().is_empty() {
                let _empty = self.runs.remove(0);
            }
        }
        let from = self.singles.len().saturating_sub(wanted);
        taken.singles.extend(self.singles.drain(from..));
        taken
    }

    /// The numbers of the run that is taken from next, when there are no single frames.
    pub(crate) fn next_run(&self) -> Option<Range<u32>> {
        self.runs.last().map(OwnedRun::numbers)
    }

    /// Calls `seen` with the number of each frame.
    pub(crate) fn visit(&self, mut seen: impl FnMut(u32)) {
        self.singles.iter().for_each(|frame| seen(frame.number().0));
        self.runs.iter().flat_map(OwnedRun::numbers).for_each(seen);
    }

    /// Calls `seen` with the numbers of neighbouring frames.
    pub(crate) fn visit_runs(&self, mut seen: impl FnMut(Range<u32>)) {
        for frame in &self.singles {
            seen(frame.number().0..frame.number().0 + 1);
        }
        self.runs.iter().map(OwnedRun::numbers).for_each(seen);
    }

    /// Bytes of the list.
    pub(crate) fn bytes(&self) -> usize {
        self.singles.capacity() * size_of::<OwnedFrame>()
            + self.runs.capacity() * size_of::<OwnedRun>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frames::tests::all_frames;

    fn numbers(list: &FrameList) -> Vec<u32> {
        let mut numbers = Vec::new();
        list.visit(|number| numbers.push(number));
        numbers.sort_unstable();
        numbers
    }

    #[test]
    fn frames_are_used_from_the_bottom_and_withheld_from_the_top() {
        let (_arena, mut list) = all_frames(40);
        let all = list.len();
        let last = u32::try_from(all).unwrap() - 1;
        let low: Vec<u32> = list.take(3).iter().map(|frame| frame.number().0).collect();
        assert_eq!(low, [0, 1, 2]);
        let high = list.take_end(5);
        assert_eq!(numbers(&high), (last - 4..=last).collect::<Vec<_>>());
        assert_eq!((list.len(), high.len()), (all - 8, 5));
        let mut high = high;
        let lower = high.take_low(2);
        assert_eq!(numbers(&lower), [last - 4, last - 3]);
        list.absorb(lower);
        list.absorb(high);
        assert_eq!(numbers(&list), (3..=last).collect::<Vec<_>>());
        let rest = list.take(all);
        assert_eq!((rest.len(), list.len()), (all - 3, 0));
        let mut rest = rest;
        list.append(&mut rest);
        assert_eq!(list.take_end(all).len(), all - 3);
        assert!(list.take(1).is_empty());
    }
}
