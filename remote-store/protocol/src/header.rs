// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The 32 bytes that every frame begins with, and what may follow them.
//!
//! [`Head::parse`] takes nothing on trust: when it returns a head, its checksum was right, the peer may
//! send that kind, and the lengths are those of the kind and within the limits. So whoever waits for
//! the rest of the frame knows how long it is, and that it is not too long.

use std::fmt;

use bytes::BytesMut;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::entries::{FlushEntry, GetEntry, GotEntry, ListedEntry, PutEntry};
use crate::error::ProtocolError;
use crate::handshake::{RawAdvert, RawFarewell, RawHello, RawWelcome};
use crate::limits::{
    HANDSHAKE_MAX, HEADER_LEN, LIST_MAX, MAGIC, PAGE_SIZE, TEXT_MAX, VERSION_HANDSHAKE, crc32,
};
use crate::message::{RawFlushPool, RawFlushPoolDone, RawList, RawListed};
use crate::status::Status;

/// The bit of a kind that says that a store sends it.
const FROM_STORE: u8 = 0x80;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// A client introduces itself.
    Hello = 0x01,
    /// Pages to keep.
    Put = 0x10,
    /// Pages to deliver.
    Get = 0x11,
    /// Pages to forget.
    Flush = 0x12,
    /// A whole pool to forget.
    FlushPool = 0x13,
    /// Which pages are there?
    List = 0x14,
    /// Are you there?
    Ping = 0x15,
    /// The store takes the client on.
    Welcome = 0x81,
    /// The store does not.
    Refused = 0x82,
    /// Answer to a put.
    PutDone = 0x90,
    /// Answer to a get.
    GetDone = 0x91,
    /// Answer to a flush.
    FlushDone = 0x92,
    /// Answer to the flush of a pool.
    FlushPoolDone = 0x93,
    /// Answer to a list.
    Listed = 0x94,
    /// Answer to a ping.
    Pong = 0x95,
    /// What the store has and has free, unasked.
    Advert = 0xa0,
    /// The store's last words, unasked.
    Goodbye = 0xa1,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 17] = [
        Self::Hello,
        Self::Put,
        Self::Get,
        Self::Flush,
        Self::FlushPool,
        Self::List,
        Self::Ping,
        Self::Welcome,
        Self::Refused,
        Self::PutDone,
        Self::GetDone,
        Self::FlushDone,
        Self::FlushPoolDone,
        Self::Listed,
        Self::Pong,
        Self::Advert,
        Self::Goodbye,
    ];

    /// The kind of a code on the wire.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.code() == code)
    }

    /// Its code on the wire.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// A store sends it; otherwise a client does.
    #[must_use]
    pub const fn is_from_store(self) -> bool {
        self.code() & FROM_STORE != 0
    }

    /// It belongs to the handshake, before a version is agreed.
    #[must_use]
    pub const fn is_handshake(self) -> bool {
        matches!(self, Self::Hello | Self::Welcome | Self::Refused)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hello => "hello",
            Self::Put => "put",
            Self::Get => "get",
            Self::Flush => "flush",
            Self::FlushPool => "flush of a pool",
            Self::List => "list",
            Self::Ping => "ping",
            Self::Welcome => "welcome",
            Self::Refused => "refusal",
            Self::PutDone => "reply to a put",
            Self::GetDone => "reply to a get",
            Self::FlushDone => "reply to a flush",
            Self::FlushPoolDone => "reply to the flush of a pool",
            Self::Listed => "reply to a list",
            Self::Pong => "reply to a ping",
            Self::Advert => "advert",
            Self::Goodbye => "goodbye",
        })
    }
}

/// The header as it is on the wire.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawHead {
    magic: [u8; 4],
    version: u8,
    kind: u8,
    flags: U16,
    count: U32,
    body_len: U32,
    request: U64,
    entries_crc: U32,
    head_crc: U32,
}

const _: () = assert!(size_of::<RawHead>() == HEADER_LEN);
const CRC_AT: usize = HEADER_LEN - 4;

/// Who sends the frames of a stream, and what has been agreed about them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stream {
    /// A store sends them; otherwise a client does.
    pub(crate) from_store: bool,
    /// The version that was agreed, and the most pages of a frame: none before the handshake's end.
    pub(crate) agreed: Option<(u8, u32)>,
}

/// A header that was found to be right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) kind: Kind,
    /// Entries.
    pub(crate) count: u32,
    pub(crate) request: u64,
    /// Bytes of what stands between the header and the pages.
    pub(crate) entries_len: usize,
    /// Pages behind the entries.
    pub(crate) pages: usize,
    entries_crc: u32,
}

impl Head {
    /// Reads the header that `buf` begins with: nothing if it is not whole yet.
    pub(crate) fn parse(stream: Stream, buf: &[u8]) -> Result<Option<Self>, ProtocolError> {
        let begin = buf.len().min(MAGIC.len());
        if buf.get(..begin) != MAGIC.get(..begin) {
            // Said at once: who speaks another protocol may well send fewer than 32 bytes.
            return Err(ProtocolError::NotAFrame {
                found: buf.iter().take(MAGIC.len()).copied().collect(),
            });
        }
        let Ok((raw, _)) = RawHead::ref_from_prefix(buf) else {
            return Ok(None);
        };
        let computed = crc32(raw.as_bytes().get(..CRC_AT).unwrap_or_default());
        if computed != raw.head_crc.get() {
            return Err(ProtocolError::HeadDamaged {
                stated: raw.head_crc.get(),
                computed,
            });
        }
        let kind = Kind::from_code(raw.kind).ok_or(ProtocolError::UnknownKind(raw.kind))?;
        if kind.is_from_store() != stream.from_store {
            return Err(ProtocolError::WrongSide(kind));
        }
        if kind.is_handshake() == stream.agreed.is_some() {
            return Err(ProtocolError::Unexpected {
                kind,
                open: stream.agreed.is_some(),
            });
        }
        let (version, pages_max) = stream.agreed.unwrap_or((VERSION_HANDSHAKE, 0));
        if raw.version != version {
            return Err(ProtocolError::FrameVersion {
                kind,
                found: raw.version,
                agreed: version,
            });
        }
        if raw.flags.get() != 0 {
            return Err(ProtocolError::Flags {
                kind,
                flags: raw.flags.get(),
            });
        }
        let (entries_len, pages) = lengths(kind, raw.count.get(), raw.body_len.get(), pages_max)?;
        Ok(Some(Self {
            kind,
            count: raw.count.get(),
            request: raw.request.get(),
            entries_len,
            pages,
            entries_crc: raw.entries_crc.get(),
        }))
    }

    /// Bytes of header and entries.
    pub(crate) const fn front_len(&self) -> usize {
        HEADER_LEN + self.entries_len
    }

    /// Bytes of the whole frame.
    pub(crate) const fn frame_len(&self) -> usize {
        self.front_len() + self.pages * PAGE_SIZE
    }

    /// The entries, if `buf` has them all: their checksum is right.
    pub(crate) fn entries<'a>(&self, buf: &'a [u8]) -> Result<Option<&'a [u8]>, ProtocolError> {
        let Some(entries) = buf.get(HEADER_LEN..self.front_len()) else {
            return Ok(None);
        };
        let computed = crc32(entries);
        if computed != self.entries_crc {
            return Err(ProtocolError::EntriesDamaged {
                kind: self.kind,
                request: self.request,
                stated: self.entries_crc,
                computed,
            });
        }
        Ok(Some(entries))
    }
}

/// Bytes of entries and number of pages, if they are right for the kind.
fn lengths(
    kind: Kind,
    count: u32,
    body_len: u32,
    pages_max: u32,
) -> Result<(usize, usize), ProtocolError> {
    let body = body_len as usize;
    let wrong = || ProtocolError::Length {
        kind,
        count,
        body_len,
    };
    // The fixed part; bytes an entry; entries, at least and at most; bytes behind, at most.
    let (fixed, entry, (least, most), slack) = match kind {
        Kind::Hello => (size_of::<RawHello>(), 0, (0, 0), HANDSHAKE_MAX),
        Kind::Welcome => (size_of::<RawWelcome>(), 0, (0, 0), HANDSHAKE_MAX),
        Kind::Refused => (size_of::<RawFarewell>(), 0, (0, 0), HANDSHAKE_MAX),
        Kind::Goodbye => (size_of::<RawFarewell>(), 0, (0, 0), TEXT_MAX),
        Kind::Put => (0, size_of::<PutEntry>(), (1, pages_max), 0),
        Kind::Get => (0, size_of::<GetEntry>(), (1, pages_max), 0),
        Kind::Flush => (0, size_of::<FlushEntry>(), (1, pages_max), 0),
        Kind::FlushPool => (size_of::<RawFlushPool>(), 0, (0, 0), 0),
        Kind::List => (size_of::<RawList>(), 0, (0, 0), 0),
        Kind::Ping | Kind::Pong => (0, 0, (0, 0), 0),
        Kind::PutDone | Kind::FlushDone => (0, size_of::<Status>(), (1, pages_max), 0),
        Kind::GetDone => (0, size_of::<GotEntry>(), (1, pages_max), 0),
        Kind::FlushPoolDone => (size_of::<RawFlushPoolDone>(), 0, (0, 0), 0),
        Kind::Listed => (
            size_of::<RawListed>(),
            size_of::<ListedEntry>(),
            (0, LIST_MAX),
            0,
        ),
        Kind::Advert => (size_of::<RawAdvert>(), 0, (0, 0), 0),
    };
    if !(least..=most).contains(&count) {
        return Err(ProtocolError::Count {
            kind,
            count,
            least,
            most,
        });
    }
    // Bounded by the table above: no overflow.
    let entries = fixed + entry * count as usize;
    if kind.is_handshake() && body > HANDSHAKE_MAX {
        return Err(wrong());
    }
    let rest = body.checked_sub(entries).ok_or_else(wrong)?;
    match kind {
        Kind::Put if rest == count as usize * PAGE_SIZE => Ok((entries, count as usize)),
        Kind::GetDone if rest.is_multiple_of(PAGE_SIZE) && rest / PAGE_SIZE <= count as usize => {
            Ok((entries, rest / PAGE_SIZE))
        }
        Kind::Put | Kind::GetDone => Err(wrong()),
        _ if rest <= slack => Ok((body, 0)),
        _ => Err(wrong()),
    }
}

/// Appends a header and the entries. `pages` of them follow.
///
/// # Panics
/// If the frame is longer than any may be: the caller has not kept to the limits.
pub(crate) fn write(
    buf: &mut BytesMut,
    (version, kind): (u8, Kind),
    (count, pages): (usize, usize),
    request: u64,
    entries: &[u8],
) {
    buf.reserve(HEADER_LEN + entries.len());
    buf.extend_from_slice(&header((version, kind), (count, pages), request, entries));
    buf.extend_from_slice(entries);
}

/// The header of a frame with these entries and so many pages.
///
/// # Panics
/// See [`write()`].
pub(crate) fn header(
    (version, kind): (u8, Kind),
    (count, pages): (usize, usize),
    request: u64,
    entries: &[u8],
) -> [u8; HEADER_LEN] {
    let body = entries.len() + pages * PAGE_SIZE;
    assert!(
        HEADER_LEN + body <= crate::limits::FRAME_MAX,
        "a {kind} of {count} entries is too long for a frame"
    );
    let small = |number: usize| U32::new(u32::try_from(number).unwrap_or(u32::MAX));
    let mut raw = RawHead {
        magic: MAGIC,
        version,
        kind: kind.code(),
        flags: U16::new(0),
        count: small(count),
        body_len: small(body),
        request: U64::new(request),
        entries_crc: U32::new(crc32(entries)),
        head_crc: U32::new(0),
    };
    raw.head_crc = U32::new(crc32(raw.as_bytes().get(..CRC_AT).unwrap_or_default()));
    let mut bytes = [0; HEADER_LEN];
    bytes.copy_from_slice(raw.as_bytes());
    bytes
}
