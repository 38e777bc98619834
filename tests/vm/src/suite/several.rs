// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Several devices in one guest, and several disks of one device: each can be swapped off alone, so
//! that what the guest has on the host can shrink.

use super::Figure;
use crate::bench::{Bench, Figures, LONG, MEMORY_MIB, QUICK, available_mib, number};
use crate::daemon::Daemon;
use crate::guest::Guest;
use crate::load;
use anyhow::{Context, Result, ensure};
use std::time::{Duration, Instant};

/// Time for freed pages to be flushed.
const SETTLE: Duration = Duration::from_secs(30);
/// Pages that an area must have before it is swapped off for that to mean something.
const HELD_PAGES_MIN: u64 = 1000;
/// Disks of one device.
const DISKS: u32 = 4;

/// Two devices share the load; one of them is given up while a program has pages on both.
pub(super) fn two_devices(bench: &Bench<'_>) -> Result<Vec<Figure>> {
    let daemon = bench.daemon(&["vm0", "vm1"])?;
    let mut guest = bench.boot_as(&daemon, &["vm0", "vm1"], MEMORY_MIB)?;
    swap_on_all(&mut guest, &["vtmem0", "vtmem1"], "")?;
    hold(&mut guest, bench.seed)?;
    let held = ["vm0", "vm1"].map(|name| daemon.pages(name));
    let [first, second] = held;
    let (first, second) = (first?, second?);
    ensure!(
        first > HELD_PAGES_MIN && second > HELD_PAGES_MIN,
        "The two hold {first} and {second} pages"
    );
    let start = Instant::now();
    guest.run("swapoff /dev/vtmem1", LONG)?.ok()?;
    let swapoff_ms = u64::try_from(start.elapsed().as_millis())?;
    // The swap area's header is all that is left; the device that stays took the pages.
    let left = wait_for_pages(1, || Ok(daemon.pages("vm1")?))?;
    let grown = daemon.pages("vm0")?;
    // The other device goes on when the first is unbound.
    guest
        .run(
            "device=$(basename $(readlink -f /sys/block/vtmem1/device)) && \
             echo $device >/sys/bus/virtio/drivers/virtio_tmem/unbind && test ! -e /sys/block/vtmem1",
            QUICK,
        )?
        .ok()?;
    let gone = daemon.pages("vm1")?;
    ensure!(
        gone == 0,
        "The host holds {gone} pages of an unbound device"
    );
    let result = load::check_held(&mut guest)?;
    guest.shut_down()?;
    daemon.shut_down()?;
    Ok(vec![
        ("pages_on_first", first),
        ("pages_on_second", second),
        ("swapoff_ms", swapoff_ms),
        ("pages_left_on_second", left),
        ("pages_then_on_first", grown),
        ("pages_checked", number(&result, "pages")?),
    ])
}

/// One device makes four disks; one after the other is given back, and taken again.
pub(super) fn four_disks(bench: &Bench<'_>) -> Result<Vec<Figure>> {
    let daemon = bench.daemon(&["vm0"])?;
    let mut guest = bench.boot(&daemon, "vm0", MEMORY_MIB)?;
    let names = ["vtmem0", "vtmem1", "vtmem2", "vtmem3"];
    swap_on_all(&mut guest, &names, &format!("disks={DISKS}"))?;
    let pools = daemon.pools("vm0")?;
    ensure!(
        pools.len() == names.len(),
        "{} disks have {} pools",
        names.len(),
        pools.len()
    );
    hold(&mut guest, bench.seed)?;
    let full = daemon.pages("vm0")?;
    let mut moved = 0;
    for id in [4, 3] {
        let before = pages_of_pool(&daemon, id)?;
        ensure!(
            before > HELD_PAGES_MIN,
            "Pool {id} holds only {before} pages"
        );
        moved += before;
        let disk = names[id as usize - 1];
        guest.run(&format!("swapoff /dev/{disk}"), LONG)?.ok()?;
        // The header remains until the disk is discarded.
        wait_for_pages(1, || pages_of_pool(&daemon, id))?;
        guest
            .run(&format!("blkdiscard -f /dev/{disk}"), QUICK)?
            .ok()?;
        wait_for_pages(0, || pages_of_pool(&daemon, id))?;
    }
    let shrunk = daemon.pages("vm0")?;
    guest
        .run("mkswap /dev/vtmem3 && swapon /dev/vtmem3", QUICK)?
        .ok()?;
    let result = load::check_held(&mut guest)?;
    let driver = Figures::of(&mut guest)?;
    for count in ["refused", "errors", "corrupt"] {
        let value = driver.driver(count)?;
        ensure!(value == 0, "The driver counts {value} pages {count}");
    }
    guest.shut_down()?;
    daemon.shut_down()?;
    Ok(vec![
        ("disks", u64::from(DISKS)),
        ("pages_on_host", full),
        ("pages_of_areas_given_back", moved),
        ("pages_on_host_then", shrunk),
        ("pages_checked", number(&result, "pages")?),
    ])
}

/// Swaps to all `disks` alike, with the driver's parameters `parameters`.
fn swap_on_all(guest: &mut Guest, disks: &[&str], parameters: &str) -> Result<()> {
    let list = disks.join(" ");
    guest
        .run(
            &format!(
                "DISKS='{list}' tmem-swap-on {parameters} && \
                 for disk in {list}; do swapoff /dev/$disk && swapon -p 5 /dev/$disk; done"
            ),
            QUICK,
        )?
        .ok()?;
    Ok(())
}

/// Starts a program with more pages than the guest has memory, which holds them.
fn hold(guest: &mut Guest, seed: u64) -> Result<()> {
    let mib = available_mib(guest, 130)?;
    load::start_holding(guest, mib, seed)?;
    load::wait_until_held(guest)
}

fn pages_of_pool(daemon: &Daemon, id: u32) -> Result<u64> {
    let pools = daemon.pools("vm0")?;
    let pool = pools.iter().find(|pool| pool.id == id);
    Ok(pool
        .with_context(|| format!("There is no pool {id}"))?
        .pages)
}

/// Waits until there are at most `at_most` pages; freed ones are flushed a little later.
fn wait_for_pages(at_most: u64, pages: impl Fn() -> Result<u64>) -> Result<u64> {
    let start = Instant::now();
    loop {
        let now = pages()?;
        if now <= at_most {
            return Ok(now);
        }
        ensure!(
            start.elapsed() < SETTLE,
            "The host still holds {now} pages, and {at_most} at most should be left"
        );
        std::thread::sleep(Duration::from_millis(100));
    }
}
