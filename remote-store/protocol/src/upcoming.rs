// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which pages the requests of a buffer are about, before they are decoded: so that a store can have
//! what it will need fetched from memory meanwhile.
//!
//! Nothing is checked. What comes out of damaged bytes is as good as any other guess, and is never more
//! than a guess: the decoder decides what a request is.

use zerocopy::FromBytes;
use zerocopy::little_endian::U32;

use crate::entries::{GetEntry, PutEntry};
use crate::header::Kind;
use crate::limits::HEADER_LEN;

const KIND_AT: usize = 5;
const COUNT_AT: usize = 8;
const BODY_AT: usize = 12;

/// Notes the indexes in `pool` of the pages that the puts and gets at the front of `buf` name, in order,
/// up to the first frame of another kind, pool or length. Says how many they are.
#[must_use]
pub fn upcoming(buf: &[u8], pool: u32, into: &mut [u32]) -> usize {
    let (mut rest, mut noted) = (buf, 0);
    loop {
        let word = |at: usize| U32::ref_from_prefix(rest.get(at..)?).ok();
        let kind = rest.get(KIND_AT).copied();
        let stride = match kind {
            Some(code) if code == Kind::Get.code() => size_of::<GetEntry>(),
            Some(code) if code == Kind::Put.code() => size_of::<PutEntry>(),
            _ => return noted,
        };
        let (Some((count, _)), Some((body, _))) = (word(COUNT_AT), word(BODY_AT)) else {
            return noted;
        };
        let entries = rest.get(HEADER_LEN..).unwrap_or_default();
        // Entries of both kinds begin with the pool and the index.
        for entry in entries.chunks_exact(stride).take(count.get() as usize) {
            let (Some(place), Ok((named, _))) =
                (into.get_mut(noted), GetEntry::ref_from_prefix(entry))
            else {
                return noted;
            };
            if named.pool() != pool {
                return noted;
            }
            *place = named.index();
            noted += 1;
        }
        let Some(next) = rest.get(HEADER_LEN + body.get() as usize..) else {
            return noted;
        };
        rest = next;
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;
    use crate::{Encoder, PAGE_SIZE, pool};

    #[test]
    fn pages_of_puts_and_gets_are_named_in_order_up_to_another_pool() {
        let mut buf = BytesMut::new();
        let encoder = Encoder::new(1);
        let get = |index| GetEntry::new(pool::PERSISTENT, index);
        encoder.get(&mut buf, 1, &[get(7), get(8)]);
        let put = PutEntry::new(pool::PERSISTENT, 9, 1, 0);
        encoder.put(&mut buf, 2, &[put], &[&[0; PAGE_SIZE]]);
        encoder.get(&mut buf, 3, &[get(10)]);
        let mut into = [0; 8];
        assert_eq!(upcoming(&buf, pool::PERSISTENT, &mut into), 4);
        assert_eq!(into[..4], [7, 8, 9, 10]);
        assert_eq!(upcoming(&buf, pool::PERSISTENT, &mut into[..3]), 3);
        assert_eq!(upcoming(&buf, pool::EPHEMERAL, &mut into), 0);
        encoder.ping(&mut buf, 4);
        encoder.get(&mut buf, 5, &[get(11)]);
        assert_eq!(upcoming(&buf, pool::PERSISTENT, &mut into), 4);
    }

    #[test]
    fn any_bytes_and_any_part_of_a_request_are_taken() {
        let mut buf = BytesMut::new();
        let entries: Vec<_> = (0..40).map(|index| GetEntry::new(0, index)).collect();
        Encoder::new(1).get(&mut buf, 1, &entries);
        for len in 0..buf.len() {
            let mut into = [0; 64];
            let named = upcoming(&buf[..len], 0, &mut into);
            assert_eq!(named, len.saturating_sub(HEADER_LEN) / 8, "{len}");
        }
        for byte in 0..=u8::MAX {
            let mut into = [0; 64];
            assert!(upcoming(&[byte; 5000], 0, &mut into) <= 64);
        }
    }
}
