// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A connection against the other end of a pipe, which says what the test has it say.

use bytes::Buf;
use tmem_remote_protocol::{
    Capabilities, Farewell, Namespace, PageBytes, Reason, Request, RequestDecoder, Session, Status,
    Versions, Wants, checksum,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::*;

fn hello() -> Hello {
    Hello {
        versions: Versions::OWN,
        capabilities: Capabilities::ALL,
        namespace: Namespace::new("host7").unwrap(),
        epoch: 1,
        session: Session::Data,
        advert_period_ms: 100,
        wants: Wants::default(),
    }
}

fn welcome(max_in_flight: u32) -> Welcome {
    Welcome {
        version: 1,
        capabilities: Capabilities::LIST,
        store_id: [1; 16],
        incarnation: 1,
        max_pages: 256,
        max_in_flight,
        advert_period_ms: 0,
        advert: Advert::default(),
    }
}

fn never(_: &mut DuplexStream, _: &mut [u8]) -> io::Result<usize> {
    Err(io::ErrorKind::WouldBlock.into())
}

/// The store's end, and a lane that was welcomed.
async fn pair(max_in_flight: u32) -> (DuplexStream, Lane<DuplexStream>) {
    let (near, mut far) = tokio::io::duplex(4096);
    let mut out = BytesMut::new();
    Encoder::welcome(&mut out, &welcome(max_in_flight));
    far.write_all(&out).await.unwrap();
    let lane = Lane::open(near, never, &hello()).await.unwrap();
    let mut said = [0; 2048];
    assert!(far.read(&mut said).await.unwrap() > 32, "the hello");
    (far, lane)
}

async fn say(far: &mut DuplexStream, encode: impl FnOnce(Encoder, &mut BytesMut)) {
    let mut out = BytesMut::new();
    encode(Encoder::new(1), &mut out);
    far.write_all(&out).await.unwrap();
}

fn statuses(reply: &Reply<'_>) -> Vec<Status> {
    match reply {
        Reply::PutDone { statuses, .. } | Reply::FlushDone { statuses, .. } => statuses.to_vec(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn answers_find_their_requests_in_whatever_order_they_are_awaited() {
    let (mut far, mut lane) = pair(8).await;
    let ping = lane.start_ping().unwrap();
    let flush = lane
        .start_flush(&[FlushEntry::new(0, 1, 1), FlushEntry::new(0, 2, 1)])
        .unwrap();
    let dropped = lane.start_ping().unwrap();
    let last = lane.start_flush(&[FlushEntry::new(0, 3, 1)]).unwrap();
    lane.abandon(dropped);
    assert_eq!(lane.outstanding(), 4);
    say(&mut far, |encoder, out| {
        encoder.pong(out, ping.0);
        encoder.flush_done(out, flush.0, &[Status::Ok, Status::Missing]);
        encoder.pong(out, dropped.0);
        encoder.flush_done(out, last.0, &[Status::Stale]);
    })
    .await;
    let mut got = Vec::new();
    lane.finish(last, |reply| got = statuses(&reply))
        .await
        .unwrap();
    assert_eq!(got, [Status::Stale]);
    lane.finish(flush, |reply| got = statuses(&reply))
        .await
        .unwrap();
    assert_eq!(got, [Status::Ok, Status::Missing]);
    lane.finish(ping, |_| {}).await.unwrap();
    assert_eq!(lane.outstanding(), 0);
    assert!(matches!(
        lane.finish(dropped, |_| {}).await,
        Err(LaneError::Mismatch)
    ));
}

#[tokio::test]
async fn more_than_the_store_allows_is_not_sent() {
    let (_far, mut lane) = pair(2).await;
    lane.start_ping().unwrap();
    lane.start_ping().unwrap();
    assert!(matches!(lane.start_ping(), Err(LaneError::Busy(2))));
}

#[tokio::test]
async fn answer_to_another_question_ends_the_connection() {
    for wrong in 0..4 {
        let (mut far, mut lane) = pair(8).await;
        let id = lane.start_flush(&[FlushEntry::new(0, 1, 1)]).unwrap();
        say(&mut far, |encoder, out| match wrong {
            0 => encoder.pong(out, id.0),
            1 => encoder.flush_done(out, id.0 + 1, &[Status::Ok]),
            2 => encoder.flush_done(out, id.0, &[Status::Ok, Status::Ok]),
            _ => out.extend_from_slice(&[0xaa; 64]),
        })
        .await;
        let error = lane.finish(id, |_| panic!("taken")).await.unwrap_err();
        let expected = if wrong == 3 {
            matches!(error, LaneError::Protocol(_))
        } else {
            matches!(error, LaneError::Mismatch)
        };
        assert!(expected, "{wrong}: {error:?}");
        assert!(lane.start_ping().is_err(), "dead stays dead");
    }
}

#[tokio::test]
async fn end_of_the_connection_says_why() {
    let (mut far, mut lane) = pair(8).await;
    let id = lane.start_ping().unwrap();
    say(&mut far, |encoder, out| {
        encoder.goodbye(out, &Farewell::fenced(1, 9));
    })
    .await;
    let error = lane.finish(id, |_| {}).await.unwrap_err();
    assert_eq!(error.fenced_by(), Some(9), "{error}");
    let (far, mut lane) = pair(8).await;
    drop(far);
    let id = lane.start_ping().unwrap();
    let error = lane.finish(id, |_| {}).await.unwrap_err();
    assert!(error.is_end(), "{error}");
    let (near, mut far) = tokio::io::duplex(4096);
    let mut out = BytesMut::new();
    Encoder::refused(&mut out, &Farewell::new(Reason::Denied, "not you"));
    far.write_all(&out).await.unwrap();
    let refused = Lane::open(near, never, &hello()).await.unwrap_err();
    assert!(matches!(refused, LaneError::Refused(farewell) if farewell.reason == Reason::Denied));
}

#[tokio::test]
async fn large_put_and_large_answer_cross_without_waiting_for_each_other() {
    const PAGES: u32 = 64;
    let (mut far, mut lane) = pair(8).await;
    let page: PageBytes = [9; 4096];
    let gets: Vec<_> = (0..PAGES).map(|index| GetEntry::new(0, index)).collect();
    let puts: Vec<_> = (0..PAGES)
        .map(|index| PutEntry::new(0, index, 1, checksum(&page)))
        .collect();
    let get = lane.start_get(&gets).unwrap();
    let put = lane
        .start_put(&puts, puts.iter().map(|_| Bytes::copy_from_slice(&page)))
        .unwrap();
    // The store answers the get before it reads the put.
    let store = async {
        let mut decoder = RequestDecoder::new();
        decoder.open(1, 256);
        let (mut input, mut answered) = (BytesMut::new(), 0);
        while answered < 2 {
            let mut out = BytesMut::new();
            while let Decoded::Whole { message, len } = decoder.next(&input).unwrap() {
                answered += 1;
                match message {
                    Request::Get { request, entries } => {
                        let mut done = Encoder::new(1).get_done(&mut out, request, entries.len());
                        for _ in entries {
                            done.page(&page);
                            done.hit(1, checksum(&page));
                        }
                        done.finish();
                    }
                    Request::Put {
                        request, entries, ..
                    } => {
                        Encoder::new(1).put_done(
                            &mut out,
                            request,
                            &vec![Status::Ok; entries.len()],
                        );
                    }
                    other => panic!("{other:?}"),
                }
                input.advance(len);
            }
            far.write_all(&out).await.unwrap();
            if answered < 2 {
                far.read_buf(&mut input).await.unwrap();
            }
        }
        far
    };
    let (mut taken, mut stored) = (0, 0);
    let client = async {
        lane.finish(put, |reply| stored = statuses(&reply).len())
            .await
            .unwrap();
        let take = |reply: Reply<'_>| {
            if let Reply::GetDone { pages, .. } = reply {
                taken = pages.iter().filter(|got| **got == page).count();
            }
        };
        lane.finish(get, take).await.unwrap();
    };
    let _far = tokio::join!(store, client).0;
    assert_eq!((taken, stored), (64, 64));
}

#[tokio::test]
async fn adverts_between_answers_are_kept_for_whoever_asks() {
    let (mut far, mut lane) = pair(8).await;
    assert_eq!(
        poll_fn(|cx| lane.poll_advert(cx)).await.unwrap(),
        Advert::default()
    );
    let id = lane.start_ping().unwrap();
    let advert = Advert {
        free_pages: 77,
        ..Advert::default()
    };
    say(&mut far, |encoder, out| {
        encoder.advert(out, &advert);
        encoder.pong(out, id.0);
    })
    .await;
    lane.finish(id, |_| {}).await.unwrap();
    assert_eq!(poll_fn(|cx| lane.poll_advert(cx)).await.unwrap(), advert);
}
