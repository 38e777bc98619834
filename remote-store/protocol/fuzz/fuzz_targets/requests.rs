// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Any bytes, as a store would get them from a client.
//!
//! ```text
//! cargo +nightly fuzz run requests -- -max_total_time=120
//! ```
//! Each message encodes to the bytes that it came from.
#![no_main]

#[macro_use]
mod reading;
mod seal;

use std::mem::{Discriminant, discriminant};

use bytes::BytesMut;
use tmem_remote_protocol::{
    Decoded, Encoder, FRAME_MAX, HANDSHAKE_MAX, HEADER_LEN, PAGES_MAX, PageBytes, ProtocolError,
    Request, RequestDecoder,
};

fuzz_reading!(RequestDecoder, Request::Hello(_), check);

fn check(_decoder: &RequestDecoder, message: &Request<'_>, frame: &[u8]) {
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
