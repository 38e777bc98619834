// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One guest's socket, of a daemon that is one process: a VMM at a time, as often as one comes.
//!
//! ```text
//!            a VMM connects                    it hangs up, or says nonsense
//! listening ───────────────> serving ───────────────────────────────────────> listening
//! ```
//! The listener lives as long as the daemon, so its path never disappears. While a VMM is served the
//! listener is not watched: a second VMM waits in its backlog until the first is gone.

use std::os::fd::AsRawFd;
use std::path::PathBuf;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use vhost::vhost_user::Listener;

use crate::connection::Place;

/// A guest's socket and the connection on it, if there is one.
pub(crate) struct Port {
    pub(crate) place: Place,
    listener: Listener,
    /// Removed at the daemon's end.
    path: Option<PathBuf>,
}

impl Port {
    /// The port of a guest whose VMMs connect to `listener`.
    pub(crate) fn new(
        place: Place,
        listener: std::os::unix::net::UnixListener,
        path: Option<PathBuf>,
    ) -> Self {
        Self {
            place,
            listener: Listener::from(listener),
            path,
        }
    }

    fn watch(&self) -> Events {
        Events::new_raw(self.listener.as_raw_fd(), EventSet::IN)
    }

    /// Hangs up, and removes the socket's file.
    pub(crate) fn end(&mut self) {
        self.place.end();
        if let Some(path) = self.path.take()
            && let Err(error) = std::fs::remove_file(&path)
        {
            tracing::warn!(path = %path.display(), %error, "cannot remove a socket's file");
        }
    }
}

impl MutEventSubscriber for Port {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        let ended = Events::new_raw(self.place.ended(), EventSet::IN);
        for events in [self.watch(), ended] {
            if let Err(error) = ops.add(events) {
                let guest = self.place.name();
                tracing::error!(guest, %error, "cannot watch the guest's socket");
            }
        }
    }

    fn process(&mut self, events: Events, ops: &mut EventOps<'_>) {
        let watched = if events.fd() == self.listener.as_raw_fd() {
            match self.place.serve(&mut self.listener) {
                Ok(()) => ops.remove(self.watch()),
                Err(error) => {
                    tracing::error!(
                        guest = self.place.name(),
                        error = &error as &dyn std::error::Error,
                        "a VMM was turned away"
                    );
                    // Or the listener would be readable for ever.
                    drop(self.listener.accept());
                    Ok(())
                }
            }
        } else {
            self.place.join();
            ops.add(self.watch())
        };
        if let Err(error) = watched {
            tracing::error!(guest = self.place.name(), %error, "cannot watch the guest's socket");
        }
    }
}
