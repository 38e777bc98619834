// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A tree of source files: made once, then scanned again and again, as `grep -r` does.
//!
//! Sizes are those of a source tree, about: most files are of some KiB, a few of hundreds. The
//! contents follow from the seed, and every byte is checked.

use crate::options::Options;
use crate::pattern::Words;
use crate::report::{Report, elapsed_ms};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Files in a folder.
const FOLDER: u64 = 40;

/// Bytes of file `nth`: half of the files are below 6 KiB, one in 16 goes up to 256 KiB.
fn size_of(seed: u64, nth: u64) -> usize {
    let mut words = Words::of_page(seed, nth, 1);
    let most = match words.below(16) {
        0 => 256 << 10,
        1..=7 => 24 << 10,
        _ => 6 << 10,
    };
    usize::try_from(1 + words.below(most)).unwrap_or(1)
}

fn content_of(seed: u64, nth: u64) -> Vec<u8> {
    let mut words = Words::of_page(seed, nth, 2);
    let size = size_of(seed, nth);
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        bytes.extend_from_slice(&words.next().to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}

fn path_of(root: &Path, nth: u64) -> PathBuf {
    root.join(format!("d{}", nth / FOLDER))
        .join(format!("f{nth}.c"))
}

/// Files so that their sizes sum up to `mib`.
fn files_for(seed: u64, mib: u64) -> u64 {
    let mut left = mib << 20;
    let mut files = 0;
    while left > 0 {
        // A file takes whole blocks.
        left = left.saturating_sub((size_of(seed, files) as u64).next_multiple_of(4096));
        files += 1;
    }
    files
}

/// `tmem-workload tree --path FOLDER --mib 96 --seed 7 --do make|scan`
pub(crate) fn run(options: &Options) -> Result<Report, String> {
    let root = PathBuf::from(options.required::<String>("path")?);
    let seed = options.required("seed")?;
    let files = files_for(seed, options.required("mib")?);
    let make = options.required::<String>("do")? == "make";
    let start = Instant::now();
    let mut report = Report::default();
    let mut blocks = 0;
    for nth in 0..files {
        let path = path_of(&root, nth);
        let fail = |error| format!("{}: {error}", path.display());
        let content = content_of(seed, nth);
        if make {
            if nth % FOLDER == 0 {
                fs::create_dir_all(path.parent().unwrap_or(&root)).map_err(fail)?;
            }
            fs::write(&path, &content).map_err(fail)?;
        } else if fs::read(&path).map_err(fail)? != content {
            eprintln!("{} differs", path.display());
            report.mismatches += 1;
        }
        blocks += (content.len() as u64).div_ceil(4096);
    }
    report.count("files", files);
    report.count("blocks", blocks);
    report.count("elapsed_ms", elapsed_ms(start));
    Ok(report)
}
