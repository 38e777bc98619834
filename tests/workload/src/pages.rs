// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Fill more pages than the guest has, then read, check and rewrite them in random order.

use crate::options::Options;
use crate::pattern::Words;
use crate::region::{Huge, Region};
use crate::report::{Report, elapsed_ms};
use std::path::Path;
use std::time::{Duration, Instant};

/// How often a waiting process looks for its file.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Turns of a pass between two looks for the file that ends the passes.
const TURNS: usize = 256;

/// Fills `--mib`, makes `--passes` passes over random pages, and checks every page at the end. With
/// `--until`, the process says `TMEM-FILLED` after the first, and passes are made until that file is
/// there, however many; some pages are drawn in any case.
///
/// In a pass, as many pages as there are get drawn at random; each is checked, and every other one
/// is rewritten with its next version. With `--wait-for`, the process says `TMEM-HOLDING` after the
/// passes and checks only once the file is there: until then its pages are where they are.
pub(crate) fn run(options: &Options) -> Result<Report, String> {
    let seed: u64 = options.required("seed")?;
    let until = options.text("until");
    let passes: u64 = options.number("passes", if until.is_some() { u64::MAX } else { 1 })?;
    let mut region = Region::map(options.required("mib")?, Huge::parse(options.text("huge"))?)?;
    let pages = region.pages();
    let mut versions = vec![0_u32; pages];
    let mut report = Report::default();

    let start = Instant::now();
    for number in 0..pages {
        region.write(number, seed, 0);
    }
    report.count("pages", pages as u64);
    report.count("fill_ms", elapsed_ms(start));
    if until.is_some() {
        println!("TMEM-FILLED {pages}");
    }

    let start = Instant::now();
    let mut picks = Words::of_seed(seed);
    let mut rewritten = 0;
    'passes: for _ in 0..passes {
        for turn in 0..pages {
            if turn > 0 && turn % TURNS == 0 && until.is_some_and(|file| Path::new(file).exists()) {
                break 'passes;
            }
            let number = usize::try_from(picks.below(pages as u64)).map_err(|e| e.to_string())?;
            region.verify(number, seed, versions[number], &mut report.mismatches);
            if turn % 2 == 0 {
                versions[number] += 1;
                region.write(number, seed, versions[number]);
                rewritten += 1;
            }
        }
    }
    report.count("rewritten", rewritten);
    report.count("passes_ms", elapsed_ms(start));

    if let Some(file) = options.text("wait-for") {
        println!("TMEM-HOLDING {pages}");
        while !Path::new(file).exists() {
            std::thread::sleep(LOOK_EVERY);
        }
    }
    let start = Instant::now();
    for (number, &version) in versions.iter().enumerate() {
        region.verify(number, seed, version, &mut report.mismatches);
    }
    report.count("verify_ms", elapsed_ms(start));
    Ok(report)
}
