// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What can go wrong with a tier on Valkey.

use std::time::Duration;

use redis::RedisError;
use tmem_pages::slots::SlotError;

use super::map::Address;

/// Why the cluster cannot be used, or did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ValkeyError {
    /// The configuration cannot be kept.
    #[error("Cannot use a Valkey cluster like that: {what}")]
    Config {
        /// What is wrong with it.
        what: String,
    },
    /// A node is set up so that it could lose pages that it acknowledged, or is no node of a cluster.
    #[error("Cannot keep pages on the Valkey node {node}: {what}")]
    Unfit {
        /// The node.
        node: String,
        /// What is wrong with it, and how to set it right.
        what: String,
    },
    /// The slot memory was made for another namespace.
    #[error("Cannot use this slot memory for the namespace {namespace}: it is another namespace's")]
    OtherNamespace {
        /// The namespace.
        namespace: String,
    },
    /// A node did not answer, or not in time, or not in the protocol.
    #[error("The Valkey node {node} failed")]
    Node {
        /// The node.
        node: String,
        /// What the client library says.
        source: RedisError,
    },
    /// A node answered with an error that trying again does not help.
    #[error("The Valkey node {node} refused with {code}: {detail}")]
    Refused {
        /// The node.
        node: String,
        /// The error's code.
        code: String,
        /// The rest of it.
        detail: String,
    },
    /// A node answered with something that is no answer to what it was asked.
    #[error("The Valkey node {node} gave no sensible answer to {command}")]
    Answer {
        /// The node.
        node: String,
        /// What it was asked.
        command: &'static str,
    },
    /// The page is on its primary, and on too few replicas.
    #[error("{reached} of {wanted} replicas of the Valkey node {node} had the pages in time")]
    Unacknowledged {
        /// The primary.
        node: String,
        /// Replicas to wait for.
        wanted: u32,
        /// Replicas that had them.
        reached: i64,
    },
    /// No node answered for so long that the call gave up.
    #[error("The Valkey cluster has not answered for {} ms: {last}", waited.as_millis())]
    Deadline {
        /// How long it was tried.
        waited: Duration,
        /// The last that went wrong.
        last: String,
    },
    /// What was acknowledged is not there: after a failover to a replica that had not got it.
    #[error("The page of slot {slot} is lost: {what}")]
    Lost {
        /// The slot.
        slot: u32,
        /// What was found in its place.
        what: &'static str,
    },
    /// The slot holds no page, or another one than when the call began.
    #[error("Slot {slot} holds no page, or has changed")]
    NoPage {
        /// The slot.
        slot: u32,
    },
    /// The slot memory failed.
    #[error("The slot memory failed")]
    Memory {
        /// Its reason.
        source: Box<SlotError>,
    },
    /// The slot's number is beyond the store's.
    #[error("BUG! slot {slot} of a store of {slots}")]
    NoSuchSlot {
        /// The slot.
        slot: u32,
        /// Slots that there are.
        slots: u32,
    },
    /// A slot occurs twice in one batch.
    #[error("BUG! slot {slot} twice in one batch")]
    Twice {
        /// The slot.
        slot: u32,
    },
}

impl ValkeyError {
    pub(super) fn node(node: &Address) -> impl Fn(RedisError) -> Self {
        move |source| Self::Node {
            node: node.to_string(),
            source,
        }
    }

    /// The cluster's memory is full: `maxmemory` with `noeviction`.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Refused { code, .. } if code == "OOM")
    }
}

/// The engine's error of what the cluster did not do.
pub(super) fn elsewhere(doing: &'static str, pages: usize, error: &ValkeyError) -> SlotError {
    SlotError::Elsewhere {
        doing,
        pages,
        why: chain(error),
    }
}

/// An error with what caused it, on one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
