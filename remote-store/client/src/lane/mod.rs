// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One connection to one store, used by one thread.
//!
//! ```text
//!  start_put, start_get … ─▶ out ──────▶ stream ──────▶ input ─▶ pending, in order
//!     number of the request              (poll_reply moves both ways)     └─▶ whoever awaits it
//! ```
//! Requests are numbered and queued, several may be under way, and the store answers in order. Nothing
//! runs by itself: bytes move while somebody polls for a reply. An answer that nobody waits for any
//! more is dropped when it comes; one that comes before it is asked for is kept.
//!
//! The bytes of pages are handed over as [`Bytes`], so that the same ones go to several stores.

mod error;
mod input;
mod out;
mod replies;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tmem_remote_protocol::{
    Advert, Agreed, Decoded, Encoder, FlushEntry, GetEntry, Hello, PutEntry, Reply, ReplyDecoder,
    Welcome,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

pub use error::LaneError;
use input::Input;
use out::Out;
use replies::Expected;

/// Bytes that wait to be sent at most: eight full puts.
const QUEUED_MAX: usize = 8 * tmem_remote_protocol::FRAME_MAX;

/// Reads what is there without waiting: [`Connector::read_now`](crate::connect::Connector::read_now).
pub type ReadNow<S> = fn(&mut S, &mut [u8]) -> io::Result<usize>;

/// Connections that were opened so far.
static OPENED: AtomicU64 = AtomicU64::new(0);
/// Bits of a request's number that count on its connection; those above are the connection's.
const COUNT_BITS: u32 = 40;

/// The number of a request; no other connection has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestId(u64);

#[derive(Debug)]
struct Pending {
    id: u64,
    expected: Expected,
    sent: Instant,
    wanted: bool,
    /// The reply's frame, if it came before it was asked for.
    reply: Option<Vec<u8>>,
}

/// See the module's head.
pub struct Lane<S> {
    stream: S,
    read_now: ReadNow<S>,
    encoder: Encoder,
    decoder: ReplyDecoder,
    agreed: Agreed,
    welcome: Welcome,
    out: Out,
    input: Input,
    pending: VecDeque<Pending>,
    next_id: u64,
    advert: Option<Advert>,
    dead: Option<LaneError>,
}

impl<S> std::fmt::Debug for Lane<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lane")
            .field("pending", &self.pending.len())
            .field("dead", &self.dead)
            .finish_non_exhaustive()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Lane<S> {
    /// Introduces itself and hears the answer. Whoever calls sets a time limit.
    ///
    /// # Errors
    /// [`LaneError::Refused`] if the store does not want us, and what may befall any connection.
    pub async fn open(stream: S, read_now: ReadNow<S>, hello: &Hello) -> Result<Self, LaneError> {
        let mut hello_bytes = BytesMut::new();
        Encoder::hello(&mut hello_bytes, hello);
        let mut half = Half {
            stream,
            out: Out::default(),
            input: Input::new(),
        };
        half.out.push(hello_bytes.freeze());
        let decoder = ReplyDecoder::new();
        let welcome = poll_fn(|cx| half.poll_welcome(cx, &decoder)).await?;
        let agreed = welcome.check(hello)?;
        let mut decoder = decoder;
        decoder.open(agreed.version, agreed.max_pages);
        Ok(Self {
            stream: half.stream,
            read_now,
            encoder: Encoder::new(agreed.version),
            decoder,
            agreed,
            advert: Some(welcome.advert),
            welcome,
            out: half.out,
            input: half.input,
            pending: VecDeque::new(),
            next_id: OPENED.fetch_add(1, Ordering::Relaxed) << COUNT_BITS | 1,
            dead: None,
        })
    }

    /// What the store said of itself.
    #[must_use]
    pub fn welcome(&self) -> &Welcome {
        &self.welcome
    }

    /// Pages that one request may have.
    #[must_use]
    pub fn pages_max(&self) -> usize {
        usize::try_from(self.agreed.max_pages).unwrap_or(1)
    }

    /// Requests without an answer, also those that nobody waits for.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.pending.len()
    }

    /// The answer to this is still to be taken.
    pub(crate) fn owes(&self, id: RequestId) -> bool {
        self.pending.iter().any(|pending| pending.id == id.0)
    }

    /// Since when the oldest answer is due.
    #[must_use]
    pub fn waiting_since(&self) -> Option<Instant> {
        let oldest = self.pending.iter().find(|pending| pending.reply.is_none());
        oldest.map(|pending| pending.sent)
    }

    /// Queues a put: entries, and as many pages in `pages`, in parts as the caller has them.
    ///
    /// # Errors
    /// [`LaneError::Busy`] if too much is under way, or why the connection is dead.
    pub fn start_put(
        &mut self,
        entries: &[PutEntry],
        pages: impl IntoIterator<Item = Bytes>,
    ) -> Result<RequestId, LaneError> {
        self.start(Expected::Put(entries.len()), |encoder, out, id| {
            encoder.put_front(out, id, entries);
        })
        .inspect(|_| {
            for part in pages {
                self.out.push(part);
            }
        })
    }

    /// Queues a get.
    ///
    /// # Errors
    /// As [`Self::start_put`].
    pub fn start_get(&mut self, entries: &[GetEntry]) -> Result<RequestId, LaneError> {
        self.start(Expected::Get(entries.len()), |encoder, out, id| {
            encoder.get(out, id, entries);
        })
    }

    /// Queues a flush.
    ///
    /// # Errors
    /// As [`Self::start_put`].
    pub fn start_flush(&mut self, entries: &[FlushEntry]) -> Result<RequestId, LaneError> {
        self.start(Expected::Flush(entries.len()), |encoder, out, id| {
            encoder.flush(out, id, entries);
        })
    }

    /// Queues the flush of a pool.
    ///
    /// # Errors
    /// As [`Self::start_put`].
    pub fn start_flush_pool(&mut self, pool: u32, generation: u64) -> Result<RequestId, LaneError> {
        self.start(Expected::FlushPool, |encoder, out, id| {
            encoder.flush_pool(out, id, pool, generation);
        })
    }

    /// Asks which pages there are.
    ///
    /// # Errors
    /// As [`Self::start_put`].
    pub fn start_list(&mut self, pool: u32, from: u32, max: u32) -> Result<RequestId, LaneError> {
        self.start(Expected::List, |encoder, out, id| {
            encoder.list(out, id, pool, from, max);
        })
    }

    /// Asks whether the store is there.
    ///
    /// # Errors
    /// As [`Self::start_put`].
    pub fn start_ping(&mut self) -> Result<RequestId, LaneError> {
        self.start(Expected::Ping, |encoder, out, id| encoder.ping(out, id))
    }

    fn start(
        &mut self,
        expected: Expected,
        encode: impl FnOnce(Encoder, &mut BytesMut, u64),
    ) -> Result<RequestId, LaneError> {
        if let Some(error) = &self.dead {
            return Err(error.clone());
        }
        let under_way = self.pending.len();
        let most = usize::try_from(self.agreed.max_in_flight).unwrap_or(1);
        if under_way >= most || self.out.bytes() > QUEUED_MAX {
            return Err(LaneError::Busy(under_way));
        }
        let id = self.next_id;
        self.next_id += 1;
        let mut out = BytesMut::new();
        encode(self.encoder, &mut out, id);
        self.out.push(out.freeze());
        self.pending.push_back(Pending {
            id,
            expected,
            sent: Instant::now(),
            wanted: true,
            reply: None,
        });
        Ok(RequestId(id))
    }

    /// Nobody waits for this any more.
    pub fn abandon(&mut self, id: RequestId) {
        if let Some(pending) = self.pending.iter_mut().find(|pending| pending.id == id.0) {
            pending.wanted = false;
        }
        self.drop_unwanted();
    }

    /// Drops answers that nobody waits for, as far as they have come.
    fn drop_unwanted(&mut self) {
        let unwanted = |first: &Pending| !first.wanted && first.reply.is_some();
        while self.pending.front().is_some_and(unwanted) {
            self.pending.pop_front();
        }
    }

    /// Moves bytes both ways until the reply is there, which `take` is given.
    pub fn poll_reply(
        &mut self,
        cx: &mut Context<'_>,
        id: RequestId,
        take: &mut dyn FnMut(Reply<'_>),
    ) -> Poll<Result<(), LaneError>> {
        loop {
            if self.try_take(id, take)? {
                return Poll::Ready(Ok(()));
            }
            let _ = self.poll_send(cx)?;
            ready!(self.poll_fill(cx))?;
        }
    }

    /// Moves bytes both ways until the store has said how it is, or something else came.
    pub fn poll_advert(&mut self, cx: &mut Context<'_>) -> Poll<Result<Advert, LaneError>> {
        loop {
            if let Some(advert) = self.advert.take() {
                return Poll::Ready(Ok(advert));
            }
            if self.step()? {
                continue;
            }
            let _ = self.poll_send(cx)?;
            ready!(self.poll_fill(cx))?;
        }
    }

    /// Pending until the connection fails, or something came that nobody asked for.
    pub(crate) fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LaneError>> {
        loop {
            if !self.step()? {
                let _ = self.poll_send(cx)?;
                ready!(self.poll_fill(cx))?;
            }
        }
    }

    /// Takes in what has arrived, without waiting: answers that came late, and what they stood before.
    ///
    /// # Errors
    /// Why the connection is dead.
    pub fn catch_up(&mut self, cx: &mut Context<'_>) -> Result<(), LaneError> {
        loop {
            while self.step()? {}
            let _ = self.poll_send(cx)?;
            let more = self.fill_now()? || self.poll_fill(cx)?.is_ready();
            if !more {
                return Ok(());
            }
        }
    }

    /// Sends what can be sent at once.
    ///
    /// # Errors
    /// Why the connection is dead.
    pub fn push(&mut self, cx: &mut Context<'_>) -> Result<(), LaneError> {
        self.poll_send(cx).map(drop)
    }

    /// Looks for the reply for as long as `budget`, without sleeping. True if it came. Also false if
    /// this stream cannot be looked at without the runtime.
    ///
    /// # Errors
    /// Why the connection is dead.
    pub fn spin(
        &mut self,
        cx: &mut Context<'_>,
        id: RequestId,
        budget: Duration,
        take: &mut dyn FnMut(Reply<'_>),
    ) -> Result<bool, LaneError> {
        let _ = self.poll_send(cx)?;
        let begin = Instant::now();
        loop {
            if self.fill_now()? {
                if self.try_take(id, take)? {
                    return Ok(true);
                }
            } else if begin.elapsed() >= budget {
                return Ok(false);
            }
            std::hint::spin_loop();
        }
    }

    /// Awaits the reply, which `take` is given.
    ///
    /// # Errors
    /// Why the connection is dead.
    pub async fn finish(
        &mut self,
        id: RequestId,
        mut take: impl FnMut(Reply<'_>),
    ) -> Result<(), LaneError> {
        poll_fn(|cx| self.poll_reply(cx, id, &mut take)).await
    }

    /// As [`Self::finish`], but looks for as long as `budget` before it sleeps.
    ///
    /// # Errors
    /// Why the connection is dead.
    pub async fn finish_polling(
        &mut self,
        id: RequestId,
        budget: Duration,
        mut take: impl FnMut(Reply<'_>),
    ) -> Result<(), LaneError> {
        let found = poll_fn(|cx| Poll::Ready(self.spin(cx, id, budget, &mut take))).await?;
        if found {
            return Ok(());
        }
        self.finish(id, take).await
    }

    /// Reads what is there without waiting. True if there was something.
    pub(crate) fn fill_now(&mut self) -> Result<bool, LaneError> {
        match (self.read_now)(&mut self.stream, self.input.spare()) {
            Ok(0) => Err(self.kill(LaneError::Closed)),
            Ok(bytes) => {
                self.input.filled(bytes);
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(self.kill(LaneError::io(error))),
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, LaneError> {
        match self.out.poll(&mut self.stream, cx) {
            Poll::Pending => Ok(Poll::Pending),
            Poll::Ready(Ok(())) => Ok(Poll::Ready(())),
            Poll::Ready(Err(error)) => Err(self.kill(LaneError::io(error))),
        }
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LaneError>> {
        match ready!(poll_in(&mut self.stream, &mut self.input, cx)) {
            Ok(0) => Poll::Ready(Err(self.kill(LaneError::Closed))),
            Ok(_) => Poll::Ready(Ok(())),
            Err(error) => Poll::Ready(Err(self.kill(LaneError::io(error)))),
        }
    }

    fn kill(&mut self, error: LaneError) -> LaneError {
        self.dead = Some(error.clone());
        error
    }
}

/// A connection before the welcome.
struct Half<S> {
    stream: S,
    out: Out,
    input: Input,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Half<S> {
    fn poll_welcome(
        &mut self,
        cx: &mut Context<'_>,
        decoder: &ReplyDecoder,
    ) -> Poll<Result<Welcome, LaneError>> {
        loop {
            match decoder.next(self.input.full())? {
                Decoded::More { total } => self.input.make_room(total),
                Decoded::Whole { message, len } => {
                    let welcome = match message {
                        Reply::Welcome(welcome) => Ok(welcome),
                        Reply::Refused(farewell) => Err(LaneError::Refused(farewell)),
                        _ => Err(LaneError::Mismatch),
                    };
                    self.input.consume(len);
                    return Poll::Ready(welcome);
                }
            }
            if let Poll::Ready(Err(error)) = self.out.poll(&mut self.stream, cx) {
                return Poll::Ready(Err(LaneError::io(error)));
            }
            match ready!(poll_in(&mut self.stream, &mut self.input, cx)) {
                Ok(0) => return Poll::Ready(Err(LaneError::Closed)),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Err(LaneError::io(error))),
            }
        }
    }
}

fn poll_in<S: AsyncRead + Unpin>(
    stream: &mut S,
    input: &mut Input,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    let mut into = ReadBuf::new(input.spare());
    ready!(Pin::new(stream).poll_read(cx, &mut into))?;
    let bytes = into.filled().len();
    input.filled(bytes);
    Poll::Ready(Ok(bytes))
}

#[cfg(test)]
mod tests;
