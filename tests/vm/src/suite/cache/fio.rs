// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! fio on a cached disk: another checker than our own, and figures that people know how to read.

use super::scene::{MAPPED, Scene};
use crate::bench::{Bench, LONG};
use crate::suite::Figure;
use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// fio and its libraries lie in the guest's memory.
const MEMORY_MIB: u32 = 512;
/// Size of the disk, and what fio may have of it in the page cache.
const DISK_MIB: u64 = 48;
const CACHED_MIB: u64 = DISK_MIB / 4;
/// Blocks that fio reads and writes in a mix; more than the disk has, so that it comes by twice.
const PASSES: u64 = 2;
/// What is the same for all jobs. The headers of blocks that another job wrote have another seed.
const JOB: &str = "fio --output-format=json --thread --ioengine=psync --verify=crc32c \
                   --verify_interval=4k --verify_fatal=1 --verify_header_seed=0";

/// Reads of a hundred requests (fio verifies all of them if there are no others, else what it has written,
/// in the end), whether past the page cache, and the names of what came of it.
const MIXES: &[(u32, bool, [&str; 3])] = &[
    (
        100,
        true,
        [
            "direct_100_reads",
            "direct_100_hits",
            "direct_100_reads_per_s",
        ],
    ),
    (
        90,
        true,
        ["direct_90_reads", "direct_90_hits", "direct_90_reads_per_s"],
    ),
    (
        70,
        true,
        ["direct_70_reads", "direct_70_hits", "direct_70_reads_per_s"],
    ),
    (
        100,
        false,
        [
            "buffered_100_reads",
            "buffered_100_hits",
            "buffered_100_reads_per_s",
        ],
    ),
    (
        90,
        false,
        [
            "buffered_90_reads",
            "buffered_90_hits",
            "buffered_90_reads_per_s",
        ],
    ),
    (
        70,
        false,
        [
            "buffered_70_reads",
            "buffered_70_hits",
            "buffered_70_reads_per_s",
        ],
    ),
];

/// Each mix of reads and writes verifies what it reads, and has much of it from the host.
pub(in crate::suite) fn mixes(bench: &Bench<'_>) -> Result<Vec<Figure>> {
    let mut scene = Scene::set_in(bench, MEMORY_MIB, DISK_MIB, "copies 64")?;
    scene.make_group(CACHED_MIB)?;
    run(
        &mut scene,
        "--name=fill --rw=write --bs=64k --direct=1 --do_verify=0",
        bench.seed,
    )?;
    let mut figures = Vec::new();
    for &(reads, direct, names) in MIXES {
        let before = scene.status()?.of("hits")?;
        let direct = u8::from(direct);
        let pattern = match reads {
            100 => "randread".to_owned(),
            some => format!("randrw --rwmixread={some}"),
        };
        let mix = format!("--name=mix --rw={pattern} --bs=4k --direct={direct} --loops={PASSES}");
        let job = run(&mut scene, &mix, bench.seed)?;
        let hits = scene.status()?.of("hits")? - before;
        let done = count(&job["read"], "total_ios")?;
        ensure!(
            hits * 4 > done,
            "Of {done} blocks that fio read only {hits} came from the host"
        );
        figures.extend([
            (names[0], done),
            (names[1], hits),
            (names[2], count(&job["read"], "iops")?),
        ]);
    }
    let status = scene.status()?;
    ensure!(status.of("corrupt")? == 0, "{status:?}");
    figures.push(("invalidated", status.of("invalidated")?));
    // All that fio wrote is there, and fio would have found a wrong block.
    let look = "--name=look --rw=randread --bs=4k --direct=1";
    run(&mut scene, look, bench.seed)?;
    let spoil = format!("dd if=/dev/zero of={MAPPED} bs=4k count=1 seek=7 oflag=direct");
    scene.guest.run(&spoil, LONG)?.ok()?;
    let spoilt = scene.guest.run(&command(look, bench.seed), LONG)?;
    ensure!(spoilt.status != 0, "fio overlooked a block of zeroes");
    scene.end()?;
    Ok(figures)
}

/// Runs one job in the group with little memory; gives what fio says of it.
fn run(scene: &mut Scene, job: &str, seed: u64) -> Result<Value> {
    let output = scene.guest.run(&command(job, seed), LONG)?.ok()?;
    // It may warn of something before.
    let text = output.text();
    let json = text.find('{').and_then(|at| text.get(at..));
    let json = json.with_context(|| format!("fio printed no JSON: {text}"))?;
    let report: Value =
        serde_json::from_str(json).with_context(|| format!("Cannot read what fio says: {json}"))?;
    let job = report["jobs"][0].clone();
    ensure!(job["error"] == 0, "fio failed: {json}");
    Ok(job)
}

/// What runs a job in the group with little memory.
fn command(job: &str, seed: u64) -> String {
    // fio's seeds are of 64 bits, its numbers are signed.
    let seed = seed >> 1;
    format!(
        "sh -c 'echo $$ >/sys/fs/cgroup/scan/cgroup.procs && exec {JOB} --filename={MAPPED} \
         --size={DISK_MIB}m --randseed={seed} {job}'"
    )
}

/// A number of fio's; what is behind its point is cut off.
fn count(of: &Value, name: &str) -> Result<u64> {
    let number = of[name].as_number().map(ToString::to_string);
    let number = number.with_context(|| format!("fio says nothing of {name}: {of}"))?;
    let whole = number.split('.').next().unwrap_or_default();
    whole.parse().with_context(|| format!("{name} is {number}"))
}
