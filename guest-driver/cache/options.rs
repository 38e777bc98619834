// SPDX-License-Identifier: GPL-2.0
//! The words of a table line behind the disk's name.

use kernel::{
    ffi::{c_char, c_uint},
    prelude::*,
};

/// Copies under way at a time, of 128 KiB each, and their bounds.
const COPIES: u32 = 32;
const COPIES_MAX: u32 = 512;
/// How long an answer may take before readers go to the disk, in milliseconds, and its bound.
const STALL_MS: u32 = 200;
const STALL_MS_MAX: u32 = 60_000;

/// See the head of this file.
pub(super) struct Options {
    /// The device that has the disk `vtmem<number>`; None: any.
    pub(super) device: Option<u32>,
    pub(super) copies: u32,
    pub(super) stall_ms: u32,
}

impl Options {
    /// Reads `[vtmemN] [copies N] [stall_ms N]`.
    ///
    /// # Safety
    ///
    /// `words` are `count` strings.
    pub(super) unsafe fn parse(
        words: *const *const c_char,
        count: c_uint,
    ) -> Result<Self, &'static CStr> {
        let mut options = Self {
            device: None,
            copies: COPIES,
            stall_ms: STALL_MS,
        };
        // SAFETY: as for this function.
        let word = |nth: c_uint| unsafe {
            (nth < count).then(|| CStr::from_char_ptr(*words.add(nth as usize)).to_bytes())
        };
        let mut nth = 0;
        while let Some(name) = word(nth) {
            if let (0, Some(digits)) = (nth, name.strip_prefix(b"vtmem")) {
                options.device =
                    Some(number(digits).ok_or(c"A device is called vtmem0, vtmem1 and so on")?);
                nth = nth.wrapping_add(1);
                continue;
            }
            let value = word(nth.wrapping_add(1)).and_then(number);
            match (name, value) {
                (b"copies", Some(value)) if (1..=COPIES_MAX).contains(&value) => {
                    options.copies = value;
                }
                (b"stall_ms", Some(value)) if (1..=STALL_MS_MAX).contains(&value) => {
                    options.stall_ms = value;
                }
                (b"copies", _) => return Err(c"copies is a number from 1 to 512"),
                (b"stall_ms", _) => return Err(c"stall_ms is a number from 1 to 60000"),
                _ => return Err(c"Behind the disk come [vtmemN] [copies N] [stall_ms N]"),
            }
            nth = nth.wrapping_add(2);
        }
        Ok(options)
    }
}

/// A decimal number.
fn number(digits: &[u8]) -> Option<u32> {
    core::str::from_utf8(digits).ok()?.parse().ok()
}
