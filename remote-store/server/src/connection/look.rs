// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Looking at a socket without asking the runtime.
//!
//! To hear of a request by way of the runtime costs a system call and its bookkeeping, on top of the
//! read. That is shared by many where many connections are busy, and is most of what a lone one pays.
//! So a shard that polls reads the socket itself, as long as one connection has all of its requests;
//! the runtime has its turn every [`SPAN`], and hears of everybody else. Answers go out the same way on
//! every connection: the runtime is only asked to wait.

use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::net::{RecvFlags, SendFlags, recv, send};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::{Connection, Ended};

/// Others wait for one that is looked at no longer than this.
const SPAN: Duration = Duration::from_micros(50);

/// How to use a stream without waiting and without the runtime's knowledge. Where nothing can be done,
/// that is an error of the kind [`WouldBlock`](ErrorKind::WouldBlock).
pub(crate) struct Direct<S> {
    /// Reads what has arrived.
    pub(super) read: fn(&mut S, &mut [u8]) -> io::Result<usize>,
    /// Writes what there is room for.
    pub(super) write: fn(&mut S, &[u8]) -> io::Result<usize>,
}

impl<S: AsFd> Direct<S> {
    /// That of a socket.
    pub(crate) fn socket() -> Self {
        Self {
            read: |socket, into| {
                let (_, bytes) = recv(socket.as_fd(), into, RecvFlags::DONTWAIT)?;
                Ok(bytes)
            },
            write: |socket, bytes| {
                let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
                Ok(send(socket.as_fd(), bytes, flags)?)
            },
        }
    }
}

/// What was seen.
pub(super) enum Looked {
    /// Something, which was served.
    Served,
    /// Nothing: the runtime has its turn.
    Nothing,
    /// The end.
    Ended(Ended),
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// Nothing is under way here, nor has been on other connections lately, and the shard is awake.
    pub(super) fn may_look(&self) -> bool {
        self.direct.is_some()
            && self.shard.is_awake_for(self.registered)
            && self.input.is_empty()
            && self.output.is_empty()
            && self.blocked.is_none()
            && self.leaving.is_none()
    }

    /// Writes what there is room for; pending, and known to the runtime, if there is none.
    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if let Some(write) = self.direct.as_ref().map(|direct| direct.write) {
            use ErrorKind::{Interrupted, WouldBlock};
            match write(&mut self.stream, bytes) {
                Err(error) if matches!(error.kind(), Interrupted | WouldBlock) => {}
                done => return Poll::Ready(done),
            }
        }
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    /// Looks until something comes, or until the time that is set with the first look of a turn.
    pub(super) fn look(&mut self, cx: &mut Context<'_>, until: &mut Option<Instant>) -> Looked {
        let Some(read) = self.direct.as_ref().map(|direct| direct.read) else {
            return Looked::Nothing;
        };
        let shard = Rc::clone(&self.shard);
        let mut reading = shard.reading.borrow_mut();
        let mut now = Instant::now();
        let until = *until.get_or_insert(now + SPAN);
        while now < until {
            match read(&mut self.stream, &mut reading) {
                Ok(0) => return Looked::Ended(Ended::Closed),
                Ok(bytes) => {
                    let came = reading.get(..bytes).unwrap_or_default();
                    return match self.take(cx, came) {
                        Ok(()) => Looked::Served,
                        Err(ended) => Looked::Ended(ended),
                    };
                }
                // Whoever else wants this processor may be the client.
                Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::yield_now(),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Looked::Ended(error.into()),
            }
            now = Instant::now();
        }
        Looked::Nothing
    }
}
