// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Runs one workload, shows what happens on the host meanwhile, and takes its figures.

use std::time::Instant;

use anyhow::Result;
use tmem_admin_api::{GuestStats, Histogram, Op, PAGE_BYTES, PageResult};
use tmem_vm_tests::bench::get_latency;
use tmem_vm_tests::daemon::Daemon;
use tmem_vm_tests::guest::Guest;
use vm_images::{Progress, Step};

use super::GUEST;
use super::report::{Latency, Run};
use super::stores::Cast;
use super::workloads::Workload;

/// Pages moved so far, and where they are.
#[derive(Clone, Copy, Default)]
struct Moved {
    put: u64,
    got: u64,
    flushed: u64,
}

impl Moved {
    fn of(stats: &GuestStats) -> Self {
        let flushes = [Op::Flush, Op::FlushObject, Op::FlushPool];
        Self {
            put: stats.pages_of(Op::Put, PageResult::Ok),
            got: stats.pages_of(Op::Get, PageResult::Ok),
            flushed: flushes
                .iter()
                .map(|&op| stats.pages_of(op, PageResult::Ok))
                .sum(),
        }
    }
}

/// Looks at the daemon while a workload runs.
struct Watch<'a> {
    daemon: &'a Daemon,
    cast: &'a mut Cast,
    progress: &'a Progress,
    step: Step,
    before: Moved,
    seen: Instant,
    peak_pages: u64,
}

impl Watch<'_> {
    /// Shows pages on the host and what moves. What the daemon does not answer is not shown; it
    /// is asked again when the workload has ended, and has to answer then.
    fn tick(&mut self) {
        let (Ok(stats), Ok(pages)) = (self.daemon.stats(GUEST), self.daemon.pages(GUEST)) else {
            return;
        };
        let now = Moved::of(&stats);
        let seconds = self.seen.elapsed().as_secs_f64();
        self.peak_pages = self.peak_pages.max(pages);
        let rate = |now: u64, before: u64| thousands(now.saturating_sub(before)) / seconds;
        let stores = self.cast.tick(self.daemon, self.progress);
        self.step.update(&format!(
            "{} MiB on the host and the stores; put {:.1}, got {:.1}, flushed {:.1} thousand pages/s; {stores}",
            (pages * PAGE_BYTES) >> 20,
            rate(now.put, self.before.put),
            rate(now.got, self.before.got),
            rate(now.flushed, self.before.flushed),
        ));
        self.before = now;
        self.seen = Instant::now();
    }
}

fn thousands(pages: u64) -> f64 {
    f64::from(u32::try_from(pages).unwrap_or(u32::MAX)) / 1000.0
}

/// Runs `workload` with `mib` MiB.
pub(super) fn run(
    workload: &Workload,
    mib: u64,
    (daemon, cast): (&Daemon, &mut Cast),
    guest: &mut Guest,
    progress: &Progress,
) -> Result<Run> {
    progress.line(&format!("{}: {}", workload.name, workload.about));
    let host_before = daemon.stats(GUEST)?;
    let guest_before = get_latency(guest)?;
    let before = Moved::of(&host_before);
    let start = Instant::now();
    let mut watch = Watch {
        daemon,
        cast,
        progress,
        step: progress.step(workload.name),
        before,
        seen: start,
        peak_pages: 0,
    };
    let mismatches = (workload.run)(guest, mib, &mut || watch.tick())?;
    let seconds = start.elapsed().as_secs_f64();
    let peak_pages = watch.peak_pages.max(daemon.pages(GUEST)?);
    watch.step.done(&format!("{mismatches} mismatches"));
    let host_after = daemon.stats(GUEST)?;
    let after = Moved::of(&host_after);
    let latency = |after: &Histogram, before: &Histogram| {
        let during = after.since(before);
        Latency {
            p50_ns: during.p50_ns,
            p99_ns: during.p99_ns,
        }
    };
    Ok(Run {
        name: workload.name,
        mib,
        seconds,
        mismatches,
        pages_put: after.put - before.put,
        pages_got: after.got - before.got,
        pages_flushed: after.flushed - before.flushed,
        bytes_on_host_peak: peak_pages * PAGE_BYTES,
        get_in_guest: latency(&get_latency(guest)?, &guest_before),
        get_on_host: latency(&host_after.latency.get, &host_before.latency.get),
    })
}
