// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Tells systemd how the service is (`sd_notify(3)`): ready, alive, stopping. Without systemd this
//! does nothing.

use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::ipc;

/// For how long to wait for a service manager that does not read.
const MANAGER_DEADLINE: Duration = Duration::from_secs(1);

/// The service manager's socket.
#[derive(Debug, Default)]
pub(crate) struct Notify {
    socket: Option<std::os::fd::OwnedFd>,
    /// Between two signs of life, and when the next is due.
    watchdog: Option<(Duration, Instant)>,
    ready: bool,
}

impl Notify {
    /// The socket that the environment names, if it does. Connects, so that its path is not needed
    /// any more.
    pub(crate) fn from_environment() -> Self {
        let Some(path) = std::env::var_os("NOTIFY_SOCKET") else {
            return Self::default();
        };
        let connected = (|| {
            let address = match path.as_bytes() {
                [b'@', name @ ..] => SocketAddrUnix::new_abstract_name(name)?,
                path => SocketAddrUnix::new(path)?,
            };
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let socket =
                rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
            rustix::net::connect(&socket, &address)?;
            rustix::io::Result::Ok(socket)
        })();
        if let Err(error) = &connected {
            tracing::warn!(%error, "cannot reach the service manager's socket");
        }
        let interval = std::env::var("WATCHDOG_USEC").ok();
        let interval = interval.and_then(|us| us.parse().ok());
        Self {
            socket: connected.ok(),
            // Half of what is allowed, as the manual advises.
            watchdog: interval.map(|us: u64| (Duration::from_micros(us / 2), Instant::now())),
            ready: false,
        }
    }

    /// There is a service manager.
    pub(crate) fn is_there(&self) -> bool {
        self.socket.is_some()
    }

    /// Has the manager keep a descriptor, for the next process of this service.
    pub(crate) fn keep(&self, name: &str, file: BorrowedFd<'_>) {
        self.tell(&format!("FDSTORE=1\nFDNAME={name}"), &[file]);
    }

    /// Has the manager close the descriptors of this name.
    pub(crate) fn forget(&self, name: &str) {
        self.tell(&format!("FDSTOREREMOVE=1\nFDNAME={name}"), &[]);
    }

    /// When the next sign of life is due.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.socket.as_ref().and(self.watchdog).map(|(_, due)| due)
    }

    /// Gives a sign of life, if one is due at `now`.
    pub(crate) fn alive(&mut self, now: Instant) {
        if let Some((interval, due)) = &mut self.watchdog
            && *due <= now
        {
            *due = now + *interval;
            self.say("WATCHDOG=1");
        }
    }

    /// Guests can be served.
    pub(crate) fn ready(&mut self) {
        if !std::mem::replace(&mut self.ready, true) {
            self.say("READY=1\nSTATUS=serving");
        }
    }

    /// The service is about to end.
    pub(crate) fn stopping(&self) {
        self.say("STOPPING=1");
    }

    fn say(&self, what: &str) {
        self.tell(what, &[]);
    }

    fn tell(&self, what: &str, files: &[BorrowedFd<'_>]) {
        let Some(socket) = &self.socket else { return };
        // The kernel queues ten messages; a manager that lives reads them at once.
        let deadline = Instant::now() + MANAGER_DEADLINE;
        loop {
            match ipc::send(socket, what.as_bytes(), files) {
                Ok(_) => return,
                Err(error)
                    if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline =>
                {
                    let mut room = [PollFd::new(socket, PollFlags::OUT)];
                    let soon = Timespec {
                        tv_sec: 0,
                        tv_nsec: 10_000_000,
                    };
                    // Whether there is room is seen by sending.
                    let _ = poll(&mut room, Some(&soon));
                }
                Err(error) => {
                    tracing::warn!(%error, what, "the service manager was not told");
                    return;
                }
            }
        }
    }
}
