// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Programs that page by themselves, by `/dev/tmem`.

use super::Figure;
use crate::bench::{Bench, Figures, LONG, QUICK, clean_result, number};
use crate::daemon::Daemon;
use crate::guest::Guest;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::time::{Duration, Instant};

/// A call of 512 pages moves so many times the pages of a call of one, at least, for each thread.
const BATCH_GAIN: u64 = 8;
/// Measurements of each kind.
const ROUNDS: u32 = 3;
/// Calls that are compared with the model, for each of two threads.
const CALLS: u64 = 1500;
/// Pages of the program that is killed.
const HELD: u64 = 2000;
/// For how long the fuzzer runs with the stock kernel.
const FUZZ_SECONDS: u64 = 15;

/// Random calls of two threads, each compared with a model, beside a guest that swaps.
pub(super) fn compared(bench: &Bench<'_>) -> Result<Vec<Figure>> {
    let (daemon, mut guest) = bench.swapping()?;
    let limits = clean_result(&guest.run("tmem-pages limits", QUICK)?.ok()?)?;
    let idle = daemon.pages("vm0")?;
    let seed = bench.seed >> 2;
    let command = format!("tmem-pages --seed {seed} --calls {CALLS} --threads 2");
    let result = clean_result(&guest.run(&command, LONG)?.ok()?)?;
    let refused = number(&result, "refused_calls")?;
    ensure!(
        refused > 0,
        "No call was refused, though some are drawn that must be"
    );
    let example = guest
        .run(&format!("buffer-manager --seed {seed}"), LONG)?
        .ok()?;
    let example = clean_result(&example)?;
    let left = wait_for_pages(&daemon, &mut guest, idle)?;
    guest.shut_down()?;
    daemon.shut_down()?;
    Ok(vec![
        ("checks_of_limits", number(&limits, "checks")?),
        ("calls", number(&result, "calls")?),
        ("pages", number(&result, "pages")?),
        ("refused_calls", refused),
        ("vanished_pages", number(&result, "vanished")?),
        ("pages_of_example", number(&example, "gets")?),
        ("pages_left_on_host", left),
    ])
}

/// The host holds what a program put; when the program is killed, or closes, the host's memory is free.
pub(super) fn owner_ends(bench: &Bench<'_>) -> Result<Vec<Figure>> {
    let (daemon, mut guest) = bench.swapping()?;
    let idle = daemon.pages("vm0")?;
    let pools = daemon.pools("vm0")?.len();
    hold(&mut guest, "one")?;
    let held = daemon.pages("vm0")?;
    ensure!(
        held >= idle + HELD,
        "A program put {HELD} pages, and the host has {held} after {idle}"
    );
    guest.run("kill -9 $(cat /run/one.pid)", QUICK)?.ok()?;
    let left = wait_for_pages(&daemon, &mut guest, idle)?;
    wait_for_pools(&daemon, pools)?;

    hold(&mut guest, "two")?;
    let refused = guest.run("rmmod virtio_tmem", QUICK)?;
    ensure!(refused.status != 0, "rmmod removed a module in use");
    let command = "touch /run/two.end; until grep -q TMEM-RESULT /run/two.out; do sleep 0.1; done; \
                   cat /run/two.out";
    let result = clean_result(&guest.run(command, LONG)?.ok()?)?;
    let got = number(&result, "got")?;
    ensure!(got == HELD, "{got} of {HELD} pages came back");
    wait_for_pages(&daemon, &mut guest, idle)?;
    guest
        .run("swapoff /dev/vtmem0 && rmmod virtio_tmem", QUICK)?
        .ok()?;
    guest.shut_down()?;
    daemon.shut_down()?;
    Ok(vec![
        ("pages_held", held),
        ("pages_after_kill", left),
        ("pages_got", got),
    ])
}

/// Starts a program that holds pages, under a name, and waits until it does.
fn hold(guest: &mut Guest, name: &str) -> Result<()> {
    let start = format!(
        "tmem-pages hold --pages {HELD} --until /run/{name}.end >/run/{name}.out 2>&1 & \
         echo $! >/run/{name}.pid"
    );
    guest.run(&start, QUICK)?.ok()?;
    let wait = format!(
        "until grep -q TMEM-HOLDING /run/{name}.out; do sleep 0.1; \
         [ -d /proc/$(cat /run/{name}.pid) ] || {{ cat /run/{name}.out; exit 1; }}; done"
    );
    guest.run(&wait, LONG)?.ok()?;
    Ok(())
}

/// Waits until the host holds `idle` pages, and those that the guest has swapped out since.
fn wait_for_pages(daemon: &Daemon, guest: &mut Guest, idle: u64) -> Result<u64> {
    let start = Instant::now();
    loop {
        let pages = daemon.pages("vm0")?;
        let at_most = idle + Figures::of(guest)?.swap_used_pages()?;
        if pages <= at_most {
            return Ok(pages);
        }
        ensure!(
            start.elapsed() < guest.patiently(Duration::from_secs(30)),
            "The host still holds {pages} pages, and {at_most} at most should be left"
        );
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Waits until the guest has no more pools than `count`.
fn wait_for_pools(daemon: &Daemon, count: usize) -> Result<()> {
    let start = Instant::now();
    while daemon.pools("vm0")?.len() > count {
        ensure!(
            start.elapsed() < Duration::from_secs(30),
            "The pool of a killed program is still there"
        );
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// Malformed and hostile calls, for a short time.
pub(super) fn fuzzed_shortly(bench: &Bench<'_>) -> Result<Vec<Figure>> {
    fuzz(bench, FUZZ_SECONDS)
}

/// The same for as long as the run asks for.
pub(super) fn fuzzed(bench: &Bench<'_>) -> Result<Vec<Figure>> {
    fuzz(bench, bench.fuzz.as_secs())
}

fn fuzz(bench: &Bench<'_>, seconds: u64) -> Result<Vec<Figure>> {
    let (daemon, mut guest) = bench.swapping()?;
    let idle = daemon.pages("vm0")?;
    let seed = bench.seed >> 2;
    let command = format!("tmem-fuzz --seconds {seconds} --seed {seed}");
    let deadline = Duration::from_secs(seconds) + LONG;
    let result = clean_result(&guest.run(&command, deadline)?.ok()?)?;
    let refused = number(&result, "refused")?;
    ensure!(refused > 0, "No call was refused");
    wait_for_pages(&daemon, &mut guest, idle)?;
    guest
        .run("swapoff /dev/vtmem0 && rmmod virtio_tmem", QUICK)?
        .ok()?;
    guest.shut_down()?;
    daemon.shut_down()?;
    Ok(vec![
        ("calls", number(&result, "calls")?),
        ("refused", refused),
        ("forks", number(&result, "forks")?),
        ("unmaps", number(&result, "unmaps")?),
    ])
}

/// Pages a second by pages in a call and threads; large calls must pay.
pub(super) fn measured(bench: &Bench<'_>) -> Result<Vec<Figure>> {
    let (daemon, mut guest) = bench.swapping()?;
    let seed = bench.seed >> 2;
    let command = format!("tmem-bench --seed {seed} --ms 500 --batches 1,4,16,64,256,512");
    let table = guest.run(&command, LONG)?.ok()?;
    println!("{}", table.text());
    // Of each measurement the best of some counts: what disturbs it comes from outside.
    let mut best = [0u64; 4];
    for _ in 0..ROUNDS {
        for (best, rate) in best.iter_mut().zip(rates(&mut guest, seed)?) {
            *best = rate.max(*best);
        }
    }
    let [one, many, two_one, two_many] = best;
    let gain = |one: u64, many: u64| {
        let times = many / one.max(1);
        ensure!(
            times >= BATCH_GAIN,
            "512 pages in a call: {many} pages/s, one page in a call: {one}; that is {times} times"
        );
        Ok(times)
    };
    let figures = vec![
        ("threads1_batch1_pages_s", one),
        ("threads1_batch512_pages_s", many),
        ("threads1_gain", gain(one, many)?),
        ("threads2_batch1_pages_s", two_one),
        ("threads2_batch512_pages_s", two_many),
        ("threads2_gain", gain(two_one, two_many)?),
    ];
    guest.shut_down()?;
    daemon.shut_down()?;
    Ok(figures)
}

/// Pages a second of one thread and of two, with 1 and with 512 pages in a call.
fn rates(guest: &mut Guest, seed: u64) -> Result<[u64; 4]> {
    let command = format!(
        "tmem-bench --loop alloc --seed {seed} --ms 400 --batches 1,512 --threads 1,2 --json"
    );
    let output = guest.run(&command, LONG)?.ok()?;
    let line = output.lines.last().context("tmem-bench printed nothing")?;
    let json: Value = serde_json::from_str(line).context("tmem-bench printed no JSON")?;
    let cells = json["cells"].as_array().context("No cells")?;
    let rates: Vec<u64> = cells
        .iter()
        .map(|cell| number(cell, "pages_per_second"))
        .collect::<Result<_>>()?;
    let rates = <[u64; 4]>::try_from(rates);
    rates.map_err(|rates| anyhow::anyhow!("{} cells", rates.len()))
}
