// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Both directions of the way between a guest and a tier.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::error::LinkError;
use super::model::{Link, Transfer};

/// Which way a transfer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Towards the guest: the page of a get.
    In,
    /// Away from the guest: the page of a put, the request of a get.
    Out,
}

impl Direction {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::In, Self::Out];

    pub(crate) const fn stream(self) -> u64 {
        match self {
            Self::In => 0,
            Self::Out => 1,
        }
    }

    pub(crate) const fn of<T>(self, both: &[T; 2]) -> &T {
        let [inward, outward] = both;
        match self {
            Self::In => inward,
            Self::Out => outward,
        }
    }

    pub(crate) const fn of_mut<T>(self, both: &mut [T; 2]) -> &mut T {
        let [inward, outward] = both;
        match self {
            Self::In => inward,
            Self::Out => outward,
        }
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::In => "in",
            Self::Out => "out",
        })
    }
}

/// Which directions a command is for: `in`, `out` or `both`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Directions {
    /// Towards the guest.
    In,
    /// Away from the guest.
    Out,
    /// Both.
    #[default]
    Both,
}

impl Directions {
    /// One after the other.
    pub fn each(self) -> impl Iterator<Item = Direction> {
        let wanted = move |direction: &Direction| match self {
            Self::In => *direction == Direction::In,
            Self::Out => *direction == Direction::Out,
            Self::Both => true,
        };
        Direction::BOTH.into_iter().filter(wanted)
    }
}

impl FromStr for Directions {
    type Err = LinkError;

    fn from_str(word: &str) -> Result<Self, LinkError> {
        match word {
            "in" => Ok(Self::In),
            "out" => Ok(Self::Out),
            "both" => Ok(Self::Both),
            _ => Err(LinkError::bad(
                word,
                "in (towards the guest), out (away from it) or both",
            )),
        }
    }
}

impl fmt::Display for Directions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::In => "in",
            Self::Out => "out",
            Self::Both => "both",
        })
    }
}

/// One direction: a link and, if it rides on another's wire, that.
#[derive(Clone, Debug)]
pub(crate) struct Lane {
    link: Arc<Link>,
    wire: Option<Arc<Link>>,
}

impl Lane {
    pub(crate) const fn new(link: Arc<Link>, wire: Option<Arc<Link>>) -> Self {
        Self { link, wire }
    }

    fn reserve(&self, now: u64, bytes: u64) -> Transfer {
        match &self.wire {
            Some(wire) => self.link.reserve_over(wire, now, bytes),
            None => self.link.reserve(now, bytes),
        }
    }

    fn emulated(&self) -> bool {
        self.link.emulated() || self.wire.as_ref().is_some_and(|wire| wire.emulated())
    }
}

/// Both directions.
#[derive(Clone, Debug)]
pub struct LinkPair([Lane; 2]);

impl LinkPair {
    pub(crate) const fn new(inward: Lane, outward: Lane) -> Self {
        Self([inward, outward])
    }

    /// A pair of links that nobody else need use.
    #[must_use]
    pub const fn of(inward: Arc<Link>, outward: Arc<Link>) -> Self {
        Self([Lane::new(inward, None), Lane::new(outward, None)])
    }

    /// The link of one direction: the guest's own if it has one.
    #[must_use]
    pub fn link(&self, direction: Direction) -> &Link {
        &direction.of(&self.0).link
    }

    /// Whether anything is added in either direction.
    #[must_use]
    pub fn emulated(&self) -> bool {
        self.0.iter().any(Lane::emulated)
    }

    /// Takes the time for `bytes` in one direction: a read or write of a tier that is not behind a
    /// network, or one message.
    #[must_use]
    pub fn reserve(&self, direction: Direction, now: u64, bytes: u64) -> Transfer {
        direction.of(&self.0).reserve(now, bytes)
    }

    /// Takes the time for a request of `out_bytes` and its answer of `in_bytes`: due is when the
    /// answer is here. Without a backlog that is both latencies and both times of sending.
    ///
    /// The answer queues in the order of the requests' arrivals and not of their arrivals at the far
    /// end, so that a guest with a long latency holds up nobody whose answers are there before. The
    /// bit to flip is one of the longer message, which has the page.
    #[must_use]
    pub fn round_trip(&self, now: u64, out_bytes: u64, in_bytes: u64) -> Transfer {
        let out = self.reserve(Direction::Out, now, out_bytes);
        let back = self.reserve(Direction::In, now, in_bytes);
        let there = out.due.saturating_sub(now);
        let mut faults = out.faults.and(back.faults);
        faults.corrupt = if in_bytes >= out_bytes {
            back.faults.corrupt
        } else {
            out.faults.corrupt
        };
        Transfer {
            start: out.start,
            sent: back.sent.saturating_add(there),
            due: back.due.saturating_add(there),
            faults,
        }
    }
}
