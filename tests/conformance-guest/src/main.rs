// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The conformance guest: a program without a system below it that checks a virtio-tmem device from
//! inside a virtual machine.
//!
//! ```text
//! boot ── start ── checks ─┬─ regular   every request of docs/device.md, against an oracle
//!                          └─ hostile   what no driver does, and that the device serves on after it
//! bench      a device that is set up, requests, memory to put from and get into
//! ring       the driver's side of a virtqueue         transport, pci, paging   the device's registers
//! memory     all dealings with bare addresses         intrinsics               all machine instructions
//! ```
//!
//! It is an ELF file with a PVH note, boots under any monitor that reads that in milliseconds,
//! uses one processor, no interrupt and no SSE, polls, and prints to the first serial port: a line for each
//! check, `ok NAME` or `FAIL NAME: why`, and `verdict: N ok, M failed` at the end. Words of the
//! command line: `only=PART` runs the checks whose name holds that, `seed=NUMBER` seeds the random
//! ones. `cargo xtask conformance` builds and runs it; docs/conformance.md tells more.
#![no_std]
#![no_main]

mod bench;
mod boot;
mod checks;
mod content;
mod intrinsics;
mod memory;
mod oracle;
mod paging;
mod pci;
mod random;
mod ring;
mod serial;
mod start_info;
mod time;
mod transport;
mod why;
#[allow(
    dead_code,
    unreachable_pub,
    clippy::wrong_self_convention,
    reason = "shared with host and kernel"
)]
#[path = "../../../vhost-device/abi/src/wire.rs"]
mod wire;

use bench::Bench;
use memory::Arena;
use serial::line;
use start_info::StartInfo;
use transport::Transport;
use why::{Result, fail};

/// The boot code's first call: with a stack, long mode and the address of the monitor's word.
extern "C" fn start(info: u32) -> ! {
    line!("virtio-tmem conformance guest");
    boot::catch_exceptions();
    // SAFETY: The boot code passes on what the monitor passed.
    let info = unsafe { StartInfo::read(info) };
    let (ok, failed) = match &info {
        Some(info) => run(info),
        None => {
            line!("FAIL boot: the monitor passed no PVH start info with a memory map");
            (0, 1)
        }
    };
    line!("verdict: {ok} ok, {failed} failed");
    serial::end()
}

/// Runs the checks; returns how many passed and failed.
fn run(info: &StartInfo) -> (u32, u32) {
    let seed = info.option("seed").and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or(1);
    line!("# seed {seed}, memory ends at {:#x}", info.memory_end);
    let mut bench = match prepare(info, seed) {
        Ok(bench) => bench,
        Err(why) => {
            line!("FAIL {}: {why}", checks::FIRST);
            return (0, 1);
        }
    };
    line!("ok {}", checks::FIRST);
    let (ok, failed) = checks::run(&mut bench, info.option("only").unwrap_or_default(), seed);
    (ok + 1, failed)
}

fn prepare(info: &StartInfo, seed: u64) -> Result<Bench> {
    if info.memory_end < memory::ARENA_END as u64 {
        return fail!("memory ends at {:#x}, too early", info.memory_end);
    }
    // SAFETY: The only call, and there is as much memory.
    let mut arena = unsafe { Arena::new() };
    let transport = Transport::find()?;
    transport.reset()?;
    Bench::new(transport, &mut arena, info.memory_end, seed)
}

/// A mistake of this program: told, and the end.
#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    line!("FAIL guest: {}", why::Why::new(format_args!("{info}")));
    line!("verdict: 0 ok, 1 failed");
    serial::end()
}
