// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A guest without a guest: an in-process vhost-user front-end and virtio-tmem driver.
//!
//! Tests and benchmarks play both parts that stand opposite the device. A [`Connection`] is the
//! VMM: it speaks vhost-user over a socket, one [`Step`] at a time, in the order of QEMU or of
//! cloud-hypervisor, so that a test can vanish after any of them. A [`Driver`] is the guest's
//! kernel module: it greets the device, makes pools, and keeps many requests in flight on the
//! [`RequestQueue`]s. Both use the [`DriverRing`], a split virtqueue whose raw parts are open to
//! tests that want to break it.
//!
//! ```text
//! Driver ── RequestQueue ── Queue (ring, kick, call) ── DriverRing ── GuestMemory (memfd regions)
//!    └───── Connection ── Step … ── socket
//! ```
//!
//! Every wait has a deadline ([`WAIT`]), so that a device that hangs fails the test.
#![forbid(unsafe_code)]

mod balloon;
mod connection;
mod driver;
mod error;
mod memory;
mod plan;
mod process;
mod queue;
mod random;
mod requests;
mod ring;
mod watchdog;

use std::time::Duration;

pub use balloon::BalloonQueues;
pub use connection::Connection;
pub use driver::{Driver, Hello, Pair};
pub use error::{Error, Result};
pub use memory::{Area, GuestMemory, Layout};
pub use plan::{Options, Step, Style};
pub use process::{DaemonProcess, Ended};
pub use queue::{Queue, Wait};
pub use random::{Random, page_content, seed};
pub use requests::{Completion, Request, RequestQueue, Shape, pages_at};
pub use ring::{DriverRing, RawDescriptor, RingLayout, Segment, Used, flags};

/// How long anything may take before it counts as hanging; generous, because it only fails tests.
pub const WAIT: Duration = Duration::from_secs(60);
