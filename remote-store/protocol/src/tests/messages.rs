// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Any message as a value that owns its parts, how it is encoded, and what a decoder should make of it.

use bytes::BytesMut;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::RngSeed;

use crate::*;

/// What a client sends, after the handshake or in it.
#[derive(Clone, Debug)]
pub(super) enum Sent {
    Hello(Hello),
    Put(u64, Vec<(PutEntry, Page)>),
    Get(u64, Vec<GetEntry>),
    Flush(u64, Vec<FlushEntry>),
    FlushPool(u64, u32, u64),
    List(u64, u32, u32, u32),
    Ping(u64),
}

/// What a store sends, after the handshake or in it.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    Welcome(Welcome),
    Refused(Farewell),
    PutDone(u64, Vec<Status>),
    /// A hit has a generation, a checksum and a page.
    GetDone(u64, Vec<Result<(u64, u32, Page), Status>>),
    FlushDone(u64, Vec<Status>),
    FlushPoolDone(u64, Status, u64),
    Listed(u64, Vec<ListedEntry>, u32, bool),
    Pong(u64),
    Advert(Advert),
    Goodbye(Farewell),
}

/// A page by one number, so that a failure is printed on one line.
#[derive(Clone, Copy, Debug)]
pub(super) struct Page(pub(super) u64);

impl Page {
    pub(super) fn bytes(self) -> PageBytes {
        let mut bytes = [0; PAGE_SIZE];
        for (nth, word) in (0_u64..).zip(bytes.as_chunks_mut::<8>().0) {
            *word = (self.0 ^ nth)
                .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                .to_le_bytes();
        }
        bytes
    }
}

pub(super) const VERSION: u8 = 1;

/// The decoders of a connection whose handshake is over.
pub(super) fn open_requests() -> RequestDecoder {
    let mut decoder = RequestDecoder::new();
    decoder.open(VERSION, PAGES_MAX);
    decoder
}

pub(super) fn open_replies() -> ReplyDecoder {
    let mut decoder = ReplyDecoder::new();
    decoder.open(VERSION, PAGES_MAX);
    decoder
}

impl Sent {
    pub(super) fn encode(&self, buf: &mut BytesMut) {
        let encoder = Encoder::new(VERSION);
        match self {
            Self::Hello(hello) => Encoder::hello(buf, hello),
            Self::Put(request, all) => {
                let (entries, pages) = split(all);
                encoder.put(buf, *request, &entries, &pages.iter().collect::<Vec<_>>());
            }
            Self::Get(request, entries) => encoder.get(buf, *request, entries),
            Self::Flush(request, entries) => encoder.flush(buf, *request, entries),
            Self::FlushPool(request, pool, age) => encoder.flush_pool(buf, *request, *pool, *age),
            Self::List(request, pool, from, max) => encoder.list(buf, *request, *pool, *from, *max),
            Self::Ping(request) => encoder.ping(buf, *request),
        }
    }

    /// Compares with what was decoded.
    pub(super) fn assert_is(&self, got: &Request<'_>) {
        let expected = match self {
            Self::Hello(hello) => Request::Hello(hello.clone()),
            Self::Put(request, all) => {
                let (entries, pages) = split(all);
                let (entries, pages) = (&entries[..], &pages[..]);
                let request = *request;
                assert_eq!(
                    *got,
                    Request::Put {
                        request,
                        entries,
                        pages
                    }
                );
                return;
            }
            Self::Get(request, entries) => Request::Get {
                request: *request,
                entries,
            },
            Self::Flush(request, entries) => Request::Flush {
                request: *request,
                entries,
            },
            Self::FlushPool(request, pool, generation) => Request::FlushPool {
                request: *request,
                pool: *pool,
                generation: *generation,
            },
            Self::List(request, pool, from, max) => Request::List {
                request: *request,
                pool: *pool,
                from: *from,
                max: *max,
            },
            Self::Ping(request) => Request::Ping { request: *request },
        };
        assert_eq!(*got, expected);
    }
}

fn split(all: &[(PutEntry, Page)]) -> (Vec<PutEntry>, Vec<PageBytes>) {
    all.iter()
        .map(|(entry, page)| (*entry, page.bytes()))
        .unzip()
}

impl Answer {
    pub(super) fn encode(&self, buf: &mut BytesMut) {
        let encoder = Encoder::new(VERSION);
        match self {
            Self::Welcome(welcome) => Encoder::welcome(buf, welcome),
            Self::Refused(farewell) => Encoder::refused(buf, farewell),
            Self::PutDone(request, statuses) => encoder.put_done(buf, *request, statuses),
            Self::GetDone(request, all) => {
                let mut writer = encoder.get_done(buf, *request, all.len());
                for answer in all {
                    match answer {
                        Ok((generation, crc, page)) => {
                            writer.page(&page.bytes());
                            writer.hit(*generation, *crc);
                        }
                        Err(status) => {
                            // A page that turned out to be damaged after it was taken.
                            writer.page(&[0xee; PAGE_SIZE]);
                            writer.miss(*status);
                        }
                    }
                }
                writer.finish();
            }
            Self::FlushDone(request, statuses) => encoder.flush_done(buf, *request, statuses),
            Self::FlushPoolDone(request, status, pages) => {
                encoder.flush_pool_done(buf, *request, *status, *pages);
            }
            Self::Listed(request, entries, next, end) => {
                encoder.listed(buf, *request, entries, *next, *end);
            }
            Self::Pong(request) => encoder.pong(buf, *request),
            Self::Advert(advert) => encoder.advert(buf, advert),
            Self::Goodbye(farewell) => encoder.goodbye(buf, farewell),
        }
    }

    pub(super) fn assert_is(&self, got: &Reply<'_>) {
        let expected = match self {
            Self::Welcome(welcome) => Reply::Welcome(welcome.clone()),
            Self::Refused(farewell) => Reply::Refused(farewell.clone()),
            Self::PutDone(request, statuses) => Reply::PutDone {
                request: *request,
                statuses,
            },
            Self::GetDone(request, all) => {
                let (entries, pages) = got_parts(all);
                let (entries, pages) = (&entries[..], &pages[..]);
                let request = *request;
                assert_eq!(
                    *got,
                    Reply::GetDone {
                        request,
                        entries,
                        pages
                    }
                );
                return;
            }
            Self::FlushDone(request, statuses) => Reply::FlushDone {
                request: *request,
                statuses,
            },
            Self::FlushPoolDone(request, status, pages) => Reply::FlushPoolDone {
                request: *request,
                status: *status,
                pages: *pages,
            },
            Self::Listed(request, entries, next, end) => Reply::Listed {
                request: *request,
                entries,
                next: *next,
                end: *end,
            },
            Self::Pong(request) => Reply::Pong { request: *request },
            Self::Advert(advert) => Reply::Advert(*advert),
            Self::Goodbye(farewell) => Reply::Goodbye(farewell.clone()),
        };
        assert_eq!(*got, expected);
    }
}

/// Entries and pages of the reply to a get.
pub(super) fn got_parts(
    all: &[Result<(u64, u32, Page), Status>],
) -> (Vec<GotEntry>, Vec<PageBytes>) {
    let entry = |answer: &Result<(u64, u32, Page), Status>| match answer {
        Ok((generation, crc, _)) => GotEntry::hit(*generation, *crc),
        Err(status) => GotEntry::miss(*status),
    };
    let hits = all.iter().flatten();
    let pages = hits.map(|(_, _, page)| page.bytes()).collect();
    (all.iter().map(entry).collect(), pages)
}

/// The options of a property test, and the seed that plays it again.
pub(super) fn config(test: &str, cases: u32) -> ProptestConfig {
    let seed = std::env::var("TMEM_SEED").map_or_else(
        |_| {
            use std::hash::{BuildHasher, RandomState};
            RandomState::new().hash_one(test)
        },
        |seed| seed.parse().expect("TMEM_SEED is a number"),
    );
    println!("replay: TMEM_SEED={seed} cargo test -p tmem-remote-protocol {test} -- --nocapture");
    ProptestConfig {
        cases,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(seed),
        ..ProptestConfig::default()
    }
}

/// Few pages mostly, as many as allowed now and then.
fn some<S>(what: S) -> impl Strategy<Value = Vec<S::Value>>
where
    S: Strategy + Clone,
    S::Value: Clone,
{
    prop_oneof![
        12 => vec(what.clone(), 1..6),
        1 => what.prop_map(|one| std::vec![one; PAGES_MAX as usize]),
    ]
}

fn age() -> impl Strategy<Value = u64> + Clone {
    prop_oneof![0..GENERATION_LIMIT, Just(GENERATION_LIMIT - 1)]
}

fn status() -> impl Strategy<Value = Status> + Clone {
    select(&Status::ALL[..])
}

fn capabilities() -> impl Strategy<Value = Capabilities> {
    any::<u64>().prop_map(Capabilities::from_bits)
}

fn versions() -> impl Strategy<Value = Versions> {
    any::<(u8, u8)>().prop_map(|(one, other)| Versions {
        min: one.min(other),
        max: one.max(other),
    })
}

pub(super) fn hello() -> impl Strategy<Value = Hello> {
    let wants = any::<(u32, u32, u64)>().prop_map(|(persistent, ephemeral, quota)| Wants {
        persistent_indices: persistent,
        ephemeral_indices: ephemeral,
        quota_pages: quota,
    });
    let session = select(&[Session::Data, Session::Control][..]);
    let name = vec(select(&b"azAZ09._-"[..]), 1..=NAMESPACE_MAX);
    let name = name.prop_map(|name| Namespace::new(str::from_utf8(&name).unwrap()).unwrap());
    let rest = (any::<u64>(), session, any::<u32>(), wants);
    (versions(), capabilities(), name, rest).prop_map(
        |(versions, capabilities, namespace, (epoch, session, advert_period_ms, wants))| Hello {
            versions,
            capabilities,
            namespace,
            epoch,
            session,
            advert_period_ms,
            wants,
        },
    )
}

fn advert() -> impl Strategy<Value = Advert> {
    let numbers = any::<(u64, u64, u64, u64, u64)>();
    (numbers, 0..=LOAD_MAX, any::<bool>()).prop_map(|(numbers, load, leaving)| Advert {
        capacity_pages: numbers.0,
        free_pages: numbers.1,
        quota_pages: numbers.2,
        used_pages: numbers.3,
        seq: numbers.4,
        load,
        leaving,
    })
}

pub(super) fn welcome() -> impl Strategy<Value = Welcome> {
    (
        any::<u8>(),
        capabilities(),
        any::<([u8; 16], u64)>(),
        any::<(u32, u32, u32)>(),
        advert(),
    )
        .prop_map(|(version, capabilities, id, limits, advert)| Welcome {
            version,
            capabilities,
            store_id: id.0,
            incarnation: id.1,
            max_pages: limits.0,
            max_in_flight: limits.1,
            advert_period_ms: limits.2,
            advert,
        })
}

pub(super) fn farewell() -> impl Strategy<Value = Farewell> {
    let text = vec(any::<char>(), 0..400).prop_map(String::from_iter);
    (any::<u8>(), versions(), any::<u64>(), text).prop_map(|(code, versions, detail, text)| {
        Farewell {
            versions,
            detail,
            ..Farewell::new(Reason::from_code(code), text)
        }
    })
}

/// What a client sends after the handshake.
pub(super) fn sent() -> impl Strategy<Value = Sent> {
    let place = any::<(u32, u32)>();
    let put = (place, age(), any::<u32>(), any::<u64>())
        .prop_map(|(at, age, crc, page)| (PutEntry::new(at.0, at.1, age, crc), Page(page)));
    let get = place.prop_map(|(pool, index)| GetEntry::new(pool, index));
    let flush = (place, age()).prop_map(|(at, age)| FlushEntry::new(at.0, at.1, age));
    prop_oneof![
        (any::<u64>(), some(put)).prop_map(|(request, all)| Sent::Put(request, all)),
        (any::<u64>(), some(get)).prop_map(|(request, all)| Sent::Get(request, all)),
        (any::<u64>(), some(flush)).prop_map(|(request, all)| Sent::Flush(request, all)),
        (any::<(u64, u32)>(), age()).prop_map(|(id, age)| Sent::FlushPool(id.0, id.1, age)),
        (any::<(u64, u32, u32)>(), 1..=LIST_MAX)
            .prop_map(|(id, max)| Sent::List(id.0, id.1, id.2, max)),
        any::<u64>().prop_map(Sent::Ping),
    ]
}

/// What a store sends after the handshake.
pub(super) fn answer() -> impl Strategy<Value = Answer> {
    let bad = select(&Status::ALL[1..]);
    let hit = (age(), any::<u32>(), any::<u64>());
    let got = prop_oneof![
        hit.prop_map(|(age, crc, page)| Ok((age, crc, Page(page)))),
        bad.prop_map(Err),
    ];
    let listed = (any::<u32>(), age()).prop_map(|(index, age)| ListedEntry::new(index, age));
    let listed = prop_oneof![
        vec(listed.clone(), 0..20),
        listed.prop_map(|one| vec![one; LIST_MAX as usize]),
    ];
    let id = any::<u64>();
    prop_oneof![
        (id, some(status())).prop_map(|(request, all)| Answer::PutDone(request, all)),
        (id, some(got)).prop_map(|(request, all)| Answer::GetDone(request, all)),
        (id, some(status())).prop_map(|(request, all)| Answer::FlushDone(request, all)),
        (id, status(), id).prop_map(|(id, status, n)| Answer::FlushPoolDone(id, status, n)),
        (id, listed, any::<(u32, bool)>())
            .prop_map(|(id, all, (next, end))| Answer::Listed(id, all, next, end)),
        id.prop_map(Answer::Pong),
        advert().prop_map(Answer::Advert),
        farewell().prop_map(Answer::Goodbye),
    ]
}
