// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What can be wrong with a trace.

use std::io;

use super::{NAME_MAX, POOLS_MAX, VERSION};

/// Why a trace could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The file could not be written.
    #[error("cannot write the trace")]
    Write(#[source] io::Error),
    /// The file could not be read.
    #[error("cannot read the trace")]
    Read(#[source] io::Error),
    /// It is another kind of file.
    #[error("this is not a trace: it does not begin as one")]
    Foreign,
    /// Written by another version.
    #[error("the trace has version {found}, and only version {VERSION} can be read")]
    Version {
        /// The version that it says.
        found: u16,
    },
    /// The file ends too soon.
    #[error("the trace was cut short at byte {at}; the {events} events before are good")]
    Truncated {
        /// Where a byte is missing.
        at: u64,
        /// Events that were read.
        events: u64,
    },
    /// Bytes have changed.
    #[error("the trace is damaged in the part that begins at byte {at}: {what}")]
    Damaged {
        /// Where the damaged part begins.
        at: u64,
        /// What is wrong there.
        what: &'static str,
    },
    /// The header cannot be written.
    #[error("a trace can name a guest of {NAME_MAX} bytes and {POOLS_MAX} pools")]
    Header,
    /// There is a recording already.
    #[error("the guest's trace is being recorded already")]
    Recording,
}
