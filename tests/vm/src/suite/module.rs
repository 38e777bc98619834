// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Loading and unloading the driver.

use super::Figure;
use crate::bench::{Bench, LONG, MEMORY_MIB, QUICK, available_mib, settled, workload};
use crate::load;
use anyhow::{Context, Result, ensure};
use std::time::{Duration, Instant};

const MODULE: &str = "virtio_tmem";
/// Pages that a process must have on the host for a test of `swapoff` to mean something.
const HELD_PAGES_MIN: u64 = 2000;

/// The module describes itself, loads by alias and by name, and leaves nothing behind.
pub(super) fn loads_and_unloads(bench: &Bench<'_>) -> Result<Vec<Figure>> {
    let daemon = bench.daemon(&["vm0"])?;
    let mut guest = bench.boot(&daemon, "vm0", MEMORY_MIB)?;

    let info = guest.run(&format!("modinfo {MODULE}"), QUICK)?.ok()?;
    let field = |name: &str| {
        info.lines
            .iter()
            .filter(|line| line.starts_with(&format!("{name}:")))
            .count()
    };
    for name in ["license", "description", "alias", "vermagic"] {
        ensure!(field(name) > 0, "modinfo names no {name}: {}", info.text());
    }
    let described = |line: &&String| {
        let parameter = line.strip_prefix("parm:").map(str::trim);
        parameter
            .and_then(|text| text.split_once(':'))
            .is_some_and(|(_, about)| about.len() > "(u32)".len())
    };
    let parameters = info.lines.iter().filter(described).count();
    ensure!(
        parameters > 0 && parameters == field("parm"),
        "modinfo describes {parameters} parameters of {}",
        field("parm")
    );

    guest.run("tmem-swap-on", QUICK)?.ok()?;
    let epoch = daemon.guest("vm0")?.epoch;
    ensure!(epoch.is_some(), "The driver loaded, yet never said HELLO");
    let disk = guest.run("cat /sys/block/vtmem0/size", QUICK)?.ok()?.text();
    let sectors: u64 = disk.trim().parse().context("The disk has no size")?;
    guest.run("swapoff /dev/vtmem0", QUICK)?.ok()?;
    guest.run(&format!("rmmod {MODULE}"), QUICK)?.ok()?;
    let gone = guest.run(
        &format!("test ! -e /sys/block/vtmem0 && ! grep -q {MODULE} /proc/modules"),
        QUICK,
    )?;
    gone.ok().context("The unloaded module is still there")?;

    guest.run(&format!("modprobe {MODULE}"), QUICK)?.ok()?;
    guest.run(&format!("rmmod {MODULE}"), QUICK)?.ok()?;
    guest.shut_down()?;
    daemon.shut_down()?;
    Ok(vec![
        ("parameters", parameters as u64),
        ("disk_mib", sectors / 2048),
    ])
}

/// While pages are on the host, `rmmod` is refused; `swapoff` brings all of them back.
pub(super) fn in_use_stays(bench: &Bench<'_>) -> Result<Vec<Figure>> {
    let (daemon, mut guest) = bench.swapping()?;
    let seed = bench.seed;
    let empty = daemon.pages("vm0")?;
    // One process takes 2/5 of the memory and waits; another takes more than all of it and ends.
    let held_mib = available_mib(&guest, 40)?;
    load::start_holding(&mut guest, held_mib, seed)?;
    load::wait_until_held(&mut guest)?;
    let hog_mib = available_mib(&guest, 130)?;
    workload(
        &mut guest,
        &format!(
            "pages --mib {hog_mib} --seed {} --passes 0",
            seed.wrapping_add(1)
        ),
    )?;
    let held = settled(&daemon, &mut guest, "vm0")?;
    ensure!(held > HELD_PAGES_MIN, "Only {held} pages are on the host");

    let same: u64 = daemon
        .pools("vm0")?
        .iter()
        .map(|pool| pool.same_filled)
        .sum();
    ensure!(same > 0, "The workload's same-filled pages take frames");

    let refused = guest.run(&format!("rmmod {MODULE}"), QUICK)?;
    ensure!(refused.status != 0, "rmmod removed a module in use");
    let start = Instant::now();
    guest.run("swapoff /dev/vtmem0", LONG)?.ok()?;
    let swapoff_ms = u64::try_from(start.elapsed().as_millis())?;
    let left = wait_for_pages(&daemon, empty)?;
    let result = load::check_held(&mut guest)?;
    guest.run(&format!("rmmod {MODULE}"), QUICK)?.ok()?;
    let after_rmmod = wait_for_pages(&daemon, 0)?;
    guest.shut_down()?;
    daemon.shut_down()?;
    Ok(vec![
        ("pages_on_host", held),
        ("same_filled_pages", same),
        ("pages_checked", crate::bench::number(&result, "pages")?),
        ("swapoff_ms", swapoff_ms),
        ("pages_after_swapoff", left),
        ("pages_after_rmmod", after_rmmod),
    ])
}

/// Waits until the host holds `at_most` pages of `vm0`; freed pages are flushed a little later.
fn wait_for_pages(daemon: &crate::daemon::Daemon, at_most: u64) -> Result<u64> {
    let start = Instant::now();
    loop {
        let pages = daemon.pages("vm0")?;
        if pages <= at_most {
            return Ok(pages);
        }
        ensure!(
            start.elapsed() < Duration::from_secs(30),
            "The host still holds {pages} pages, and {at_most} at most should be left"
        );
        std::thread::sleep(Duration::from_millis(100));
    }
}
