// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Any bytes, as a client would get them from a store.
//!
//! ```text
//! cargo +nightly fuzz run replies -- -max_total_time=120
//! ```
//! A reply whose front is read before its pages says what the whole reply says.
#![no_main]

#[macro_use]
mod reading;
mod seal;

use std::mem::{Discriminant, discriminant};

use tmem_remote_protocol::{
    Decoded, FRAME_MAX, Front, PAGE_SIZE, PAGES_MAX, ProtocolError, Reply, ReplyDecoder, TEXT_MAX,
};

fuzz_reading!(ReplyDecoder, Reply::Welcome(_), check);

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
