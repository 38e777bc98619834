// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Balloons: what the daemon wants of its guests' memory, what it has got, and who decides.
//!
//! ```text
//!  admin API ──set, auto──▶ GuestBalloon ──event BALLOON──▶ driver
//!      ▲                     ▲   │  ▲                          │ INFLATE, DEFLATE, STATS
//!      │ show                │   │  └── device::balloon ◀──────┘ (frees the pages)
//!      └─────────────────────┼───┘
//!            Steering ── auto::Controller, once a second, for guests on auto
//! ```
//! - `state`: one guest's balloon. It belongs to the guest's station, and so outlives connections.
//! - [`auto`]: the controller, without a clock or a thread. `steer`: its thread.
//! - `settings`: what outlives a worker; `admin`: what an administrator sees and does.
//!
//! What a balloon holds is the driver's to say: requests add to the account and take from it, and each
//! statistics set it right, as after a worker's restart, when it is empty.

mod admin;
pub mod auto;
mod settings;
mod state;
pub(crate) mod steer;

pub use settings::{BalloonConfig, BalloonSetting};
pub use state::GuestBalloon;
pub(crate) use state::Speaker;
