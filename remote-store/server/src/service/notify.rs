// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Tells systemd how the service is (`sd_notify(3)`): ready, alive, stopping. Without systemd this
//! does nothing.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The service manager's socket.
#[derive(Debug, Default)]
pub(super) struct Notify {
    socket: Option<UnixDatagram>,
    watchdog: Option<Duration>,
}

impl Notify {
    /// The socket that the environment names, if it does.
    pub(super) fn from_environment() -> Self {
        let Some(path) = std::env::var_os("NOTIFY_SOCKET") else {
            return Self::default();
        };
        let socket = match connect(&path) {
            Ok(socket) => Some(socket),
            Err(error) => {
                tracing::warn!(%error, "cannot reach the service manager's socket");
                None
            }
        };
        let interval = std::env::var("WATCHDOG_USEC").ok();
        let interval = interval.and_then(|us| us.parse().ok());
        Self {
            socket,
            // Half of what is allowed, as the manual advises.
            watchdog: interval.map(|us: u64| Duration::from_micros(us / 2)),
        }
    }

    /// How often to give a sign of life, if at all.
    pub(super) fn watchdog(&self) -> Option<Duration> {
        self.socket.as_ref().and(self.watchdog)
    }

    /// Pages are served.
    pub(super) fn ready(&self) {
        self.say("READY=1\nSTATUS=serving");
    }

    /// A sign of life.
    pub(super) fn alive(&self) {
        self.say("WATCHDOG=1");
    }

    /// The service is about to end.
    pub(super) fn stopping(&self) {
        self.say("STOPPING=1");
    }

    fn say(&self, what: &str) {
        if let Some(socket) = &self.socket
            && let Err(error) = socket.send(what.as_bytes())
        {
            tracing::warn!(%error, what, "the service manager was not told");
        }
    }
}

fn connect(path: &OsStr) -> io::Result<UnixDatagram> {
    let address = match path.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(path)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    // The kernel queues messages; a manager that does not read must not stop pages.
    socket.set_nonblocking(true)?;
    Ok(socket)
}
