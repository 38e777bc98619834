// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Why the daemon does not start.

use std::io;
use std::path::PathBuf;

/// Why the daemon does not start. Once it has started, nothing that a guest or a VMM does is an
/// error of the daemon.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The frames cannot be had.
    #[error("Cannot set up {mib} MiB of memory for pages")]
    Engine {
        /// What was asked for.
        mib: u64,
        /// What the engine said.
        source: tmem_pages::EngineError,
    },
    /// The engine does not take a guest.
    #[error("Cannot add guest {name:?}")]
    Guest {
        /// The guest's name.
        name: String,
        /// What the engine said.
        source: tmem_pages::GuestError,
    },
    /// The engine has no worker left.
    #[error("Cannot give guest {name:?} its queue workers")]
    Worker {
        /// The guest's name.
        name: String,
        /// What the engine said.
        source: tmem_pages::WorkerError,
    },
    /// Another process listens on a guest's socket.
    #[error(
        "Cannot listen on {path} for guest {name:?}: another process does; stop it or choose another path"
    )]
    SocketInUse {
        /// The guest's name.
        name: String,
        /// The socket's path.
        path: PathBuf,
    },
    /// A guest's socket cannot be made.
    #[error("Cannot listen on {path} for guest {name:?}")]
    Socket {
        /// The guest's name.
        name: String,
        /// The socket's path.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The descriptor handed over is not a listening Unix socket.
    #[error(
        "Cannot accept VMMs on descriptor {fd}: hand over a Unix stream socket that listens already"
    )]
    Descriptor {
        /// Its number.
        fd: i32,
        /// What the kernel said.
        source: io::Error,
    },
    /// The admin API cannot be served.
    #[error("Cannot serve the admin API")]
    Admin(#[from] crate::admin::Error),
    /// No event descriptor or thread to be had.
    #[error("Cannot start the control loop")]
    Control(#[source] io::Error),
    /// The control loop cannot wait for events.
    #[error("Cannot start the control loop")]
    EventManager(#[from] event_manager::Error),
}
