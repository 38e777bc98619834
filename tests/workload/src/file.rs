// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A file that is written once and read back: in a tmpfs its pages are shared memory, which the
//! kernel swaps as well.

use crate::options::Options;
use crate::pattern::{Page, WORDS, fill, first_difference};
use crate::report::{Report, elapsed_ms};
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::time::Instant;

/// Writes `--mib` MiB to `--path`, then reads and checks all of it, `--passes` times.
pub(crate) fn run(options: &Options) -> Result<Report, String> {
    let seed: u64 = options.required("seed")?;
    let pages = options.required::<u64>("mib")? * 256;
    let passes: u64 = options.number("passes", 1)?;
    let path = options.text("path").ok_or("--path is missing")?;
    let failed = |error: std::io::Error| format!("cannot go on with {path}: {error}");
    let mut report = Report::default();
    report.count("pages", pages);

    let start = Instant::now();
    let mut output = BufWriter::with_capacity(64 << 10, File::create(path).map_err(failed)?);
    let mut page: Page = [0; WORDS];
    for number in 0..pages {
        fill(&mut page, seed, number, 0);
        for word in page {
            output.write_all(&word.to_le_bytes()).map_err(failed)?;
        }
    }
    output.flush().map_err(failed)?;
    report.count("write_ms", elapsed_ms(start));

    let start = Instant::now();
    for _ in 0..passes {
        let mut input = BufReader::with_capacity(64 << 10, File::open(path).map_err(failed)?);
        for number in 0..pages {
            for word in &mut page {
                let mut bytes = [0; 8];
                input.read_exact(&mut bytes).map_err(failed)?;
                *word = u64::from_le_bytes(bytes);
            }
            if first_difference(&page, seed, number, 0).is_some() {
                report.mismatches += 1;
            }
        }
    }
    report.count("read_ms", elapsed_ms(start));
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        let words = format!("--path {} --mib 1 --seed 4 --passes 2", path.display());
        let options = Options::parse(words.split(' ').map(str::to_owned)).expect("well formed");
        assert!(run(&options).expect("written and read").is_clean());
        assert_eq!(
            std::fs::metadata(&path).expect("it is there").len(),
            1 << 20
        );
    }
}
