// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A real store, and clients that are not what they say, take what is not theirs, or are a crowd:
//! each is refused or bounded, and a neighbour, who does nothing wrong, never notices.
#![allow(
    clippy::unwrap_used,
    reason = "a helper of tests fails as they do: by panicking"
)]

mod certificates;
mod crowds;
mod frames;
mod stage;
