// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Memory shared by fork and then written, and processes that end with their pages swapped out.

use crate::options::Options;
use crate::region::{Huge, Region};
use crate::report::{Report, elapsed_ms};
use std::io::Error;
use std::time::Instant;

/// Exit code of a child that found wrong bytes.
const WRONG_BYTES: i32 = 3;

/// Runs `work` in a child process, which ends with the code that it returns.
fn spawn(work: impl FnOnce() -> i32) -> Result<libc::pid_t, String> {
    // SAFETY: this program has one thread, so the child may go on as if nothing had happened.
    match unsafe { libc::fork() } {
        -1 => Err(format!("cannot fork: {}", Error::last_os_error())),
        0 => {
            let code = work();
            // SAFETY: ends this child at once; there is nothing in it to drop or flush.
            unsafe { libc::_exit(code) }
        }
        child => Ok(child),
    }
}

/// Waits for `child` and returns the raw wait status.
fn wait(child: libc::pid_t) -> Result<libc::c_int, String> {
    let mut status = 0;
    // SAFETY: `status` is a live integer for the call to write.
    let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
    if waited == child {
        Ok(status)
    } else {
        Err(format!(
            "cannot wait for process {child}: {}",
            Error::last_os_error()
        ))
    }
}

/// Checks the shared pages and rewrites one page in `stride`, from `first` on, twice over.
///
/// Returns the pages that were wrong, either the untouched ones or the ones just written.
fn write_own_share(region: &mut Region, parent: u64, own: u64, first: usize, stride: usize) -> u64 {
    let mut wrong = 0;
    for number in 0..region.pages() {
        region.verify(number, parent, 0, &mut wrong);
        if number % stride == first {
            region.write(number, own, 0);
        }
    }
    for number in 0..region.pages() {
        let seed = if number % stride == first {
            own
        } else {
            parent
        };
        region.verify(number, seed, 0, &mut wrong);
    }
    wrong
}

/// A parent fills `--mib`; `--children` children and the parent itself each rewrite pages of their
/// own, and each then sees its own writes and nobody else's.
pub(crate) fn fork_and_write(options: &Options) -> Result<Report, String> {
    let seed: u64 = options.required("seed")?;
    let children: usize = options.number("children", 3)?;
    let mut region = Region::map(options.required("mib")?, Huge::Default)?;
    let mut report = Report::default();
    let start = Instant::now();
    for number in 0..region.pages() {
        region.write(number, seed, 0);
    }
    // Each process, the parent included, rewrites one page in `children + 1`, and overlaps none:
    // what another one reads there must still be the parent's first version.
    let stride = children + 1;
    let mut spawned = Vec::new();
    for child in 0..children {
        spawned.push(spawn(|| {
            let own = seed.wrapping_add(1 + child as u64);
            if write_own_share(&mut region, seed, own, child, stride) == 0 {
                0
            } else {
                WRONG_BYTES
            }
        })?);
    }
    let own = seed.wrapping_sub(1);
    report.mismatches += write_own_share(&mut region, seed, own, children, stride);
    for child in spawned {
        let status = wait(child)?;
        if libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == WRONG_BYTES {
            report.mismatches += 1;
        } else if status != 0 {
            return Err(format!("child {child} ended with wait status {status:#x}"));
        }
    }
    report.count("pages", region.pages() as u64);
    report.count("processes", stride as u64);
    report.count("elapsed_ms", elapsed_ms(start));
    Ok(report)
}

/// `--rounds` times: `--processes` processes together fill `--mib`, check it, and end: every other
/// one by itself, the rest by SIGKILL, all with their pages swapped out.
pub(crate) fn storm(options: &Options) -> Result<Report, String> {
    let seed: u64 = options.required("seed")?;
    let mib: usize = options.required("mib")?;
    let processes: usize = options.number("processes", 6)?;
    let rounds: usize = options.number("rounds", 3)?;
    let share = (mib / processes.max(1)).max(1);
    let mut report = Report::default();
    let start = Instant::now();
    for round in 0..rounds {
        let mut spawned = Vec::new();
        for process in 0..processes {
            let own = seed.wrapping_add((round * processes + process) as u64);
            spawned.push(spawn(|| fill_check_and_end(share, own, process % 2 == 1))?);
        }
        for child in spawned {
            let status = wait(child)?;
            let killed = libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGKILL;
            if libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == WRONG_BYTES {
                report.mismatches += 1;
            } else if status != 0 && !killed {
                return Err(format!(
                    "process {child} ended with wait status {status:#x}"
                ));
            }
        }
    }
    report.count("pages", (rounds * processes * share * 256) as u64);
    report.count("processes", (rounds * processes) as u64);
    report.count("elapsed_ms", elapsed_ms(start));
    Ok(report)
}

fn fill_check_and_end(mib: usize, seed: u64, killed: bool) -> i32 {
    let mut wrong = 0;
    let Ok(mut region) = Region::map(mib, Huge::Default) else {
        return 1;
    };
    for number in 0..region.pages() {
        region.write(number, seed, 0);
    }
    for number in (0..region.pages()).step_by(3) {
        region.verify(number, seed, 0, &mut wrong);
    }
    if wrong != 0 {
        return WRONG_BYTES;
    }
    if killed {
        // SAFETY: asks for the end of this very process.
        let own = unsafe { libc::getpid() };
        // SAFETY: as above; the call does not return when it works.
        unsafe { libc::kill(own, libc::SIGKILL) };
    }
    0
}
