// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A guest gives its memory back to the host: counted in the file that the memory is, not by anybody's
//! word, while a program in it holds twice as much as it is left with.

use super::Figure;
use crate::bench::{Bench, Figures, QUICK, number};
use crate::daemon::Daemon;
use crate::guest::Guest;
use crate::load;
use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{FallocateFlags, fallocate};
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};
use tmem_admin_api::{Balloon, BalloonDriver, PAGE_BYTES};

const GUEST: &str = "vm0";
/// The guest's memory, what a program keeps warm in it, and what it is squeezed to.
const MEMORY_MIB: u32 = 1024;
const WARM_MIB: u64 = 600;
const LEFT_MIB: u64 = 300;
/// Its swap disk has to take what no longer fits. The host has less, and needs no more for what comes.
const GRANT: &str = "768MiB";
/// How far the file and the balloon may be apart.
const PERCENT: u64 = 2;
/// For the squeeze, on an emulated CPU of a busy machine.
const SQUEEZE_S: &str = "400";
const TOLD: Duration = Duration::from_secs(30);

/// Squeezes a guest of 1 GiB with 600 MiB of warm data to 300 MiB, and gives it everything back.
pub(super) fn squeezed(bench: &Bench<'_>) -> Result<Vec<Figure>> {
    let daemon = bench.daemon_with(&[GUEST], "overcommit = true", false)?;
    daemon.tell(&["guest", "limit", GUEST, "--grant", GRANT])?;
    let mut guest = bench.boot(&daemon, GUEST, MEMORY_MIB)?;
    // Without reports of free pages nothing but the balloon takes pages out of the file.
    guest.run("tmem-swap-on reporting=0", QUICK)?.ok()?;
    load::start_holding(&mut guest, WARM_MIB, bench.seed)?;
    load::wait_until_held(&mut guest)?;
    wait_for_statistics(&daemon)?;
    let ooms = oom_kills(&mut guest)?;

    let memory_mib = bench.memory_mib(MEMORY_MIB);
    let file = memory_file(&daemon, memory_mib)?;
    fill(&file, memory_mib)?;
    let before = pages_of(&file)?;
    let start = Instant::now();
    // What the debug kernel has more, it needs for itself.
    let left_mib = LEFT_MIB + u64::from(memory_mib - MEMORY_MIB);
    let left = format!("{left_mib}MiB");
    daemon.tell(&[
        "balloon",
        "set",
        GUEST,
        &left,
        "--wait",
        "--timeout",
        SQUEEZE_S,
    ])?;
    let squeezed = start.elapsed();
    let small = balloon(&daemon)?;
    let after = pages_of(&file)?;
    let shrunk = before.saturating_sub(after);
    println!(
        "     the balloon holds {} pages after {squeezed:.1?}; the memory's file went from {before} to \
         {after} pages: {shrunk} fewer",
        small.held_pages
    );
    ensure!(
        small.size_pages * PAGE_BYTES == left_mib << 20,
        "The guest keeps {} pages",
        small.size_pages
    );
    let apart = shrunk.abs_diff(small.held_pages);
    ensure!(
        apart * 100 <= small.held_pages * PERCENT,
        "The balloon holds {} pages, and the file shrank by {shrunk}",
        small.held_pages
    );
    let swapped = Figures::of(&mut guest)?.swap_used_pages()?;
    ensure!(swapped > 0, "A guest this small has swapped nothing");

    let start = Instant::now();
    daemon.tell(&[
        "balloon",
        "set",
        GUEST,
        "max",
        "--wait",
        "--timeout",
        SQUEEZE_S,
    ])?;
    let returned = start.elapsed();
    let result = load::check_held(&mut guest)?;
    let large = balloon(&daemon)?;
    ensure!(
        (large.held_pages, large.size_pages) == (0, large.memory_pages),
        "The balloon still holds {} pages",
        large.held_pages
    );
    ensure!(
        oom_kills(&mut guest)? == ooms,
        "The guest's kernel killed a task for want of memory"
    );
    guest.shut_down()?;
    daemon.shut_down()?;
    Ok(vec![
        ("held_pages", small.held_pages),
        ("file_pages_before", before),
        ("file_pages_squeezed", after),
        ("file_shrunk_pages", shrunk),
        ("apart_per_mille", apart * 1000 / small.held_pages.max(1)),
        ("swapped_pages", swapped),
        ("squeeze_ms", u64::try_from(squeezed.as_millis())?),
        ("return_ms", u64::try_from(returned.as_millis())?),
        ("verify_ms", number(&result, "verify_ms")?),
    ])
}

/// Has the host give the guest all of its memory, as a VMM does that is told to preallocate it: what the
/// guest has never touched would not be there to be given back.
fn fill(file: &File, memory_mib: u32) -> Result<()> {
    let size = u64::from(memory_mib) << 20;
    fallocate(file, FallocateFlags::empty(), 0, size).context("Cannot fill the memory's file")
}

fn oom_kills(guest: &mut Guest) -> Result<u64> {
    let output = guest.run("grep -w oom_kill /proc/vmstat", QUICK)?.ok()?;
    let text = output.text();
    let count = text.split_whitespace().nth(1);
    let count = count.with_context(|| format!("No count: {text}"))?;
    Ok(count.parse()?)
}

fn balloon(daemon: &Daemon) -> Result<Balloon> {
    let balloons = daemon.balloons()?.balloons.into_iter();
    let mut of_guest = balloons.filter(|balloon| balloon.guest == GUEST);
    of_guest.next().context("The guest has no balloon")
}

fn wait_for_statistics(daemon: &Daemon) -> Result<()> {
    let start = Instant::now();
    while balloon(daemon)?.driver != BalloonDriver::Works {
        ensure!(start.elapsed() < TOLD, "The driver tells no statistics");
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// Pages of the memory's file that are there, by the host's kernel.
fn pages_of(file: &File) -> Result<u64> {
    let blocks = file
        .metadata()
        .context("Cannot look at the memory's file")?;
    Ok(blocks.blocks() * 512 / PAGE_BYTES)
}

/// The file that is the guest's memory: the worker has it open.
fn memory_file(daemon: &Daemon, memory_mib: u32) -> Result<File> {
    let worker = daemon.worker().context("There is no worker")?;
    let folder = format!("/proc/{}/fd", worker.id());
    let read = || format!("Cannot read {folder}");
    for entry in std::fs::read_dir(&folder).with_context(read)? {
        let path = entry.with_context(read)?.path();
        let size = u64::from(memory_mib) << 20;
        // Through the link: the file has no name any more.
        if let Ok(file) = std::fs::metadata(&path)
            && file.len() == size
            && std::fs::read_link(&path)
                .is_ok_and(|to| to.to_string_lossy().contains("memory-backend"))
        {
            let file = File::options().read(true).write(true).open(&path);
            return file.with_context(|| format!("Cannot open {}", path.display()));
        }
    }
    bail!("The worker has no file of {memory_mib} MiB open")
}
