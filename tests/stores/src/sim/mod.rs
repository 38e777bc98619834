// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The real client and the real stores in a simulated network, where one number decides everything
//! that happens.
//!
//! ```text
//!  seed ─▶ Plan ─▶ Run ── steps ──▶ turmoil: store-0 … store-5, client-0, client-1, latecomer
//!                   │ hurts, heals              │ the servers' and the client's own code
//!                   │                           │
//!                   │   Task ── write, read ──▶ Session ──▶ Stream in the Weather ──▶ Store
//!                   │    │ begins, ends
//!                   ▼    ▼
//!                checks, Oracle: what may be read, what must be there
//! ```
//! `plan.rs` says what may happen; `work.rs` what the clients do all the while; `run.rs` lets it
//! happen; `checks.rs` and the oracle say what must be true. `mutation.rs` has mistakes made on
//! purpose, which all of this must find.
//!
//! All of it is one thread with a clock that only the simulation moves. The same seed does the same,
//! down to the last event, which the digest of a run shows.

mod checks;
mod client;
mod latecomer;
mod mutation;
mod plan;
mod run;
mod stores;
#[cfg(test)]
mod tests;
mod weather;
mod work;
mod world;

pub use mutation::Mutation;
pub use plan::{Acknowledge, Command, Episode, Hurt, Mode, Plan, Upset};
pub use run::{Failure, Outcome, run};
pub use world::Counts;
