// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Tests of encoder and decoder together.
//!
//! `messages.rs` has any message as a value that owns its parts, and encodes it; `streams.rs` sends
//! streams of them, cut anywhere, damaged anywhere; `refusals.rs` has one test a rule;
//! `specification.rs` holds the examples of `docs/remote-protocol.md` against the code.

mod messages;
mod refusals;
mod specification;
mod streams;
