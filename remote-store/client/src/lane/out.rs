// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What is to be sent.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::AsyncWrite;

/// Parts that one system call takes.
const PARTS_MAX: usize = 16;

#[derive(Debug, Default)]
pub(super) struct Out {
    parts: VecDeque<Bytes>,
    bytes: usize,
    /// TLS keeps what it could not send until it is asked again.
    flush: bool,
}

impl Out {
    pub(super) fn push(&mut self, part: Bytes) {
        if !part.is_empty() {
            self.bytes += part.len();
            self.parts.push_back(part);
        }
    }

    /// Bytes that wait.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Sends until all is sent or no more can be.
    pub(super) fn poll<S: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while !self.parts.is_empty() {
            let mut parts = [IoSlice::new(&[]); PARTS_MAX];
            let mut count = 0;
            for (part, bytes) in parts.iter_mut().zip(&self.parts) {
                *part = IoSlice::new(bytes);
                count += 1;
            }
            let parts = parts.get(..count).unwrap_or_default();
            let written = ready!(Pin::new(&mut *stream).poll_write_vectored(cx, parts))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.flush = true;
            self.sent(written);
        }
        if self.flush {
            ready!(Pin::new(stream).poll_flush(cx))?;
            self.flush = false;
        }
        Poll::Ready(Ok(()))
    }

    fn sent(&mut self, mut bytes: usize) {
        self.bytes = self.bytes.saturating_sub(bytes);
        while let Some(first) = self.parts.front_mut() {
            if bytes < first.len() {
                first.advance(bytes);
                return;
            }
            bytes -= first.len();
            self.parts.pop_front();
        }
    }
}
