// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Any bytes, as a store would get them from a client.
//!
//! ```text
//! cargo +nightly fuzz run requests -- -max_total_time=120
//! ```
//! The stream is read twice, whole and in pieces: both times the same messages come out, up to the same
//! error, and each message encodes to the bytes that it came from.
#![no_main]

mod seal;

use std::mem::{Discriminant, discriminant};

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use tmem_remote_protocol::{
    Decoded, Encoder, FRAME_MAX, HANDSHAKE_MAX, HEADER_LEN, PAGES_MAX, PageBytes, ProtocolError,
    Request, RequestDecoder,
};

fuzz_target!(|data: &[u8]| {
    let Some((switches, bytes)) = seal::stream(data) else {
        return;
    };
    let mut decoder = RequestDecoder::new();
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
    mut decoder: RequestDecoder,
    bytes: &[u8],
    piece: usize,
) -> (usize, Option<Discriminant<ProtocolError>>) {
    let (mut at, mut end) = (0, 0);
    while end < bytes.len() {
        end = bytes.len().min(end + piece);
        loop {
            match decoder.next(&bytes[at..end]) {
                Ok(Decoded::Whole { message, len }) => {
                    check(&message, &bytes[at..at + len]);
                    if matches!(message, Request::Hello(_)) {
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

fn check(message: &Request<'_>, frame: &[u8]) {
    let (mut again, encoder) = (BytesMut::new(), Encoder::new(1));
    match message {
        Request::Hello(hello) => {
            Encoder::hello(&mut again, hello);
            assert!(again.len() <= frame.len() && frame.len() <= HEADER_LEN + HANDSHAKE_MAX);
            return;
        }
        Request::Put {
            request,
            entries,
            pages,
        } => {
            let pages: Vec<&PageBytes> = pages.iter().collect();
            encoder.put(&mut again, *request, entries, &pages);
        }
        Request::Get { request, entries } => encoder.get(&mut again, *request, entries),
        Request::Flush { request, entries } => encoder.flush(&mut again, *request, entries),
        Request::FlushPool {
            request,
            pool,
            generation,
        } => {
            encoder.flush_pool(&mut again, *request, *pool, *generation);
        }
        Request::List {
            request,
            pool,
            from,
            max,
        } => {
            encoder.list(&mut again, *request, *pool, *from, *max);
        }
        Request::Ping { request } => encoder.ping(&mut again, *request),
    }
    assert_eq!(again, frame);
}
