// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A turn: read what is there, serve what is whole, write the answers, keep the rest.

use std::cell::RefMut;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{BufMut, BytesMut};
use tmem_remote_protocol::{Decoded, Encoder, FRAME_MAX, Hello, ProtocolError, Request};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::requests::Answering;
use super::session::Session;
use super::{Connection, Ended};
use crate::limits::{READ_BYTES, TURNS, WRITE_BYTES};
use crate::store::Asked;

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// Reads, serves and writes, until there is nothing to do. Done early if others should have a turn.
    pub(super) fn pump(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Ended>> {
        for _ in 0..TURNS {
            ready!(self.write_out(cx))?;
            if self.leaving.is_some() {
                return self.hang_up(cx);
            }
            if !self.input.is_empty() && self.input.len() >= self.awaited {
                self.serve_input(cx)?;
            } else if self.input.is_empty() {
                ready!(self.read_and_serve(cx))?;
            } else {
                ready!(self.read_more(cx))?;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Reads into the shard's buffer and serves from there.
    fn read_and_serve(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Ended>> {
        let shard = Rc::clone(&self.shard);
        let mut reading = shard.reading.borrow_mut();
        let mut buffer = ReadBuf::new(&mut reading);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))?;
        let came = buffer.filled();
        if came.is_empty() {
            return Poll::Ready(Err(Ended::Closed));
        }
        Poll::Ready(self.take(cx, came))
    }

    /// Serves what was read to the shard's buffer, and keeps the rest.
    pub(super) fn take(&mut self, cx: &mut Context<'_>, came: &[u8]) -> Result<(), Ended> {
        let now = Instant::now();
        self.count_in(came.len());
        let served = self.serve(cx, came, now)?;
        let rest = came.get(served..).unwrap_or_default();
        if !rest.is_empty() {
            self.input = self.shard.buffer();
            self.input.extend_from_slice(rest);
            self.began = (self.awaited > 0).then_some(now);
        }
        Ok(())
    }

    /// Closes the connection behind the last words. Whatever still comes is read, because a socket
    /// that is closed with something unread takes back what it has sent.
    fn hang_up(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Ended>> {
        ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
        let shard = Rc::clone(&self.shard);
        let mut reading = shard.reading.borrow_mut();
        for _ in 0..TURNS {
            let mut buffer = ReadBuf::new(&mut reading);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))?;
            if buffer.filled().is_empty() {
                return Poll::Ready(Err(Ended::Closed));
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Reads more of a frame that is not whole.
    fn read_more(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Ended>> {
        // What is awaited is bounded by the decoder; there is no use in less than a read's worth.
        let room = self.awaited.min(FRAME_MAX).max(self.input.len() + 1);
        let room = room.max(READ_BYTES) - self.input.len().min(room);
        self.input.reserve(room);
        let mut into = (&mut self.input).limit(room);
        let came = ready!(pin!(self.stream.read_buf(&mut into)).poll(cx))?;
        if came == 0 {
            let (have, total) = (self.input.len(), self.awaited);
            return Poll::Ready(Err(ProtocolError::Truncated { have, total }.into()));
        }
        self.count_in(came);
        Poll::Ready(Ok(()))
    }

    /// Serves what is in the connection's own buffer.
    fn serve_input(&mut self, cx: &mut Context<'_>) -> Result<(), Ended> {
        let mut input = std::mem::take(&mut self.input);
        let now = Instant::now();
        let served = self.serve(cx, &input, now)?;
        if served == input.len() {
            self.shard.give_back(input);
            self.began = None;
        } else {
            if served > 0 {
                input.copy_within(served.., 0);
                input.truncate(input.len() - served);
                self.began = None;
            }
            if self.awaited > 0 {
                self.began.get_or_insert(now);
            }
            self.input = input;
        }
        Ok(())
    }

    fn count_in(&self, bytes: usize) {
        if let Some(session) = &self.session {
            let stripe = session.namespace.stripe(self.shard.number);
            stripe.bytes(bytes, 0);
        }
    }

    /// Serves the whole frames of `came`; says how many bytes they were. Stops early when the client
    /// does not take its answers.
    fn serve(&mut self, cx: &mut Context<'_>, came: &[u8], now: Instant) -> Result<usize, Ended> {
        let shard = Rc::clone(&self.shard);
        let mut writing = shard.writing.borrow_mut();
        writing.clear();
        let mut served = 0;
        loop {
            let more = if self.session.is_some() {
                self.answer(came, &mut served, &mut writing, now)
            } else {
                self.greet(came, &mut served, &mut writing, now)
            };
            // Answers to what came before something broken are the client's.
            let wrote = self.write_now(cx, &mut writing);
            let more = more?;
            if !wrote? {
                // What is left may be whole.
                self.awaited = 0;
                return Ok(served);
            }
            if !more {
                return Ok(served);
            }
        }
    }

    /// Answers requests until there is none that is whole, which is said, or until there are answers
    /// enough.
    fn answer(
        &mut self,
        came: &[u8],
        served: &mut usize,
        writing: &mut RefMut<'_, BytesMut>,
        now: Instant,
    ) -> Result<bool, Ended> {
        let Some(session) = &self.session else {
            return Ok(false);
        };
        let mut worker = self.shard.worker.borrow_mut();
        let mut asked = Asked::default();
        let mut result = Ok(true);
        match session.namespace.enter(session.epoch) {
            Err(newest) => {
                result = Err(Ended::Fenced {
                    epoch: session.epoch,
                    newest,
                });
            }
            Ok(_gate) => {
                let mut answering = Answering::new(
                    &self.shard.store,
                    &session.namespace,
                    &mut worker,
                    self.shard.number,
                    session.encoder,
                );
                while writing.len() < WRITE_BYTES {
                    let rest = came.get(*served..).unwrap_or_default();
                    answering.look_ahead(rest);
                    match self.decoder.next(rest) {
                        Ok(Decoded::Whole { message, len }) => {
                            answering.answer(&message, writing, &mut asked);
                            *served += len;
                        }
                        Ok(Decoded::More { total }) => {
                            self.awaited = total;
                            result = Ok(false);
                            break;
                        }
                        Err(error) => {
                            result = Err(error.into());
                            break;
                        }
                    }
                }
                let logged = answering.end();
                if logged > 0 {
                    self.unsafe_until = Some(logged);
                }
            }
        }
        let done = Instant::now();
        let stripe = session.namespace.stripe(self.shard.number);
        stripe.batch(&asked, done.saturating_duration_since(now));
        self.shard.worked(self.registered, now, done);
        self.last_request = now;
        result
    }

    /// Takes a hello. Says whether there may be more to serve.
    fn greet(
        &mut self,
        came: &[u8],
        served: &mut usize,
        writing: &mut RefMut<'_, BytesMut>,
        now: Instant,
    ) -> Result<bool, Ended> {
        let hello: Hello = match self.decoder.next(came)? {
            Decoded::More { total } => {
                self.awaited = total;
                return Ok(false);
            }
            Decoded::Whole {
                message: Request::Hello(hello),
                len,
            } => {
                *served = len;
                hello
            }
            // The decoder takes nothing else for the first frame.
            Decoded::Whole { .. } => return Err(Ended::Closed),
        };
        let opened = Session::open(&hello, &self.peer, &self.shard.store, now);
        let (session, welcome) = opened.map_err(Ended::Refused)?;
        tracing::debug!(
            client = self.peer.address,
            namespace = session.name(),
            epoch = session.epoch,
            session = ?hello.session,
            "welcomed"
        );
        Encoder::welcome(writing, &welcome);
        self.decoder.open(welcome.version, welcome.max_pages);
        self.session = Some(session);
        Ok(true)
    }

    /// Writes answers; keeps those that the client does not take. Says whether it took all.
    fn write_now(
        &mut self,
        cx: &mut Context<'_>,
        answers: &mut RefMut<'_, BytesMut>,
    ) -> Result<bool, Ended> {
        if !self.is_safe()? {
            if self.output.capacity() == 0 {
                self.output = self.shard.buffer();
            }
            self.output.extend_from_slice(answers);
            answers.clear();
            return Ok(false);
        }
        let mut at = 0;
        let mut taken = true;
        while let Some(rest) = answers.get(at..).filter(|rest| !rest.is_empty()) {
            match self.poll_write(cx, rest) {
                Poll::Ready(Ok(0)) => return Err(io::Error::from(io::ErrorKind::WriteZero).into()),
                Poll::Ready(Ok(bytes)) => at += bytes,
                Poll::Ready(Err(error)) => return Err(error.into()),
                Poll::Pending => {
                    if self.output.capacity() == 0 {
                        self.output = self.shard.buffer();
                    }
                    self.output.extend_from_slice(rest);
                    self.blocked = Some(Instant::now());
                    taken = false;
                    break;
                }
            }
        }
        if let Some(session) = &self.session {
            let stripe = session.namespace.stripe(self.shard.number);
            stripe.bytes(0, answers.len());
        }
        answers.clear();
        if taken && !self.flush(cx)? {
            taken = false;
        }
        Ok(taken)
    }

    /// The log is as far as the answers ask for. Where nobody else writes the log, it is now.
    fn is_safe(&mut self) -> Result<bool, Ended> {
        let (Some(record), Some(journal)) = (self.unsafe_until, &self.shard.store.journal) else {
            return Ok(true);
        };
        let progress = *journal.log.progress().borrow();
        if progress.committed < record {
            if progress.failed {
                return Err(Ended::LogFailed);
            }
            if self.shard.waits_for_log() {
                return Ok(false);
            }
            journal.log.commit_now().map_err(|_| Ended::LogFailed)?;
        }
        self.unsafe_until = None;
        Ok(true)
    }

    /// Has a stream that buffers send what it has. A socket has nothing to do here.
    fn flush(&mut self, cx: &mut Context<'_>) -> Result<bool, Ended> {
        match Pin::new(&mut self.stream).poll_flush(cx) {
            Poll::Ready(flushed) => Ok(flushed.map(|()| true)?),
            Poll::Pending => {
                self.blocked.get_or_insert_with(Instant::now);
                Ok(false)
            }
        }
    }

    /// Writes what the client has not taken yet.
    fn write_out(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Ended>> {
        if self.output.is_empty() && self.blocked.is_none() {
            return Poll::Ready(Ok(()));
        }
        if !self.is_safe()? {
            self.shard.wake_when_logged(cx.waker());
            return Poll::Pending;
        }
        while let Some(rest) = self
            .output
            .get(self.taken..)
            .filter(|rest| !rest.is_empty())
        {
            let wrote = ready!(Pin::new(&mut self.stream).poll_write(cx, rest))?;
            if wrote == 0 {
                return Poll::Ready(Err(io::Error::from(io::ErrorKind::WriteZero).into()));
            }
            self.taken += wrote;
            if self.blocked.is_some() {
                self.blocked = Some(Instant::now());
            }
        }
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        let output = std::mem::take(&mut self.output);
        self.shard.give_back(output);
        self.taken = 0;
        self.blocked = None;
        Poll::Ready(Ok(()))
    }
}
