// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The admin API's server: HTTP/1.1 on a Unix socket, in one thread beside the queue workers.
//!
//! ```text
//! accept ── peer's uid and groups ── admitted? ── no ──> 403, nothing of the request is read
//!                                        │ yes
//!                                  a free slot? ── no ──> 503
//!                                        │ yes
//!                         hyper reads one request, axum routes it, AdminSource answers
//! ```
//!
//! What it must not do: hold up a guest, or be held up by one caller. It reads snapshots through
//! [`AdminSource`], which never waits; each connection carries one request, is a task of its own,
//! and ends at a deadline, whatever its caller does or leaves undone.
//!
//! - [`access`](self::Access): who may ask, and the two questions to the kernel behind it.
//! - [`connection`](self::Limits): accepting, limits, refusals.
//! - `router`: paths to answers. `operations`: those of a restart and an upgrade. `tiers`, `quotas`,
//!   `links`, `stores`, `balloons`: what changes tiers, guests, links, stores and balloons; `body` reads what they are sent. `metrics`: the
//!   Prometheus text and its table of names.
//! - [`bind`]: the socket file.
//! - [`Caretaker`]: the source of a daemon that has failed and serves no guest.
//!
//! Who may look may also ask for a restart or an upgrade of the worker. An upgrade names a program
//! that then maps every guest's memory; the keeper decides which programs it takes, and trusts the
//! folder of its own program and those that its configuration names, no other.

mod access;
mod balloons;
mod body;
mod caretaker;
mod connection;
mod links;
mod metrics;
mod operations;
mod quotas;
mod router;
mod socket;
mod stores;
#[cfg(test)]
mod tests;
mod tiers;

use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::oneshot;

pub use access::{Access, group_id};
pub(crate) use caretaker::now_unix_ms;
pub use caretaker::{Caretaker, PassOn};
pub use connection::Limits;
pub use metrics::{METRICS, Metric, MetricKind};
pub use socket::bind;

use crate::sandbox::{self, ThreadKind};
use crate::status::AdminSource;

/// Why the admin API cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process answers on the socket.
    #[error(
        "cannot listen on admin socket {path}: another daemon answers there; stop it or choose another path"
    )]
    InUse {
        /// The socket's path.
        path: String,
    },
    /// The socket could not be made.
    #[error("cannot make admin socket {path}")]
    Bind {
        /// The socket's path.
        path: String,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// No such group.
    #[error(
        "cannot let group {name} use the admin socket: there is no such group; create it or name another"
    )]
    NoGroup {
        /// As configured.
        name: String,
    },
    /// The group database failed.
    #[error("cannot look up group {name}")]
    GroupLookup {
        /// As configured.
        name: String,
        /// What the C library said.
        source: std::io::Error,
    },
    /// The thread or its runtime could not be started.
    #[error("cannot start the admin thread")]
    Start(#[source] std::io::Error),
}

/// A running server. Dropping it ends the thread; answers under way are cut off.
#[derive(Debug)]
pub struct Server {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves `source` on `listener` in a thread of its own, fenced in as `sandbox` says.
    ///
    /// # Errors
    /// [`Error::Start`] if the thread or its runtime cannot be made.
    pub fn start(
        listener: UnixListener,
        access: Access,
        limits: Limits,
        sandbox: sandbox::Mode,
        source: Arc<dyn AdminSource>,
    ) -> Result<Self, Error> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Error::Start)?;
        listener.set_nonblocking(true).map_err(Error::Start)?;
        let listener = {
            let _in_runtime = runtime.enter();
            tokio::net::UnixListener::from_std(listener).map_err(Error::Start)?
        };
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("admin".into())
            .spawn(move || {
                crate::connection::fence(sandbox, ThreadKind::Admin);
                runtime.block_on(connection::accept(
                    listener, access, limits, source, stopped,
                ));
            })
            .map_err(Error::Start)?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // The thread may have ended already; then nobody has to be told.
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the admin thread panicked");
        }
    }
}
