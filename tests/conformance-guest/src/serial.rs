// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The first serial port, which every monitor has, and the end of the guest.

use core::fmt::{self, Write};

use crate::intrinsics::{halt, in8, out8, out32};

const DATA: u16 = 0x3f8;
const LINE_STATUS: u16 = DATA + 5;
const TRANSMIT_EMPTY: u8 = 1 << 5;
/// A port that is never ready is none; what is printed is lost then.
const PATIENCE: u32 = 10_000;

/// QEMU's `isa-debug-exit` where the runner puts it; nothing elsewhere.
const DEBUG_EXIT: u16 = 0xf4;

/// The port as a sink of text.
#[derive(Debug)]
pub(crate) struct Serial;

impl Write for Serial {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            let mut patience = PATIENCE;
            while in8(LINE_STATUS) & TRANSMIT_EMPTY == 0 && patience > 0 {
                patience -= 1;
            }
            out8(DATA, byte);
        }
        Ok(())
    }
}

/// Prints a line.
macro_rules! line {
    ($($arguments:tt)*) => {{
        use core::fmt::Write;
        // The port takes everything.
        let _ = writeln!($crate::serial::Serial, $($arguments)*);
    }};
}
pub(crate) use line;

/// Ends the guest where the monitor has a way for that. Elsewhere the runner, which reads the
/// verdict, ends the monitor.
pub(crate) fn end() -> ! {
    out32(DEBUG_EXIT, 0);
    halt()
}
