// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! From bytes to messages, one frame at a time, in place.
//!
//! A reader appends what its socket gives to a buffer and asks for the next message until it needs
//! [more](Decoded::More). A message borrows from the buffer: no page is moved, nothing is allocated but
//! the few strings of a handshake. Each call starts at a frame's beginning, so a decoder keeps no state
//! but what was agreed, and the same bytes give the same message however they were cut.
//!
//! ```
//! use tmem_remote_protocol::{Decoded, Encoder, ReplyDecoder, Reply};
//!
//! let mut buf = bytes::BytesMut::new();
//! Encoder::new(1).pong(&mut buf, 7);
//! let mut decoder = ReplyDecoder::new();
//! decoder.open(1, 256);
//! assert_eq!(decoder.next(&buf[..9]), Ok(Decoded::More { total: 32 }));
//! let pong = Decoded::Whole { message: Reply::Pong { request: 7 }, len: 32 };
//! assert_eq!(decoder.next(&buf), Ok(pong));
//! ```

use zerocopy::{Immutable, KnownLayout, TryFromBytes, Unaligned};

use crate::entries::GotEntry;
use crate::error::ProtocolError;
use crate::handshake::{Advert, Farewell, Hello, Welcome};
use crate::header::{Head, Kind, Stream};
use crate::limits::{GENERATION_LIMIT, HEADER_LEN, LIST_MAX, PAGE_SIZE, PAGES_MAX, PageBytes};
use crate::message::{RawFlushPool, RawFlushPoolDone, RawList, RawListed, Reply, Request};

/// What the bytes so far are good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoded<T> {
    /// The first `len` bytes are a message.
    Whole {
        /// The message.
        message: T,
        /// Bytes that it takes up: drop them, once the message is done with.
        len: usize,
    },
    /// Not whole yet.
    More {
        /// Bytes that are needed, from the frame's beginning on, before it is worth asking again:
        /// [`FRAME_MAX`](crate::FRAME_MAX) at most.
        total: usize,
    },
}

impl<T> Decoded<T> {
    fn map<U>(self, with: impl FnOnce(T) -> Result<U, ProtocolError>) -> DecodeResult<U> {
        Ok(match self {
            Self::Whole { message, len } => Decoded::Whole {
                message: with(message)?,
                len,
            },
            Self::More { total } => Decoded::More { total },
        })
    }
}

type DecodeResult<T> = Result<Decoded<T>, ProtocolError>;

/// A reply whose pages may still be on their way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Front<'a> {
    /// A reply that brings no pages, whole.
    Whole(Reply<'a>),
    /// The reply to a get, as far as its entries: the pages follow in the stream, right behind.
    Pages {
        /// The request's number.
        request: u64,
        /// One a page that was asked for.
        entries: &'a [GotEntry],
        /// Pages that follow: those of the entries that are [`Status::Ok`](crate::Status::Ok).
        pages: usize,
    },
}

/// Reads what a client sends.
#[derive(Clone, Copy, Debug)]
pub struct RequestDecoder(Stream);

/// Reads what a store sends.
#[derive(Clone, Copy, Debug)]
pub struct ReplyDecoder(Stream);

impl Default for RequestDecoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Default for ReplyDecoder {
    fn default() -> Self {
        Self::new()
    }
}

impl RequestDecoder {
    /// For a new connection: nothing but a hello is right.
    #[must_use]
    pub const fn new() -> Self {
        Self(Stream {
            from_store: false,
            agreed: None,
        })
    }

    /// The handshake is over: `version` is agreed, and a frame has `max_pages` pages at most.
    pub fn open(&mut self, version: u8, max_pages: u32) {
        self.0.agreed = Some((version, max_pages.min(PAGES_MAX)));
    }

    /// The message that `buf` begins with.
    ///
    /// # Errors
    /// [`ProtocolError`]: the connection has to be ended.
    pub fn next<'a>(&self, buf: &'a [u8]) -> DecodeResult<Request<'a>> {
        frame(self.0, buf)?.map(|(head, entries, pages)| request(&head, entries, pages))
    }

    /// The stream has ended and left `buf`.
    ///
    /// # Errors
    /// [`ProtocolError`] unless it ended between two frames.
    pub fn end(&self, buf: &[u8]) -> Result<(), ProtocolError> {
        end(self.0, buf)
    }
}

impl ReplyDecoder {
    /// For a new connection: nothing but a welcome or a refusal is right.
    #[must_use]
    pub const fn new() -> Self {
        Self(Stream {
            from_store: true,
            agreed: None,
        })
    }

    /// The handshake is over: `version` is agreed, and a frame has `max_pages` pages at most.
    pub fn open(&mut self, version: u8, max_pages: u32) {
        self.0.agreed = Some((version, max_pages.min(PAGES_MAX)));
    }

    /// The message that `buf` begins with, with all its pages.
    ///
    /// # Errors
    /// [`ProtocolError`]: the connection has to be ended.
    pub fn next<'a>(&self, buf: &'a [u8]) -> DecodeResult<Reply<'a>> {
        frame(self.0, buf)?.map(|(head, entries, pages)| reply(&head, entries, pages))
    }

    /// The message that `buf` begins with, as far as its pages: whoever wants these elsewhere reads them
    /// there from the socket, after what `buf` has of them behind the message.
    ///
    /// # Errors
    /// [`ProtocolError`]: the connection has to be ended.
    pub fn front<'a>(&self, buf: &'a [u8]) -> DecodeResult<Front<'a>> {
        let Some(head) = Head::parse(self.0, buf)? else {
            return Ok(Decoded::More { total: HEADER_LEN });
        };
        let (total, len) = (head.front_len(), head.front_len());
        let Some(entries) = head.entries(buf)? else {
            return Ok(Decoded::More { total });
        };
        let message = if head.kind == Kind::GetDone {
            let (entries, pages) = (got(&head, entries)?, head.pages);
            Front::Pages {
                request: head.request,
                entries,
                pages,
            }
        } else {
            Front::Whole(reply(&head, entries, &[])?)
        };
        Ok(Decoded::Whole { message, len })
    }

    /// The stream has ended and left `buf`.
    ///
    /// # Errors
    /// [`ProtocolError`] unless it ended between two frames.
    pub fn end(&self, buf: &[u8]) -> Result<(), ProtocolError> {
        end(self.0, buf)
    }
}

type Parts<'a> = (Head, &'a [u8], &'a [PageBytes]);

/// Header, entries and pages of the frame that `buf` begins with. Its entries are checked as soon as
/// they are there: a damaged frame is not waited for.
fn frame(stream: Stream, buf: &[u8]) -> DecodeResult<Parts<'_>> {
    let Some(head) = Head::parse(stream, buf)? else {
        return Ok(Decoded::More { total: HEADER_LEN });
    };
    let len = head.frame_len();
    let entries = head.entries(buf)?;
    let pages = buf.get(head.front_len()..len);
    let (Some(entries), Some(pages)) = (entries, pages) else {
        return Ok(Decoded::More { total: len });
    };
    let message = (head, entries, slices(&head, pages)?);
    Ok(Decoded::Whole { message, len })
}

fn end(stream: Stream, buf: &[u8]) -> Result<(), ProtocolError> {
    if buf.is_empty() {
        return Ok(());
    }
    match frame(stream, buf)? {
        Decoded::Whole { .. } => Ok(()),
        Decoded::More { total } => Err(ProtocolError::Truncated {
            have: buf.len(),
            total,
        }),
    }
}

fn request<'a>(
    head: &Head,
    entries: &'a [u8],
    pages: &'a [PageBytes],
) -> Result<Request<'a>, ProtocolError> {
    let request = head.request;
    Ok(match head.kind {
        Kind::Hello => Request::Hello(Hello::read(entries)?),
        Kind::Put => {
            let entries: &[crate::PutEntry] = slices(head, entries)?;
            generations(head, entries.iter().map(crate::PutEntry::generation))?;
            Request::Put {
                request,
                entries,
                pages,
            }
        }
        Kind::Get => Request::Get {
            request,
            entries: slices(head, entries)?,
        },
        Kind::Flush => {
            let entries: &[crate::FlushEntry] = slices(head, entries)?;
            generations(head, entries.iter().map(crate::FlushEntry::generation))?;
            Request::Flush { request, entries }
        }
        Kind::FlushPool => {
            let raw: &RawFlushPool = one(head, entries)?;
            generations(head, [raw.generation.get()])?;
            Request::FlushPool {
                request,
                pool: raw.pool.get(),
                generation: raw.generation.get(),
            }
        }
        Kind::List => {
            let raw: &RawList = one(head, entries)?;
            let max = raw.max.get();
            if !(1..=LIST_MAX).contains(&max) {
                return Err(ProtocolError::ListMax { request, max });
            }
            Request::List {
                request,
                pool: raw.pool.get(),
                from: raw.from.get(),
                max,
            }
        }
        Kind::Ping => Request::Ping { request },
        kind => return Err(ProtocolError::WrongSide(kind)),
    })
}

fn reply<'a>(
    head: &Head,
    entries: &'a [u8],
    pages: &'a [PageBytes],
) -> Result<Reply<'a>, ProtocolError> {
    let request = head.request;
    Ok(match head.kind {
        Kind::Welcome => Reply::Welcome(Welcome::read(entries)?),
        Kind::Refused => Reply::Refused(Farewell::read(head.kind, entries)?),
        Kind::Goodbye => Reply::Goodbye(Farewell::read(head.kind, entries)?),
        Kind::Advert => Reply::Advert(Advert::read(entries)?),
        Kind::PutDone => Reply::PutDone {
            request,
            statuses: slices(head, entries)?,
        },
        Kind::GetDone => Reply::GetDone {
            request,
            entries: got(head, entries)?,
            pages,
        },
        Kind::FlushDone => Reply::FlushDone {
            request,
            statuses: slices(head, entries)?,
        },
        Kind::FlushPoolDone => {
            let raw: &RawFlushPoolDone = one(head, entries)?;
            Reply::FlushPoolDone {
                request,
                status: raw.status,
                pages: raw.pages.get(),
            }
        }
        Kind::Listed => {
            let (raw, entries) =
                RawListed::try_ref_from_prefix(entries).map_err(|_| value(head))?;
            let entries: &[crate::ListedEntry] = slices(head, entries)?;
            generations(head, entries.iter().map(crate::ListedEntry::generation))?;
            Reply::Listed {
                request,
                entries,
                next: raw.next.get(),
                end: raw.end,
            }
        }
        Kind::Pong => Reply::Pong { request },
        kind => return Err(ProtocolError::WrongSide(kind)),
    })
}

/// The entries of the reply to a get: as many hits as pages.
fn got<'a>(head: &Head, entries: &'a [u8]) -> Result<&'a [GotEntry], ProtocolError> {
    let entries: &[GotEntry] = slices(head, entries)?;
    generations(head, entries.iter().map(GotEntry::generation))?;
    let hits = entries
        .iter()
        .filter(|entry| entry.status().is_ok())
        .count();
    if hits != head.pages {
        return Err(ProtocolError::Hits {
            request: head.request,
            hits,
            pages: head.pages,
        });
    }
    Ok(entries)
}

/// The bytes as entries, or as pages. Their number was checked with the header.
fn slices<'a, T>(head: &Head, bytes: &'a [u8]) -> Result<&'a [T], ProtocolError>
where
    T: TryFromBytes + Immutable + Unaligned,
{
    <[T]>::try_ref_from_bytes(bytes).map_err(|_| value(head))
}

fn one<'a, T>(head: &Head, bytes: &'a [u8]) -> Result<&'a T, ProtocolError>
where
    T: TryFromBytes + Immutable + KnownLayout + Unaligned,
{
    T::try_ref_from_bytes(bytes).map_err(|_| value(head))
}

const fn value(head: &Head) -> ProtocolError {
    ProtocolError::Value {
        kind: head.kind,
        request: head.request,
    }
}

fn generations(head: &Head, all: impl IntoIterator<Item = u64>) -> Result<(), ProtocolError> {
    match all.into_iter().find(|number| *number >= GENERATION_LIMIT) {
        None => Ok(()),
        Some(generation) => Err(ProtocolError::Generation {
            kind: head.kind,
            request: head.request,
            generation,
        }),
    }
}

const _: () = assert!(PAGE_SIZE == size_of::<PageBytes>());
