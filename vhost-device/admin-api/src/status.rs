// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The daemon as a whole: health, tiers and memory.

use serde::{Deserialize, Serialize};

use crate::{DaemonStatus, Promises, Schema, Tier};

/// Answer to `GET /v1/status`. While the daemon's state is `failed` nobody knows its pages: `tiers`
/// is then empty, and `pages`, `memory`, `guests` and `connected` are 0.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Version of this layout.
    pub schema: Schema,
    /// Version of the process that answers.
    pub version: String,
    /// Time since the daemon's start, across restarts of its worker.
    pub uptime_seconds: u64,
    /// In short.
    pub health: Health,
    /// Why health is not ok, a sentence each; empty when it is.
    pub reasons: Vec<String>,
    /// A tier's latency or bandwidth is emulated, so no figure is the hardware's own.
    pub emulated: bool,
    /// Nearest first.
    pub tiers: Vec<Tier>,
    /// What guests are promised, against what there is. Absent from a daemon that does not tell.
    #[serde(default)]
    pub promises: Option<Promises>,
    /// Where the pages are.
    pub pages: PageTotals,
    /// Where the memory of the process that answers is.
    pub memory: Memory,
    /// Guests that the daemon serves.
    pub guests: u32,
    /// Of these, guests with a VMM connected.
    pub connected: u32,
    /// The daemon's processes. A daemon that does not tell runs as one process.
    #[serde(default)]
    pub daemon: DaemonStatus,
}

/// Whether the daemon does all that it is set up for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// It does.
    Ok,
    /// It works, with less redundancy, room or speed than it is set up for.
    Degraded,
}

impl Health {
    /// What follows from `reasons` for being degraded.
    #[must_use]
    pub const fn from_reasons(reasons: &[String]) -> Self {
        if reasons.is_empty() {
            Self::Ok
        } else {
            Self::Degraded
        }
    }

    /// The word that stands for it in answers and tables.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Degraded => "degraded",
        }
    }
}

/// All pages of all guests. `held` = `same_filled` + `frames` + `pm` + `remote`, and each of the five is
/// the sum of the pools' field of that meaning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageTotals {
    /// Pages held.
    pub held: u64,
    /// Pages that repeat one word and take no frame.
    pub same_filled: u64,
    /// Pages in frames, 4096 bytes each.
    pub frames: u64,
    /// Pages in the PM file.
    #[serde(default)]
    pub pm: u64,
    /// Pages in the remote tier alone.
    #[serde(default)]
    pub remote: u64,
}

/// Resident memory of the process, as the kernel counts it and as the daemon explains it:
/// `resident_bytes` = `frames_bytes` + `idle_frames_bytes` + `frame_table_bytes` + `index_bytes`
/// + `guest_ram_bytes` + `other_bytes`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Resident now.
    pub resident_bytes: u64,
    /// The most that was ever resident.
    pub peak_resident_bytes: u64,
    /// Frames that hold a page or the copy of one: [`PageTotals::frames`] and the copies that tier
    /// `dram` counts as [`Tier::victim_pages`], × 4096.
    pub frames_bytes: u64,
    /// Frames that were used once and wait, still resident, for the next put.
    pub idle_frames_bytes: u64,
    /// What is kept about each frame.
    pub frame_table_bytes: u64,
    /// What is kept about each handle.
    pub index_bytes: u64,
    /// Guest memory that VMMs share with the daemon and that it has touched. It is the guests'
    /// own: it is counted here because the kernel counts it, and it does not end with the daemon.
    pub guest_ram_bytes: u64,
    /// Program text, stacks, buffers, and what the allocator keeps.
    pub other_bytes: u64,
}

/// What the kernel says of a process, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resident {
    /// `VmRSS`.
    pub resident: u64,
    /// `VmHWM`.
    pub peak: u64,
    /// `RssShmem`: the part that is shared memory, frames and guests' memory alike.
    pub shared: u64,
}

impl Memory {
    /// Explains `resident` by the parts that the caller can count; what is left is `other_bytes`.
    ///
    /// The parts are counted at slightly different moments than the kernel's figures. Where they
    /// come out larger than what is resident, `resident_bytes` is raised to their sum, so that the
    /// equation always holds.
    #[must_use]
    pub fn explain(resident: Resident, parts: Self) -> Self {
        let known = parts.frames_bytes
            + parts.idle_frames_bytes
            + parts.frame_table_bytes
            + parts.index_bytes
            + parts.guest_ram_bytes;
        let resident_bytes = resident.resident.max(known);
        Self {
            resident_bytes,
            peak_resident_bytes: resident.peak.max(resident_bytes),
            other_bytes: resident_bytes - known,
            ..parts
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Memory, Resident};

    fn sum(memory: &Memory) -> u64 {
        memory.frames_bytes
            + memory.idle_frames_bytes
            + memory.frame_table_bytes
            + memory.index_bytes
            + memory.guest_ram_bytes
            + memory.other_bytes
    }

    #[test]
    fn what_no_part_explains_is_other() {
        let parts = Memory {
            frames_bytes: 4096,
            index_bytes: 100,
            ..Memory::default()
        };
        let resident = Resident {
            resident: 10_000,
            peak: 20_000,
            shared: 4096,
        };
        let memory = Memory::explain(resident, parts);
        assert_eq!(memory.other_bytes, 10_000 - 4096 - 100);
        assert_eq!(sum(&memory), memory.resident_bytes);
        assert_eq!(memory.peak_resident_bytes, 20_000);
    }

    #[test]
    fn parts_larger_than_resident_still_add_up() {
        let parts = Memory {
            frames_bytes: 8192,
            guest_ram_bytes: 1,
            ..Memory::default()
        };
        let resident = Resident {
            resident: 4096,
            peak: 4096,
            shared: 0,
        };
        let memory = Memory::explain(resident, parts);
        assert_eq!((memory.other_bytes, memory.resident_bytes), (0, 8193));
        assert_eq!(sum(&memory), memory.resident_bytes);
        assert!(memory.peak_resident_bytes >= memory.resident_bytes);
    }
}
