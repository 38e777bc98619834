// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the kernel says of this process's memory.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd};

use parking_lot::Mutex;
use rustix::fs::{fstat, major, minor};
use tmem_admin_api::Resident;
use tmem_pages::EngineFiles;

/// Resident memory, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Of the whole process.
    pub(crate) resident: Resident,
    /// Of the files that hold the pages and say where they are.
    pub(crate) arena_bytes: u64,
}

impl Usage {
    /// Shared memory other than the engine's: the guests' own, as far as it has been touched.
    #[must_use]
    pub(crate) const fn guest_ram_bytes(&self) -> u64 {
        self.resident.shared.saturating_sub(self.arena_bytes)
    }
}

/// Where the kernel says it. Opened before the process gives up its right to open files.
#[derive(Debug)]
pub(crate) struct Watch {
    files: Option<Mutex<(File, File)>>,
    /// Of the host.
    host: Option<Mutex<File>>,
    /// The engine's files, as the kernel names them among the mappings.
    arena: Vec<String>,
}

impl Watch {
    /// Watches this process, whose engine is in `engine`. What cannot be opened is 0 for ever.
    pub(crate) fn open(engine: &EngineFiles) -> Self {
        let open = || {
            io::Result::Ok((
                File::open("/proc/self/status")?,
                File::open("/proc/self/smaps")?,
            ))
        };
        let arena = [engine.map.as_fd(), engine.frames.as_fd()];
        Self {
            files: open().ok().map(Mutex::new),
            host: File::open("/proc/meminfo").ok().map(Mutex::new),
            arena: arena.into_iter().filter_map(name).collect(),
        }
    }

    /// Memory of the host that could be had without swapping, in bytes; nothing if it does not say.
    pub(crate) fn available(&self) -> Option<u64> {
        let text = read(&mut self.host.as_ref()?.lock());
        let mut lines = text.lines();
        lines.find_map(|line| line.strip_prefix("MemAvailable:").map(kib))
    }

    /// Asks the kernel. What cannot be read is 0. Takes time in proportion to what is mapped, some
    /// milliseconds for gigabytes.
    #[must_use]
    pub(crate) fn usage(&self) -> Usage {
        let Some(files) = &self.files else {
            return Usage::default();
        };
        let (status, smaps) = &mut *files.lock();
        Usage {
            resident: resident(&read(status)),
            arena_bytes: resident_of(&read(smaps), &self.arena),
        }
    }
}

fn read(file: &mut File) -> String {
    let mut text = String::new();
    let read = file
        .seek(SeekFrom::Start(0))
        .and_then(|_| file.read_to_string(&mut text));
    read.map_or_else(|_| String::new(), |_| text)
}

/// A file's device and inode, as they stand in a line of `smaps`.
fn name(file: BorrowedFd<'_>) -> Option<String> {
    let stat = fstat(file).ok()?;
    let (major, minor) = (major(stat.st_dev), minor(stat.st_dev));
    Some(format!("{major:02x}:{minor:02x} {}", stat.st_ino))
}

/// The figures of a `status` file.
fn resident(status: &str) -> Resident {
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.map_or(0, kib)
    };
    Resident {
        resident: field("VmRSS:"),
        peak: field("VmHWM:"),
        shared: field("RssShmem:"),
    }
}

/// Resident bytes of the mappings of `files`, from an `smaps` file.
fn resident_of(smaps: &str, files: &[String]) -> u64 {
    let mut inside = false;
    let mut sum = 0;
    for line in smaps.lines() {
        if let Some(figure) = line.strip_prefix("Rss:") {
            if inside {
                sum += kib(figure);
            }
        } else if let Some(file) = mapped_file(line) {
            inside = files.contains(&file);
        }
    }
    sum
}

/// Device and inode in a mapping's first line; nothing for other lines.
fn mapped_file(line: &str) -> Option<String> {
    let mut fields = line.split_whitespace();
    let (from, to) = fields.next()?.split_once('-')?;
    let hexadecimal = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit());
    if !hexadecimal(from) || !hexadecimal(to) {
        return None;
    }
    // Modes, offset, device, inode.
    let (device, inode) = (fields.nth(2)?, fields.next()?);
    Some(format!("{device} {inode}"))
}

/// Reads `  1234 kB` into bytes.
fn kib(figure: &str) -> u64 {
    let number = figure.trim().trim_end_matches("kB").trim();
    number
        .parse::<u64>()
        .map_or(0, |kib| kib.saturating_mul(1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engine_is_found_among_the_mappings() {
        let smaps = "\
55d0-55d1 r--p 00000000 08:01 1234                       /usr/bin/x y
Size:                  4 kB
Rss:                   4 kB
7f00-7f10 rw-s 00000000 00:01 2                          /memfd:tmem-frames (deleted)
Size:            1048576 kB
Rss:                 100 kB
7f20-7f30 rw-s 00000000 00:01 3                          /memfd:guest-ram (deleted)
Rss:                 900 kB
7f40-7f50 rw-p 00000000 00:00 0
Rss:                   8 kB
7f60-7f70 rw-s 00000000 00:01 4                          /memfd:tmem-map (deleted)
Rss:                  28 kB
VmFlags: rd wr sh
";
        let of = |files: &[&str]| {
            resident_of(
                smaps,
                &files.iter().map(|f| (*f).into()).collect::<Vec<_>>(),
            )
        };
        assert_eq!(of(&["00:01 2", "00:01 4"]), 128 << 10);
        assert_eq!(of(&["08:01 1234"]), 4 << 10);
        assert_eq!(of(&["08:01 2"]), 0);
    }

    #[test]
    fn figures_of_the_process_are_read() {
        let status = "Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\nRssShmem:\t      12 kB\n";
        let wanted = Resident {
            resident: 1 << 20,
            peak: 2 << 20,
            shared: 12 << 10,
        };
        assert_eq!(resident(status), wanted);
        assert_eq!(resident("nonsense"), Resident::default());
        let engine = EngineFiles::anonymous().unwrap();
        let usage = Watch::open(&engine).usage();
        assert!(usage.resident.resident > 0 && usage.resident.peak >= usage.resident.resident);
        assert_eq!(usage.arena_bytes, 0, "nothing of it is mapped");
        assert!(
            Watch::open(&engine)
                .available()
                .is_some_and(|bytes| bytes > 0)
        );
    }
}
