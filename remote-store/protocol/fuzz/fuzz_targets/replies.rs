// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Any bytes, as a client would get them from a store.
//!
//! ```text
//! cargo +nightly fuzz run replies -- -max_total_time=120
//! ```
//! The stream is read twice, whole and in pieces: both times the same messages come out, up to the same
//! error. A reply whose front is read before its pages says what the whole reply says.
#![no_main]

mod seal;

use std::mem::{Discriminant, discriminant};

use libfuzzer_sys::fuzz_target;
use tmem_remote_protocol::{
    Decoded, FRAME_MAX, Front, PAGE_SIZE, PAGES_MAX, ProtocolError, Reply, ReplyDecoder, TEXT_MAX,
};

fuzz_target!(|data: &[u8]| {
    let Some((switches, bytes)) = seal::stream(data) else {
        return;
    };
    let mut decoder = ReplyDecoder::new();
    if switches.open {
        decoder.open(1, PAGES_MAX);
    }
    let whole = read(decoder, &bytes, bytes.len().max(1));
    assert_eq!(
        whole,
        read(decoder, &bytes, switches.piece),
        "cut, it is another"
    );
});

/// Bytes that became messages, and how the reading ended.
fn read(
    mut decoder: ReplyDecoder,
    bytes: &[u8],
    piece: usize,
) -> (usize, Option<Discriminant<ProtocolError>>) {
    let (mut at, mut end) = (0, 0);
    while end < bytes.len() {
        end = bytes.len().min(end + piece);
        loop {
            match decoder.next(&bytes[at..end]) {
                Ok(Decoded::Whole { message, len }) => {
                    check(&decoder, &message, &bytes[at..at + len]);
                    if matches!(message, Reply::Welcome(_)) {
                        decoder.open(1, PAGES_MAX);
                    }
                    at += len;
                }
                Ok(Decoded::More { total }) => {
                    assert!(total > end - at && total <= FRAME_MAX);
                    break;
                }
                Err(error) => {
                    assert!(!error.farewell().text.is_empty());
                    return (at, Some(discriminant(&error)));
                }
            }
        }
    }
    (at, None)
}

fn check(decoder: &ReplyDecoder, message: &Reply<'_>, frame: &[u8]) {
    let Ok(Decoded::Whole {
        message: front,
        len,
    }) = decoder.front(frame)
    else {
        panic!("a reply without a front");
    };
    match (front, message) {
        (
            Front::Pages {
                request,
                entries,
                pages,
            },
            Reply::GetDone { .. },
        ) => {
            let Reply::GetDone {
                request: id,
                entries: all,
                pages: bodies,
            } = message
            else {
                return;
            };
            assert_eq!((request, entries, pages), (*id, *all, bodies.len()));
            assert_eq!(len + pages * PAGE_SIZE, frame.len());
            assert_eq!(&frame[len..], bodies.as_flattened());
        }
        (Front::Whole(reply), message) => {
            assert_eq!(reply, *message);
            assert_eq!(len, frame.len());
        }
        (front, message) => panic!("{front:?} of {message:?}"),
    }
    if let Reply::Refused(farewell) | Reply::Goodbye(farewell) = message {
        assert!(farewell.text.len() <= TEXT_MAX);
        assert!(!farewell.text.chars().any(char::is_control));
    }
}
