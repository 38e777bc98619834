// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Belady's MIN: the page leaves that is got again last, or never.
//!
//! L. A. Belady: "A study of replacement algorithms for a virtual-storage computer", IBM Systems
//! Journal, 1966. It needs the future, so it is no policy; nothing that takes every page in can hit
//! more often. A page that is put or flushed before it is got again is as good as never got.

use std::collections::BinaryHeap;

use super::{Step, Trace};

/// When a page is got that is not got again.
const NEVER: u32 = u32::MAX;

/// Gets that find their page in a cache of `size` pages.
pub(super) fn hits(trace: &Trace, size: u32) -> usize {
    let next = next_gets(trace);
    // Of each page in memory, when it is got again.
    let mut resident: Vec<Option<u32>> = vec![None; trace.pages as usize];
    // The same by time; an entry that is not what `resident` says is out of date.
    let mut queue: BinaryHeap<(u32, u32)> = BinaryHeap::new();
    let (mut held, mut hits) = (0, 0);
    for (step, next) in trace.steps.iter().zip(next) {
        let (Step::Get(page) | Step::Put(page) | Step::Flush(page)) = *step;
        let was = resident[page as usize].take();
        held -= u32::from(was.is_some());
        if matches!(step, Step::Flush(_)) {
            continue;
        }
        hits += usize::from(was.is_some() && matches!(step, Step::Get(_)));
        while held >= size {
            let Some((when, victim)) = queue.pop() else {
                break;
            };
            if resident[victim as usize] == Some(when) {
                resident[victim as usize] = None;
                held -= 1;
            }
        }
        resident[page as usize] = Some(next);
        queue.push((next, page));
        held += 1;
    }
    hits
}

/// Of each step, which step gets its page next.
fn next_gets(trace: &Trace) -> Vec<u32> {
    let mut soonest = vec![NEVER; trace.pages as usize];
    let mut next: Vec<u32> = (trace.steps.iter().enumerate().rev())
        .map(|(at, step)| {
            let (Step::Get(page) | Step::Put(page) | Step::Flush(page)) = *step;
            let got = match step {
                Step::Get(_) => u32::try_from(at).unwrap_or(NEVER),
                Step::Put(_) | Step::Flush(_) => NEVER,
            };
            std::mem::replace(&mut soonest[page as usize], got)
        })
        .collect();
    next.reverse();
    next
}

#[cfg(test)]
mod tests {
    use super::super::synthetic::Draw;
    use super::*;

    /// The most hits there can be, by trying every victim.
    fn best(steps: &[Step], size: usize, held: &[u32]) -> usize {
        let Some((step, rest)) = steps.split_first() else {
            return 0;
        };
        let (Step::Get(page) | Step::Put(page) | Step::Flush(page)) = *step;
        let others: Vec<u32> = held.iter().copied().filter(|one| *one != page).collect();
        let hit = others.len() < held.len() && matches!(step, Step::Get(_));
        if matches!(step, Step::Flush(_)) {
            return best(rest, size, &others);
        }
        let with = |mut held: Vec<u32>| {
            held.push(page);
            best(rest, size, &held)
        };
        let most = if others.len() < size {
            with(others)
        } else {
            (0..others.len())
                .map(|victim| {
                    let mut held = others.clone();
                    held.remove(victim);
                    with(held)
                })
                .max()
                .unwrap()
        };
        most + usize::from(hit)
    }

    #[test]
    fn no_choice_of_victims_hits_more_often() {
        let mut draw = Draw::new(5);
        let mut all = 0;
        for _ in 0..60 {
            let steps: Vec<Step> = (0..16)
                .map(|_| {
                    let page = draw.below(6);
                    match draw.below(8) {
                        0 => Step::Flush(page),
                        1 => Step::Put(page),
                        _ => Step::Get(page),
                    }
                })
                .collect();
            let trace = Trace {
                name: String::new(),
                steps,
                footprint: 6,
                pages: 6,
                remark: None,
            };
            for size in 1..=3 {
                let hits = hits(&trace, size);
                assert_eq!(hits, best(&trace.steps, size as usize, &[]));
                all += hits;
            }
        }
        assert!(all > 200);
    }
}
