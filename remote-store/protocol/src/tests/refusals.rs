// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a decoder refuses, and what it says: one test a rule.

use bytes::BytesMut;

use super::messages::{open_replies, open_requests};
use super::streams::seal;
use crate::*;

fn hello() -> Hello {
    Hello {
        versions: Versions::OWN,
        capabilities: Capabilities::ALL,
        namespace: Namespace::new("host-1").unwrap(),
        epoch: 5,
        session: Session::Control,
        advert_period_ms: 100,
        wants: Wants::default(),
    }
}

fn frame(write: impl FnOnce(&mut BytesMut)) -> BytesMut {
    let mut buf = BytesMut::new();
    write(&mut buf);
    buf
}

fn get() -> BytesMut {
    frame(|buf| Encoder::new(1).get(buf, 9, &[GetEntry::new(0, 1)]))
}

/// The frame with a byte of its header changed, and its checksums right.
fn with(mut frame: BytesMut, at: usize, bytes: &[u8]) -> BytesMut {
    frame[at..at + bytes.len()].copy_from_slice(bytes);
    seal(&mut frame);
    frame
}

fn refused(frame: &[u8]) -> ProtocolError {
    open_requests().next(frame).expect_err("a refusal")
}

#[test]
fn frame_of_a_newer_version_is_refused() {
    let error = refused(&with(get(), 4, &[2]));
    let expected = ProtocolError::FrameVersion {
        kind: Kind::Get,
        found: 2,
        agreed: 1,
    };
    assert_eq!(error, expected);
    assert!(
        error.to_string().contains("version 2, but 1 is agreed"),
        "{error}"
    );
}

#[test]
fn oversized_lengths_are_refused_before_anything_is_waited_for() {
    for (at, value) in [(12, u32::MAX), (12, 1 << 20), (12, 9), (12, 7)] {
        let error = refused(&with(get(), at, &value.to_le_bytes())[..HEADER_LEN]);
        assert!(matches!(error, ProtocolError::Length { .. }), "{error}");
    }
    for count in [0, PAGES_MAX + 1, u32::MAX] {
        let error = refused(&with(get(), 8, &count.to_le_bytes())[..HEADER_LEN]);
        assert!(matches!(error, ProtocolError::Count { .. }), "{error}");
    }
}

#[test]
fn more_pages_than_the_store_allows_are_refused() {
    let mut decoder = RequestDecoder::new();
    decoder.open(1, 2);
    let three = [GetEntry::new(0, 1); 3];
    let two = frame(|buf| Encoder::new(1).get(buf, 1, &three[..2]));
    assert!(decoder.next(&two).is_ok());
    let three = frame(|buf| Encoder::new(1).get(buf, 1, &three));
    let error = decoder.next(&three);
    assert_eq!(
        error.unwrap_err().to_string(),
        "A get has 3 entries: 1 to 2 are allowed"
    );
}

#[test]
fn other_protocol_is_refused_by_its_first_byte() {
    for bytes in [&b"G"[..], b"GET / HTTP/1.1\r\n", b"\x16\x03\x01", b"TMRQ"] {
        let error = RequestDecoder::new().next(bytes).unwrap_err();
        assert!(matches!(error, ProtocolError::NotAFrame { .. }), "{error}");
    }
    assert_eq!(
        RequestDecoder::new().next(b"TMR"),
        Ok(Decoded::More { total: 32 })
    );
}

#[test]
fn nothing_but_a_hello_is_accepted_first_and_only_first() {
    let hello = frame(|buf| Encoder::hello(buf, &hello()));
    assert!(RequestDecoder::new().next(&hello).is_ok());
    let late = refused(&hello);
    assert_eq!(late.to_string(), "A hello came after the handshake");
    let early = RequestDecoder::new().next(&get()).unwrap_err();
    assert_eq!(early.to_string(), "A get came before the handshake");
    let early = frame(|buf| Encoder::new(1).pong(buf, 1));
    assert!(ReplyDecoder::new().next(&early).is_err());
}

#[test]
fn each_side_refuses_what_only_it_sends() {
    let pong = frame(|buf| Encoder::new(1).pong(buf, 1));
    assert_eq!(refused(&pong), ProtocolError::WrongSide(Kind::Pong));
    let error = open_replies().next(&get()).unwrap_err();
    assert_eq!(error, ProtocolError::WrongSide(Kind::Get));
    for kind in Kind::ALL {
        let frame = with(get(), 5, &[kind.code()]);
        let side = open_requests().next(&frame) == Err(ProtocolError::WrongSide(kind));
        assert_eq!(side, kind.is_from_store(), "{kind}");
    }
}

#[test]
fn unknown_kinds_flags_and_statuses_are_refused() {
    assert_eq!(
        refused(&with(get(), 5, &[0x7f])),
        ProtocolError::UnknownKind(0x7f)
    );
    let error = refused(&with(get(), 6, &[1, 0]));
    assert!(
        matches!(error, ProtocolError::Flags { flags: 1, .. }),
        "{error}"
    );
    let done = frame(|buf| Encoder::new(1).put_done(buf, 3, &[Status::Full]));
    let error = open_replies().next(&with(done, 32, &[12])).unwrap_err();
    assert!(
        matches!(error, ProtocolError::Value { request: 3, .. }),
        "{error}"
    );
}

#[test]
fn generation_beyond_the_limit_is_refused() {
    let entry = PutEntry::new(0, 1, GENERATION_LIMIT, 0);
    let put = frame(|buf| Encoder::new(1).put(buf, 4, &[entry], &[&[0; PAGE_SIZE]]));
    let error = refused(&put);
    assert!(
        matches!(error, ProtocolError::Generation { request: 4, .. }),
        "{error}"
    );
}

#[test]
fn damaged_entries_are_refused_before_the_pages_come() {
    let entry = PutEntry::new(0, 1, 2, 3);
    let mut put = frame(|buf| Encoder::new(1).put_front(buf, 4, &[entry]));
    assert!(open_requests().next(&put).is_ok());
    put[HEADER_LEN + 4] ^= 1;
    let error = refused(&put);
    assert!(
        matches!(error, ProtocolError::EntriesDamaged { .. }),
        "{error}"
    );
}

#[test]
fn hits_without_their_pages_are_refused() {
    let mut buf = BytesMut::new();
    let mut writer = Encoder::new(1).get_done(&mut buf, 6, 2);
    writer.page(&[1; PAGE_SIZE]);
    writer.hit(1, 2);
    writer.miss(Status::Missing);
    writer.finish();
    // The miss becomes a hit.
    let error = open_replies()
        .next(&with(buf, HEADER_LEN + 13, &[0]))
        .unwrap_err();
    let expected = ProtocolError::Hits {
        request: 6,
        hits: 2,
        pages: 1,
    };
    assert_eq!(error, expected);
}

#[test]
fn stream_that_ends_inside_a_frame_is_truncated() {
    let (decoder, get) = (open_requests(), get());
    assert_eq!(decoder.end(&[]), Ok(()));
    assert_eq!(decoder.end(&get), Ok(()));
    let error = decoder.end(&get[..35]).unwrap_err();
    assert_eq!(
        error,
        ProtocolError::Truncated {
            have: 35,
            total: 40
        }
    );
}

#[test]
fn list_of_nothing_or_too_much_is_refused() {
    for max in [0, LIST_MAX + 1] {
        let list = frame(|buf| Encoder::new(1).list(buf, 2, 0, 0, max));
        assert_eq!(refused(&list), ProtocolError::ListMax { request: 2, max });
    }
}

#[test]
fn what_a_later_version_adds_to_a_handshake_is_skipped() {
    let mut longer = frame(|buf| Encoder::hello(buf, &hello()));
    longer.extend_from_slice(b"more to come");
    let length = u32::try_from(longer.len() - HEADER_LEN).unwrap();
    let longer = with(longer, 12, &length.to_le_bytes());
    let Ok(Decoded::Whole { message, len }) = RequestDecoder::new().next(&longer) else {
        panic!("no hello");
    };
    assert_eq!((message, len), (Request::Hello(hello()), longer.len()));
}

#[test]
fn names_that_are_none_are_refused() {
    let long = "x".repeat(NAMESPACE_MAX + 1);
    for name in ["", "a b", "a/b", "ä", "a\n", &long] {
        let error = Namespace::new(name).unwrap_err();
        assert_eq!(error.reason(), Reason::Namespace);
    }
    assert!(Namespace::new(&long[1..]).is_ok());
}

#[test]
fn versions_meet_at_the_newest_that_both_speak() {
    let offer = |min, max| Offer {
        versions: Versions { min, max },
        capabilities: Capabilities::LIST.union(Capabilities::ADVERTS),
        max_pages: 1 << 20,
        max_in_flight: 0,
    };
    let client = |min, max| Hello {
        versions: Versions { min, max },
        ..hello()
    };
    let version = |hello, offer| negotiate(&hello, &offer).map(|agreed| agreed.version);
    assert_eq!(version(client(1, 3), offer(2, 5)), Ok(3));
    assert_eq!(version(client(1, 9), offer(2, 5)), Ok(5));
    assert_eq!(version(client(4, 4), offer(2, 5)), Ok(4));
    let refusal = version(client(6, 9), offer(2, 5)).unwrap_err();
    assert_eq!(refusal.reason, Reason::Version);
    assert_eq!(refusal.versions, Versions { min: 2, max: 5 });
    assert!(refusal.text.contains("6 to 9"), "{refusal}");

    let agreed = negotiate(&hello(), &offer(1, 1)).unwrap();
    let limits = (
        agreed.max_pages,
        agreed.max_in_flight,
        agreed.advert_period_ms,
    );
    assert_eq!(
        limits,
        (PAGES_MAX, 1, 100),
        "limits are those of the protocol"
    );
    assert_eq!(agreed.capabilities, offer(1, 1).capabilities);
    let data = Hello {
        session: Session::Data,
        ..hello()
    };
    assert_eq!(negotiate(&data, &offer(1, 1)).unwrap().advert_period_ms, 0);
}

#[test]
fn welcome_that_does_not_answer_the_hello_is_refused() {
    let offer = Offer {
        versions: Versions::OWN,
        capabilities: Capabilities::ALL,
        max_pages: 64,
        max_in_flight: 32,
    };
    let agreed = negotiate(&hello(), &offer).unwrap();
    let good = Welcome {
        version: agreed.version,
        capabilities: agreed.capabilities,
        store_id: [7; 16],
        incarnation: 1,
        max_pages: agreed.max_pages,
        max_in_flight: agreed.max_in_flight,
        advert_period_ms: agreed.advert_period_ms,
        advert: Advert::default(),
    };
    assert_eq!(good.check(&hello()), Ok(agreed));
    let bad = |change: fn(&mut Welcome)| {
        let mut welcome = good.clone();
        change(&mut welcome);
        welcome.check(&hello()).unwrap_err()
    };
    assert!(matches!(
        bad(|w| w.version = 2),
        ProtocolError::Chosen { chosen: 2 }
    ));
    let more = bad(|w| w.capabilities = Capabilities::from_bits(1 << 60));
    assert!(matches!(more, ProtocolError::Capabilities { .. }));
    assert!(matches!(
        bad(|w| w.max_pages = 0),
        ProtocolError::Limit { .. }
    ));
    assert!(matches!(
        bad(|w| w.max_pages = 257),
        ProtocolError::Limit { .. }
    ));
    assert!(matches!(
        bad(|w| w.max_in_flight = 0),
        ProtocolError::Limit { .. }
    ));
    assert!(matches!(
        bad(|w| w.advert_period_ms = 0),
        ProtocolError::Limit { .. }
    ));
}

#[test]
fn text_of_a_peer_is_one_line_of_bounded_length() {
    let farewell = Farewell::new(Reason::Denied, "a\nb\x1b[31m".to_owned() + &"ö".repeat(200));
    assert!(farewell.text.starts_with("a b [31m"));
    assert!(farewell.text.len() <= TEXT_MAX && farewell.text.len() >= TEXT_MAX - 1);
    let fenced = Farewell::fenced(3, 8);
    assert_eq!(fenced.detail, 8);
    assert_eq!(
        fenced.to_string(),
        "a newer process of the same client is there (Epoch 3 is over: a client of epoch 8 has this namespace)"
    );
}

#[test]
#[should_panic(expected = "a get of 257 entries")]
fn caller_that_exceeds_the_limits_is_told_at_once() {
    Encoder::new(1).get(&mut BytesMut::new(), 1, &[GetEntry::new(0, 0); 257]);
}

#[test]
#[should_panic(expected = "a page has no answer")]
fn reply_with_a_page_unanswered_is_not_finished() {
    let mut buf = BytesMut::new();
    Encoder::new(1).get_done(&mut buf, 1, 2).finish();
}
