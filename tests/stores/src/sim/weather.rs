// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What happens to bytes between a client and a store, beyond what the simulated network does to
//! whole messages: some are changed, and some requests come twice.
//!
//! A [`Stream`] lies around the client's end of a connection. What it does there is the same as if it
//! had happened in the middle.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use parking_lot::Mutex;
use tmem_remote_protocol::{HEADER_LEN, pool};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::random::Random;

/// Requests that are remembered, to be said again.
const REMEMBERED: usize = 32;
/// Where a frame's header has its kind, and the length of what follows.
const KIND_AT: usize = 5;
const LENGTH_AT: usize = 12;
/// Kinds of requests that change something.
const CHANGES: [u8; 3] = [0x10, 0x12, 0x13];

/// The weather on the way to one store.
#[derive(Debug)]
struct Sky {
    /// One in so many pieces has a byte changed; 0 for none.
    noise: AtomicU32,
    /// One in so many requests is said again; 0 for none.
    again: AtomicU32,
    random: Mutex<Random>,
    /// By client: nobody can say what another said, whose certificate he has not.
    remembered: Mutex<BTreeMap<usize, VecDeque<Vec<u8>>>>,
}

/// The weather everywhere.
#[derive(Clone, Debug)]
pub(crate) struct Weather(Arc<Vec<Sky>>);

impl Weather {
    /// Fair, on the way to all stores.
    pub(crate) fn new(stores: usize, seed: u64) -> Self {
        let sky = |store| Sky {
            noise: AtomicU32::new(0),
            again: AtomicU32::new(0),
            random: Mutex::new(Random::new(seed, 500 + store as u64)),
            remembered: Mutex::default(),
        };
        Self(Arc::new((0..stores).map(sky).collect()))
    }

    /// Changes a byte in one of `one_in` pieces; 0 for none.
    pub(crate) fn set_noise(&self, store: usize, one_in: u32) {
        self.0[store].noise.store(one_in, Ordering::Relaxed);
    }

    /// Says one of `one_in` requests again; 0 for none.
    pub(crate) fn set_again(&self, store: usize, one_in: u32) {
        self.0[store].again.store(one_in, Ordering::Relaxed);
    }

    /// What was said to a store until now is not said again.
    pub(crate) fn forget(&self, store: usize) {
        self.0[store].remembered.lock().clear();
    }

    /// A client's connection to a store, in its weather.
    pub(crate) fn around<S>(&self, client: usize, store: usize, inner: S) -> Stream<S> {
        Stream {
            inner,
            weather: self.clone(),
            client,
            store,
            frame: Vec::new(),
            out: Vec::new(),
        }
    }

    fn sky(&self, store: usize) -> &Sky {
        &self.0[store]
    }
}

impl Sky {
    fn strikes(&self, rate: &AtomicU32) -> bool {
        let one_in = rate.load(Ordering::Relaxed);
        one_in > 0 && self.random.lock().one_in(one_in)
    }

    fn spoil(&self, bytes: &mut [u8]) {
        if bytes.is_empty() || !self.strikes(&self.noise) {
            return;
        }
        let mut random = self.random.lock();
        let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let at = random.below(len) as usize;
        bytes[at] ^= 1 << random.below(8);
    }

    /// A frame has passed: what follows it that nobody said now.
    fn repeat(&self, client: usize, frame: &[u8]) -> Vec<u8> {
        if !frame
            .get(KIND_AT)
            .is_some_and(|kind| CHANGES.contains(kind))
            || pool_of(frame) == Some(pool::EPHEMERAL)
        {
            return Vec::new();
        }
        let mut all = self.remembered.lock();
        let remembered = all.entry(client).or_default();
        if remembered.len() == REMEMBERED {
            remembered.pop_front();
        }
        remembered.push_back(frame.to_vec());
        if !self.strikes(&self.again) {
            return Vec::new();
        }
        let among = u32::try_from(remembered.len()).unwrap_or(1);
        let chosen = self.random.lock().below(among) as usize;
        remembered.get(chosen).cloned().unwrap_or_default()
    }
}

/// A connection in the weather.
#[derive(Debug)]
pub(crate) struct Stream<S> {
    inner: S,
    weather: Weather,
    client: usize,
    store: usize,
    /// The request that is being written.
    frame: Vec<u8>,
    /// What was taken from the client and not yet sent.
    out: Vec<u8>,
}

impl<S: AsyncWrite + Unpin> Stream<S> {
    fn send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.out.is_empty() {
            let sent = ready!(Pin::new(&mut self.inner).poll_write(cx, &self.out))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.out.drain(..sent);
        }
        Poll::Ready(Ok(()))
    }

    /// Notes what is written, frame by frame, and puts what is said again behind a whole one.
    fn take(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let length = self.frame.get(LENGTH_AT..LENGTH_AT + 4);
            let length = length.and_then(|at| at.try_into().ok().map(u32::from_le_bytes));
            let whole = length.map_or(HEADER_LEN, |length| HEADER_LEN + length as usize);
            let whole = if self.frame.len() < HEADER_LEN {
                HEADER_LEN
            } else {
                whole
            };
            let taken = (whole - self.frame.len()).min(bytes.len());
            let (now, rest) = bytes.split_at(taken);
            self.frame.extend_from_slice(now);
            let mut now = now.to_vec();
            self.weather.sky(self.store).spoil(&mut now);
            self.out.extend_from_slice(&now);
            bytes = rest;
            self.end_frame();
        }
    }

    fn end_frame(&mut self) {
        let length = self.frame.get(LENGTH_AT..LENGTH_AT + 4);
        let Some(length) = length.and_then(|at| at.try_into().ok().map(u32::from_le_bytes)) else {
            return;
        };
        if self.frame.len() == HEADER_LEN + length as usize {
            watch(self.client, self.store, &self.frame);
            let again = self
                .weather
                .sky(self.store)
                .repeat(self.client, &self.frame);
            self.out.extend_from_slice(&again);
            self.frame.clear();
        }
    }
}

/// The pool of a change.
///
/// Changes to the ephemeral pool are not said again: nobody keeps a table of its pages, so a put that comes
/// once more behind its flush would be the newest. Only who can write into a connection can do that.
fn pool_of(frame: &[u8]) -> Option<u32> {
    let first = frame.get(HEADER_LEN..HEADER_LEN + 4)?;
    first.try_into().ok().map(u32::from_le_bytes)
}

/// Prints what is said of one page, for whoever looks for a mistake: `TMEM_SIM_WATCH=CLIENT:SLOT`.
fn watch(client: usize, store: usize, frame: &[u8]) {
    static WATCHED: OnceLock<Option<(usize, u32)>> = OnceLock::new();
    let watched = WATCHED.get_or_init(|| {
        let text = std::env::var("TMEM_SIM_WATCH").ok()?;
        let (client, slot) = text.split_once(':')?;
        Some((client.parse().ok()?, slot.parse().ok()?))
    });
    let Some((_, slot)) = watched.filter(|(watched, _)| *watched == client) else {
        return;
    };
    let (what, length) = match frame.get(KIND_AT) {
        Some(0x10) => ("put", 20),
        Some(0x12) => ("flush", 16),
        Some(0x13) => ("flush all", 1),
        _ => return,
    };
    let count = frame.get(8..12).and_then(|at| at.try_into().ok());
    let count = count.map_or(0, u32::from_le_bytes) as usize;
    let entries = frame.get(HEADER_LEN..).unwrap_or_default();
    for entry in entries.chunks(length).take(count) {
        let index = entry.get(4..8).and_then(|at| at.try_into().ok());
        let generation = entry.get(8..16).and_then(|at| at.try_into().ok());
        if index.map(u32::from_le_bytes) == Some(slot) {
            let generation = generation.map_or(0, u64::from_le_bytes);
            let at = turmoil::sim_elapsed().unwrap_or_default().as_millis();
            println!(
                "{at:>6} c{client} to store {store}: {what} {slot} of generation {generation}"
            );
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Stream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        let fresh = buf.filled_mut().get_mut(before..).unwrap_or_default();
        self.weather.sky(self.store).spoil(fresh);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Stream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.send(cx))?;
        self.take(bytes);
        match self.send(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            // What could not be sent now goes before the next write, or at the flush.
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(bytes.len())),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.send(cx))?;
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.send(cx))?;
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; HEADER_LEN];
        frame[KIND_AT] = kind;
        let length = u32::try_from(body.len()).unwrap();
        frame[LENGTH_AT..LENGTH_AT + 4].copy_from_slice(&length.to_le_bytes());
        frame.extend_from_slice(body);
        frame
    }

    /// What arrives of `sent`, written in pieces of 7 bytes.
    fn through(weather: &Weather, sent: &[u8]) -> Vec<u8> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(async {
            let (near, mut far) = duplex(1 << 20);
            let mut stream = weather.around(0, 0, near);
            for piece in sent.chunks(7) {
                stream.write_all(piece).await.unwrap();
            }
            stream.shutdown().await.unwrap();
            let mut arrived = Vec::new();
            far.read_to_end(&mut arrived).await.unwrap();
            arrived
        })
    }

    #[test]
    fn fair_weather_changes_nothing() {
        let sent = [frame(0x10, &[1; 100]), frame(0x12, &[2; 40])].concat();
        assert_eq!(through(&Weather::new(1, 1), &sent), sent);
    }

    #[test]
    fn noise_changes_bytes_and_no_lengths() {
        let weather = Weather::new(1, 1);
        weather.set_noise(0, 2);
        let sent = frame(0x10, &[1; 1000]);
        let arrived = through(&weather, &sent);
        assert_eq!(arrived.len(), sent.len());
        let changed = arrived.iter().zip(&sent).filter(|(a, b)| a != b).count();
        assert!(changed > 10, "{changed} bytes changed");
    }

    #[test]
    fn requests_are_said_again_whole_and_only_changes() {
        let weather = Weather::new(1, 1);
        weather.set_again(0, 1);
        let put = frame(0x10, &[1; 100]);
        let get = frame(0x11, &[2; 8]);
        let sent = [get.clone(), put.clone(), get.clone()].concat();
        let expected = [get.clone(), put.clone(), put, get].concat();
        assert_eq!(through(&weather, &sent), expected);
    }

    #[test]
    fn what_is_forgotten_is_not_said_again() {
        let weather = Weather::new(1, 1);
        // So many that one of them would be chosen.
        let before = frame(0x10, &[2; 100]).repeat(REMEMBERED - 1);
        assert_eq!(through(&weather, &before), before);
        weather.forget(0);
        weather.set_again(0, 1);
        let put = frame(0x10, &[3; 100]);
        assert_eq!(through(&weather, &put), put.repeat(2));
    }

    #[test]
    fn changes_of_ephemeral_pages_are_said_once() {
        let weather = Weather::new(1, 1);
        weather.set_again(0, 1);
        let body = [pool::EPHEMERAL.to_le_bytes(), [7; 4]].concat();
        let sent = [frame(0x10, &body), frame(0x12, &body)].concat();
        assert_eq!(through(&weather, &sent), sent);
    }

    #[test]
    fn what_a_store_says_is_changed_too() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let weather = Weather::new(1, 1);
        weather.set_noise(0, 1);
        let read = runtime.block_on(async {
            let (near, mut far) = duplex(1 << 10);
            far.write_all(&[0; 64]).await.unwrap();
            let mut read = [0; 64];
            weather
                .around(0, 0, near)
                .read_exact(&mut read)
                .await
                .unwrap();
            read
        });
        assert_eq!(read.iter().map(|byte| byte.count_ones()).sum::<u32>(), 1);
    }
}
