// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A device that asks for a reset, sometimes and too often.

use super::Figure;
use super::lifecycle::{virtio_device, wait_for_resets};
use crate::bench::{
    Bench, Figures, LONG, QUICK, available_mib, number, settled, swap_on, workload,
};
use crate::guest::Guest;
use crate::load;
use anyhow::{Result, ensure};
use std::time::{Duration, Instant};

const DRIVER: &str = "/sys/bus/virtio/drivers/virtio_tmem";
/// Resets that the device asks for while programs have pages on it.
const ASKED: u64 = 3;
/// So many in a minute are borne, the next one is not.
const BORNE: u64 = 10;
/// Longer than that minute.
const FORGOTTEN: Duration = Duration::from_secs(61);
/// What the driver says of each reset, and of the last.
const RESET: &str = "the device is reset, as it asks for it";
const GIVEN_UP: &str = "the device is given up";
/// What the kernel says of a disk that is given up.
const LOSSES: &[&str] = &["I/O error"];
/// Pages that must be on the host for a reset to mean anything.
const HELD_MIN: u64 = 4000;

/// The device asks for a reset while the host holds pages, and they are all there afterwards. Then it asks
/// for more than the driver bears: what waits for it fails, nothing hangs, and bound again it works.
pub(super) fn asked_for(bench: &Bench<'_>) -> Result<Vec<Figure>> {
    let (daemon, mut guest) = bench.swapping()?;
    let device = virtio_device(&mut guest)?;
    let mib = available_mib(&guest, 130)?;
    load::start_holding(&mut guest, mib, bench.seed)?;
    load::wait_until_held(&mut guest)?;
    let held = settled(&daemon, &mut guest, "vm0")?;
    ensure!(held > HELD_MIN, "Only {held} pages are on the host");
    let mut longest = Duration::ZERO;
    for resets in 1..=ASKED {
        let start = Instant::now();
        ask(&mut guest, &device)?;
        wait_for_resets(&mut guest, resets)?;
        longest = longest.max(start.elapsed());
    }
    let checked = load::check_held(&mut guest)?;
    let driver = Figures::of(&mut guest)?;
    let (errors, losses) = (driver.driver("errors")?, driver.driver("losses")?);
    ensure!(
        errors == 0 && losses == 0,
        "{errors} pages failed, {losses} times all were lost"
    );
    ensure!(
        guest.log().matches(RESET).count() as u64 == ASKED,
        "The device was reset for another reason than that it asked for it"
    );

    // Nobody's pages are on it when it is given up.
    let off =
        "swapoff /dev/vtmem0 && dd if=/dev/urandom of=/dev/vtmem0 bs=64k count=16 oflag=direct";
    guest.run(off, LONG)?.ok()?;
    std::thread::sleep(FORGOTTEN);
    for resets in ASKED + 1..=ASKED + BORNE {
        ask(&mut guest, &device)?;
        wait_for_resets(&mut guest, resets)?;
    }
    ask(&mut guest, &device)?;
    let start = Instant::now();
    while !guest.log().contains(GIVEN_UP) {
        ensure!(
            start.elapsed() < guest.patiently(QUICK),
            "The device was not given up"
        );
        std::thread::sleep(Duration::from_millis(100));
    }
    for access in [
        "if=/dev/vtmem0 of=/dev/null iflag=direct",
        "if=/dev/zero of=/dev/vtmem0 oflag=direct",
    ] {
        let tried = guest.run(&format!("dd {access} bs=4k count=1"), QUICK)?;
        ensure!(tried.status != 0, "`dd {access}` worked on a dead device");
    }
    guest
        .run(&format!("echo {device} >{DRIVER}/unbind"), QUICK)?
        .ok()?;
    guest
        .run(&format!("echo {device} >{DRIVER}/bind"), QUICK)?
        .ok()?;
    let left = daemon.pages("vm0")?;
    ensure!(left == 0, "The host holds {left} pages of a dead device");
    swap_on(&mut guest)?;
    let mib = available_mib(&guest, 130)?;
    let after = workload(
        &mut guest,
        &format!("pages --mib {mib} --seed {} --passes 0", bench.seed >> 1),
    )?;
    guest.shut_down_excusing(LOSSES)?;
    daemon.shut_down()?;
    Ok(vec![
        ("pages_on_host", held),
        ("pages_checked", number(&checked, "pages")?),
        ("resets_asked_for", ASKED + BORNE + 1),
        ("longest_reset_ms", u64::try_from(longest.as_millis())?),
        ("pages_checked_after", number(&after, "pages")?),
    ])
}

/// Has the device ask for a reset.
fn ask(guest: &mut Guest, device: &str) -> Result<()> {
    let command = format!("tmem-workload wrong --device {device}");
    guest.run(&command, QUICK)?.ok()?;
    Ok(())
}
