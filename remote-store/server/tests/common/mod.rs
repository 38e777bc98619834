// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A client for tests: one connection, one request at a time or many, nothing hidden.
#![allow(dead_code, reason = "not every test file uses all of it")]

pub(crate) mod process;
pub(crate) mod served;

use std::time::Duration;

use bytes::BytesMut;
use tmem_remote_protocol::{
    Capabilities, Decoded, Encoder, Farewell, FlushEntry, GetEntry, Hello, ListedEntry, Namespace,
    PAGE_SIZE, PageBytes, PutEntry, Reply, ReplyDecoder, Session, Status, VERSION_MAX, Versions,
    Wants, Welcome, checksum,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, WriteHalf, join, sink, split};
use tokio::time::timeout;

/// No answer takes longer, on a machine that is busy with other things.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// What came.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Heard {
    Welcome(Welcome),
    Refused(Farewell),
    Statuses(u64, Vec<Status>),
    Pages(u64, Vec<Result<(u64, u32, PageBytes), Status>>),
    PoolFlushed(Status, u64),
    Listed(Vec<(u32, u64)>, Option<u32>),
    Pong(u64),
    Advert(tmem_remote_protocol::Advert),
    Goodbye(Farewell),
    Closed,
}

/// A connection to a store.
pub(crate) struct Client<S> {
    pub(crate) stream: S,
    pub(crate) decoder: ReplyDecoder,
    pub(crate) encoder: Encoder,
    input: BytesMut,
    next: u64,
}

/// The hello of a client.
pub(crate) fn hello(namespace: &str, epoch: u64) -> Hello {
    Hello {
        versions: Versions::OWN,
        capabilities: Capabilities::ALL,
        namespace: Namespace::new(namespace).unwrap(),
        epoch,
        session: Session::Data,
        advert_period_ms: 0,
        wants: Wants::default(),
    }
}

/// A page that no other number has, and that is not one byte repeated.
pub(crate) fn page(number: u64) -> PageBytes {
    let mut page = [0; PAGE_SIZE];
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for word in page.as_chunks_mut::<8>().0 {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(number | 1);
        *word = state.to_le_bytes();
    }
    page
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    /// Nothing is said yet.
    pub(crate) fn new(stream: S) -> Self {
        Self {
            stream,
            decoder: ReplyDecoder::new(),
            encoder: Encoder::new(VERSION_MAX),
            input: BytesMut::new(),
            next: 1,
        }
    }

    /// Says hello, and is welcomed.
    pub(crate) async fn open(stream: S, hello: &Hello) -> (Self, Welcome) {
        let mut client = Self::new(stream);
        match client.greet(hello).await {
            Heard::Welcome(welcome) => (client, welcome),
            other => panic!("not welcomed: {other:?}"),
        }
    }

    /// Says hello.
    pub(crate) async fn greet(&mut self, hello: &Hello) -> Heard {
        let mut out = BytesMut::new();
        Encoder::hello(&mut out, hello);
        self.send(&out).await;
        let heard = self.hear().await;
        if let Heard::Welcome(welcome) = &heard {
            self.decoder.open(welcome.version, welcome.max_pages);
        }
        heard
    }

    /// Sends bytes as they are. What the store does about them is heard.
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        // The store may have hung up.
        let _ = timeout(PATIENCE, self.stream.write_all(bytes))
            .await
            .unwrap();
        let _ = self.stream.flush().await;
    }

    /// The next thing that the store says.
    pub(crate) async fn hear(&mut self) -> Heard {
        loop {
            let bytes = self.input.clone();
            let (heard, len) = match self.decoder.next(&bytes).unwrap() {
                Decoded::Whole { message, len } => (Some(heard(&message)), len),
                Decoded::More { .. } => (None, 0),
            };
            if let Some(heard) = heard {
                let _ = self.input.split_to(len);
                return heard;
            }
            let read = timeout(PATIENCE, self.stream.read_buf(&mut self.input)).await;
            match read.expect("the store says nothing") {
                Ok(0) | Err(_) => return Heard::Closed,
                Ok(_) => {}
            }
        }
    }

    /// One that hears, and the way to say more.
    pub(crate) fn split(self) -> (Client<impl AsyncRead + AsyncWrite + Unpin>, WriteHalf<S>) {
        let (reading, writing) = split(self.stream);
        let client = Client {
            stream: join(reading, sink()),
            decoder: self.decoder,
            encoder: self.encoder,
            input: self.input,
            next: self.next,
        };
        (client, writing)
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }

    /// Puts pages of the persistent pool.
    pub(crate) async fn put(&mut self, pages: &[(u32, u64, &PageBytes)]) -> Vec<Status> {
        self.put_in(0, pages).await
    }

    /// Puts pages.
    pub(crate) async fn put_in(
        &mut self,
        pool: u32,
        pages: &[(u32, u64, &PageBytes)],
    ) -> Vec<Status> {
        let mut out = BytesMut::new();
        self.write_put(&mut out, pool, pages);
        self.send(&out).await;
        self.statuses().await
    }

    /// Writes a put; returns its number.
    pub(crate) fn write_put(
        &mut self,
        out: &mut BytesMut,
        pool: u32,
        pages: &[(u32, u64, &PageBytes)],
    ) -> u64 {
        let entry = |(index, generation, page): &(u32, u64, &PageBytes)| {
            PutEntry::new(pool, *index, *generation, checksum(page))
        };
        let entries: Vec<PutEntry> = pages.iter().map(entry).collect();
        let bytes: Vec<&PageBytes> = pages.iter().map(|(_, _, page)| *page).collect();
        let request = self.number();
        self.encoder.put(out, request, &entries, &bytes);
        request
    }

    async fn statuses(&mut self) -> Vec<Status> {
        match self.hear().await {
            Heard::Statuses(_, statuses) => statuses,
            other => panic!("no statuses: {other:?}"),
        }
    }

    /// Gets pages: generation and bytes. Each is compared with its checksum.
    pub(crate) async fn get(&mut self, indexes: &[u32]) -> Vec<Result<(u64, PageBytes), Status>> {
        self.get_in(0, indexes).await
    }

    /// Gets pages.
    pub(crate) async fn get_in(
        &mut self,
        pool: u32,
        indexes: &[u32],
    ) -> Vec<Result<(u64, PageBytes), Status>> {
        let mut out = BytesMut::new();
        self.write_get(&mut out, pool, indexes);
        self.send(&out).await;
        match self.hear().await {
            Heard::Pages(_, pages) => pages
                .into_iter()
                .map(|got| {
                    got.map(|(generation, crc, page)| {
                        assert_eq!(crc, checksum(&page));
                        (generation, page)
                    })
                })
                .collect(),
            other => panic!("no pages: {other:?}"),
        }
    }

    /// Writes a get; returns its number.
    pub(crate) fn write_get(&mut self, out: &mut BytesMut, pool: u32, indexes: &[u32]) -> u64 {
        let entries: Vec<GetEntry> = (indexes.iter())
            .map(|index| GetEntry::new(pool, *index))
            .collect();
        let request = self.number();
        self.encoder.get(out, request, &entries);
        request
    }

    /// Flushes pages of the persistent pool.
    pub(crate) async fn flush(&mut self, pages: &[(u32, u64)]) -> Vec<Status> {
        let entries: Vec<FlushEntry> = pages
            .iter()
            .map(|(index, generation)| FlushEntry::new(0, *index, *generation))
            .collect();
        let mut out = BytesMut::new();
        let request = self.number();
        self.encoder.flush(&mut out, request, &entries);
        self.send(&out).await;
        self.statuses().await
    }

    /// Flushes a pool.
    pub(crate) async fn flush_pool(&mut self, pool: u32, generation: u64) -> (Status, u64) {
        let mut out = BytesMut::new();
        let request = self.number();
        self.encoder.flush_pool(&mut out, request, pool, generation);
        self.send(&out).await;
        match self.hear().await {
            Heard::PoolFlushed(status, pages) => (status, pages),
            other => panic!("no end of a flush: {other:?}"),
        }
    }

    /// Lists all pages of the persistent pool, `most` at a time.
    pub(crate) async fn list(&mut self, most: u32) -> Vec<(u32, u64)> {
        let (mut all, mut from) = (Vec::new(), Some(0));
        while let Some(next) = from {
            let mut out = BytesMut::new();
            let request = self.number();
            self.encoder.list(&mut out, request, 0, next, most);
            self.send(&out).await;
            match self.hear().await {
                Heard::Listed(pages, go_on) => {
                    assert!(pages.len() <= most as usize);
                    all.extend(pages);
                    from = go_on;
                }
                other => panic!("no list: {other:?}"),
            }
        }
        all
    }

    /// Asks whether the store is there.
    pub(crate) async fn ping(&mut self) -> Heard {
        let mut out = BytesMut::new();
        let request = self.number();
        self.encoder.ping(&mut out, request);
        self.send(&out).await;
        self.hear().await
    }
}

fn heard(reply: &Reply<'_>) -> Heard {
    match reply {
        Reply::Welcome(welcome) => Heard::Welcome(welcome.clone()),
        Reply::Refused(farewell) => Heard::Refused(farewell.clone()),
        Reply::PutDone { request, statuses } | Reply::FlushDone { request, statuses } => {
            Heard::Statuses(*request, statuses.to_vec())
        }
        Reply::GetDone {
            request,
            entries,
            pages,
        } => {
            let mut pages = pages.iter();
            let found = entries.iter().map(|entry| match entry.status() {
                Status::Ok => Ok((entry.generation(), entry.crc(), *pages.next().unwrap())),
                status => Err(status),
            });
            Heard::Pages(*request, found.collect())
        }
        Reply::FlushPoolDone { status, pages, .. } => Heard::PoolFlushed(*status, *pages),
        Reply::Listed {
            entries, next, end, ..
        } => {
            let pair = |entry: &ListedEntry| (entry.index(), entry.generation());
            let pages = entries.iter().map(pair).collect();
            Heard::Listed(pages, (!end).then_some(*next))
        }
        Reply::Pong { request } => Heard::Pong(*request),
        Reply::Advert(advert) => Heard::Advert(*advert),
        Reply::Goodbye(farewell) => Heard::Goodbye(farewell.clone()),
    }
}
