// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Processors: who runs where, and how often a process slept.

use std::fs;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

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

/// How often all threads of a process have gone to sleep so far; 0 when it is gone.
pub(crate) fn sleeps(process: u32) -> u64 {
    let Ok(tasks) = fs::read_dir(format!("/proc/{process}/task")) else {
        return 0;
    };
    tasks
        .filter_map(|task| fs::read_to_string(task.ok()?.path().join("status")).ok())
        .filter_map(|status| {
            let line = status
                .lines()
                .find(|line| line.starts_with("voluntary_ctxt_switches"))?;
            line.split_whitespace().nth(1)?.parse::<u64>().ok()
        })
        .sum()
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
    fn sleeping_is_counted() {
        let before = sleeps(std::process::id());
        std::thread::sleep(std::time::Duration::from_millis(2));
        assert!(sleeps(std::process::id()) > before);
    }
}
