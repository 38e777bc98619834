// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a peer has done wrong. Each of these ends its connection; others are not touched.

use thiserror::Error;

use crate::handshake::{Farewell, Versions};
use crate::header::Kind;
use crate::limits::{
    GENERATION_LIMIT, LIST_MAX, LOAD_MAX, NAMESPACE_MAX, VERSION_MAX, VERSION_MIN,
};
use crate::status::Reason;

/// Why a stream cannot be read on. The connection has to be ended.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ProtocolError {
    /// The bytes are no frame's beginning.
    #[error(
        "The peer sent {found:02x?} where a frame begins: it speaks another protocol, or bytes are lost"
    )]
    NotAFrame {
        /// The first bytes, four at most.
        found: Vec<u8>,
    },
    /// A header's checksum is wrong.
    #[error(
        "A frame's header was changed on its way: it has the checksum {computed:#010x}, and says {stated:#010x}"
    )]
    HeadDamaged {
        /// What the header says.
        stated: u32,
        /// What its bytes say.
        computed: u32,
    },
    /// The checksum of a frame's entries is wrong.
    #[error(
        "The entries of {kind} {request} were changed on their way: they have the checksum {computed:#010x}, and the header says {stated:#010x}"
    )]
    EntriesDamaged {
        /// What the frame is.
        kind: Kind,
        /// The request.
        request: u64,
        /// What the header says.
        stated: u32,
        /// What the entries' bytes say.
        computed: u32,
    },
    /// A frame of a kind that this version does not have.
    #[error("A frame is of kind {0:#04x}, which the agreed version does not have")]
    UnknownKind(u8),
    /// A client sent what only stores send, or the other way round.
    #[error("A {0} came from the wrong side: only the other side of a connection sends it")]
    WrongSide(Kind),
    /// A frame of the handshake came after it, or another before.
    #[error("A {kind} came {}", if *open { "after the handshake" } else { "before the handshake" })]
    Unexpected {
        /// What the frame is.
        kind: Kind,
        /// The handshake was over.
        open: bool,
    },
    /// A frame of another version than the agreed one.
    #[error(
        "A {kind} has version {found}, but {agreed} is agreed: a version is changed only by a new connection"
    )]
    FrameVersion {
        /// What the frame is.
        kind: Kind,
        /// Its version.
        found: u8,
        /// The version that it should have.
        agreed: u8,
    },
    /// Flags are set that the agreed version does not have.
    #[error("A {kind} has flags {flags:#06x}, which the agreed version does not have")]
    Flags {
        /// What the frame is.
        kind: Kind,
        /// Its flags.
        flags: u16,
    },
    /// Too many entries, or too few.
    #[error("A {kind} has {count} entries: {least} to {most} are allowed")]
    Count {
        /// What the frame is.
        kind: Kind,
        /// Its entries.
        count: u32,
        /// Fewest that are allowed.
        least: u32,
        /// Most that are allowed.
        most: u32,
    },
    /// The length is not that of the kind and the number of entries.
    #[error("A {kind} of {count} entries cannot have {body_len} bytes behind its header")]
    Length {
        /// What the frame is.
        kind: Kind,
        /// Its entries.
        count: u32,
        /// The bytes that it says it has.
        body_len: u32,
    },
    /// The stream ended inside a frame.
    #[error("The stream ended inside a frame: {have} bytes of it had come, of {total} or more")]
    Truncated {
        /// Bytes that had come.
        have: usize,
        /// Bytes that were awaited at least.
        total: usize,
    },
    /// A generation is too high.
    #[error("{kind} {request} has the generation {generation}: all are below {GENERATION_LIMIT}")]
    Generation {
        /// What the frame is.
        kind: Kind,
        /// The request.
        request: u64,
        /// The generation.
        generation: u64,
    },
    /// A field of a frame has a value that the agreed version does not have.
    #[error(
        "{kind} {request} has a value that the agreed version does not have: a status, or a mark"
    )]
    Value {
        /// What the frame is.
        kind: Kind,
        /// The request.
        request: u64,
    },
    /// Not as many pages came as the reply says were found.
    #[error("The reply to get {request} says that {hits} pages were found, and brings {pages}")]
    Hits {
        /// The request.
        request: u64,
        /// Entries that are hits.
        hits: usize,
        /// Pages in the frame.
        pages: usize,
    },
    /// A list of no pages, or of too many, is asked for.
    #[error("List {request} asks for {max} pages: 1 to {LIST_MAX} are allowed")]
    ListMax {
        /// The request.
        request: u64,
        /// Pages that are asked for.
        max: u32,
    },
    /// A namespace's name is not a name.
    #[error(
        "The namespace {name:?} is not a name: 1 to {NAMESPACE_MAX} letters, digits, dots, dashes and underscores"
    )]
    Namespace {
        /// The name.
        name: String,
    },
    /// A hello is for neither kind of session.
    #[error("A hello asks for a session of kind {0}: there is data (0) and control (1)")]
    Session(u8),
    /// A range of versions is empty.
    #[error("The peer says that it speaks the versions {0}, which is none")]
    Versions(Versions),
    /// The store chose a version that the client had not offered.
    #[error("The store chose version {chosen}, but {VERSION_MIN} to {VERSION_MAX} are spoken here")]
    Chosen {
        /// What it chose.
        chosen: u8,
    },
    /// The store granted what was not asked for.
    #[error("The store claims the capabilities {extra:#x}, which it was not asked for")]
    Capabilities {
        /// Those that were not asked for.
        extra: u64,
    },
    /// A limit in a welcome cannot be worked with.
    #[error("The store's welcome sets {what} to {value}: {least} to {most} are possible")]
    Limit {
        /// Which limit.
        what: &'static str,
        /// What the store says.
        value: u32,
        /// The least that is possible.
        least: u32,
        /// The most that is possible.
        most: u32,
    },
    /// A load above what there is.
    #[error("An advert says that the load is {0}, of {LOAD_MAX}")]
    Load(u32),
}

impl ProtocolError {
    /// The reason to give the peer.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        match self {
            Self::Versions(_) | Self::Chosen { .. } => Reason::Version,
            Self::Namespace { .. } => Reason::Namespace,
            _ => Reason::Protocol,
        }
    }

    /// The last words to the peer.
    #[must_use]
    pub fn farewell(&self) -> Farewell {
        Farewell::new(self.reason(), self.to_string())
    }
}
