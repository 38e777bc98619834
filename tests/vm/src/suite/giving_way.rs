// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The guest's own side of its balloon: it keeps its floor and its agent's, gives pages back when it is
//! out of memory, and has all of them again in the end, whatever happened to the device meanwhile.

use super::Figure;
use crate::bench::{Bench, QUICK, workload};
use crate::guest::Guest;
use anyhow::{Context, Result, ensure};
use std::time::{Duration, Instant};
use tmem_admin_api::PAGE_BYTES;

const GUEST: &str = "vm0";
const MEMORY_MIB: u32 = 512;
/// What the guest keeps of its memory, by the module's parameter and by its agent.
const FLOOR_PERCENT: u64 = 35;
const AGENT_PERCENT: u64 = 56;
/// Less than it keeps, so that the floor decides.
const SMALL: &str = "64MiB";
/// Of its memory, more than the squeezed guest has, without any swap.
const NEED_PERCENT: u64 = 53;
/// Resets of the device while the balloon grows.
const RESETS: u32 = 3;
/// For a change of the balloon, on an emulated CPU of a busy machine.
const DEADLINE: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(200);

const FOLDER: &str = "/sys/kernel/debug/virtio_tmem/vtmem0";
const DRIVER: &str = "/sys/bus/virtio/drivers/virtio_tmem";

/// One guest through all of it.
pub(super) fn all_of_it(bench: &Bench<'_>) -> Result<Vec<Figure>> {
    let daemon = bench.daemon(&[GUEST])?;
    let mut guest = bench.boot(&daemon, GUEST, MEMORY_MIB)?;
    let whole = memory_kib(&mut guest)?;
    let share = |percent: u64| (whole >> 10) * percent / 100;
    let (floor_mib, agent_mib) = (share(FLOOR_PERCENT), share(AGENT_PERCENT));
    let command = format!("modprobe virtio_tmem balloon_floor_mib={floor_mib}");
    guest.run(&command, QUICK)?.ok()?;

    // The floor decides how far the guest is squeezed, to the page.
    let start = Instant::now();
    daemon.tell(&["balloon", "set", GUEST, SMALL])?;
    wait_for(&mut guest, "the floor", |seen| {
        seen.held > 0 && seen.held == seen.goal && seen.total_kib == floor_mib << 10
    })?;
    let squeezed = start.elapsed();

    // An agent may want more for as long as it has its file open, and no longer.
    let record: String = [0, 0, (agent_mib << 20) / PAGE_BYTES, u64::MAX]
        .into_iter()
        .flat_map(u64::to_le_bytes)
        .map(|byte| format!("\\{byte:03o}"))
        .collect();
    let command = format!(
        "(printf '{record}'; exec sleep 3600) >/dev/tmem-balloon </dev/null 2>/dev/null & echo $! >/run/agent"
    );
    guest.run(&command, QUICK)?.ok()?;
    wait_for(&mut guest, "the agent's floor", |seen| {
        seen.agent == 1 && seen.total_kib == agent_mib << 10
    })?;
    guest.run("kill $(cat /run/agent)", QUICK)?.ok()?;
    wait_for(&mut guest, "the end of the agent's floor", |seen| {
        seen.agent == 0 && seen.total_kib == floor_mib << 10
    })?;

    // Resets while it grows lose nothing, neither pages nor the wish.
    daemon.tell(&["balloon", "set", GUEST, "max", "--wait"])?;
    daemon.tell(&["balloon", "set", GUEST, SMALL])?;
    for _ in 0..RESETS {
        let command = format!("echo 1 >{FOLDER}/reset");
        guest.run(&command, QUICK)?.ok()?;
    }
    wait_for(&mut guest, "the floor after resets", |seen| {
        seen.held > 0 && seen.held == seen.goal && seen.total_kib == floor_mib << 10
    })?;

    // Without swap, a program that needs more than there is gets it from the balloon.
    workload(
        &mut guest,
        &format!(
            "pages --mib {} --seed {} --passes 0",
            share(NEED_PERCENT),
            bench.seed
        ),
    )?;
    let relief = figure(&mut guest, "oom_deflated")?;
    ensure!(
        relief > 0,
        "The guest was never out of memory, or nothing came back"
    );
    ensure!(oom_kills(&mut guest)? == 0, "A task was killed for memory");
    let refused = figure(&mut guest, "refused")?;
    ensure!(refused == 0, "The host refused {refused} pages");

    // Bound anew, the driver does as the host says; unbound and unloaded, all is the guest's.
    let name = "$(basename $(readlink -f /sys/bus/virtio/drivers/virtio_tmem/virtio*))";
    let command =
        format!("device={name} && echo $device >{DRIVER}/unbind && echo $device >/run/device");
    guest.run(&command, QUICK)?.ok()?;
    let unbound = memory_kib(&mut guest)?;
    ensure!(unbound == whole, "{unbound} KiB of {whole} after unbinding");
    let command = format!("echo $(cat /run/device) >{DRIVER}/bind");
    guest.run(&command, QUICK)?.ok()?;
    wait_for(&mut guest, "the floor once more", |seen| {
        seen.held > 0 && seen.held == seen.goal && seen.total_kib == floor_mib << 10
    })?;
    guest.run("rmmod virtio_tmem", QUICK)?.ok()?;
    let unloaded = memory_kib(&mut guest)?;
    ensure!(
        unloaded == whole,
        "{unloaded} KiB of {whole} after unloading"
    );
    guest.shut_down()?;
    daemon.shut_down()?;
    Ok(vec![
        ("memory_kib", whole),
        ("floor_kib", floor_mib << 10),
        ("squeeze_ms", u64::try_from(squeezed.as_millis())?),
        ("pages_back_when_out_of_memory", relief),
    ])
}

/// What the guest says of its balloon.
#[derive(Debug)]
struct Seen {
    held: u64,
    goal: u64,
    agent: u64,
    total_kib: u64,
}

/// Looks until `is_so`.
fn wait_for(guest: &mut Guest, what: &str, is_so: impl Fn(&Seen) -> bool) -> Result<()> {
    let start = Instant::now();
    loop {
        let seen = Seen {
            held: figure(guest, "held")?,
            goal: figure(guest, "goal")?,
            agent: figure(guest, "agent")?,
            total_kib: memory_kib(guest)?,
        };
        if is_so(&seen) {
            return Ok(());
        }
        ensure!(
            start.elapsed() < guest.patiently(DEADLINE),
            "No sight of {what}: {seen:?}"
        );
        std::thread::sleep(LOOK_EVERY);
    }
}

/// A figure of the driver's file `balloon`.
fn figure(guest: &mut Guest, name: &str) -> Result<u64> {
    second_word(guest, &format!("grep '^{name} ' {FOLDER}/balloon"))
}

/// The guest's memory as its kernel manages it, which is without the balloon's.
fn memory_kib(guest: &mut Guest) -> Result<u64> {
    second_word(guest, "grep MemTotal /proc/meminfo")
}

fn oom_kills(guest: &mut Guest) -> Result<u64> {
    second_word(guest, "grep -w oom_kill /proc/vmstat")
}

fn second_word(guest: &mut Guest, command: &str) -> Result<u64> {
    let text = guest.run(command, QUICK)?.ok()?.text();
    let word = text.split_whitespace().nth(1);
    let word = word.with_context(|| format!("`{command}` says: {text}"))?;
    word.parse()
        .with_context(|| format!("`{command}` says: {text}"))
}
