// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Calls drawn at random.

use tmem_user::program::Rng;

/// What the pools are like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) pages: u32,
    pub(crate) limit: u32,
}

/// A run of pages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    pub(crate) index: u32,
    pub(crate) pages: u32,
}

/// A call. The memory of its runs lies in order from the beginning of the thread's.
#[derive(Clone, Debug)]
pub(crate) enum Call {
    Put(Vec<Run>),
    Get(Vec<Run>),
    Take(Vec<Run>),
    Flush(Vec<Run>),
}

impl Call {
    /// Draws a call of at most `memory` pages.
    pub(crate) fn draw(rng: &mut Rng, shape: Shape, memory: usize) -> Self {
        let kind = rng.below(10);
        let count = match rng.below(4) {
            0 => 1,
            1 => 1 + rng.below(8),
            2 => 1 + rng.below(64),
            _ => 1 + rng.below(512),
        };
        let longest = [1, 4, 40, 300][rng.below(4) as usize];
        let mut left = u32::try_from(memory).unwrap_or(u32::MAX);
        let mut runs = Vec::new();
        // From here on runs follow each other, in steps that let some overlap now and then.
        let mut next = rng.below(shape.pages);
        for _ in 0..count {
            let pages = (1 + rng.below(longest)).min(left);
            if pages == 0 {
                break;
            }
            left -= pages;
            runs.push(Run { index: next, pages });
            next = (next + pages + rng.below(5)) % shape.pages;
            if rng.one_in(300) {
                next = rng.below(shape.pages);
            }
        }
        // Runs at the end of the pool leave it, which is refused as a whole: let few of them.
        if !rng.one_in(20) {
            runs.retain(|run| run.index + run.pages <= shape.pages);
        }
        if rng.one_in(2) {
            rng.shuffle(&mut runs);
        }
        if runs.is_empty() {
            runs.push(Run { index: 0, pages: 1 });
        }
        match kind {
            0..=3 => Self::Put(runs),
            4..=6 => Self::Get(runs),
            7 => Self::Take(runs),
            _ => Self::Flush(runs),
        }
    }

    fn runs(&self) -> &[Run] {
        match self {
            Self::Put(runs) | Self::Get(runs) | Self::Take(runs) | Self::Flush(runs) => runs,
        }
    }

    /// Index of each result's first page, and its page of the memory.
    pub(crate) fn places(&self) -> Vec<(u32, usize)> {
        let runs = self.runs().iter();
        if matches!(self, Self::Flush(_)) {
            return runs.map(|run| (run.index, 0)).collect();
        }
        runs.flat_map(|run| run.index..run.index + run.pages)
            .zip(0..)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_fit_the_memory_and_some_leave_the_pool() {
        let shape = Shape {
            pages: 300,
            limit: 200,
        };
        let mut rng = Rng::new(5);
        let mut outside = 0;
        for _ in 0..2000 {
            let call = Call::draw(&mut rng, shape, 100);
            let places = call.places();
            assert!(!places.is_empty() && places.iter().all(|(_, slot)| *slot < 100));
            let runs = call.runs();
            assert!(runs.iter().map(|run| run.pages).sum::<u32>() <= 100);
            outside += usize::from(runs.iter().any(|run| run.index + run.pages > shape.pages));
        }
        assert!((1..1000).contains(&outside), "{outside}");
    }
}
