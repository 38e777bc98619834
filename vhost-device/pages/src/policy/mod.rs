// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Replacement policies: which of a guest's pages leaves a tier next.
//!
//! A [`Policy`] is a plug-in with a name. Each guest has one instance of one of them, over the frames
//! that hold its pages, and may get another while it runs. All of them live in a [`Replacement`],
//! which has no locks: the engine keeps it behind one, and tells it in batches what happened.
//!
//! ```text
//!  Replacement ─┬─ guest 0 ── "s3-fifo": two lists and a ghost ──┐
//!               ├─ guest 1 ── "lru": a list ─────────────────────┼──▶ nodes: 10 bytes a frame,
//!               ├─ guest 2 ── …                                  │    shared, since a frame is in
//!               └─ of each: victims that could not leave ────────┘    one list at a time
//! ```
//!
//! # How a page leaves
//! [`Replacement::victim`] takes a frame out of its list. The engine tries to move the page away, and
//! then says [`left`](Replacement::left), or [`put_back`](Replacement::put_back) if it could not.
//!
//! # How to add a policy
//! Write a file in this folder with a `KIND`, and add its name to the list below. Every test that
//! goes by names, the benchmark and `tmemctl` then know it. `lru.rs` is a short one to start from;
//! [`Nodes`] has the lists.
//!
//! # What must hold
//! Nothing here depends on anything but the calls and the seed. Every call takes constant time,
//! averaged over the calls before it, except [`set`](Replacement::set) and
//! [`drop_guest`](Replacement::drop_guest), which touch each page of the guest, and
//! [`trim`](Replacement::trim).

mod ghost;
mod links;
mod replacement;
#[cfg(test)]
mod tests;

pub use links::{COUNT_MAX, FRAME_LIMIT, GUESTS_MAX, Link, List, Nodes, Place};
pub use replacement::{ROUND, Replacement};

/// Declares the files of the policies and the registry. (`cargo fmt` does not see files that a macro
/// declares: format them by name.)
macro_rules! policies {
    ($($file:ident)*) => {
        $(mod $file;)*

        /// The registry: every policy there is.
        pub const POLICIES: &[PolicyKind] = &[$($file::KIND),*];
    };
}

policies! {
    fifo
    clock
    lru
    random
    s3fifo
}

/// The policy of a guest for which none was set.
pub const DEFAULT: PolicyKind = s3fifo::KIND;

/// A policy by its name.
#[derive(Clone, Copy, Debug)]
pub struct PolicyKind {
    /// What people call it.
    pub name: &'static str,
    /// What it does, in half a sentence.
    pub about: &'static str,
    /// Makes one for a guest. The same seed makes the same choices.
    pub make: fn(seed: u64) -> Box<dyn Policy>,
}

/// The policy of that name.
///
/// # Errors
/// [`UnknownPolicy`] if there is none.
pub fn kind(name: &str) -> Result<&'static PolicyKind, UnknownPolicy> {
    (POLICIES.iter().find(|kind| kind.name == name)).ok_or_else(|| UnknownPolicy(name.into()))
}

/// There is no policy of this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no replacement policy {0:?}; there are {names}", names = names())]
pub struct UnknownPolicy(pub String);

/// All names, for people.
fn names() -> String {
    let names: Vec<&str> = POLICIES.iter().map(|kind| kind.name).collect();
    names.join(", ")
}

/// What a policy must be told of hits. The engine spares the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hits {
    /// Nothing: hits change nothing.
    None,
    /// Which pages were hit, in any order; a few hits of one page may be told as one.
    Any,
    /// Every hit, in the order in which they happened.
    Ordered,
}

/// Decides which page leaves next, for one guest.
///
/// A policy owns the ends of its lists; the links are in `nodes`. It is given only frames that are
/// its own: `touch` and `remove` get members, `insert` gets what is no member. What it takes out of a
/// list stays out until it is inserted again.
pub trait Policy: Send + std::fmt::Debug {
    /// What it must be told of hits.
    fn hits(&self) -> Hits;

    /// A page came. `page` is a hash of its name; of a page that was a member of another policy until
    /// now there is none.
    fn insert(&mut self, nodes: &mut Nodes, frame: u32, page: Option<u64>);

    /// A page was put again: it came to this frame, and was a member in the frame `before` until now, which
    /// is removed after. As good as a new page, if the policy does not care.
    fn renew(&mut self, nodes: &mut Nodes, frame: u32, page: u64, before: u32) {
        let _ = before;
        self.insert(nodes, frame, Some(page));
    }

    /// A page was hit. May be called for a policy that needs no word of it.
    fn touch(&mut self, nodes: &mut Nodes, frame: u32);

    /// A page is gone.
    fn remove(&mut self, nodes: &mut Nodes, frame: u32);

    /// Takes out the member that leaves next, if there is any. Called until it says none, this is
    /// the order in which the members move over to another policy.
    fn victim(&mut self, nodes: &mut Nodes) -> Option<u32>;

    /// A victim has left, or another policy's victim, taken from the list `from`.
    fn left(&mut self, page: u64, from: Place) {
        let _ = (page, from);
    }

    /// Bytes of memory beside the nodes.
    fn bytes(&self) -> usize {
        0
    }
}

/// Spreads a number over all 64 bits: the finaliser of SplitMix64.
pub(crate) fn mix(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}
