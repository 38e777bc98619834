// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Programs that outgrow the guest's memory, and what is left on the host when they are gone.

use super::Figure;
use crate::bench::{Bench, Figures, LONG, available_mib, number, settled, workload};
use crate::daemon::Daemon;
use crate::guest::Guest;
use anyhow::{Result, ensure};
use tmem_admin_api::{Op, PageResult};

/// One process with 1.6 times the free memory, in random order.
pub(super) fn pages_come_back(bench: &Bench<'_>) -> Result<Vec<Figure>> {
    let (daemon, mut guest) = bench.swapping()?;
    let mib = available_mib(&guest, 160)?;
    let result = workload(
        &mut guest,
        &format!("pages --mib {mib} --seed {} --passes 1", bench.seed),
    )?;
    let left = settled(&daemon, &mut guest, "vm0")?;
    let mut figures = agreed_counts(&daemon, &mut guest)?;
    accounts_add_up(&daemon)?;
    guest.shut_down()?;
    daemon.shut_down()?;
    figures.extend([
        ("pages_of_process", number(&result, "pages")?),
        ("fill_ms", number(&result, "fill_ms")?),
        ("random_pass_ms", number(&result, "passes_ms")?),
        ("verify_ms", number(&result, "verify_ms")?),
        ("pages_left_on_host", left),
    ]);
    Ok(figures)
}

/// What the driver counts and what the daemon counts, which must be the same.
fn agreed_counts(daemon: &Daemon, guest: &mut Guest) -> Result<Vec<Figure>> {
    let driver = Figures::of(guest)?;
    let host = daemon.stats("vm0")?;
    let put = host.pages_of(Op::Put, PageResult::Ok);
    let got = host.pages_of(Op::Get, PageResult::Ok);
    ensure!(
        driver.driver("pages_put")? == put,
        "The driver counts {} pages put, the daemon {put}",
        driver.driver("pages_put")?
    );
    ensure!(
        driver.driver("pages_got")? == got,
        "The driver counts {} pages got, the daemon {got}",
        driver.driver("pages_got")?
    );
    for count in ["refused", "errors", "corrupt"] {
        let value = driver.driver(count)?;
        ensure!(value == 0, "The driver counts {value} pages {count}");
    }
    ensure!(
        host.malformed_total() == 0,
        "Malformed: {:?}",
        host.malformed
    );
    ensure!(
        put > 0 && got > 0,
        "{put} pages put, {got} got: nothing was swapped"
    );
    Ok(vec![
        ("pages_put", put),
        ("pages_got", got),
        ("pages_flushed", driver.driver("pages_flushed")?),
        ("get_p50_us_in_guest", driver.driver("get_p50_ns")? / 1000),
        ("get_p99_us_in_guest", driver.driver("get_p99_ns")? / 1000),
        ("get_p50_us_on_host", host.latency.get.p50_ns / 1000),
        ("get_p99_us_on_host", host.latency.get.p99_ns / 1000),
    ])
}

/// The daemon's totals are the sums of its parts.
fn accounts_add_up(daemon: &Daemon) -> Result<()> {
    let pools = daemon.pools("vm0")?;
    let status = daemon.status()?;
    let held: u64 = pools.iter().map(|pool| pool.pages).sum();
    let frames: u64 = pools.iter().map(|pool| pool.frames).sum();
    let same: u64 = pools.iter().map(|pool| pool.same_filled).sum();
    ensure!(
        (held, frames, same)
            == (
                status.pages.held,
                status.pages.frames,
                status.pages.same_filled
            ),
        "Pools hold {held} pages ({frames} in frames, {same} same-filled), status says {:?}",
        status.pages
    );
    ensure!(held == frames + same, "{held} is not {frames} + {same}");
    ensure!(
        status.memory.frames_bytes == frames * tmem_admin_api::PAGE_BYTES,
        "{frames} pages in frames take {} bytes",
        status.memory.frames_bytes
    );
    Ok(())
}

/// A file of 1.4 times the free memory, written to a tmpfs, then read back twice.
pub(super) fn tmpfs_file(bench: &Bench<'_>) -> Result<Vec<Figure>> {
    let (daemon, mut guest) = bench.swapping()?;
    let mib = available_mib(&guest, 140)?;
    let result = workload(
        &mut guest,
        &format!(
            "file --path /dev/shm/file --mib {mib} --seed {} --passes 2",
            bench.seed
        ),
    )?;
    let on_host = settled(&daemon, &mut guest, "vm0")?;
    ensure!(
        on_host > mib * 256 / 5,
        "Only {on_host} pages are on the host"
    );
    guest.run("rm /dev/shm/file", LONG)?.ok()?;
    let left = settled(&daemon, &mut guest, "vm0")?;
    ensure!(left < on_host / 2, "{left} pages stayed of {on_host}");
    guest.shut_down()?;
    daemon.shut_down()?;
    Ok(vec![
        ("file_pages", number(&result, "pages")?),
        ("write_ms", number(&result, "write_ms")?),
        ("read_ms", number(&result, "read_ms")?),
        ("pages_on_host", on_host),
        ("pages_left_on_host", left),
    ])
}

/// Processes that fill 1.5 times the free memory together and end, round after round.
pub(super) fn process_storm(bench: &Bench<'_>) -> Result<Vec<Figure>> {
    let (daemon, mut guest) = bench.swapping()?;
    let mib = available_mib(&guest, 150)?;
    let result = workload(
        &mut guest,
        &format!(
            "storm --mib {mib} --seed {} --processes 6 --rounds 3",
            bench.seed
        ),
    )?;
    let left = settled(&daemon, &mut guest, "vm0")?;
    let put = daemon.stats("vm0")?.pages_of(Op::Put, PageResult::Ok);
    let flushed = Figures::of(&mut guest)?.driver("pages_flushed")?;
    ensure!(put > 1000, "Only {put} pages were put");
    ensure!(
        flushed > put / 4,
        "{flushed} pages were flushed of {put} that were put by processes now gone"
    );
    guest.shut_down()?;
    daemon.shut_down()?;
    Ok(vec![
        ("processes", number(&result, "processes")?),
        ("pages_put", put),
        ("pages_flushed", flushed),
        ("pages_left_on_host", left),
        ("elapsed_ms", number(&result, "elapsed_ms")?),
    ])
}
