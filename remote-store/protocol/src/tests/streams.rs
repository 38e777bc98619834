// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Streams of any messages: cut anywhere, damaged anywhere, or no messages at all.

use std::cell::Cell;

use bytes::{Buf, BytesMut};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::messages::*;
use crate::*;

/// Runs `test` on values of `strategy`, with a seed that is printed.
fn check<S: Strategy>(
    name: &str,
    cases: u32,
    strategy: S,
    test: impl Fn(S::Value) -> Result<(), TestCaseError>,
) {
    let run = TestRunner::new(config(name, cases)).run(&strategy, test);
    run.unwrap_or_else(|failure| panic!("{failure}"));
}

/// Gives `stream` to a reader in pieces of these lengths, over and over, and counts the messages. What
/// the decoder asks for is never less than it has, and never more than a frame.
fn read_in_pieces(
    mut stream: BytesMut,
    pieces: &[usize],
    mut next: impl FnMut(&[u8]) -> Decoded<()>,
) -> usize {
    let (mut buf, mut messages) = (BytesMut::new(), 0);
    let mut lengths = pieces.iter().cycle();
    while !stream.is_empty() {
        let length = (*lengths.next().unwrap()).min(stream.len());
        buf.extend_from_slice(&stream.split_to(length));
        loop {
            match next(&buf) {
                Decoded::Whole { len, .. } => {
                    assert!((HEADER_LEN..=buf.len()).contains(&len));
                    buf.advance(len);
                    messages += 1;
                }
                Decoded::More { total } => {
                    assert!(total > buf.len() && total <= FRAME_MAX, "{total}");
                    break;
                }
            }
        }
    }
    assert!(buf.is_empty(), "{} bytes are left", buf.len());
    messages
}

fn pieces() -> impl Strategy<Value = Vec<usize>> {
    vec(prop_oneof![1_usize..40, 1_usize..9000], 1..8)
}

#[test]
fn requests_come_out_as_they_went_in_however_the_stream_is_cut() {
    let name = "requests_come_out_as_they_went_in_however_the_stream_is_cut";
    check(name, 400, (vec(sent(), 1..6), pieces()), |(all, pieces)| {
        let mut stream = BytesMut::new();
        all.iter().for_each(|sent| sent.encode(&mut stream));
        let (decoder, mut expected) = (open_requests(), all.iter());
        let count = read_in_pieces(stream, &pieces, |buf| {
            let decoded = decoder.next(buf).expect("a message");
            whole(decoded, |message| {
                expected.next().unwrap().assert_is(&message);
            })
        });
        prop_assert_eq!(count, all.len());
        Ok(())
    });
}

#[test]
fn replies_come_out_as_they_went_in_however_the_stream_is_cut() {
    let name = "replies_come_out_as_they_went_in_however_the_stream_is_cut";
    check(
        name,
        96,
        (vec(answer(), 1..6), pieces()),
        |(all, pieces)| {
            let mut stream = BytesMut::new();
            all.iter().for_each(|answer| answer.encode(&mut stream));
            let (decoder, mut expected) = (open_replies(), all.iter());
            let count = read_in_pieces(stream, &pieces, |buf| {
                let decoded = decoder.next(buf).expect("a message");
                whole(decoded, |message| {
                    expected.next().unwrap().assert_is(&message);
                })
            });
            prop_assert_eq!(count, all.len());
            Ok(())
        },
    );
}

#[test]
fn fronts_say_what_the_whole_replies_say() {
    let name = "fronts_say_what_the_whole_replies_say";
    check(name, 400, answer(), |answer| {
        let mut stream = BytesMut::new();
        answer.encode(&mut stream);
        let decoder = open_replies();
        let front = (0..=stream.len()).find_map(|end| match decoder.front(&stream[..end]) {
            Ok(Decoded::Whole { message, len }) => Some((message, len, end)),
            Ok(Decoded::More { total }) => {
                assert!(total > end && total <= stream.len());
                None
            }
            Err(error) => panic!("{error}"),
        });
        let (front, len, end) = front.expect("a front");
        prop_assert_eq!(len, end, "it comes as soon as its bytes are there");
        match (front, &answer) {
            (
                Front::Pages {
                    request,
                    entries,
                    pages,
                },
                Answer::GetDone(id, all),
            ) => {
                let (expected, bodies) = got_parts(all);
                prop_assert_eq!(
                    (request, entries, pages),
                    (*id, &expected[..], bodies.len())
                );
                prop_assert_eq!(&stream[len..], bodies.as_flattened());
            }
            (Front::Whole(reply), answer) => answer.assert_is(&reply),
            (front, answer) => panic!("{front:?} of {answer:?}"),
        }
        Ok(())
    });
}

#[test]
fn handshakes_come_out_as_they_went_in() {
    let name = "handshakes_come_out_as_they_went_in";
    let all = (hello(), welcome(), farewell());
    check(name, 256, all, |(hello, welcome, farewell)| {
        let mut buf = BytesMut::new();
        Encoder::hello(&mut buf, &hello);
        let decoded = RequestDecoder::new().next(&buf).expect("a hello");
        whole(decoded, |message| {
            Sent::Hello(hello.clone()).assert_is(&message);
        });

        for answer in [Answer::Welcome(welcome), Answer::Refused(farewell)] {
            buf.clear();
            answer.encode(&mut buf);
            let decoded = ReplyDecoder::new().next(&buf).expect("an answer");
            whole(decoded, |message| answer.assert_is(&message));
        }
        Ok(())
    });
}

#[test]
fn no_bytes_make_a_decoder_panic_or_ask_for_too_much() {
    let name = "no_bytes_make_a_decoder_panic_or_ask_for_too_much";
    check(name, 8000, vec(any::<u8>(), 0..300), |bytes| {
        feed_all(&bytes);
        // The same behind a magic, so that more than the first test of a header runs.
        feed_all(&[&MAGIC[..], &bytes].concat());
        Ok(())
    });
}

/// What is changed in a frame, so that its header is still a proper one: fields and their new values.
#[derive(Clone, Debug)]
struct Patch {
    count: Option<u32>,
    body_len: Option<u32>,
    kind: Option<u8>,
    flip: Option<(prop::sample::Index, u8)>,
    cut: Option<prop::sample::Index>,
}

fn patch() -> impl Strategy<Value = Patch> {
    let number = prop_oneof![0_u32..300, any::<u32>(), Just(4096), Just(4097)];
    (
        proptest::option::of(number.clone()),
        proptest::option::of(number),
        proptest::option::of(any::<u8>()),
        proptest::option::of((any::<prop::sample::Index>(), 1_u8..)),
        proptest::option::of(any::<prop::sample::Index>()),
    )
        .prop_map(|(count, body_len, kind, flip, cut)| Patch {
            count,
            body_len,
            kind,
            flip,
            cut,
        })
}

/// Applies a patch and makes both checksums right again, as an attacker would.
fn apply(frame: &mut BytesMut, patch: &Patch) {
    if let Some((at, bits)) = &patch.flip {
        let at = at.index(frame.len());
        frame[at] ^= bits;
    }
    for (at, value) in [(8, patch.count), (12, patch.body_len)] {
        if let Some(value) = value {
            frame[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
    }
    if let Some(kind) = patch.kind {
        frame[5] = kind;
    }
    if let Some(cut) = &patch.cut {
        frame.truncate(HEADER_LEN.max(cut.index(frame.len())));
    }
    seal(frame);
}

/// Makes the checksums of the frame's header and of its entries, where those are, what they should be.
pub(super) fn seal(frame: &mut [u8]) {
    use crate::limits::crc32;
    let number = |at: usize| u32::from_le_bytes(frame[at..at + 4].try_into().unwrap()) as usize;
    let (count, body) = (number(8), number(12));
    let entries = match frame[5] {
        0x10 => count.saturating_mul(20),
        0x91 => count.saturating_mul(13),
        _ => body,
    };
    let end = HEADER_LEN.saturating_add(entries).min(frame.len());
    let crc = crc32(&frame[HEADER_LEN..end]);
    frame[24..28].copy_from_slice(&crc.to_le_bytes());
    let crc = crc32(&frame[..28]);
    frame[28..32].copy_from_slice(&crc.to_le_bytes());
}

#[test]
fn changed_frames_never_become_messages_of_wrong_sizes() {
    let name = "changed_frames_never_become_messages_of_wrong_sizes";
    let accepted = Cell::new(0);
    let feed = |frame: &mut BytesMut, patch: &Patch| {
        apply(frame, patch);
        accepted.set(accepted.get() + feed_all(frame));
        frame.clear();
    };
    let all = (sent(), answer(), patch());
    check(name, 4000, all, |(sent, answer, patch)| {
        let mut frame = BytesMut::new();
        sent.encode(&mut frame);
        feed(&mut frame, &patch);
        answer.encode(&mut frame);
        feed(&mut frame, &patch);
        Ok(())
    });
    // Most are refused; those that are not are the ones that the test is about.
    let accepted = accepted.get();
    assert!((100..4000).contains(&accepted), "{accepted}");
}

#[test]
fn one_changed_bit_outside_of_the_pages_ends_the_stream() {
    let name = "one_changed_bit_outside_of_the_pages_ends_the_stream";
    let at = any::<prop::sample::Index>();
    check(name, 6000, (answer(), at, 0..8_u8), |(answer, at, bit)| {
        let mut frame = BytesMut::new();
        answer.encode(&mut frame);
        let pages = match &answer {
            Answer::GetDone(_, all) => all.iter().flatten().count() * PAGE_SIZE,
            _ => 0,
        };
        let at = at.index(frame.len() - pages);
        frame[at] ^= 1 << bit;
        prop_assert!(
            open_replies().next(&frame).is_err(),
            "bit {bit} of byte {at}"
        );
        Ok(())
    });
}

/// Gives bytes to every decoder there is, checks what comes out, and counts the messages.
fn feed_all(bytes: &[u8]) -> u32 {
    let mut accepted = 0;
    for decoder in [RequestDecoder::new(), open_requests()] {
        match decoder.next(bytes) {
            Ok(Decoded::Whole { message, len }) => {
                sound_request(&message, len, bytes);
                accepted += 1;
            }
            Ok(Decoded::More { total }) => assert!(total > bytes.len() && total <= FRAME_MAX),
            Err(error) => sound_error(&error),
        }
    }
    for decoder in [ReplyDecoder::new(), open_replies()] {
        match decoder.next(bytes) {
            Ok(Decoded::Whole { message, len }) => {
                sound_reply(&message, len, bytes);
                accepted += 1;
            }
            Ok(Decoded::More { total }) => assert!(total > bytes.len() && total <= FRAME_MAX),
            Err(error) => sound_error(&error),
        }
        match decoder.front(bytes) {
            Ok(Decoded::Whole { len, .. }) => assert!(len <= bytes.len()),
            Ok(Decoded::More { total }) => assert!(total > bytes.len() && total <= FRAME_MAX),
            Err(error) => sound_error(&error),
        }
    }
    accepted
}

fn sound_error(error: &ProtocolError) {
    let text = error.farewell().text;
    assert!(!text.is_empty() && text.len() <= TEXT_MAX, "{text}");
}

/// A message has the sizes of its bytes, and encodes to them again.
fn sound_request(message: &Request<'_>, len: usize, bytes: &[u8]) {
    let (mut again, encoder) = (BytesMut::new(), Encoder::new(VERSION));
    match message {
        // What a later version may have added to a hello is not there again.
        Request::Hello(hello) => {
            assert!(len <= HEADER_LEN + HANDSHAKE_MAX && hello.versions.min <= hello.versions.max);
            return;
        }
        Request::Put {
            request,
            entries,
            pages,
        } => {
            assert_eq!(entries.len(), pages.len());
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
    assert_eq!(again, bytes[..len]);
}

fn sound_reply(message: &Reply<'_>, len: usize, bytes: &[u8]) {
    let (mut again, encoder) = (BytesMut::new(), Encoder::new(VERSION));
    match message {
        // Texts are cleaned, and what a later version may have added is dropped.
        Reply::Welcome(_) => return assert!(len <= HEADER_LEN + HANDSHAKE_MAX),
        Reply::Refused(farewell) | Reply::Goodbye(farewell) => {
            return assert!(farewell.text.len() <= TEXT_MAX);
        }
        // A mark that is set may be any number.
        Reply::Advert(advert) => return assert!(advert.load <= LOAD_MAX && len == 80),
        Reply::PutDone { request, statuses } => encoder.put_done(&mut again, *request, statuses),
        Reply::GetDone {
            request,
            entries,
            pages,
        } => {
            let mut writer = encoder.get_done(&mut again, *request, entries.len());
            let mut pages = pages.iter();
            for entry in *entries {
                if entry.status().is_ok() {
                    writer.page(pages.next().expect("a page a hit"));
                    writer.hit(entry.generation(), entry.crc());
                } else {
                    writer.miss(entry.status());
                }
            }
            writer.finish();
            assert_eq!(again.len(), len);
            // What stands in the entry of a miss has no meaning.
            return;
        }
        Reply::FlushDone { request, statuses } => {
            encoder.flush_done(&mut again, *request, statuses);
        }
        Reply::FlushPoolDone {
            request,
            status,
            pages,
        } => {
            encoder.flush_pool_done(&mut again, *request, *status, *pages);
        }
        Reply::Listed {
            request,
            entries,
            next,
            end,
        } => {
            encoder.listed(&mut again, *request, entries, *next, *end);
        }
        Reply::Pong { request } => encoder.pong(&mut again, *request),
    }
    assert_eq!(again, bytes[..len]);
}

/// Hands a whole message to `with`.
fn whole<T>(decoded: Decoded<T>, with: impl FnOnce(T)) -> Decoded<()> {
    match decoded {
        Decoded::Whole { message, len } => {
            with(message);
            Decoded::Whole { message: (), len }
        }
        Decoded::More { total } => Decoded::More { total },
    }
}
