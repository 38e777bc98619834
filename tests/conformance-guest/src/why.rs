// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Why a check failed: a line of text, kept without an allocator.

use core::fmt;

const BYTES: usize = 240;

/// The reason of a failure.
pub(crate) struct Why {
    text: [u8; BYTES],
    length: usize,
}

/// What a check and most of its steps return.
pub(crate) type Result<T = ()> = core::result::Result<T, Why>;

impl Why {
    /// Formats the reason; what does not fit is cut.
    #[cold]
    pub(crate) fn new(arguments: fmt::Arguments<'_>) -> Self {
        let mut this = Self {
            text: [0; BYTES],
            length: 0,
        };
        // An error says that the text was cut.
        let _ = fmt::write(&mut this, arguments);
        this
    }

    /// The same reason with what was being done before it.
    #[cold]
    pub(crate) fn during(&self, what: fmt::Arguments<'_>) -> Self {
        Self::new(format_args!("{what}: {self}"))
    }
}

impl fmt::Write for Why {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            let place = self.text.get_mut(self.length).ok_or(fmt::Error)?;
            // One line, of letters that every serial line passes on.
            *place = if byte.is_ascii_graphic() { byte } else { b' ' };
            self.length += 1;
        }
        Ok(())
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(core::str::from_utf8(&self.text[..self.length]).unwrap_or_default())
    }
}

/// Returns a failure.
macro_rules! fail {
    ($($arguments:tt)*) => {
        Err($crate::why::Why::new(format_args!($($arguments)*)))
    };
}
pub(crate) use fail;

/// Fails the check unless a condition holds.
macro_rules! ensure {
    ($condition:expr, $($arguments:tt)*) => {
        if !$condition {
            return $crate::why::fail!($($arguments)*);
        }
    };
}
pub(crate) use ensure;

/// Fails the check unless two values are the same; says what they were.
macro_rules! same {
    ($left:expr, $right:expr, $($arguments:tt)*) => {{
        let (left, right) = (&$left, &$right);
        if left != right {
            return $crate::why::fail!(
                "{}: {left:?}, expected {right:?}", format_args!($($arguments)*)
            );
        }
    }};
}
pub(crate) use same;

/// Adds what was being done to a failure.
pub(crate) trait Context<T> {
    /// Puts `what` before the reason.
    fn during(self, what: fmt::Arguments<'_>) -> Result<T>;
}

impl<T> Context<T> for Result<T> {
    fn during(self, what: fmt::Arguments<'_>) -> Self {
        self.map_err(|why| why.during(what))
    }
}
