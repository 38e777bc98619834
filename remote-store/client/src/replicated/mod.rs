// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Pages on several stores at once.
//!
//! ```text
//!  engine's threads                                          one thread
//!  SlotStore ── block_on ─▶ Session ─┬─ table: who has it    driver
//!                            │       ├─ view: who is well ◀──── publishes
//!                            │       └─ notes, flushes ────────▶ looks after
//!                            └─ lanes, one to each store
//! ```
//! [`Replicated`] is what the engine calls. Each of its threads gets a [`Session`] of its own with a
//! small runtime, so a page crosses no thread on its way to the store and back. A simulation calls the
//! sessions themselves, from its own runtime.
//!
//! # Where to start reading
//! `write.rs` with `commit.rs`, and `read.rs`. `lanes.rs` keeps connections, `local.rs` makes the
//! engine's threads wait.

mod alarm;
mod commit;
mod error;
pub(crate) mod lanes;
mod local;
mod pace;
mod prefetch;
mod read;
mod session;
mod store;
mod volatile;
mod write;

pub use error::{ReadError, WriteError};
pub use session::Session;
pub use store::Replicated;
pub use volatile::Volatile;
pub use write::Written;
