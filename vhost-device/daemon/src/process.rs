// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the kernel says of this process's memory.

use std::path::Path;

use tmem_admin_api::Resident;

/// How the kernel shows the engine's anonymous file of frames.
const MEMFD: &str = "/memfd:tmem-frames";

/// Resident memory, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Of the whole process.
    pub(crate) resident: Resident,
    /// Of the file that holds the frames, with their table.
    pub(crate) arena_bytes: u64,
}

impl Usage {
    /// Shared memory other than the frames' file: the guests' own, as far as it has been touched.
    #[must_use]
    pub(crate) const fn guest_ram_bytes(&self) -> u64 {
        self.resident.shared.saturating_sub(self.arena_bytes)
    }
}

/// Asks the kernel; the frames lie in `frames_file`, or in anonymous memory. What cannot be read is
/// 0. Takes time in proportion to what is mapped, some milliseconds for gigabytes.
#[must_use]
pub(crate) fn usage(frames_file: Option<&Path>) -> Usage {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let name = frames_file.map(|path| {
        // The kernel shows the path without links.
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        path.display().to_string()
    });
    Usage {
        resident: resident(&read("/proc/self/status")),
        arena_bytes: resident_of(&read("/proc/self/smaps"), name.as_deref().unwrap_or(MEMFD)),
    }
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

/// Resident bytes of the mappings of file `name`, from an `smaps` file.
fn resident_of(smaps: &str, name: &str) -> u64 {
    let mut inside = false;
    let mut sum = 0;
    for line in smaps.lines() {
        if let Some(figure) = line.strip_prefix("Rss:") {
            if inside {
                sum += kib(figure);
            }
        } else if let Some(path) = mapped_path(line) {
            inside = path.strip_suffix(" (deleted)").unwrap_or(path) == name;
        }
    }
    sum
}

/// The path of a mapping's first line, empty if it has none; nothing for other lines.
fn mapped_path(line: &str) -> Option<&str> {
    let (range, rest) = line.split_once(' ')?;
    let (from, to) = range.split_once('-')?;
    let hexadecimal = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit());
    if !hexadecimal(from) || !hexadecimal(to) {
        return None;
    }
    // Modes, offset, device, inode, and what is left is the path, which may have spaces in it.
    let mut rest = rest;
    for _ in 0..4 {
        rest = rest
            .trim_start()
            .split_once(' ')
            .map_or("", |(_, rest)| rest);
    }
    Some(rest.trim_start())
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
    fn the_frames_are_found_among_the_mappings() {
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
7f60-7f70 rw-s 00000000 00:01 2                          /memfd:tmem-frames (deleted)
Rss:                  28 kB
VmFlags: rd wr sh
";
        assert_eq!(resident_of(smaps, MEMFD), 128 << 10);
        assert_eq!(resident_of(smaps, "/usr/bin/x y"), 4 << 10);
        assert_eq!(resident_of(smaps, "/nowhere"), 0);
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
        let own = usage(None).resident;
        assert!(own.resident > 0 && own.peak >= own.resident);
    }
}
