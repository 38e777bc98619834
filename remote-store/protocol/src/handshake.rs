// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The frames that begin and end a connection, and the advert.
//!
//! Hello, welcome and refusal have the same form in every version: fixed fields, then text, then bytes
//! that a later version may add and this one skips.

use std::fmt;

use bytes::BytesMut;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::error::ProtocolError;
use crate::header::{self, Kind};
use crate::limits::{LOAD_MAX, NAMESPACE_MAX, TEXT_MAX, VERSION_MAX, VERSION_MIN};
use crate::status::Reason;

/// The versions from `min` to `max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Versions {
    /// The oldest.
    pub min: u8,
    /// The newest.
    pub max: u8,
}

impl Versions {
    /// What this crate speaks.
    pub const OWN: Self = Self {
        min: VERSION_MIN,
        max: VERSION_MAX,
    };

    /// The newest that both speak.
    #[must_use]
    pub fn newest_common(self, other: Self) -> Option<u8> {
        let newest = self.max.min(other.max);
        (newest >= self.min.max(other.min)).then_some(newest)
    }
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.min, self.max)
    }
}

/// What a store can do, and what a client wants of it: a set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Capabilities(u64);

impl Capabilities {
    /// None.
    pub const NONE: Self = Self(0);
    /// The [ephemeral](crate::pool::EPHEMERAL) pool is there.
    pub const EPHEMERAL: Self = Self(1);
    /// The store lists its pages.
    pub const LIST: Self = Self(1 << 1);
    /// The store sends adverts on control connections.
    pub const ADVERTS: Self = Self(1 << 2);
    /// An acknowledged page outlives the store's process.
    pub const RECOVERS: Self = Self(1 << 3);
    /// An acknowledged page outlives the store's host.
    pub const SYNCED: Self = Self(1 << 4);
    /// Those that this version names.
    pub const ALL: Self = Self(0x1f);

    /// The set of these bits.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// Its bits.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// All of `other` are in it.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Those of either.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Those of both.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Those that `other` has not.
    #[must_use]
    pub const fn difference(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

/// The name that a client's pages are kept under: 1 to 64 letters, digits, dots, dashes, underscores.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Namespace(String);

impl Namespace {
    /// Takes `name`, if it is one.
    ///
    /// # Errors
    /// [`ProtocolError::Namespace`] if it is not.
    pub fn new(name: &str) -> Result<Self, ProtocolError> {
        let letter = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
        if (1..=NAMESPACE_MAX).contains(&name.len()) && name.bytes().all(letter) {
            Ok(Self(name.to_owned()))
        } else {
            let name = name.chars().take(NAMESPACE_MAX).collect();
            Err(ProtocolError::Namespace { name })
        }
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Session {
    /// Puts, gets and flushes.
    Data = 0,
    /// Those too, and adverts: its end is the store's death to the client.
    Control = 1,
}

/// What a client wants kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wants {
    /// Indices of the persistent pool are below this. 0: it is not used.
    pub persistent_indices: u32,
    /// Indices of the ephemeral pool are below this. 0: it is not used.
    pub ephemeral_indices: u32,
    /// Persistent pages at most. 0: what the store gives.
    pub quota_pages: u64,
}

/// The first frame of a connection: who is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// What the client speaks.
    pub versions: Versions,
    /// What it would use.
    pub capabilities: Capabilities,
    /// Whose pages they are.
    pub namespace: Namespace,
    /// The client's process: each has a higher one than those before it.
    pub epoch: u64,
    /// What the connection is for.
    pub session: Session,
    /// How often it wants adverts, if it is a control connection.
    pub advert_period_ms: u32,
    /// What it wants kept.
    pub wants: Wants,
}

/// What a store has and has free.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Advert {
    /// Pages that the store keeps at most, for all.
    pub capacity_pages: u64,
    /// Pages for which it has room.
    pub free_pages: u64,
    /// Pages that this namespace may keep.
    pub quota_pages: u64,
    /// Pages that this namespace keeps.
    pub used_pages: u64,
    /// One higher with each advert of this connection.
    pub seq: u64,
    /// The share of its time in which the store works, of [`LOAD_MAX`].
    pub load: u32,
    /// The store is going to leave: its pages should be taken elsewhere.
    pub leaving: bool,
}

/// The store's answer to a hello that it accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// The version of all further frames.
    pub version: u8,
    /// What may be used.
    pub capabilities: Capabilities,
    /// The store.
    pub store_id: [u8; 16],
    /// Another number means that the store has begun empty again.
    pub incarnation: u64,
    /// Pages of a frame at most.
    pub max_pages: u32,
    /// Requests without a reply at most, on this connection.
    pub max_in_flight: u32,
    /// How often adverts come. 0: never.
    pub advert_period_ms: u32,
    /// What the store has now.
    pub advert: Advert,
}

/// Why a store does not serve, or no longer serves: the body of a refusal and of a goodbye.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Farewell {
    /// Why.
    pub reason: Reason,
    /// What the store speaks.
    pub versions: Versions,
    /// The epoch that is there, of [`Reason::Fenced`]; otherwise 0.
    pub detail: u64,
    /// For people: [`TEXT_MAX`] bytes at most, on one line.
    pub text: String,
}

impl Farewell {
    /// A farewell with this text, as much of it as there is room for.
    #[must_use]
    pub fn new(reason: Reason, text: impl AsRef<str>) -> Self {
        Self {
            reason,
            versions: Versions::OWN,
            detail: 0,
            text: one_line(text.as_ref()),
        }
    }

    /// The farewell to a client that is older than the one of epoch `there`.
    #[must_use]
    pub fn fenced(epoch: u64, there: u64) -> Self {
        let text = format!("Epoch {epoch} is over: a client of epoch {there} has this namespace");
        Self {
            detail: there,
            ..Self::new(Reason::Fenced, text)
        }
    }
}

impl fmt::Display for Farewell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.reason)?;
        if !self.text.is_empty() {
            write!(f, " ({})", self.text)?;
        }
        Ok(())
    }
}

/// What a peer says ends in our log: no control characters, and not longer than allowed.
fn one_line(text: &str) -> String {
    let mut line = String::new();
    for letter in text.chars() {
        let letter = if letter.is_control() { ' ' } else { letter };
        if line.len() + letter.len_utf8() > TEXT_MAX {
            break;
        }
        line.push(letter);
    }
    line
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawHello {
    version_min: u8,
    version_max: u8,
    session: u8,
    namespace_len: u8,
    advert_period_ms: U32,
    capabilities: U64,
    epoch: U64,
    quota_pages: U64,
    persistent_indices: U32,
    ephemeral_indices: U32,
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawAdvert {
    capacity_pages: U64,
    free_pages: U64,
    quota_pages: U64,
    used_pages: U64,
    seq: U64,
    load: U32,
    leaving: U32,
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawWelcome {
    version: u8,
    unused: [u8; 3],
    max_pages: U32,
    max_in_flight: U32,
    advert_period_ms: U32,
    capabilities: U64,
    incarnation: U64,
    store_id: [u8; 16],
    advert: RawAdvert,
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawFarewell {
    reason: u8,
    version_min: u8,
    version_max: u8,
    unused: u8,
    text_len: U32,
    detail: U64,
}

const _: () = assert!(size_of::<RawHello>() == 40 && size_of::<RawAdvert>() == 48);
const _: () = assert!(size_of::<RawWelcome>() == 96 && size_of::<RawFarewell>() == 16);

/// The length was checked with the header; nothing is lost by checking again.
fn short(kind: Kind, body_len: usize) -> ProtocolError {
    ProtocolError::Length {
        kind,
        count: 0,
        body_len: u32::try_from(body_len).unwrap_or(u32::MAX),
    }
}

impl Hello {
    pub(crate) fn read(body: &[u8]) -> Result<Self, ProtocolError> {
        let wrong = || short(Kind::Hello, body.len());
        let (raw, rest) = RawHello::read_from_prefix(body).map_err(|_| wrong())?;
        let name = rest.get(..usize::from(raw.namespace_len));
        let name = name.ok_or_else(wrong)?;
        let versions = Versions {
            min: raw.version_min,
            max: raw.version_max,
        };
        if versions.min > versions.max {
            return Err(ProtocolError::Versions(versions));
        }
        Ok(Self {
            versions,
            capabilities: Capabilities(raw.capabilities.get()),
            namespace: Namespace::new(&String::from_utf8_lossy(name))?,
            epoch: raw.epoch.get(),
            session: match raw.session {
                0 => Session::Data,
                1 => Session::Control,
                other => return Err(ProtocolError::Session(other)),
            },
            advert_period_ms: raw.advert_period_ms.get(),
            wants: Wants {
                persistent_indices: raw.persistent_indices.get(),
                ephemeral_indices: raw.ephemeral_indices.get(),
                quota_pages: raw.quota_pages.get(),
            },
        })
    }

    pub(crate) fn write(&self, buf: &mut BytesMut, version: u8) {
        let name = self.namespace.as_str().as_bytes();
        let raw = RawHello {
            version_min: self.versions.min,
            version_max: self.versions.max,
            session: self.session as u8,
            namespace_len: u8::try_from(name.len()).unwrap_or(u8::MAX),
            advert_period_ms: U32::new(self.advert_period_ms),
            capabilities: U64::new(self.capabilities.0),
            epoch: U64::new(self.epoch),
            quota_pages: U64::new(self.wants.quota_pages),
            persistent_indices: U32::new(self.wants.persistent_indices),
            ephemeral_indices: U32::new(self.wants.ephemeral_indices),
        };
        let body = [raw.as_bytes(), name].concat();
        header::write(buf, (version, Kind::Hello), (0, 0), 0, &body);
    }
}

impl Advert {
    pub(crate) fn read(body: &[u8]) -> Result<Self, ProtocolError> {
        let raw = RawAdvert::read_from_bytes(body);
        Self::checked(&raw.map_err(|_| short(Kind::Advert, body.len()))?)
    }

    fn checked(raw: &RawAdvert) -> Result<Self, ProtocolError> {
        if raw.load.get() > LOAD_MAX {
            return Err(ProtocolError::Load(raw.load.get()));
        }
        Ok(Self {
            capacity_pages: raw.capacity_pages.get(),
            free_pages: raw.free_pages.get(),
            quota_pages: raw.quota_pages.get(),
            used_pages: raw.used_pages.get(),
            seq: raw.seq.get(),
            load: raw.load.get(),
            leaving: raw.leaving.get() != 0,
        })
    }

    fn raw(&self) -> RawAdvert {
        RawAdvert {
            capacity_pages: U64::new(self.capacity_pages),
            free_pages: U64::new(self.free_pages),
            quota_pages: U64::new(self.quota_pages),
            used_pages: U64::new(self.used_pages),
            seq: U64::new(self.seq),
            load: U32::new(self.load.min(LOAD_MAX)),
            leaving: U32::new(u32::from(self.leaving)),
        }
    }

    pub(crate) fn write(&self, buf: &mut BytesMut, version: u8) {
        let raw = self.raw();
        header::write(buf, (version, Kind::Advert), (0, 0), 0, raw.as_bytes());
    }
}

impl Welcome {
    pub(crate) fn read(body: &[u8]) -> Result<Self, ProtocolError> {
        let raw = RawWelcome::read_from_prefix(body);
        let (raw, _) = raw.map_err(|_| short(Kind::Welcome, body.len()))?;
        Ok(Self {
            version: raw.version,
            capabilities: Capabilities(raw.capabilities.get()),
            store_id: raw.store_id,
            incarnation: raw.incarnation.get(),
            max_pages: raw.max_pages.get(),
            max_in_flight: raw.max_in_flight.get(),
            advert_period_ms: raw.advert_period_ms.get(),
            advert: Advert::checked(&raw.advert)?,
        })
    }

    pub(crate) fn write(&self, buf: &mut BytesMut, version: u8) {
        let raw = RawWelcome {
            version: self.version,
            unused: [0; 3],
            max_pages: U32::new(self.max_pages),
            max_in_flight: U32::new(self.max_in_flight),
            advert_period_ms: U32::new(self.advert_period_ms),
            capabilities: U64::new(self.capabilities.0),
            incarnation: U64::new(self.incarnation),
            store_id: self.store_id,
            advert: self.advert.raw(),
        };
        header::write(buf, (version, Kind::Welcome), (0, 0), 0, raw.as_bytes());
    }
}

impl Farewell {
    pub(crate) fn read(kind: Kind, body: &[u8]) -> Result<Self, ProtocolError> {
        let wrong = || short(kind, body.len());
        let (raw, rest) = RawFarewell::read_from_prefix(body).map_err(|_| wrong())?;
        let text = rest.get(..raw.text_len.get() as usize).ok_or_else(wrong)?;
        Ok(Self {
            reason: Reason::from_code(raw.reason),
            versions: Versions {
                min: raw.version_min,
                max: raw.version_max,
            },
            detail: raw.detail.get(),
            text: one_line(&String::from_utf8_lossy(text)),
        })
    }

    pub(crate) fn write(&self, buf: &mut BytesMut, version: u8, kind: Kind) {
        let text = one_line(&self.text);
        let raw = RawFarewell {
            reason: self.reason.code(),
            version_min: self.versions.min,
            version_max: self.versions.max,
            unused: 0,
            text_len: U32::new(u32::try_from(text.len()).unwrap_or(0)),
            detail: U64::new(self.detail),
        };
        let body = [raw.as_bytes(), text.as_bytes()].concat();
        header::write(buf, (version, kind), (0, 0), 0, &body);
    }
}
