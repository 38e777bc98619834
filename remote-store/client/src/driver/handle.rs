// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What others may ask of a driver that runs: the admin's commands, and how things are.

use std::fmt;
use std::sync::Arc;

use parking_lot::RwLock;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

use super::status::Status;
use crate::connect::AddressError;
use crate::control::{self, Command, Event, Kind, MemberSpec, Refused};

/// Why a command was not done.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum CommandError {
    /// The address cannot be used.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// The stores' state does not allow it.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The driver has ended.
    #[error("Nobody looks after the stores any more: their driver has ended")]
    Ended,
}

/// What goes to the driver.
#[derive(Debug)]
pub(super) enum Ask {
    Command(Command, oneshot::Sender<Result<(), Refused>>),
    Event(Event),
    Stop,
}

/// What is shared with the driver.
pub(super) struct Board {
    pub(super) status: RwLock<control::Status>,
}

type Check = dyn Fn(&str) -> Result<(), AddressError> + Send + Sync;
type Complete = dyn Fn(control::Status) -> Status + Send + Sync;

/// A way to talk to a driver, from any thread.
#[derive(Clone)]
pub struct Handle {
    pub(super) asks: mpsc::UnboundedSender<Ask>,
    pub(super) board: Arc<Board>,
    pub(super) check: Arc<Check>,
    pub(super) complete: Arc<Complete>,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").finish_non_exhaustive()
    }
}

impl Handle {
    /// How things are, as of a moment ago. Waits for nothing.
    #[must_use]
    pub fn status(&self) -> Status {
        let control = self.board.status.read().clone();
        (self.complete)(control)
    }

    /// Has a command done. For async code.
    ///
    /// # Errors
    /// [`CommandError`]; nothing is changed then.
    pub async fn command(&self, command: Command) -> Result<(), CommandError> {
        let told = self.send(command)?;
        Ok(told.await.map_err(|_| CommandError::Ended)??)
    }

    /// Has a command done. For threads that may wait, not for async code.
    ///
    /// # Errors
    /// [`CommandError`]; nothing is changed then.
    ///
    /// # Panics
    /// If it is called from async code.
    pub fn command_blocking(&self, command: Command) -> Result<(), CommandError> {
        let told = self.send(command)?;
        Ok(told.blocking_recv().map_err(|_| CommandError::Ended)??)
    }

    fn send(
        &self,
        command: Command,
    ) -> Result<oneshot::Receiver<Result<(), Refused>>, CommandError> {
        if let Command::Add(spec) = &command {
            self.check(spec)?;
        }
        let (tell, told) = oneshot::channel();
        let sent = self.asks.send(Ask::Command(command, tell));
        sent.map_err(|_| CommandError::Ended)?;
        Ok(told)
    }

    /// Whether a store with this address could be added.
    ///
    /// # Errors
    /// [`AddressError`] that says what is wrong.
    pub fn check(&self, spec: &MemberSpec) -> Result<(), AddressError> {
        match spec.kind {
            Kind::Remote => (self.check)(&spec.address),
            Kind::Disk => Ok(()),
        }
    }

    /// Tells what a source of members says: who is there, who is not. Waits for nothing.
    ///
    /// # Errors
    /// [`CommandError::Address`] if an address cannot be used, [`CommandError::Ended`].
    pub fn tell(&self, event: Event) -> Result<(), CommandError> {
        if let Event::AddMember(spec) = &event {
            self.check(spec)?;
        }
        let sent = self.asks.send(Ask::Event(event));
        sent.map_err(|_| CommandError::Ended)
    }

    /// Ends the driver. Pages stay readable and writable as long as stores do not change.
    pub fn stop(&self) {
        // One that has ended needs no telling.
        let _ = self.asks.send(Ask::Stop);
    }
}
