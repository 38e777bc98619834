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
    /// The state of an earlier worker cannot be gone on with.
    #[error("Cannot go on with the pages that are there")]
    State {
        /// What the engine said.
        source: tmem_pages::EngineError,
    },
    /// The process's limits do not suffice for the guests.
    #[error("Cannot serve so many guests")]
    Limits(#[from] crate::sandbox::LimitError),
    /// The sandbox cannot be entered.
    #[error("Cannot fence the daemon in")]
    Sandbox(#[from] crate::sandbox::Error),
    /// The first worker could not do what it was told.
    #[error("No worker can be started: {reason}")]
    Refused {
        /// What it said.
        reason: String,
    },
    /// An earlier keeper's connections cannot be gone on with.
    #[error("Cannot go on where the last daemon was")]
    Store(#[from] crate::keeper::StoreError),
    /// A file of the state cannot be had.
    #[error(
        "Cannot keep state in {path}: check its folder and rights, and that no other daemon has it"
    )]
    StateFile {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A tier's file cannot be used.
    #[error("Cannot use the {tier} tier")]
    Tier {
        /// The tier.
        tier: &'static str,
        /// What is wrong with the file.
        source: tmem_pages::slots::SlotError,
    },
    /// A tier cannot have the size that it should.
    #[error("Cannot set up the tiers as configured")]
    TierSize(#[from] tmem_pages::ResizeError),
    /// A guest cannot have the part of the tiers that it should.
    #[error("Cannot limit guests as configured")]
    Parts(#[from] tmem_pages::LimitsError),
    /// A guest's policy does not exist.
    #[error("Cannot choose guest {name:?} its replacement policy")]
    Policy {
        /// The guest's name.
        name: String,
        /// What the engine said.
        source: tmem_pages::policy::UnknownPolicy,
    },
    /// A link cannot be what it should.
    #[error("Cannot emulate the link to {tier} as configured")]
    Link {
        /// The tier.
        tier: &'static str,
        /// What is wrong with it.
        source: tmem_pages::link::LinkError,
    },
    /// The remote tier cannot be what it should.
    #[error("Cannot use the remote tier as configured")]
    Stores(#[from] crate::tiers::StoresError),
    /// Nobody knows a store's host.
    #[error("Cannot look up the host of {address}; write its number, so that no name is needed")]
    Lookup {
        /// The store's address.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// Memory for what outlives a worker cannot be had.
    #[error("Cannot keep a record of requests under way")]
    Records(#[source] io::Error),
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

/// An error with what it came from, in one line.
pub(crate) fn tell(error: &dyn std::error::Error) -> String {
    let mut told = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        told = format!("{told}: {error}");
        source = error.source();
    }
    told
}
