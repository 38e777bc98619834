// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What both sides make of each other's first words: pure functions.

use crate::error::ProtocolError;
use crate::handshake::{Capabilities, Farewell, Hello, Session, Versions, Welcome};
use crate::limits::{ADVERT_PERIOD_MAX_MS, ADVERT_PERIOD_MIN_MS, IN_FLIGHT_MAX, PAGES_MAX};
use crate::status::Reason;

/// What a store offers to every client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// What it speaks.
    pub versions: Versions,
    /// What it can do.
    pub capabilities: Capabilities,
    /// Pages of a frame at most.
    pub max_pages: u32,
    /// Requests without a reply at most, on one connection.
    pub max_in_flight: u32,
}

/// What holds for the rest of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// The version of all frames.
    pub version: u8,
    /// What may be used.
    pub capabilities: Capabilities,
    /// Pages of a frame at most.
    pub max_pages: u32,
    /// Requests without a reply at most.
    pub max_in_flight: u32,
    /// How often adverts come. 0: never.
    pub advert_period_ms: u32,
}

/// What a store with this offer and a client with this hello agree on. Who the client is, and whether
/// there is room for it, is for others to say.
///
/// # Errors
/// The refusal to send, if they have no version in common.
pub fn negotiate(hello: &Hello, offer: &Offer) -> Result<Agreed, Farewell> {
    let Some(version) = hello.versions.newest_common(offer.versions) else {
        let text = format!(
            "The client speaks the versions {}, the store {}: update the older one",
            hello.versions, offer.versions
        );
        return Err(Farewell {
            versions: offer.versions,
            ..Farewell::new(Reason::Version, text)
        });
    };
    let capabilities = hello.capabilities.intersection(offer.capabilities);
    let adverts = hello.session == Session::Control && capabilities.contains(Capabilities::ADVERTS);
    let period = hello
        .advert_period_ms
        .clamp(ADVERT_PERIOD_MIN_MS, ADVERT_PERIOD_MAX_MS);
    Ok(Agreed {
        version,
        capabilities,
        max_pages: offer.max_pages.clamp(1, PAGES_MAX),
        max_in_flight: offer.max_in_flight.clamp(1, IN_FLIGHT_MAX),
        advert_period_ms: if adverts { period } else { 0 },
    })
}

impl Welcome {
    /// What holds, if this is a proper answer to `hello`.
    ///
    /// # Errors
    /// [`ProtocolError`] if it is not: the connection has to be ended.
    pub fn check(&self, hello: &Hello) -> Result<Agreed, ProtocolError> {
        let chosen = self.version;
        if !(hello.versions.min..=hello.versions.max).contains(&chosen) {
            return Err(ProtocolError::Chosen { chosen });
        }
        let extra = self.capabilities.difference(hello.capabilities).bits();
        if extra != 0 {
            return Err(ProtocolError::Capabilities { extra });
        }
        let within = |what, value, least, most| {
            if (least..=most).contains(&value) {
                return Ok(value);
            }
            Err(ProtocolError::Limit {
                what,
                value,
                least,
                most,
            })
        };
        let none =
            hello.session == Session::Data || !self.capabilities.contains(Capabilities::ADVERTS);
        let (least, most) = if none {
            (0, 0)
        } else {
            (ADVERT_PERIOD_MIN_MS, ADVERT_PERIOD_MAX_MS)
        };
        Ok(Agreed {
            version: chosen,
            capabilities: self.capabilities,
            max_pages: within("the pages of a frame", self.max_pages, 1, PAGES_MAX)?,
            max_in_flight: within(
                "the requests in flight",
                self.max_in_flight,
                1,
                IN_FLIGHT_MAX,
            )?,
            advert_period_ms: within("the advert period", self.advert_period_ms, least, most)?,
        })
    }
}
