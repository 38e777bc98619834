// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One connection: a state machine that is polled when bytes came, when the client took some, when a
//! deadline passed, or when the store ends.
//!
//! ```text
//!            ┌───────────── turn ─────────────┐
//! socket ──▶ shard's read buffer ──▶ serve ──▶ shard's write buffer ──▶ socket
//!               │ rest of a frame     (pages: one copy in, one copy out)    │ not taken
//!               ▼                                                           ▼
//!            own input  ◀── nothing is read as long as there is ──────  own output
//! ```
//! So a client that sends and does not read gets no more than one turn's answers ahead, whatever it
//! pipelines, and one that waits costs a task and a timer.

mod ended;
mod look;
mod requests;
mod session;
mod turn;

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::BytesMut;
pub use ended::Ended;
pub(crate) use look::Direct;
use look::Looked;
use session::Session;
use tmem_remote_protocol::{Encoder, RequestDecoder};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::limits::GOODBYE;
use crate::shard::Shard;

/// Without any other deadline a connection looks around so often.
const LOOK: Duration = Duration::from_secs(3600);

/// The namespaces that a client may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// All of them: it came by a way that is trusted.
    Any,
    /// Those that its certificate names.
    Only(Vec<String>),
}

/// Who is at the other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// For the log.
    pub address: String,
    /// What it may use.
    pub access: Access,
}

impl Peer {
    /// One that may use every namespace.
    #[must_use]
    pub fn trusted(address: impl Into<String>) -> Self {
        Self {
            address: address.into(),
            access: Access::Any,
        }
    }
}

/// Serves a connection until its end, and says why it ended, which is logged as well.
///
/// Starts nothing; all it needs of the runtime is its clock.
pub async fn serve_connection<S>(stream: S, peer: Peer, shard: Rc<Shard>) -> Ended
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    serve_directly(stream, None, peer, shard).await
}

/// As [`serve_connection`], of a stream that can be used without the runtime's knowledge.
pub(crate) async fn serve_directly<S>(
    stream: S,
    direct: Option<Direct<S>>,
    peer: Peer,
    shard: Rc<Shard>,
) -> Ended
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let address = peer.address.clone();
    let registry = Rc::clone(&shard);
    let mut connection = Connection::new(stream, direct, peer, shard);
    let ended = run(&mut connection).await;
    let namespace = connection.session.as_ref().map(|of| of.name().to_owned());
    let namespace = namespace.as_deref().unwrap_or("-");
    let warn = ended
        .is_noteworthy()
        .then(|| registry.store.registry().may_warn(Instant::now()));
    match warn.flatten() {
        Some(0) => tracing::warn!(client = address, namespace, "connection ended: {ended}"),
        Some(unsaid) => {
            tracing::warn!(
                client = address,
                namespace,
                unsaid,
                "connection ended: {ended}"
            );
        }
        None => tracing::debug!(client = address, namespace, "connection ended: {ended}"),
    }
    ended
}

async fn run<S: AsyncRead + AsyncWrite + Unpin>(connection: &mut Connection<S>) -> Ended {
    let mut sleep = pin!(sleep_until(connection.deadline()));
    poll_fn(|cx| connection.poll(cx, sleep.as_mut())).await
}

/// A connection, and how far it is.
struct Connection<S> {
    stream: S,
    direct: Option<Direct<S>>,
    peer: Peer,
    shard: Rc<Shard>,
    decoder: RequestDecoder,
    session: Option<Session>,
    /// What came and is not served. Empty, without memory, between requests.
    input: Vec<u8>,
    /// Bytes that `input` has to hold before there is something to serve; 0: it may hold it now.
    awaited: usize,
    /// Answers that the client has not taken.
    output: Vec<u8>,
    /// Bytes of them that it has.
    taken: usize,
    /// The answers in `output` wait until the log is safe up to this record.
    unsafe_until: Option<u64>,
    /// When the first byte of the frame came that is not whole.
    began: Option<Instant>,
    /// Since when the client takes no answers.
    blocked: Option<Instant>,
    opened: Instant,
    last_request: Instant,
    /// Why it ends, once its last words are in `output`, and when they must be out.
    leaving: Option<(Option<Ended>, Instant)>,
    /// Its entry among those that are woken when the store ends.
    registered: u64,
    /// Whom that entry wakes.
    waker: Option<Waker>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    fn new(stream: S, direct: Option<Direct<S>>, peer: Peer, shard: Rc<Shard>) -> Self {
        let now = Instant::now();
        Self {
            stream,
            direct,
            peer,
            decoder: RequestDecoder::new(),
            session: None,
            input: Vec::new(),
            awaited: 0,
            output: Vec::new(),
            taken: 0,
            unsafe_until: None,
            began: None,
            blocked: None,
            waker: None,
            opened: now,
            last_request: now,
            leaving: None,
            registered: shard.store.registry().open(),
            shard,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>, mut sleep: Pin<&mut Sleep>) -> Poll<Ended> {
        if !self
            .waker
            .as_ref()
            .is_some_and(|waker| waker.will_wake(cx.waker()))
        {
            self.shard
                .store
                .registry()
                .listen(self.registered, cx.waker());
            self.waker = Some(cx.waker().clone());
        }
        self.look_around();
        let mut look_until = None;
        loop {
            let pumped = match self.pump(cx) {
                Poll::Pending if self.may_look() => match self.look(cx, &mut look_until) {
                    Looked::Served => continue,
                    Looked::Ended(ended) => Poll::Ready(Err(ended)),
                    Looked::Nothing => {
                        cx.waker().wake_by_ref();
                        Poll::Pending
                    }
                },
                pumped => pumped,
            };
            match pumped {
                Poll::Ready(Err(ended)) if self.leaving.is_none() => {
                    if ended.farewell().is_none() {
                        return Poll::Ready(ended);
                    }
                    self.leave(ended);
                }
                Poll::Ready(Err(_)) => return Poll::Ready(self.reason()),
                Poll::Ready(Ok(())) => {
                    // Others have their turn.
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Poll::Pending => {
                    let deadline = self.deadline();
                    if deadline < sleep.deadline() {
                        sleep.as_mut().reset(deadline);
                    }
                    if sleep.as_mut().poll(cx).is_pending() {
                        return Poll::Pending;
                    }
                    if let Err(ended) = self.on_time(Instant::now()) {
                        if self.leaving.is_some() {
                            return Poll::Ready(self.reason());
                        }
                        self.leave(ended);
                    }
                    sleep.as_mut().reset(self.deadline());
                }
            }
        }
    }

    /// Ends, if the store does, or if a newer client came.
    fn look_around(&mut self) {
        if self.leaving.is_some() {
            return;
        }
        if self.shard.store.registry().is_ended() {
            self.leave(Ended::Stopped);
        } else if let Some(ended) = self.session.as_ref().and_then(Session::fenced) {
            self.leave(ended);
        }
    }

    /// Says goodbye: what is left to do is to get that out.
    fn leave(&mut self, ended: Ended) {
        if self.unsafe_until.take().is_some() {
            // What is not safe is not acknowledged.
            self.output.clear();
            self.taken = 0;
        }
        let farewell = ended.farewell().map(|mut farewell| {
            if matches!(ended, Ended::Stopped)
                && let Some(text) = self.shard.store.registry().farewell()
            {
                farewell.text = text;
            }
            farewell
        });
        if let Some(farewell) = farewell {
            let mut bytes = BytesMut::new();
            match &self.session {
                Some(session) => session.encoder.goodbye(&mut bytes, &farewell),
                None => Encoder::refused(&mut bytes, &farewell),
            }
            self.output.extend_from_slice(&bytes);
        }
        let input = std::mem::take(&mut self.input);
        self.shard.give_back(input);
        self.leaving = Some((Some(ended), Instant::now() + GOODBYE));
    }

    fn reason(&mut self) -> Ended {
        let reason = self.leaving.as_mut().and_then(|(ended, _)| ended.take());
        reason.unwrap_or(Ended::Closed)
    }

    /// When something is due, if nothing comes.
    fn deadline(&self) -> Instant {
        if let Some((_, deadline)) = self.leaving {
            return deadline;
        }
        let limits = self.shard.store.limits();
        let dues = [
            self.blocked.map(|since| since + limits.write),
            self.began.map(|since| since + limits.frame),
            match &self.session {
                None => Some(self.opened + limits.handshake),
                Some(session) => session.advert_due(),
            },
            limits.idle.map(|idle| self.last_request + idle),
        ];
        let due = dues.into_iter().flatten().min();
        due.unwrap_or_else(|| Instant::now() + LOOK)
    }

    /// Does what is due at `now`, or says what the client failed to do by now.
    fn on_time(&mut self, now: Instant) -> Result<(), Ended> {
        if let Some((_, deadline)) = self.leaving {
            return if now >= deadline {
                Err(Ended::Closed)
            } else {
                Ok(())
            };
        }
        let limits = self.shard.store.limits();
        let is_over = |since: Option<Instant>, most| since.is_some_and(|since| now >= since + most);
        if self.session.is_none() && now >= self.opened + limits.handshake {
            return Err(Ended::Slow("its hello has not come in time"));
        }
        if is_over(self.began, limits.frame) {
            return Err(Ended::Slow("the rest of its request has not come in time"));
        }
        if is_over(self.blocked, limits.write) {
            return Err(Ended::Slow("it takes no answers"));
        }
        if let Some(idle) = limits.idle
            && now >= self.last_request + idle
        {
            return Err(Ended::Slow("nothing was asked for in a long time"));
        }
        if let Some(session) = &mut self.session {
            let quiet = self.output.is_empty();
            session.advertise(now, quiet, &self.shard, &mut self.output);
        }
        Ok(())
    }
}

impl<S> Drop for Connection<S> {
    fn drop(&mut self) {
        self.shard.store.registry().close(self.registered);
        self.shard.give_back(std::mem::take(&mut self.input));
        self.shard.give_back(std::mem::take(&mut self.output));
    }
}
