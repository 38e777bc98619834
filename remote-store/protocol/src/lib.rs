// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a host and a page store say to each other.
//!
//! ```text
//!  client                                          store
//!  Encoder ── hello, put, get, flush, list ──────▶ RequestDecoder ─▶ Request
//!  Reply ◀── ReplyDecoder ◀── welcome, done, advert ── Encoder
//!
//!  frame: header, 32 bytes │ entries, one a page │ pages, 4096 bytes each
//! ```
//! `docs/remote-protocol.md` specifies the bytes. This crate turns them into messages and back. It
//! knows no socket, no clock and no thread: a caller brings the bytes, and its answers.
//!
//! # What it promises
//! - Every byte of a frame is under a checksum: the header's, that of the entries, or a page's own, which
//!   is the one that it got when it left the guest. This crate checks the first two; a page's is for
//!   those who keep it and who asked for it.
//! - What comes from a peer is checked before it is believed: lengths and counts against the kind and
//!   the limits before anybody waits for the rest, and each side only accepts what the other side may
//!   send at that time. No input makes it panic; nothing is allocated for a length that a peer names.
//! - Pages are not copied: a decoded frame borrows from the buffer.
//!
//! # Where to start reading
//! `header.rs`, then `message.rs` and `decode.rs`. `negotiate.rs` is the handshake.
#![forbid(unsafe_code)]

mod decode;
mod encode;
mod entries;
mod error;
mod handshake;
mod header;
mod limits;
mod message;
mod negotiate;
mod status;
#[cfg(test)]
mod tests;
mod upcoming;

pub use decode::{Decoded, Front, ReplyDecoder, RequestDecoder};
pub use encode::{Encoder, GetDoneWriter};
pub use entries::{FlushEntry, GetEntry, GotEntry, ListedEntry, PutEntry};
pub use error::ProtocolError;
pub use handshake::{
    Advert, Capabilities, Farewell, Hello, Namespace, Session, Versions, Wants, Welcome,
};
pub use header::Kind;
pub use limits::{
    ADVERT_PERIOD_MAX_MS, ADVERT_PERIOD_MIN_MS, ADVERTS_MISSED_MAX, FRAME_MAX, GENERATION_LIMIT,
    HANDSHAKE_MAX, HEADER_LEN, IN_FLIGHT_MAX, LIST_MAX, LOAD_MAX, MAGIC, NAMESPACE_MAX, PAGE_SIZE,
    PAGES_MAX, PageBytes, TEXT_MAX, VERSION_HANDSHAKE, VERSION_MAX, VERSION_MIN, checksum, crc32,
    pool,
};
pub use message::{Reply, Request};
pub use negotiate::{Agreed, Offer, negotiate};
pub use status::{Reason, Status};
pub use upcoming::upcoming;
