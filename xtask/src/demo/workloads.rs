// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The programs of the demo: unmodified, from Debian's packages, and checked to the last byte.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use tmem_vm_tests::bench::number;
use tmem_vm_tests::guest::Guest;

/// Time for a step on an emulated CPU of a busy machine.
const LONG: Duration = Duration::from_secs(600);
const QUICK: Duration = Duration::from_secs(60);
const SEED: u64 = 2026;
/// A value of this length and its header fill one 4096-byte block of the server's allocator.
const VALUE_BYTES: u64 = 4000;
/// Values that take a MiB.
const VALUES_PER_MIB: u64 = 256;
/// stress-ng counts one operation for every 32 KiB that the method `rand-set` fills.
const OPERATIONS_PER_MIB: u64 = 32;

/// A workload: what it is called and how it runs.
pub(crate) struct Workload {
    /// Short name.
    pub(crate) name: &'static str,
    /// What it does, in a line.
    pub(crate) about: &'static str,
    /// Runs it with so many MiB and gives the number of mismatches; the last argument is called a
    /// few times a second.
    pub(crate) run: fn(&mut Guest, u64, &mut dyn FnMut()) -> Result<u64>,
}

/// All workloads, in order.
pub(crate) const ALL: &[Workload] = &[
    Workload {
        name: "stress-ng",
        about: "stress-ng --vm fills all of its memory with random numbers, then verifies them",
        run: stress_ng,
    },
    Workload {
        name: "redis",
        about: "redis-server is filled past the guest's memory, then every value is read back",
        run: redis,
    },
];

/// One pass of filling everything and one of verifying it; the operation beyond makes it begin a
/// second filling, as it stops only there.
fn stress_ng(guest: &mut Guest, mib: u64, tick: &mut dyn FnMut()) -> Result<u64> {
    let operations = mib * OPERATIONS_PER_MIB + 1;
    let command = format!(
        "stress-ng --vm 1 --vm-bytes {mib}M --vm-keep --vm-method rand-set --vm-ops {operations} \
         --verify --metrics --timeout {}s",
        LONG.as_secs()
    );
    let output = guest.run_watched(&command, LONG, tick)?;
    if output.status == 0 {
        return Ok(0);
    }
    // Its exit status tells failed verification from trouble with resources; both end the demo.
    if output.text().contains("bit errors") {
        return Ok(1);
    }
    bail!(
        "stress-ng ended with status {}:\n{}",
        output.status,
        output.text()
    )
}

/// Fills the server, reads all values back in another order, and ends it.
fn redis(guest: &mut Guest, mib: u64, tick: &mut dyn FnMut()) -> Result<u64> {
    let socket = "/run/redis.sock";
    guest
        .run(
            &format!(
                "redis-server --port 0 --unixsocket {socket} --save '' --appendonly no \
                 --daemonize yes --pidfile /run/redis.pid --logfile /run/redis.log && \
                 until [ -S {socket} ]; do sleep 0.1; done"
            ),
            QUICK,
        )?
        .ok()
        .context("redis-server does not start")?;
    let values = mib * VALUES_PER_MIB;
    let words = format!("--socket {socket} --values {values} --bytes {VALUE_BYTES} --seed {SEED}");
    guest
        .run_watched(&format!("tmem-workload redis-fill {words}"), LONG, tick)?
        .ok()?;
    let output = guest.run_watched(&format!("tmem-workload redis-check {words}"), LONG, tick)?;
    let mismatches = number(&output.result()?, "mismatches")?;
    guest
        .run(
            "kill $(cat /run/redis.pid) && while pidof redis-server; do sleep 0.1; done",
            QUICK,
        )?
        .ok()?;
    if mismatches == 0 {
        output.ok()?;
    }
    Ok(mismatches)
}
