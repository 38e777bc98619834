// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A store in the same process, and the network to it.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tmem_remote_client::connect::Connector;
use tmem_remote_protocol::{
    Advert, Capabilities, Decoded, Encoder, Farewell, Hello, ListedEntry, Offer, PageBytes, Reason,
    Request, RequestDecoder, Session, Status, Versions, Welcome, checksum, negotiate,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

/// A page as a store has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) generation: u64,
    pub(crate) crc: u32,
    pub(crate) page: Box<PageBytes>,
}

/// All pages: by pool and index.
pub(crate) type Pages = BTreeMap<(u32, u32), Kept>;

#[derive(Debug)]
struct State {
    id: [u8; 16],
    incarnation: u64,
    capacity: u64,
    pages: Pages,
    epoch: u64,
    /// Nobody listens.
    dead: bool,
    /// It takes requests and does not answer.
    silent: bool,
    /// An answer takes this long.
    slow: Duration,
    /// One bit of every page that is got is wrong.
    lies: bool,
    /// It dies after so many puts, before their acknowledgement.
    dies_before_ack: Option<u32>,
    gets: u64,
    pages_max: u32,
}

/// A store. What it is told holds from then on.
#[derive(Clone, Debug)]
pub(crate) struct FakeStore {
    state: Arc<Mutex<State>>,
    /// Changes when every connection is to end.
    life: watch::Sender<u64>,
}

impl FakeStore {
    pub(crate) fn new(number: u8) -> Self {
        Self {
            state: Arc::new(Mutex::new(State {
                id: [number; 16],
                incarnation: u64::from(number) * 1000 + 1,
                capacity: 1 << 20,
                pages: Pages::new(),
                epoch: 0,
                dead: false,
                silent: false,
                slow: Duration::ZERO,
                lies: false,
                dies_before_ack: None,
                gets: 0,
                pages_max: 256,
            })),
            life: watch::Sender::new(0),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Ends all connections and takes no more.
    pub(crate) fn die(&self) {
        self.state().dead = true;
        self.cut();
    }

    /// Ends all connections.
    pub(crate) fn cut(&self) {
        self.life.send_modify(|life| *life += 1);
    }

    /// Listens again, with all it had.
    pub(crate) fn return_whole(&self) {
        self.state().dead = false;
    }

    /// Listens again, with nothing.
    pub(crate) fn return_empty(&self) {
        let mut state = self.state();
        state.dead = false;
        state.pages.clear();
        state.incarnation += 1;
    }

    /// Listens again with what it had then, and says that nothing is lost.
    pub(crate) fn return_old(&self, pages: Pages) {
        let mut state = self.state();
        state.dead = false;
        state.pages = pages;
    }

    pub(crate) fn pages(&self) -> Pages {
        self.state().pages.clone()
    }

    pub(crate) fn has(&self, index: u32) -> bool {
        self.state().pages.contains_key(&(0, index))
    }

    pub(crate) fn count(&self) -> usize {
        self.state().pages.len()
    }

    pub(crate) fn go_silent(&self, silent: bool) {
        self.state().silent = silent;
    }

    pub(crate) fn be_slow(&self, slow: Duration) {
        self.state().slow = slow;
    }

    pub(crate) fn lie(&self, lies: bool) {
        self.state().lies = lies;
    }

    pub(crate) fn die_before_ack(&self, puts: u32) {
        self.state().dies_before_ack = Some(puts);
    }

    pub(crate) fn set_capacity(&self, pages: u64) {
        self.state().capacity = pages;
    }

    pub(crate) fn take_at_once(&self, pages: u32) {
        self.state().pages_max = pages;
    }

    /// The store loses a page, and does not know it.
    pub(crate) fn lose(&self, index: u32) {
        self.state().pages.remove(&(0, index));
    }

    /// The store's copy of a page becomes other bytes, with a checksum that fits them.
    pub(crate) fn replace(&self, index: u32, page: PageBytes) {
        let mut state = self.state();
        let kept = state.pages.get_mut(&(0, index)).unwrap();
        kept.crc = checksum(&page);
        *kept.page = page;
    }

    /// A later process of the namespace was here.
    pub(crate) fn meet_epoch(&self, epoch: u64) {
        self.state().epoch = epoch;
        self.cut();
    }

    pub(crate) fn gets(&self) -> u64 {
        self.state().gets
    }

    fn advert(&self) -> Advert {
        let state = self.state();
        let used = state.pages.len() as u64;
        Advert {
            capacity_pages: state.capacity,
            free_pages: state.capacity.saturating_sub(used),
            quota_pages: state.capacity,
            used_pages: used,
            seq: 0,
            load: 0,
            leaving: false,
        }
    }

    async fn serve(self, mut stream: DuplexStream) {
        let mut life = self.life.subscribe();
        let work = self.work(&mut stream);
        tokio::select! {
            biased;
            _ = life.changed() => {}
            _ = work => {}
        }
    }

    async fn work(&self, stream: &mut DuplexStream) -> io::Result<()> {
        let mut input = BytesMut::new();
        let mut decoder = RequestDecoder::new();
        let (mut hello, mut encoder) = (None::<Hello>, Encoder::new(1));
        let mut advert_at = None::<Instant>;
        loop {
            let mut out = BytesMut::new();
            while let Decoded::Whole { message, len } = decoder.next(&input).unwrap() {
                match message {
                    Request::Hello(said) => {
                        self.awake().await;
                        let (welcome, agreed) = match self.welcome(&said) {
                            Ok(taken) => taken,
                            Err(farewell) => {
                                Encoder::refused(&mut out, &farewell);
                                stream.write_all(&out).await?;
                                return Ok(());
                            }
                        };
                        Encoder::welcome(&mut out, &welcome);
                        decoder.open(agreed.version, agreed.max_pages);
                        encoder = Encoder::new(agreed.version);
                        if said.session == Session::Control {
                            advert_at = Some(Instant::now() + period(&said));
                        }
                        hello = Some(said);
                    }
                    request => {
                        let slow = self.state().slow;
                        if !slow.is_zero() {
                            sleep(slow).await;
                        }
                        self.awake().await;
                        self.answer(encoder, &request, &mut out);
                        if self.state().dead {
                            return Ok(());
                        }
                    }
                }
                input.advance(len);
            }
            if !out.is_empty() {
                stream.write_all(&out).await?;
                continue;
            }
            let next_advert = advert_at.unwrap_or_else(|| Instant::now() + Duration::from_secs(60));
            tokio::select! {
                biased;
                read = stream.read_buf(&mut input) => {
                    if read? == 0 {
                        return Ok(());
                    }
                }
                () = sleep_until(next_advert) => {
                    if let (Some(at), Some(hello)) = (&mut advert_at, &hello) {
                        *at += period(hello);
                        if !self.state().silent {
                            let mut out = BytesMut::new();
                            encoder.advert(&mut out, &self.advert());
                            stream.write_all(&out).await?;
                        }
                    }
                }
            }
        }
    }

    async fn awake(&self) {
        while self.state().silent {
            sleep(Duration::from_millis(5)).await;
        }
    }

    fn welcome(&self, hello: &Hello) -> Result<(Welcome, tmem_remote_protocol::Agreed), Farewell> {
        let advert = self.advert();
        let mut state = self.state();
        if hello.epoch < state.epoch {
            return Err(Farewell::fenced(hello.epoch, state.epoch));
        }
        state.epoch = hello.epoch;
        let offer = Offer {
            versions: Versions::OWN,
            capabilities: Capabilities::ALL,
            max_pages: state.pages_max,
            max_in_flight: 64,
        };
        let agreed = negotiate(hello, &offer)?;
        let welcome = Welcome {
            version: agreed.version,
            capabilities: agreed.capabilities,
            store_id: state.id,
            incarnation: state.incarnation,
            max_pages: agreed.max_pages,
            max_in_flight: agreed.max_in_flight,
            advert_period_ms: agreed.advert_period_ms,
            advert,
        };
        Ok((welcome, agreed))
    }

    fn answer(&self, encoder: Encoder, request: &Request<'_>, out: &mut BytesMut) {
        let mut state = self.state();
        match request {
            Request::Put {
                request,
                entries,
                pages,
            } => {
                let statuses: Vec<Status> = (entries.iter().zip(*pages))
                    .map(|(entry, page)| {
                        let at = (entry.pool(), entry.index());
                        let there = state.pages.get(&at).map(|kept| kept.generation);
                        if checksum(page) != entry.crc() {
                            return Status::BadChecksum;
                        }
                        if there.is_some_and(|there| there > entry.generation()) {
                            return Status::Stale;
                        }
                        if there.is_none() && state.pages.len() as u64 >= state.capacity {
                            return Status::Full;
                        }
                        let kept = Kept {
                            generation: entry.generation(),
                            crc: entry.crc(),
                            page: Box::new(*page),
                        };
                        state.pages.insert(at, kept);
                        Status::Ok
                    })
                    .collect();
                if let Some(left) = &mut state.dies_before_ack {
                    *left = left.saturating_sub(1);
                    if *left == 0 {
                        state.dies_before_ack = None;
                        state.dead = true;
                        return;
                    }
                }
                encoder.put_done(out, *request, &statuses);
            }
            Request::Get { request, entries } => {
                let lies = state.lies;
                state.gets += entries.len() as u64;
                let mut done = encoder.get_done(out, *request, entries.len());
                for entry in *entries {
                    match state.pages.get(&(entry.pool(), entry.index())) {
                        None => done.miss(Status::Missing),
                        Some(kept) => {
                            let mut page = *kept.page;
                            page[100] ^= u8::from(lies);
                            done.page(&page);
                            done.hit(kept.generation, kept.crc);
                        }
                    }
                }
                done.finish();
            }
            Request::Flush { request, entries } => {
                let statuses: Vec<Status> = (entries.iter())
                    .map(|entry| {
                        let at = (entry.pool(), entry.index());
                        match state.pages.get(&at).map(|kept| kept.generation) {
                            None => Status::Missing,
                            Some(there) if there > entry.generation() => Status::Stale,
                            Some(_) => {
                                state.pages.remove(&at);
                                Status::Ok
                            }
                        }
                    })
                    .collect();
                encoder.flush_done(out, *request, &statuses);
            }
            Request::FlushPool { request, .. } => {
                encoder.flush_pool_done(out, *request, Status::Unsupported, 0);
            }
            Request::List {
                request,
                pool,
                from,
                max,
            } => {
                let all: Vec<ListedEntry> = (state.pages.range((*pool, *from)..))
                    .take_while(|((at, _), _)| at == pool)
                    .take(usize::try_from(*max).unwrap() + 1)
                    .map(|((_, index), kept)| ListedEntry::new(*index, kept.generation))
                    .collect();
                // Short lists, so that tests have several of them.
                let most = all.len().min(100);
                let next = all.get(most).map(ListedEntry::index);
                encoder.listed(
                    out,
                    *request,
                    &all[..most],
                    next.unwrap_or(0),
                    next.is_none(),
                );
            }
            Request::Ping { request } => encoder.pong(out, *request),
            Request::Hello(_) => encoder.goodbye(out, &Farewell::new(Reason::Protocol, "twice")),
        }
    }
}

fn period(hello: &Hello) -> Duration {
    Duration::from_millis(hello.advert_period_ms.into())
}

/// Stores by address.
#[derive(Clone, Debug, Default)]
pub(crate) struct FakeNet {
    stores: Arc<Mutex<BTreeMap<String, FakeStore>>>,
}

impl FakeNet {
    /// These many stores, with the addresses `s0`, `s1`, ….
    pub(crate) fn new(count: u8) -> Self {
        let net = Self::default();
        for number in 0..count {
            let mut stores = net.stores.lock().unwrap();
            stores.insert(format!("s{number}"), FakeStore::new(number + 1));
        }
        net
    }

    pub(crate) fn store(&self, number: u8) -> FakeStore {
        self.stores.lock().unwrap()[&format!("s{number}")].clone()
    }

    pub(crate) fn all(&self) -> Vec<FakeStore> {
        self.stores.lock().unwrap().values().cloned().collect()
    }
}

impl Connector for FakeNet {
    type Stream = DuplexStream;

    async fn connect(&self, address: &str) -> io::Result<DuplexStream> {
        let store = self.stores.lock().unwrap().get(address).cloned();
        let store = store.ok_or(io::ErrorKind::NotFound)?;
        if store.state().dead {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let (near, far) = tokio::io::duplex(64 << 10);
        tokio::spawn(store.serve(far));
        Ok(near)
    }
}
