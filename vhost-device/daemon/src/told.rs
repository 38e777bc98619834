// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the keeper has told this worker, and what admins want from the keeper.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tmem_admin_api::{DaemonOperation, DaemonStatus};

use crate::channel::{Channel, ToKeeper};
use crate::status::RequestError;

/// For how long an admin's request waits for the keeper.
const ANSWER_DEADLINE: Duration = Duration::from_millis(900);

/// The keeper's word. Without a keeper, the daemon is one process that simply runs.
#[derive(Debug, Default)]
pub(crate) struct Told {
    status: Mutex<DaemonStatus>,
    changed: Condvar,
    /// The answer to a request for a trace's file.
    trace: Mutex<Option<Result<OwnedFd, String>>>,
    traced: Condvar,
    keeper: Option<Arc<Channel>>,
}

impl Told {
    /// What `keeper` told at the start.
    pub(crate) fn new(status: DaemonStatus, keeper: Arc<Channel>) -> Self {
        Self {
            status: Mutex::new(status),
            changed: Condvar::new(),
            trace: Mutex::default(),
            traced: Condvar::new(),
            keeper: Some(keeper),
        }
    }

    /// The last that was told.
    pub(crate) fn status(&self) -> DaemonStatus {
        self.status.lock().clone()
    }

    /// The keeper tells more.
    pub(crate) fn update(&self, status: DaemonStatus) {
        *self.status.lock() = status;
        self.changed.notify_all();
    }

    /// There is a keeper; this process can open no file by itself.
    pub(crate) fn has_keeper(&self) -> bool {
        self.keeper.is_some()
    }

    /// Tells the keeper what the next worker is to know. Without one there is none.
    pub(crate) fn keep_settings(&self, settings: serde_json::Value) {
        if let Some(keeper) = &self.keeper
            && let Err(error) = keeper.send(&ToKeeper::Settings(settings), &[])
        {
            tracing::error!(%error, "the keeper does not hear of changed settings");
        }
    }

    /// Has the keeper make the file of a page trace.
    ///
    /// # Errors
    /// What the keeper says, or that it says nothing.
    pub(crate) fn open_trace(&self, name: &str) -> io::Result<File> {
        let keeper = self.keeper.as_ref();
        let keeper = keeper.ok_or_else(|| io::Error::other("there is no keeper"))?;
        let mut answer = self.trace.lock();
        *answer = None;
        let name = name.to_owned();
        keeper.send(&ToKeeper::OpenTrace { name }, &[])?;
        let late =
            (self.traced).wait_while_for(&mut answer, |answer| answer.is_none(), ANSWER_DEADLINE);
        if late.timed_out() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        match answer.take() {
            Some(Ok(file)) => Ok(File::from(file)),
            Some(Err(reason)) => Err(io::Error::other(reason)),
            None => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// The keeper has made a trace's file, or says why not.
    pub(crate) fn trace_opened(&self, file: Option<OwnedFd>, error: Option<String>) {
        let missing = || "the keeper sent no file".to_owned();
        let opened = file.ok_or_else(|| error.unwrap_or_else(missing));
        *self.trace.lock() = Some(opened);
        self.traced.notify_all();
    }

    /// Passes on what an admin wants. Returns the keeper's number for it.
    ///
    /// # Errors
    /// [`RequestError`].
    pub(crate) fn request(&self, operation: &DaemonOperation) -> Result<u64, RequestError> {
        let keeper = self.keeper.as_ref().ok_or(RequestError::NoKeeper)?;
        let mut status = self.status.lock();
        let number = |status: &DaemonStatus| status.operation.as_ref().map_or(0, |last| last.id);
        let last = number(&status);
        if let Some(under_way) = status
            .operation
            .as_ref()
            .filter(|last| !last.state.is_final())
        {
            return Err(RequestError::UnderWay { id: under_way.id });
        }
        keeper
            .send(&ToKeeper::Operate(operation.clone()), &[])
            .map_err(RequestError::Silent)?;
        let known = |status: &mut DaemonStatus| number(status) <= last;
        let late = self
            .changed
            .wait_while_for(&mut status, known, ANSWER_DEADLINE);
        if late.timed_out() {
            return Err(RequestError::Silent(std::io::ErrorKind::TimedOut.into()));
        }
        Ok(number(&status))
    }
}
