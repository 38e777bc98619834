// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Processors and processes: who runs where, whose child it is, and how often it slept.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

use crate::{Error, Result};

/// The two processors of a benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Processors {
    /// Where the server runs.
    pub(crate) server: usize,
    /// Where the client runs.
    pub(crate) client: usize,
}

impl Processors {
    /// The first two processors that this process may use.
    pub(crate) fn choose() -> Result<Self> {
        let allowed = sched_getaffinity(None)?;
        let mut all = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu));
        match (all.next(), all.next()) {
            (Some(server), Some(client)) => Ok(Self { server, client }),
            (first, _) => Err(Error::Processors {
                found: usize::from(first.is_some()),
            }),
        }
    }
}

/// Runs `work` with this thread, and whatever it starts, on one processor; restores the old set.
pub(crate) fn on<T>(processor: usize, work: impl FnOnce() -> T) -> Result<T> {
    let before = sched_getaffinity(None)?;
    let mut one = CpuSet::new();
    one.set(processor);
    sched_setaffinity(None, &one)?;
    let done = work();
    sched_setaffinity(None, &before)?;
    Ok(done)
}

/// Lets this thread run on all processors there are.
pub(crate) fn anywhere() -> Result<()> {
    let mut all = CpuSet::new();
    (0..CpuSet::MAX_CPU).for_each(|cpu| all.set(cpu));
    // The kernel leaves out what is not there or not allowed.
    Ok(sched_setaffinity(None, &all)?)
}

/// How long this thread has run so far.
pub(crate) fn ran() -> Duration {
    let ran = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(ran).unwrap_or_default()
}

/// How often all threads of a process have gone to sleep so far; 0 when it is gone.
pub(crate) fn sleeps(process: u32) -> u64 {
    threads(process)
        .filter_map(|thread| fs::read_to_string(thread.join("status")).ok())
        .filter_map(|status| {
            let line = status
                .lines()
                .find(|line| line.starts_with("voluntary_ctxt_switches"))?;
            line.split_whitespace().nth(1)?.parse::<u64>().ok()
        })
        .sum()
}

/// The processes that the threads of `process` have started and not waited for; none when it is
/// gone.
pub(crate) fn children(process: u32) -> Vec<u32> {
    threads(process)
        .filter_map(|thread| fs::read_to_string(thread.join("children")).ok())
        .flat_map(|list| {
            let ids = list.split_whitespace().map(str::parse);
            ids.filter_map(std::result::Result::ok).collect::<Vec<_>>()
        })
        .collect()
}

/// Whether every thread of a process may run on `processor` alone; false when it is gone.
pub(crate) fn is_on(process: u32, processor: usize) -> bool {
    let sets: Vec<_> = threads(process)
        .filter_map(|thread| thread.file_name()?.to_str()?.parse().ok())
        .filter_map(|thread| sched_getaffinity(Pid::from_raw(thread)).ok())
        .collect();
    let alone = |set: &CpuSet| set.count() == 1 && set.is_set(processor);
    !sets.is_empty() && sets.iter().all(alone)
}

/// Folders of a process's threads; none when it is gone.
fn threads(process: u32) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(format!("/proc/{process}/task"))
        .into_iter()
        .flatten()
        .filter_map(|thread| Some(thread.ok()?.path()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pinned_thread_runs_on_its_processor_and_is_freed_after() {
        let before = sched_getaffinity(None).unwrap();
        let cpu = (0..CpuSet::MAX_CPU)
            .find(|cpu| before.is_set(*cpu))
            .unwrap();
        let inside = on(cpu, || sched_getaffinity(None).unwrap()).unwrap();
        assert_eq!((inside.count(), inside.is_set(cpu)), (1, true));
        assert_eq!(sched_getaffinity(None).unwrap(), before);
    }

    #[test]
    fn what_a_pinned_thread_starts_is_its_child_and_runs_there_too() {
        let before = sched_getaffinity(None).unwrap();
        let mut all = (0..CpuSet::MAX_CPU).filter(|cpu| before.is_set(*cpu));
        let (cpu, other) = (all.next().unwrap(), all.next());
        let start = || std::process::Command::new("sleep").arg("60").spawn();
        let mut child = on(cpu, start).unwrap().unwrap();
        let listed = children(std::process::id()).contains(&child.id());
        let pinned = is_on(child.id(), cpu);
        let elsewhere = other.is_some_and(|other| is_on(child.id(), other));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!((listed, pinned, elsewhere), (true, true, false));
        assert!(!is_on(child.id(), cpu), "it is gone");
    }

    #[test]
    fn sleeping_is_counted() {
        let before = sleeps(std::process::id());
        std::thread::sleep(std::time::Duration::from_millis(2));
        assert!(sleeps(std::process::id()) > before);
    }
}
