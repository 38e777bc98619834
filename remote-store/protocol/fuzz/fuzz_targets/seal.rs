// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Makes the checksums of the frames in a fuzzer's bytes right, so that it gets behind them.
//!
//! The input's first byte is a set of switches. What follows is a stream; its frames are found by the
//! lengths that their headers name, as far as they make sense.

use crc_fast::{CrcAlgorithm, checksum};

const HEADER: usize = 32;

/// How the rest of an input is to be taken.
pub(crate) struct Switches {
    /// The handshake is over.
    pub(crate) open: bool,
    /// The stream comes in pieces of this length.
    pub(crate) piece: usize,
}

/// Takes an input apart, with its frames sealed if the switch for that is on.
pub(crate) fn stream(data: &[u8]) -> Option<(Switches, Vec<u8>)> {
    let (first, rest) = data.split_first()?;
    let mut bytes = rest.to_vec();
    if first & 2 != 0 {
        seal(&mut bytes);
    }
    let switches = Switches {
        open: first & 1 != 0,
        piece: usize::from(first >> 2) * 37 + 1,
    };
    Some((switches, bytes))
}

fn seal(bytes: &mut [u8]) {
    let mut at = 0;
    while let Some(frame) = bytes.get_mut(at..).filter(|rest| rest.len() >= HEADER) {
        let field = |at: usize| u32::from_le_bytes(frame[at..at + 4].try_into().unwrap()) as usize;
        let (count, body) = (field(8), field(12));
        let entries = match frame[5] {
            0x10 => count.saturating_mul(20),
            0x91 => count.saturating_mul(13),
            _ => body,
        };
        let end = HEADER.saturating_add(entries).min(frame.len());
        let crc = checksum(CrcAlgorithm::Crc32Iscsi, &frame[HEADER..end]) as u32;
        frame[..4].copy_from_slice(b"TMRP");
        frame[24..28].copy_from_slice(&crc.to_le_bytes());
        let crc = checksum(CrcAlgorithm::Crc32Iscsi, &frame[..28]) as u32;
        frame[28..32].copy_from_slice(&crc.to_le_bytes());
        at = at.saturating_add(HEADER).saturating_add(body);
    }
}
