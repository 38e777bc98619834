// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What has arrived and is not read yet.

/// Room for a page and what comes with it, several times: one read of the socket brings it all.
const FIRST_BYTES: usize = 16 << 10;

/// A buffer whose middle part is full.
#[derive(Debug)]
pub(super) struct Input {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Input {
    pub(super) fn new() -> Self {
        Self {
            bytes: vec![0; FIRST_BYTES],
            start: 0,
            end: 0,
        }
    }

    /// What has arrived.
    pub(super) fn full(&self) -> &[u8] {
        self.bytes.get(self.start..self.end).unwrap_or_default()
    }

    /// These many of them are done with.
    pub(super) fn consume(&mut self, bytes: usize) {
        self.start = (self.start + bytes).min(self.end);
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Makes room for a message of this length, part of which may be here.
    pub(super) fn make_room(&mut self, total: usize) {
        if self.start + total <= self.bytes.len() {
            return;
        }
        self.bytes.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        if total > self.bytes.len() {
            self.bytes.resize(total, 0);
        }
    }

    /// Where to read to. Never empty.
    pub(super) fn spare(&mut self) -> &mut [u8] {
        if self.end == self.bytes.len() {
            self.make_room(self.full().len() + FIRST_BYTES);
        }
        &mut self.bytes[self.end..]
    }

    /// These many were read there.
    pub(super) fn filled(&mut self, bytes: usize) {
        self.end = (self.end + bytes).min(self.bytes.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_out_in_order_whatever_the_lengths() {
        let mut input = Input::new();
        let (mut next_in, mut next_out) = (0_u8, 0_u8);
        for round in 0..200_usize {
            let count = (round * 797) % 9000 + 1;
            input.make_room(count);
            for _ in 0..count {
                let spare = input.spare();
                spare[0] = next_in;
                input.filled(1);
                next_in = next_in.wrapping_add(1);
            }
            let take = input.full().len() - round % 50;
            for byte in &input.full()[..take] {
                assert_eq!(*byte, next_out);
                next_out = next_out.wrapping_add(1);
            }
            input.consume(take);
        }
    }
}
