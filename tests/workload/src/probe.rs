// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A small program that asks for pages that are on the host, one after the other, and notes how
//! long each takes: what a user of the guest would feel of a pause.

use crate::options::Options;
use crate::region::{Huge, Region};
use crate::report::Report;
use std::io::Error;
use std::path::Path;
use std::time::{Duration, Instant};

/// Between two steps, so that the program waits for pages and not for a processor.
const PAUSE: Duration = Duration::from_millis(1);
/// Steps between two looks for the file that ends it.
const LOOK_EVERY: u64 = 16;
/// A step that takes this long is told of.
const SLOW_US: u64 = 1000;
/// Of the slow steps that end within so much time, only the longest is told of.
const SLOT_US: u64 = 50_000;

/// A step that took long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Slow {
    /// Its end, as [`now_us`] tells it.
    end_us: u64,
    took_us: u64,
}

/// The slow steps, at most one for each slot of time.
#[derive(Default)]
struct Slowest(Vec<Slow>);

impl Slowest {
    fn note(&mut self, end_us: u64, took_us: u64) {
        if took_us < SLOW_US {
            return;
        }
        let step = Slow { end_us, took_us };
        match self.0.last_mut() {
            Some(last) if last.end_us / SLOT_US == end_us / SLOT_US => {
                if last.took_us < took_us {
                    *last = step;
                }
            }
            _ => self.0.push(step),
        }
    }
}

/// Reads, checks and rewrites the pages of `--mib` in turn and asks the kernel to swap each out
/// again, until the file `--until` is there. Prints `TMEM-SLOW END_US TOOK_US` for slow steps.
pub(crate) fn run(options: &Options) -> Result<Report, String> {
    let seed: u64 = options.required("seed")?;
    let until = options.text("until").ok_or("--until is missing")?;
    let mut region = Region::map(options.required("mib")?, Huge::Off)?;
    let pages = region.pages();
    let mut versions = vec![0_u32; pages];
    let mut report = Report::default();
    for number in 0..pages {
        region.write(number, seed, 0);
        region.swap_out(number)?;
    }
    let faults_before = major_faults()?;
    let mut slowest = Slowest::default();
    let mut took = Vec::new();
    for (steps, number) in (0..).zip((0..pages).cycle()) {
        if steps % LOOK_EVERY == 0 && Path::new(until).exists() {
            break;
        }
        let start = Instant::now();
        region.verify(number, seed, versions[number], &mut report.mismatches);
        versions[number] = versions[number].wrapping_add(1);
        region.write(number, seed, versions[number]);
        region.swap_out(number)?;
        let took_us = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
        slowest.note(now_us()?, took_us);
        took.push(u32::try_from(took_us).unwrap_or(u32::MAX));
        std::thread::sleep(PAUSE);
    }
    for (number, &version) in versions.iter().enumerate() {
        region.verify(number, seed, version, &mut report.mismatches);
    }
    for Slow { end_us, took_us } in &slowest.0 {
        println!("TMEM-SLOW {end_us} {took_us}");
    }
    took.sort_unstable();
    report.count("steps", took.len() as u64);
    report.count("major_faults", major_faults()? - faults_before);
    report.count(
        "p50_us",
        took.get(took.len() / 2).copied().map_or(0, u64::from),
    );
    report.count("longest_us", took.last().copied().map_or(0, u64::from));
    Ok(report)
}

/// The guest's clock alone, for whoever wants to put its times beside others.
pub(crate) fn clock() -> Result<Report, String> {
    let mut report = Report::default();
    report.count("now_us", now_us()?);
    Ok(report)
}

/// µs of the guest's monotonic clock.
fn now_us() -> Result<u64, String> {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a live structure for the call to write.
    let done = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    if done != 0 {
        return Err(format!("cannot read the clock: {}", Error::last_os_error()));
    }
    let parts = (u64::try_from(time.tv_sec), u64::try_from(time.tv_nsec));
    match parts {
        (Ok(seconds), Ok(nanoseconds)) => Ok(seconds * 1_000_000 + nanoseconds / 1000),
        _ => Err("the clock is before its beginning".to_owned()),
    }
}

/// Page faults of this process that had to wait for a device.
fn major_faults() -> Result<u64, String> {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the structure is there for the call to write.
    let done = unsafe { libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()) };
    if done != 0 {
        return Err(format!("cannot count faults: {}", Error::last_os_error()));
    }
    // SAFETY: the call has filled it, and zeroes would be valid as well.
    let usage = unsafe { usage.assume_init() };
    u64::try_from(usage.ru_majflt).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_slot_keeps_its_longest_step_and_short_ones_are_forgotten() {
        let mut slowest = Slowest::default();
        for (end_us, took_us) in [
            (10, SLOW_US - 1),
            (20, 2000),
            (30, 5000),
            (40, 3000),
            (SLOT_US + 1, SLOW_US),
        ] {
            slowest.note(end_us, took_us);
        }
        let kept: Vec<_> = slowest.0.iter().map(|s| (s.end_us, s.took_us)).collect();
        assert_eq!(kept, [(30, 5000), (SLOT_US + 1, SLOW_US)]);
    }

    #[test]
    fn it_checks_its_pages_until_the_file_is_there() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let words = format!("--mib 1 --seed 3 --until {}", file.path().display());
        let options = Options::parse(words.split(' ').map(str::to_owned)).expect("well formed");
        let report = run(&options).expect("it ran");
        assert!(report.is_clean());
        assert!(report.json("probe").contains("\"steps\": 0"));
    }
}
