// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Area `policies`: how many gets find their page in memory, under each replacement policy.
//!
//! Traces are replayed on the engine's own policies, in a cache of 1 to 50 % of the trace's pages:
//! synthetic ones, which `synthetic` makes from seeds, and recorded ones, which `recorded` reads.
//! Beside them stand Belady's MIN (`optimum`), which knows the future and which none can surpass, and
//! a well-kept cache of others (`peer`), whose policy is a relative of s3-fifo.
//!
//! A page comes into memory when it is put, and when a get misses it. A hit is a get that finds it
//! there; the first get of a page that was never put is a miss, too. Hits are a matter of the trace
//! and the seed alone and come out the same on every machine; only the times differ.

mod chart;
mod optimum;
mod peer;
mod recorded;
mod replay;
mod synthetic;
mod tables;
mod timing;

use std::path::PathBuf;

use tmem_pages::policy::POLICIES;

use crate::report::{Machine, SCHEMA};
use crate::{Figures, Report, Result, Row};

/// Sizes of the cache, in hundredths of the trace's pages.
const PERCENTS: [u32; 6] = [1, 2, 5, 10, 20, 50];
/// The name of the best that can be had.
const OPTIMUM: &str = "MIN (optimum)";

/// What to replay.
#[derive(Clone, Debug, Default)]
pub struct PoliciesOptions {
    /// Shorter traces of fewer pages.
    pub quick: bool,
    /// Recorded traces, which are replayed after the synthetic ones.
    pub traces: Vec<PathBuf>,
}

/// What happens to a page in a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// It is asked for, and comes into memory if it is not there.
    Get(u32),
    /// It comes, new.
    Put(u32),
    /// It is gone.
    Flush(u32),
}

/// A trace, with pages numbered from 0.
#[derive(Clone, Debug)]
struct Trace {
    name: String,
    steps: Vec<Step>,
    /// Pages that there are, or at most at a time: what a cache of 100 % holds.
    footprint: u32,
    /// Pages are numbered below this.
    pages: u32,
    /// What was lost when it was recorded, for people.
    remark: Option<String>,
}

impl Trace {
    fn gets(&self) -> usize {
        let gets = self.steps.iter();
        gets.filter(|step| matches!(step, Step::Get(_))).count()
    }

    /// Pages of a cache.
    fn size(&self, percent: u32) -> u32 {
        let size = u64::from(self.footprint) * u64::from(percent) / 100;
        u32::try_from(size).unwrap_or(u32::MAX).max(1)
    }
}

/// The hit ratios of one trace: a line for each policy, a column for each size.
#[derive(Clone, Debug)]
struct Ratios {
    trace: String,
    remark: Option<String>,
    lines: Vec<(String, [f64; PERCENTS.len()])>,
}

impl Ratios {
    fn line(&self, name: &str) -> Option<&[f64; PERCENTS.len()]> {
        let mut lines = self.lines.iter();
        lines.find(|line| line.0 == name).map(|line| &line.1)
    }
}

/// Replays all traces on all policies.
///
/// # Errors
/// When a recorded trace cannot be read to its end.
pub fn policies(options: &PoliciesOptions) -> Result<Figures> {
    // First, since it may fail.
    let recorded = options.traces.iter().map(|path| recorded::read(path));
    let recorded: Vec<Trace> = recorded.collect::<Result<_>>()?;
    let mut all = Vec::new();
    for source in synthetic::sources(options.quick) {
        // Of a loop that follows the cache's size there is a trace for each size.
        let traces = PERCENTS.map(|percent| source.trace(percent));
        all.push(ratios(&traces.each_ref().map(|trace| trace.as_ref())));
    }
    for trace in &recorded {
        all.push(ratios(&PERCENTS.map(|_| trace)));
    }
    let mut results: Vec<Row> = all.iter().flat_map(rows).collect();
    results.extend(timing::rows(options.quick));
    let report = Report {
        schema: SCHEMA,
        machine: Machine::here(),
        results,
    };
    Ok(Figures {
        text: tables::text(&all, &report),
        plots: vec![chart::plot(&all)],
        report,
    })
}

/// The ratios of a trace; of each size, the trace to use for it.
fn ratios(traces: &[&Trace; PERCENTS.len()]) -> Ratios {
    let columns: Vec<Vec<(String, f64)>> = (traces.iter().zip(PERCENTS))
        .map(|(trace, percent)| column(trace, trace.size(percent)))
        .collect();
    let lines = columns.first().into_iter().flatten().enumerate();
    let lines = lines.map(|(at, (name, _))| {
        let mut line = [0.0; PERCENTS.len()];
        for (value, column) in line.iter_mut().zip(&columns) {
            *value = column[at].1;
        }
        (name.clone(), line)
    });
    Ratios {
        trace: traces[0].name.clone(),
        remark: traces[0].remark.clone(),
        lines: lines.collect(),
    }
}

/// The ratio of every policy, of the peer, and of the optimum, with a cache of `size` pages.
fn column(trace: &Trace, size: u32) -> Vec<(String, f64)> {
    let gets = trace.gets();
    let ratio = |hits| percent_of(hits, gets);
    let mut column: Vec<(String, f64)> = (POLICIES.iter())
        .map(|kind| {
            let hits = replay::hits(trace, kind.name, size);
            (kind.name.to_owned(), ratio(hits))
        })
        .collect();
    column.push((peer::NAME.to_owned(), ratio(peer::hits(trace, size))));
    column.push((OPTIMUM.to_owned(), ratio(optimum::hits(trace, size))));
    column
}

/// Hundredths.
fn percent_of(part: usize, whole: usize) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "counts of a benchmark")]
    let ratio = part as f64 / whole.max(1) as f64;
    100.0 * ratio
}

/// One row for each policy and size. The floor is the most that there can be.
fn rows(ratios: &Ratios) -> Vec<Row> {
    let nothing = [0.0; PERCENTS.len()];
    let optimum = ratios.line(OPTIMUM).unwrap_or(&nothing);
    let peer = ratios.line(peer::NAME).unwrap_or(&nothing);
    let row = |name: &str, at: usize, ours: f64| {
        // The peer's policy is a relative of this one alone.
        let peer = (name == "s3-fifo").then_some(peer[at]);
        let against = peer.unwrap_or(optimum[at]);
        Row {
            area: "policies",
            name: format!("{}, {} %: {name}", ratios.trace, PERCENTS[at]),
            unit: "% hits",
            ours,
            peer,
            peer_name: peer.map(|_| peer::NAME.to_owned()),
            floor: Some(optimum[at]),
            ratio: (against > 0.0).then_some(ours / against),
            spread: None,
            goal: None,
            met: None,
            emulated: false,
            regime: "replayed".to_owned(),
        }
    };
    let ours = ratios.lines.iter();
    ours.filter(|line| POLICIES.iter().any(|kind| kind.name == line.0))
        .flat_map(|(name, line)| {
            line.iter()
                .enumerate()
                .map(|(at, ours)| row(name, at, *ours))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_policy_hits_more_often_than_the_optimum() {
        for source in synthetic::sources(true) {
            let trace = source.trace(10);
            let column = column(&trace, trace.size(10));
            let best = column.iter().find(|one| one.0 == OPTIMUM).unwrap().1;
            let ours = column.iter().filter(|one| one.0 != peer::NAME);
            assert_eq!(ours.clone().count(), POLICIES.len() + 1);
            for (name, ratio) in ours {
                assert!(*ratio <= best, "{}: {name} {ratio} > {best}", trace.name);
                assert!(best > 1.0, "{}", trace.name);
            }
        }
    }

    #[test]
    fn a_row_has_the_optimum_as_its_floor_and_the_relative_as_its_peer() {
        let line = |name: &str, value| (name.to_owned(), [value; PERCENTS.len()]);
        let ratios = Ratios {
            trace: "t".into(),
            remark: None,
            lines: vec![
                line("lru", 20.0),
                line("s3-fifo", 30.0),
                line(peer::NAME, 60.0),
                line(OPTIMUM, 80.0),
            ],
        };
        let rows = rows(&ratios);
        assert_eq!(rows.len(), 2 * PERCENTS.len());
        assert_eq!((rows[0].ratio, rows[0].peer), (Some(0.25), None));
        let s3 = &rows[PERCENTS.len()];
        assert_eq!((s3.ratio, s3.peer), (Some(0.5), Some(60.0)));
        assert_eq!((s3.floor, &*s3.name), (Some(80.0), "t, 1 %: s3-fifo"));
    }
}
