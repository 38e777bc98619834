// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the driver takes: 32 bytes, written to its device.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Bytes of a record.
const RECORD: usize = 32;
/// A figure that is not known.
const UNKNOWN: u64 = u64::MAX;
const KIB_PER_PAGE: u64 = 4;

/// One record. Pages are of 4096 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// Time in which some task waited for memory, in µs.
    pub(crate) some_us: u64,
    /// Time in which all did.
    pub(crate) full_us: u64,
    /// Memory that the balloon must leave; 0: no wish.
    pub(crate) floor_pages: u64,
    /// Swap in use.
    pub(crate) swapped_pages: Option<u64>,
}

impl Record {
    fn to_bytes(self) -> [u8; RECORD] {
        let words = [
            self.some_us,
            self.full_us,
            self.floor_pages,
            self.swapped_pages.unwrap_or(UNKNOWN),
        ];
        let mut bytes = [0; RECORD];
        for (into, word) in bytes.chunks_exact_mut(8).zip(words) {
            into.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }
}

/// Swap in use, by the kernel's figures.
pub(crate) fn swap_used_pages(meminfo: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(meminfo).ok()?;
    let kib = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    };
    Some(kib("SwapTotal:")?.saturating_sub(kib("SwapFree:")?) / KIB_PER_PAGE)
}

/// The driver's device. It stays open, because a record is forgotten when its writer goes.
#[derive(Debug)]
pub(crate) struct Device {
    path: PathBuf,
    file: Option<File>,
    /// Whether the last attempt failed, which is told once.
    failed: bool,
}

impl Device {
    /// A device that will be opened when there is something to write.
    pub(crate) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            file: None,
            failed: false,
        }
    }

    /// Writes a record. That the driver is not there is no error: it may come.
    pub(crate) fn write(&mut self, record: &Record) {
        let outcome = self.try_write(record);
        match &outcome {
            Err(error) if !self.failed => eprintln!(
                "tmem-agent: cannot write to {}: {error}; trying again",
                self.path.display()
            ),
            Ok(()) if self.failed => eprintln!("tmem-agent: {} is there", self.path.display()),
            _ => {}
        }
        self.failed = outcome.is_err();
        if self.failed {
            self.file = None;
        }
    }

    fn try_write(&mut self, record: &Record) -> std::io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(OpenOptions::new().write(true).open(&self.path)?),
        };
        // The driver takes a whole record or none.
        file.write_all(&record.to_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        Record {
            some_us: 1,
            full_us: 2,
            floor_pages: 3,
            swapped_pages: None,
        }
    }

    #[test]
    fn a_record_is_four_little_endian_words() {
        let bytes = record().to_bytes();
        assert_eq!(bytes[..9], [1, 0, 0, 0, 0, 0, 0, 0, 2]);
        assert_eq!(bytes[16], 3);
        assert_eq!(bytes[24..], [0xff; 8]);
    }

    #[test]
    fn swap_in_use_is_total_less_free() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("meminfo");
        std::fs::write(
            &path,
            "MemTotal: 9 kB\nSwapTotal:  4096 kB\nSwapFree:   96 kB\n",
        )
        .expect("written");
        assert_eq!(swap_used_pages(&path), Some(1000));
        std::fs::write(&path, "SwapTotal:  4096 kB\n").expect("written");
        assert_eq!(swap_used_pages(&path), None);
        assert_eq!(swap_used_pages(&folder.path().join("none")), None);
    }

    #[test]
    fn a_device_that_comes_later_gets_the_next_record() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("device");
        let mut device = Device::new(&path);
        device.write(&record());
        assert!(device.failed && !path.exists());
        std::fs::write(&path, "").expect("written");
        device.write(&record());
        device.write(&record());
        assert!(!device.failed);
        let twice = [record().to_bytes(), record().to_bytes()].concat();
        assert_eq!(std::fs::read(&path).expect("written"), twice);
    }
}
