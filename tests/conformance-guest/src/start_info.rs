// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the monitor tells at the start: the command line, and where memory ends.

use crate::memory::Region;

const MAGIC: u32 = 0x336e_c578;
/// Bytes of the structure's version 1, the first with a memory map.
const INFO_BYTES: usize = 56;
const ENTRY_BYTES: usize = 24;
const RAM: u32 = 1;
const COMMAND_LINE_MAX: usize = 256;
/// Entries of a map that is believed.
const ENTRIES_MAX: u32 = 64;

/// The monitor's word.
#[derive(Debug)]
pub(crate) struct StartInfo {
    line: [u8; COMMAND_LINE_MAX],
    length: usize,
    /// The address just beyond the last RAM.
    pub(crate) memory_end: u64,
}

impl StartInfo {
    /// Reads what lies at `address`, or gives nothing if that is no start info.
    ///
    /// # Safety
    /// `address` must be what the monitor passed.
    pub(crate) unsafe fn read(address: u32) -> Option<Self> {
        // SAFETY: The monitor put the structure there, in memory that this program does not use.
        let info = unsafe { Region::new(address as usize, INFO_BYTES) };
        if info.read::<u32>(0) != MAGIC || info.read::<u32>(4) == 0 {
            return None;
        }
        let mut this = Self {
            line: [0; COMMAND_LINE_MAX],
            length: 0,
            memory_end: 0,
        };
        let line = info.read::<u64>(24);
        if line != 0 {
            // SAFETY: As above; a longer line is cut, and what follows a shorter one is not used.
            let line = unsafe { Region::new(usize::try_from(line).ok()?, COMMAND_LINE_MAX) };
            line.take(0, &mut this.line);
            this.length = this.line.iter().position(|byte| *byte == 0).unwrap_or(0);
        }
        let map = usize::try_from(info.read::<u64>(40)).ok()?;
        for nth in 0..info.read::<u32>(48).min(ENTRIES_MAX) as usize {
            // SAFETY: As above.
            let entry = unsafe { Region::new(map + nth * ENTRY_BYTES, ENTRY_BYTES) };
            if entry.read::<u32>(16) == RAM {
                let end = entry.read::<u64>(0).saturating_add(entry.read::<u64>(8));
                this.memory_end = this.memory_end.max(end);
            }
        }
        Some(this)
    }

    /// The value of `key=value` on the command line.
    pub(crate) fn option(&self, key: &str) -> Option<&str> {
        let line = core::str::from_utf8(self.line.get(..self.length)?).ok()?;
        line.split(' ')
            .find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
    }
}
