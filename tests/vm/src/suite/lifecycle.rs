// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The device's life in the guest: resets while programs swap, sleep, and removal under load.

use super::Figure;
use super::worker::scene::Scene;
use crate::bench::{
    Bench, Figures, LONG, MEMORY_MIB, QUICK, available_mib, number, settled, swap_on, workload,
};
use crate::guest::Guest;
use crate::load;
use anyhow::{Context, Result, ensure};
use std::time::{Duration, Instant};

/// The file whose writing resets the device, as if it had asked for it.
const RESET: &str = "/sys/kernel/debug/virtio_tmem/vtmem0/reset";
const HUGE: &str = "/sys/kernel/mm/transparent_hugepage";
const DRIVER: &str = "/sys/bus/virtio/drivers/virtio_tmem";
/// Resets by the driver, and pause between them.
const RESETS: u64 = 12;
const BETWEEN_RESETS: Duration = Duration::from_millis(250);
/// What the guest may have in DRAM, and where the other pages go.
const DRAM_CAP: &str = "1MiB";
const REMOTE: &str = "512MiB";
const LINK: &str = "latency=20us bandwidth=25Gbit/s";
const SLOW: &str = "latency=9s";
/// Pages on the disk, and reads of them, all at once, far enough apart that no two are one request.
const PAGES: u64 = 1600;
const READS: u64 = 50;
const STRIDE: u64 = 32;
/// So many of them have to wait before the reset.
const WAITING_MIN: u64 = 36;
/// Resets by the PCI core.
const PCI_RESETS: u64 = 3;
/// Time for a reset on an emulated CPU of a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);
/// How long the load goes on afterwards.
const AFTERWARDS: Duration = Duration::from_secs(2);
/// Times that the guest sleeps.
const SLEEPS: u64 = 2;
/// Rounds of unbinding under load and binding again.
const UNBINDINGS: u64 = 2;
/// RAM of the group of programs that loses its pages; the guest's own programs keep theirs.
const GROUP_MIB: u64 = 32;
const GROUP_LOAD_MIB: u64 = 96;
/// Pages that must have been put before a load counts as swapping.
const PUT_MIN: u64 = 4000;
/// What the kernel says of a disk whose device is gone, and of programs that lose by that: they are
/// killed when they touch a page that is lost, or when none of theirs can go out any more.
const LOSSES: &[&str] = &[
    "Read-error on swap",
    "Write-error on swap",
    "I/O error",
    "invoked oom-killer",
    "Call Trace:",
    "Out of memory",
];

/// Resets the device again and again while the guest's programs swap and verify.
pub(super) fn reset_under_load(bench: &Bench<'_>) -> Result<Vec<Figure>> {
    let mut scene = Scene::set(bench, "")?;
    let mut asked = Vec::new();
    for round in 1..=RESETS {
        asked.push(Instant::now());
        // Every other time nothing that was in flight may count as answered.
        let word = if round % 2 == 0 { "replay" } else { "1" };
        scene
            .guest()
            .run(&format!("echo {word} >{RESET}"), QUICK)?
            .ok()?;
        wait_for_resets(scene.guest(), round)?;
        std::thread::sleep(BETWEEN_RESETS);
    }
    // The same by another way, if this machine has one.
    let file = "/sys/bus/virtio/devices/virtio0/../reset";
    let device = virtio_device(scene.guest())?;
    let file = file.replace("virtio0", &device);
    let mut by_pci = 0;
    let there = scene.guest().run(&format!("test -e {file}"), QUICK)?;
    if there.status == 0 {
        for _ in 0..PCI_RESETS {
            asked.push(Instant::now());
            scene.guest().run(&format!("echo 1 >{file}"), QUICK)?.ok()?;
            by_pci += 1;
            wait_for_resets(scene.guest(), RESETS + by_pci)?;
            std::thread::sleep(BETWEEN_RESETS);
        }
    }
    std::thread::sleep(AFTERWARDS);
    let driver = Figures::of(scene.guest())?;
    let replayed = driver.driver("replayed")?;
    ensure!(
        driver.driver("losses")? == 0,
        "The host forgot the pages at a reset"
    );
    let outcome = scene.end()?;
    let (stall_p50, stall_max) = outcome.stalls(&asked, outcome.ended);
    let mut figures = outcome.figures();
    figures.extend([
        ("resets", RESETS),
        ("resets_by_pci", by_pci),
        ("requests_replayed", replayed),
        ("stall_p50_us_in_guest", stall_p50),
        ("stall_max_us_in_guest", stall_max),
    ]);
    Ok(figures)
}

/// Many reads wait for pages behind a slow link when the device is reset and none of its last answers is
/// looked at: all go out once more, and bring what was written.
pub(super) fn in_flight_at_a_reset(bench: &Bench<'_>) -> Result<Vec<Figure>> {
    let lines =
        format!("\n[remote]\nsize = {REMOTE:?}\n\n[link.remote]\nin = {LINK:?}\nout = {LINK:?}\n");
    let daemon = bench.daemon_with(&["vm0"], &lines, false)?;
    daemon.tell(&["guest", "limit", "vm0", "--dram-cap", DRAM_CAP])?;
    let mut guest = bench.boot(&daemon, "vm0", MEMORY_MIB)?;
    let fill = format!(
        "modprobe virtio_tmem && dd if=/dev/urandom of=/run/data bs=4k count={PAGES} && \
         dd if=/run/data of=/dev/vtmem0 bs=64k oflag=direct"
    );
    guest.run(&fill, QUICK)?.ok()?;
    let start = Instant::now();
    let remote =
        || -> Result<u64> { Ok(daemon.pools("vm0")?.iter().map(|pool| pool.remote).sum()) };
    while remote()? < PAGES * 3 / 4 {
        ensure!(
            start.elapsed() < guest.patiently(DEADLINE),
            "Only {} of {PAGES} pages went below DRAM",
            remote()?
        );
        std::thread::sleep(Duration::from_millis(100));
    }
    daemon.tell(&["link", "set", "remote", SLOW])?;
    let read = format!(
        "for i in $(seq 0 {}); do dd if=/dev/vtmem0 of=/run/out.$i bs=4k count=1 \
         skip=$((i * {STRIDE})) iflag=direct 2>/dev/null & done; \
         until [ $(cat /proc/[0-9]*/stat 2>/dev/null | grep -c '(dd) D') -ge {WAITING_MIN} ]; \
         do pidof dd >/dev/null || exit 1; sleep 0.1; done; echo replay >{RESET}",
        READS - 1
    );
    guest.run(&read, QUICK)?.ok()?;
    wait_for_resets(&mut guest, 1)?;
    daemon.tell(&["link", "set", "remote", LINK])?;
    let compare = format!(
        "while pidof dd >/dev/null; do sleep 0.1; done; for i in $(seq 0 {}); do \
         dd if=/run/data bs=4k count=1 skip=$((i * {STRIDE})) 2>/dev/null | cmp - /run/out.$i \
         || exit 1; done",
        READS - 1
    );
    guest.run(&compare, LONG)?.ok()?;
    let driver = Figures::of(&mut guest)?;
    let (replayed, errors) = (driver.driver("replayed")?, driver.driver("errors")?);
    ensure!(
        replayed >= WAITING_MIN,
        "Of {WAITING_MIN} requests at least only {replayed} were sent again"
    );
    ensure!(errors == 0, "{errors} pages failed");
    guest.shut_down()?;
    daemon.shut_down()?;
    Ok(vec![
        ("reads_compared", READS),
        ("requests_replayed", replayed),
    ])
}

pub(super) fn wait_for_resets(guest: &mut Guest, resets: u64) -> Result<()> {
    let start = Instant::now();
    loop {
        let done = Figures::of(guest)?.driver("resets")?;
        if done >= resets {
            return Ok(());
        }
        ensure!(
            start.elapsed() < guest.patiently(DEADLINE),
            "The device was set up {done} times again, not {resets}"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The name of the guest's (first) virtio-tmem device on its bus.
pub(super) fn virtio_device(guest: &mut Guest) -> Result<String> {
    let command = "grep -il d0000000d /sys/bus/virtio/devices/*/modalias | head -n 1";
    let path = guest.run(command, QUICK)?.ok()?.text();
    let name = path
        .trim()
        .strip_suffix("/modalias")
        .and_then(|path| path.rsplit('/').next())
        .with_context(|| format!("No device in {path}"))?;
    Ok(name.to_owned())
}

/// The guest sleeps with pages on the host, and finds them afterwards. It does not hibernate while it
/// has any.
pub(super) fn sleeps(bench: &Bench<'_>) -> Result<Vec<Figure>> {
    let (daemon, mut guest) = bench.swapping()?;
    let mib = available_mib(&guest, 130)?;
    load::start_holding(&mut guest, mib, bench.seed)?;
    load::wait_until_held(&mut guest)?;
    let held = settled(&daemon, &mut guest, "vm0")?;
    ensure!(held > PUT_MIN, "Only {held} pages are on the host");

    // A kernel may be built without hibernation.
    let hibernates = guest.run("grep -qw disk /sys/power/state", QUICK)?.status == 0;
    if hibernates {
        let refused = guest.run("echo disk >/sys/power/state", QUICK)?;
        ensure!(
            refused.status != 0,
            "The guest hibernated with pages on the host"
        );
    }
    let alarm = "/sys/class/rtc/rtc0/wakealarm";
    let has_alarm = guest.run(&format!("test -e {alarm}"), QUICK)?.status == 0;
    for slept in 1..=SLEEPS {
        // The debug kernel has no alarm: it puts all devices to sleep, and wakes them by itself.
        let command = if has_alarm {
            format!("echo 0 >{alarm}; echo +2 >{alarm} && echo mem >/sys/power/state")
        } else {
            "echo devices >/sys/power/pm_test && echo mem >/sys/power/state".to_owned()
        };
        guest.run(&command, QUICK)?.ok()?;
        wait_for_resets(&mut guest, slept)?;
        // The device works: these pages go out and come back beside those that were there.
        workload(
            &mut guest,
            &format!(
                "pages --mib 24 --seed {} --passes 1",
                (bench.seed >> 2) + slept
            ),
        )?;
    }
    let result = load::check_held(&mut guest)?;
    let driver = Figures::of(&mut guest)?;
    for count in ["refused", "errors", "corrupt", "losses"] {
        let value = driver.driver(count)?;
        ensure!(value == 0, "The driver counts {value} {count}");
    }
    let told = "cannot hibernate while the host holds pages";
    ensure!(
        guest.log().matches(told).count() == usize::from(hibernates),
        "The driver refused hibernation without a reason, or not at all"
    );
    guest.shut_down_after_sleep()?;
    daemon.shut_down()?;
    Ok(vec![
        ("pages_on_host", held),
        ("sleeps", SLEEPS),
        ("pages_checked", number(&result, "pages")?),
        ("resets", driver.driver("resets")?),
        ("requests_replayed", driver.driver("replayed")?),
    ])
}

/// The driver is unbound while programs swap: they lose their pages and are told so; nothing hangs.
/// Bound again, the device is as good as new.
pub(super) fn unbound_under_load(bench: &Bench<'_>) -> Result<Vec<Figure>> {
    let daemon = bench.daemon(&["vm0"])?;
    let mut guest = bench.boot(&daemon, "vm0", MEMORY_MIB)?;
    swap_on(&mut guest)?;
    let group = format!(
        "mount -t cgroup2 cgroup /sys/fs/cgroup && cd /sys/fs/cgroup && \
         echo +memory >cgroup.subtree_control && mkdir load && echo {GROUP_MIB}M >load/memory.max"
    );
    guest.run(&group, QUICK)?.ok()?;
    let device = virtio_device(&mut guest)?;
    let mut lost = 0;
    let mut unbind_ms = 0;
    for round in 0..UNBINDINGS {
        let seed = (bench.seed >> 2) + round;
        let start = format!(
            "rm -f /run/status; {{ sh -c 'echo $$ >/sys/fs/cgroup/load/cgroup.procs; \
             exec tmem-workload pages --mib {GROUP_LOAD_MIB} --seed {seed} --until /run/never' \
             >/run/said 2>&1; echo $? >/run/status; }} &"
        );
        guest.run(&start, QUICK)?.ok()?;
        let before = wait_for_puts(&mut guest)?;
        lost += before;

        let at = Instant::now();
        guest
            .run(&format!("echo {device} >{DRIVER}/unbind"), QUICK)?
            .ok()?;
        unbind_ms = unbind_ms.max(u64::try_from(at.elapsed().as_millis())?);
        let wait = "until [ -s /run/status ]; do sleep 0.1; done; cat /run/status /run/said";
        let said = guest.run(wait, QUICK)?.ok()?;
        let status: i32 = said
            .lines
            .first()
            .and_then(|line| line.trim().parse().ok())
            .with_context(|| format!("The program left no status: {}", said.text()))?;
        ensure!(
            status > 128 && !said.text().contains("TMEM-RESULT"),
            "The program outlived its pages, with status {status}: {}",
            said.text()
        );
        ensure!(
            daemon.pages("vm0")? == 0,
            "The host still holds pages of a device that was given back"
        );
        // The lost area stays in use until the next boot, and so does the module.
        let stays = guest.run("rmmod virtio_tmem", QUICK)?;
        ensure!(stays.status != 0, "rmmod removed a module in use");

        guest
            .run(&format!("echo {device} >{DRIVER}/bind"), QUICK)?
            .ok()?;
        swap_on(&mut guest)?;
    }
    let mib = available_mib(&guest, 130)?;
    let result = workload(
        &mut guest,
        &format!("pages --mib {mib} --seed {} --passes 0", bench.seed),
    )?;
    let driver = Figures::of(&mut guest)?;
    let (put, got) = (driver.driver("pages_put")?, driver.driver("pages_got")?);
    ensure!(put > PUT_MIN && got > 0, "{put} pages put, {got} got");
    guest.shut_down_excusing(LOSSES)?;
    daemon.shut_down()?;
    Ok(vec![
        ("unbindings", UNBINDINGS),
        ("unbind_max_ms", unbind_ms),
        ("pages_put_before", lost),
        ("pages_checked_after", number(&result, "pages")?),
        ("pages_put_after", put),
    ])
}

/// Waits until the load has put many pages, and gives how many.
fn wait_for_puts(guest: &mut Guest) -> Result<u64> {
    let start = Instant::now();
    loop {
        let put = Figures::of(guest)?.driver("pages_put")?;
        if put >= PUT_MIN {
            return Ok(put);
        }
        ensure!(
            start.elapsed() < guest.patiently(LONG),
            "The load has put only {put} pages"
        );
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// The same load with the disk in either mode, with large folios of 64 KiB.
pub(super) fn modes_compared(bench: &Bench<'_>) -> Result<Vec<Figure>> {
    let daemon = bench.daemon(&["vm0"])?;
    let mut guest = bench.boot(&daemon, "vm0", MEMORY_MIB)?;
    guest
        .run(
            &format!("echo never >{HUGE}/enabled; echo always >{HUGE}/hugepages-64kB/enabled"),
            QUICK,
        )?
        .ok()?;
    let [asynchronous, synchronous] = [0, 1].map(|mode| -> Result<Mode> {
        guest
            .run(&format!("tmem-swap-on synchronous={mode}"), QUICK)?
            .ok()?;
        let before = large_folios_in(&mut guest)?;
        let mib = available_mib(&guest, 140)?;
        let result = workload(
            &mut guest,
            &format!(
                "pages --mib {mib} --seed {} --passes 0 --huge on",
                bench.seed
            ),
        )?;
        let driver = Figures::of(&mut guest)?;
        let after = large_folios_in(&mut guest)?;
        guest
            .run("swapoff /dev/vtmem0 && rmmod virtio_tmem", LONG)?
            .ok()?;
        Ok(Mode {
            fill_ms: number(&result, "fill_ms")?,
            verify_ms: number(&result, "verify_ms")?,
            put: driver.driver("pages_put")?,
            puts: driver.driver("put_batches")?,
            got: driver.driver("pages_got")?,
            gets: driver.driver("get_requests")?,
            large_in: after - before,
        })
    });
    let (asynchronous, synchronous) = (asynchronous?, synchronous?);
    guest.shut_down()?;
    daemon.shut_down()?;
    ensure!(
        asynchronous.large_in == 0,
        "Large folios were read back in one piece without synchronous=1"
    );
    let together = |mode: &Mode| mode.put / mode.puts.max(1);
    ensure!(
        together(&asynchronous) > together(&synchronous),
        "{} pages went out in a request asynchronously, {} synchronously",
        together(&asynchronous),
        together(&synchronous)
    );
    Ok(vec![
        ("async_fill_ms", asynchronous.fill_ms),
        ("sync_fill_ms", synchronous.fill_ms),
        ("async_verify_ms", asynchronous.verify_ms),
        ("sync_verify_ms", synchronous.verify_ms),
        ("async_pages_put", asynchronous.put),
        ("sync_pages_put", synchronous.put),
        ("async_put_requests", asynchronous.puts),
        ("sync_put_requests", synchronous.puts),
        ("async_pages_got", asynchronous.got),
        ("sync_pages_got", synchronous.got),
        ("async_get_requests", asynchronous.gets),
        ("sync_get_requests", synchronous.gets),
        ("sync_large_folios_in", synchronous.large_in),
    ])
}

/// Folios of 64 KiB that were read back in one piece.
fn large_folios_in(guest: &mut Guest) -> Result<u64> {
    let command = format!("cat {HUGE}/hugepages-64kB/stats/swpin");
    let text = guest.run(&command, QUICK)?.ok()?.text();
    text.trim().parse().context("The kernel counts no folios")
}

/// What a load came to in one of the disk's modes.
struct Mode {
    fill_ms: u64,
    verify_ms: u64,
    put: u64,
    puts: u64,
    got: u64,
    gets: u64,
    /// Large folios that were read back in one piece.
    large_in: u64,
}
