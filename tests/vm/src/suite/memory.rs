// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Shapes of memory: shared by fork, huge, small.

use super::Figure;
use crate::bench::{Bench, Figures, QUICK, available_mib, number, settled, workload};
use crate::guest::Guest;
use anyhow::{Result, ensure};

/// A parent with most of the free memory and three children, each rewriting its share.
pub(super) fn fork(bench: &Bench<'_>) -> Result<Vec<Figure>> {
    let (daemon, mut guest) = bench.swapping()?;
    let mib = available_mib(&guest, 80)?;
    let result = workload(
        &mut guest,
        &format!("fork --mib {mib} --seed {} --children 3", bench.seed),
    )?;
    let after = Figures::of(&mut guest)?;
    let (put, got) = (after.driver("pages_put")?, after.driver("pages_got")?);
    ensure!(put > 1000 && got > 0, "{put} pages put, {got} got");
    let left = settled(&daemon, &mut guest, "vm0")?;
    guest.shut_down()?;
    daemon.shut_down()?;
    Ok(vec![
        ("pages_shared", number(&result, "pages")?),
        ("pages_put", put),
        ("pages_got", got),
        ("pages_left_on_host", left),
        ("elapsed_ms", number(&result, "elapsed_ms")?),
    ])
}

/// Huge pages wherever the kernel has them.
pub(super) fn huge_on(bench: &Bench<'_>) -> Result<Vec<Figure>> {
    with_huge_pages(bench, "always", "on", |large| {
        ensure!(large > 0, "No large folio was swapped out whole");
        Ok(())
    })
}

/// No huge pages at all.
pub(super) fn huge_off(bench: &Bench<'_>) -> Result<Vec<Figure>> {
    with_huge_pages(bench, "never", "off", |large| {
        ensure!(large == 0, "{large} large folios were swapped out");
        Ok(())
    })
}

/// Runs the workload with huge pages set to `system` and advised `advice`, and hands the number of
/// large folios that were swapped out whole to `check`.
fn with_huge_pages(
    bench: &Bench<'_>,
    system: &str,
    advice: &str,
    check: fn(u64) -> Result<()>,
) -> Result<Vec<Figure>> {
    let (daemon, mut guest) = bench.swapping()?;
    set_huge_pages(&mut guest, system)?;
    let mib = available_mib(&guest, 150)?;
    let result = workload(
        &mut guest,
        &format!(
            "pages --mib {mib} --seed {} --passes 0 --huge {advice}",
            bench.seed
        ),
    )?;
    let after = Figures::of(&mut guest)?;
    let large = after.kernel("large_swpout")?;
    check(large)?;
    let left = settled(&daemon, &mut guest, "vm0")?;
    guest.shut_down()?;
    daemon.shut_down()?;
    Ok(vec![
        ("large_folios_out", large),
        ("put_requests", after.driver("put_batches")?),
        ("pages_put", after.driver("pages_put")?),
        ("pages_got", after.driver("pages_got")?),
        ("fill_ms", number(&result, "fill_ms")?),
        ("verify_ms", number(&result, "verify_ms")?),
        ("pages_left_on_host", left),
    ])
}

fn set_huge_pages(guest: &mut Guest, to: &str) -> Result<()> {
    let folder = "/sys/kernel/mm/transparent_hugepage";
    guest
        .run(
            &format!("echo {to} >{folder}/enabled && echo {to} >{folder}/hugepages-64kB/enabled"),
            QUICK,
        )?
        .ok()?;
    Ok(())
}
