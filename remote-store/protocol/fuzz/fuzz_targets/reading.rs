// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What both targets do: read a stream twice, whole and in pieces. Both times the same messages come
//! out, up to the same error.

/// Makes a target of a decoder, the message that opens its stream, and what to check of each message.
macro_rules! fuzz_reading {
    ($decoder:ident, $opens:pat, $check:path) => {
        libfuzzer_sys::fuzz_target!(|data: &[u8]| {
            let Some((switches, bytes)) = seal::stream(data) else {
                return;
            };
            let mut decoder = $decoder::new();
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
            mut decoder: $decoder,
            bytes: &[u8],
            piece: usize,
        ) -> (usize, Option<Discriminant<ProtocolError>>) {
            let (mut at, mut end) = (0, 0);
            while end < bytes.len() {
                end = bytes.len().min(end + piece);
                loop {
                    match decoder.next(&bytes[at..end]) {
                        Ok(Decoded::Whole { message, len }) => {
                            $check(&decoder, &message, &bytes[at..at + len]);
                            if matches!(message, $opens) {
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
    };
}
