// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Traces made from seeds.

use std::borrow::Cow;

use super::{Step, Trace};

/// Seeds of the traces: the same in every run, so that figures can be compared.
const SEED: u64 = 0x746d_656d;
/// A scan reads so many pages in a row, in a mixed trace.
const SCAN: u32 = 1000;
/// Between two scans of a mixed trace.
const BETWEEN: u32 = 2000;

/// Where a trace comes from.
#[derive(Clone, Debug)]
pub(super) enum Source {
    /// One trace for all sizes of the cache.
    Fixed(Trace),
    /// A loop over a tenth more pages than the cache holds.
    Loop {
        /// Of what the cache's size is a part.
        footprint: u32,
        /// Gets.
        length: u32,
    },
}

impl Source {
    /// The trace for a cache of that part of the footprint.
    pub(super) fn trace(&self, percent: u32) -> Cow<'_, Trace> {
        match self {
            Self::Fixed(trace) => Cow::Borrowed(trace),
            Self::Loop { footprint, length } => {
                let mut trace = Trace {
                    name: "loop, 10 % larger than memory".into(),
                    steps: Vec::new(),
                    footprint: *footprint,
                    pages: *footprint,
                    remark: None,
                };
                let size = trace.size(percent);
                let around = size + (size / 10).max(1);
                trace.steps = (0..*length).map(|at| Step::Get(at % around)).collect();
                Cow::Owned(trace)
            }
        }
    }
}

/// Numbers that depend on a seed alone (SplitMix64).
#[derive(Clone, Debug)]
pub(super) struct Draw(u64);

impl Draw {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let word = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// A number below `limit`, which is not 0.
    pub(super) fn below(&mut self, limit: u32) -> u32 {
        let scaled = (u128::from(self.next()) * u128::from(limit)) >> 64;
        u32::try_from(scaled).unwrap_or(0)
    }

    /// A number from 0 to 1.
    fn part(&mut self) -> f64 {
        f64::from(self.below(u32::MAX)) / f64::from(u32::MAX)
    }
}

/// Draws pages so that the k-th most popular comes with a probability in proportion to 1 / k^skew.
/// Which page is the k-th is drawn, too: neighbours have nothing in common.
pub(super) struct Zipf {
    /// Of each rank, the sum of the weights up to it.
    sums: Vec<f64>,
    pages: Vec<u32>,
}

impl Zipf {
    pub(super) fn new(pages: u32, skew: f64, draw: &mut Draw) -> Self {
        let mut sum = 0.0;
        let weight = |rank: u32| {
            sum += f64::from(rank).powf(-skew);
            sum
        };
        let sums = (1..=pages).map(weight).collect();
        let mut pages: Vec<u32> = (0..pages).collect();
        for at in (1..pages.len()).rev() {
            let other = draw.below(u32::try_from(at + 1).unwrap_or(u32::MAX));
            pages.swap(at, other as usize);
        }
        Self { sums, pages }
    }

    pub(super) fn draw(&self, draw: &mut Draw) -> u32 {
        let all = self.sums.last().copied().unwrap_or(0.0);
        let at = draw.part() * all;
        let rank = self.sums.partition_point(|sum| *sum < at);
        self.pages[rank.min(self.pages.len() - 1)]
    }
}

fn fixed(name: impl Into<String>, pages: u32, steps: impl Iterator<Item = u32>) -> Source {
    Source::Fixed(Trace {
        name: name.into(),
        steps: steps.map(Step::Get).collect(),
        footprint: pages,
        pages,
        remark: None,
    })
}

/// All synthetic traces.
pub(super) fn sources(quick: bool) -> Vec<Source> {
    let (pages, length) = if quick {
        (1 << 13, 100_000)
    } else {
        (1 << 16, 1_000_000)
    };
    let mut sources = Vec::new();
    for skew in [0.8, 0.99, 1.2] {
        let mut draw = Draw::new(SEED);
        let zipf = Zipf::new(pages, skew, &mut draw);
        let steps = (0..length).map(|_| zipf.draw(&mut draw));
        sources.push(fixed(format!("zipf {skew}"), pages, steps));
    }
    let scan = (0..length).map(|at| at % pages);
    sources.push(fixed("scan of everything, again and again", pages, scan));
    sources.push(Source::Loop {
        footprint: pages,
        length,
    });
    // Half of the pages are drawn, the other half is scanned, a piece at a time.
    let mut draw = Draw::new(SEED);
    let half = pages / 2;
    let zipf = Zipf::new(half, 0.99, &mut draw);
    let mut scanned = 0;
    let mixed = (0..length).map(|at| {
        if at % (BETWEEN + SCAN) < BETWEEN {
            zipf.draw(&mut draw)
        } else {
            scanned += 1;
            half + scanned % half
        }
    });
    sources.push(fixed("zipf 0.99 with scans", pages, mixed));
    sources
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_traces() {
        let all = |_| -> Vec<Trace> {
            let sources = sources(true);
            sources
                .iter()
                .map(|one| one.trace(5).into_owned())
                .collect()
        };
        let [one, other] = [0, 1].map(all);
        assert_eq!(one.len(), 6);
        assert!((one.iter().zip(&other)).all(|(one, other)| one.steps == other.steps));
    }

    #[test]
    fn zipf_draws_each_rank_as_often_as_it_should() {
        let mut draw = Draw::new(1);
        let zipf = Zipf::new(1000, 1.0, &mut draw);
        let mut drawn = vec![0_u32; 1000];
        for _ in 0..100_000 {
            drawn[zipf.draw(&mut draw) as usize] += 1;
        }
        // The sum of 1 / k to 1000 is 7.485.
        for (rank, expected) in [(0, 13_360), (1, 6680), (9, 1336)] {
            let found = drawn[zipf.pages[rank] as usize];
            assert!(found.abs_diff(expected) < expected / 8, "{rank}: {found}");
        }
    }

    #[test]
    fn the_loop_is_a_tenth_larger_than_the_cache() {
        let around = Source::Loop {
            footprint: 10_000,
            length: 5000,
        };
        let trace = around.trace(10);
        let distinct: std::collections::BTreeSet<u32> = (trace.steps.iter())
            .map(|step| match step {
                Step::Get(page) | Step::Put(page) | Step::Flush(page) => *page,
            })
            .collect();
        assert_eq!((trace.size(10), distinct.len()), (1000, 1100));
    }
}
