// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Guests' sockets: front-ends come, are handed to the worker, and go.

use std::io;
use std::os::fd::AsFd;

use tmem_admin_api::DaemonState;

use super::Keeper;
use super::session::{End, Session};
use super::upgrade::Upgrade;
use crate::channel::ToWorker;
use crate::ipc;

impl Keeper {
    /// Hands those connections to the worker that should be. Many at a time may be more than its socket
    /// holds; the rest follows.
    pub(super) fn serve_all(&mut self) {
        for guest in 0..self.ports.len() {
            self.serve(guest);
        }
    }

    /// A connection waits to be handed to a worker that is ready.
    pub(super) fn is_serving_late(&self) -> bool {
        let mut sessions = self.ports.iter().filter_map(|port| port.session.as_ref());
        self.is_ready() && sessions.any(Session::is_unserved)
    }

    /// A worker that can serve guests is there.
    pub(super) fn is_ready(&self) -> bool {
        let ready = self
            .worker
            .as_ref()
            .is_some_and(|worker| worker.ready.is_some());
        ready && self.status.state != DaemonState::Failed
    }

    /// Hands a guest's connection to the worker, if both are there.
    fn serve(&mut self, guest: usize) {
        let ready = self.is_ready();
        let Some(worker) = self.worker.as_ref().filter(|_| ready) else {
            return;
        };
        let port = &mut self.ports[guest];
        let Some(session) = port
            .session
            .as_mut()
            .filter(|session| session.is_unserved())
        else {
            return;
        };
        let handed = ipc::listener_with_connection().and_then(|(listener, stream)| {
            stream.set_nonblocking(true)?;
            let number = session.number;
            let serve = ToWorker::Serve {
                guest,
                session: number,
            };
            if !worker.process.send(&serve, &[listener.as_fd()]) {
                return Ok(false);
            }
            session.attach(stream).map(|()| true)
        });
        match handed {
            // Soon again.
            Ok(false) => {}
            Ok(true) => self.with_session(guest, Session::write_back),
            Err(error) => self.hang_up(guest, End::Broken(format!("no descriptors left: {error}"))),
        }
    }

    /// A front-end connects.
    pub(super) fn accept(&mut self, guest: usize) {
        let port = &mut self.ports[guest];
        let alone = self.status.state == DaemonState::Failed;
        let session = match port.listener.accept() {
            Ok((stream, _)) if alone => {
                tracing::warn!(
                    guest = port.name,
                    "a VMM was turned away: nothing is served until an admin restarts the daemon"
                );
                drop(stream);
                return;
            }
            Ok((stream, _)) => Session::new(self.sessions, stream, false),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(error) => Err(error),
        };
        self.sessions += 1;
        match session {
            Ok(session) => {
                tracing::info!(guest = port.name, "a VMM has connected");
                port.session = Some(session);
                self.serve(guest);
            }
            Err(error) => tracing::error!(guest = port.name, %error, "cannot accept a VMM"),
        }
    }

    pub(super) fn look_back(&mut self, guest: usize) {
        let mut resumed = false;
        self.with_session(guest, |session| {
            session.write_back()?;
            resumed = session.read_back()?;
            Ok(())
        });
        if resumed {
            self.look_whether_resumed();
        }
    }

    /// The worker ended a connection by itself: the front-end broke the protocol, or the worker could
    /// not take it.
    pub(super) fn session_ended(&mut self, guest: usize, number: u64) {
        let port = self.ports.get(guest).and_then(|port| port.session.as_ref());
        let Some(session) = port.filter(|session| session.number == number) else {
            return;
        };
        let taking_over =
            !session.is_resumed() && self.upgrade.as_ref().is_some_and(Upgrade::is_taking_over);
        if taking_over {
            self.refuse_take_over(&format!(
                "guest {} was not taken over",
                self.ports[guest].name
            ));
        } else {
            self.hang_up(guest, End::Broken("the worker ended the connection".into()));
        }
    }

    pub(super) fn with_session(
        &mut self,
        guest: usize,
        work: impl FnOnce(&mut Session) -> Result<(), End>,
    ) {
        if let Some(session) = &mut self.ports[guest].session
            && let Err(end) = work(session)
        {
            self.hang_up(guest, end);
        }
    }

    pub(super) fn hang_up(&mut self, guest: usize, end: End) {
        let port = &mut self.ports[guest];
        port.session = None;
        match end {
            End::Gone => tracing::info!(guest = port.name, "the VMM has gone"),
            End::Broken(reason) => {
                tracing::warn!(guest = port.name, reason, "the VMM was hung up on");
            }
        }
        self.look_whether_resumed();
    }
}
