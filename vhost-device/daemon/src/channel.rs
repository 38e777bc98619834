// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What keeper and worker say to each other: JSON messages, with descriptors, on a socket of packets.
//!
//! ```text
//! keeper                                                   worker
//!    │ ◀────────────────────────── Hello: its version ─────── │   it has started
//!    │ ── Check [map, frames] ───▶ Checked ────────────────── │   an upgrade asks first
//!    │ ── Start [map, frames, admin] ─▶ Ready, or Refused ─── │   pages are recovered, threads run
//!    │ ◀────────────────────────────── Settings ───────────── │   what the next worker is to know
//!    │ ── Serve [listener] ──────────▶ Ended ──────────────── │   a connection begins, and ends
//!    │ ── Ping ──────────────────────▶ Pong ───────────────── │   it is not stuck
//!    │ ── Status ─────────────────────▶                       │   for the admin API
//!    │ ◀─────────────────────────────── Operate ──────────── │   an admin wants something
//!    │ ◀───────────────────────────── OpenTrace ──────────── │
//!    │ ── Trace [file] ───────────────▶                       │
//!    │ ── End ────────────────────────▶                       │   the daemon ends
//! ```
//! The two may be of different versions, before and after an upgrade. [`VERSION`] counts changes that
//! the other side must know of; fields may be added without, if they have a default.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tmem_admin_api::{DaemonOperation, DaemonStatus};

use crate::config::Config;
use crate::ipc;
use crate::sandbox;

/// Version of the messages.
pub(crate) const VERSION: u32 = 1;
/// Bytes of a message; a configuration of a thousand guests takes a fifth of it.
const MESSAGE_BYTES_MAX: usize = 1 << 18;

/// From keeper to worker.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ToWorker {
    /// Can you go on with this state? Descriptors: map, frames.
    Check,
    /// Serve. Descriptors: map, frames, the admin API's listener if there is one, and those that
    /// [`Start::files`] names.
    Start(Box<Start>),
    /// A front-end has connected, or is handed over. Descriptor: a listener on which its connection
    /// waits.
    Serve {
        /// The guest's place in the configuration.
        guest: usize,
        /// The connection's number.
        session: u64,
    },
    /// Answer, if you live.
    Ping,
    /// How the daemon is.
    Status(Box<DaemonStatus>),
    /// The file of a page trace, or why there is none. Descriptor: the file.
    Trace {
        /// For people.
        error: Option<String>,
    },
    /// Tell the drivers, finish what was taken, and exit.
    End,
}

/// Everything that a worker needs to know.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Start {
    /// The configuration, without the places that only the keeper needs.
    pub(crate) config: Config,
    /// The group that may use the admin API.
    pub(crate) admin_group: Option<u32>,
    /// How far to fence itself in.
    pub(crate) sandbox: sandbox::Mode,
    /// How the daemon is.
    pub(crate) status: DaemonStatus,
    /// Serve the admin API alone: the engine cannot run.
    pub(crate) caretaker: bool,
    /// There is a listener among the descriptors.
    #[serde(default)]
    pub(crate) admin: bool,
    /// Names of the descriptors behind the first ones.
    #[serde(default)]
    pub(crate) files: Vec<String>,
    /// This boot of the host, which a worker cannot ask for.
    #[serde(default)]
    pub(crate) boot: Option<[u8; 16]>,
    /// What stores' names stand for, which a worker cannot ask for either.
    #[serde(default)]
    pub(crate) addresses: BTreeMap<String, String>,
    /// What a worker before this one was told by administrators. Nothing: this is the daemon's first,
    /// and the configuration holds.
    #[serde(default)]
    pub(crate) settings: Option<serde_json::Value>,
}

/// From worker to keeper.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ToKeeper {
    /// The first message.
    Hello {
        /// [`VERSION`].
        channel: u32,
        /// The program's version.
        version: String,
    },
    /// The state can be gone on with.
    Checked,
    /// The worker cannot go on, and why; it ends.
    Refused {
        /// For people.
        reason: String,
    },
    /// The pages are there, connections may come.
    Ready {
        /// Pages that were recovered.
        pages: u64,
        /// How long that took, in ms.
        recovery_ms: u64,
        /// How far it has fenced itself in.
        sandbox: sandbox::Report,
    },
    /// A connection is over, and not because the front-end went.
    Ended {
        /// The guest's place in the configuration.
        guest: usize,
        /// The connection's number.
        session: u64,
    },
    /// It lives.
    Pong,
    /// An admin wants something.
    Operate(DaemonOperation),
    /// What the next worker is to know.
    Settings(serde_json::Value),
    /// Make the file of a page trace.
    OpenTrace {
        /// Its name in the folder of traces, without `.trace`.
        name: String,
    },
}

/// One end of the channel.
#[derive(Debug)]
pub(crate) struct Channel(OwnedFd);

impl Channel {
    /// Two ends that are connected.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn pair() -> io::Result<(Self, OwnedFd)> {
        let (one, two) = rustix::net::socketpair(
            rustix::net::AddressFamily::UNIX,
            rustix::net::SocketType::SEQPACKET,
            rustix::net::SocketFlags::CLOEXEC,
            None,
        )?;
        for end in [&one, &two] {
            rustix::net::sockopt::set_socket_send_buffer_size(end, 2 * MESSAGE_BYTES_MAX)?;
        }
        Ok((Self(one), two))
    }

    /// The end that this process was started with.
    pub(crate) const fn new(end: OwnedFd) -> Self {
        Self(end)
    }

    /// Sends a message, without waiting.
    ///
    /// # Errors
    /// The kernel's, or `WouldBlock` if the other side does not read.
    pub(crate) fn send(
        &self,
        message: &impl Serialize,
        files: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        let bytes = serde_json::to_vec(message).map_err(io::Error::other)?;
        ipc::send(&self.0, &bytes, files).map(drop)
    }

    /// Receives a message, without waiting. Nothing if there is none.
    ///
    /// # Errors
    /// The kernel's, `UnexpectedEof` if the other side has gone, or `InvalidData` for what is no
    /// message of this version.
    pub(crate) fn receive<T: DeserializeOwned>(&self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        let mut bytes = vec![0; MESSAGE_BYTES_MAX];
        let mut files = Vec::new();
        match ipc::receive(&self.0, &mut bytes, &mut files) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(length) => {
                let message = serde_json::from_slice(&bytes[..length])
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
                Ok(Some((message, files)))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
