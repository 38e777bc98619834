// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! An operation on the daemon, from asking to its end.
//!
//! The worker that accepts an operation is ended by it. So the answer may be lost on its way, the
//! connections made meanwhile may break off or wait for the next worker, and it is that one who
//! tells how the operation ended.

use std::io::Write;
use std::time::{Duration, Instant};

use tmem_admin_api::{
    DaemonOperation, ErrorCode, OperationAccepted, OperationDetail, OperationKind, OperationState,
    OperationStatus, UpgradeRequest, path,
};

use crate::args::WaitArgs;
use crate::client::{Answer, Client};
use crate::table::{self, View};
use crate::{Error, exit};

/// Between two questions. An upgrade takes a few of them.
const PAUSE: Duration = Duration::from_millis(20);
/// For one answer. A connection that a worker took with it into its end is not waited for longer.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(2);

/// An operation that is waited for.
#[derive(Debug)]
pub(crate) struct Waiting<'a> {
    client: &'a Client,
    kind: OperationKind,
    /// The operation's number; or, if the answer that held it was lost, only that it is higher than
    /// this.
    id: Result<u64, u64>,
    begun: Instant,
    seconds: u64,
}

impl<'a> Waiting<'a> {
    /// Asks for `operation`.
    pub(crate) fn begin(
        client: &'a Client,
        operation: &DaemonOperation,
        wait: WaitArgs,
    ) -> Result<Self, Error> {
        // Known beforehand, so that the operation is recognised even if the answer is lost.
        let before = client.get::<OperationDetail>(path::OPERATION)?.value;
        let before = before.operation.map_or(0, |operation| operation.id);
        let (path, body) = match operation {
            DaemonOperation::Restart => (path::RESTART, String::new()),
            DaemonOperation::Upgrade { binary } => {
                let binary = binary.clone();
                let body = serde_json::to_string(&UpgradeRequest { binary });
                (path::UPGRADE, body.map_err(Error::Request)?)
            }
        };
        let begun = Instant::now();
        let id = match client.post::<OperationAccepted>(path, body) {
            Ok(answer) => Ok(answer.value.id),
            Err(error) if error.broke_off() => Err(before),
            Err(error) => return Err(error),
        };
        Ok(Self {
            client,
            kind: operation.kind(),
            id,
            begun,
            seconds: wait.timeout,
        })
    }

    /// Waits for the end, telling how far it is on `err`, and tells what came of it on `out`.
    pub(crate) fn end(
        &self,
        view: View,
        out: &mut dyn Write,
        err: &mut dyn Write,
    ) -> Result<u8, Error> {
        let deadline = Duration::from_secs(self.seconds);
        let mut state = None;
        let mut unheard = None;
        loop {
            let left = deadline.saturating_sub(self.begun.elapsed());
            if left.is_zero() {
                return Err(Error::Deadline {
                    kind: self.kind,
                    seconds: self.seconds,
                    state: state.map(OperationState::as_str),
                    source: unheard.map(Box::new),
                });
            }
            match self.look(left.min(ANSWER_TIME_MAX)) {
                Ok(None) => unheard = None,
                Ok(Some(answer)) => {
                    unheard = None;
                    let operation = answer.value;
                    if state.replace(operation.state) != Some(operation.state) && !view.json {
                        // Progress is a courtesy: nobody reading it is no reason to stop.
                        let _ = writeln!(err, "{}", progress(operation.state));
                    }
                    if operation.state.is_final() {
                        return finish(operation, &answer.text, view, out);
                    }
                }
                Err(error) if passes(&error) => unheard = Some(error),
                Err(error) => return Err(error),
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// How far the operation is, or nothing if the daemon has not heard of it yet.
    fn look(&self, time: Duration) -> Result<Option<Answer<OperationStatus>>, Error> {
        let Answer { value, text } = self
            .client
            .get_within::<OperationDetail>(path::OPERATION, time)?;
        let Some(value) = value.operation else {
            return Ok(None);
        };
        match self.id {
            Ok(id) if value.id > id => Err(Error::Overtaken {
                kind: self.kind,
                id: value.id,
            }),
            Ok(id) if value.id < id => Ok(None),
            Err(before) if value.id <= before || value.kind != self.kind => Ok(None),
            Ok(_) | Err(_) => Ok(Some(Answer { value, text })),
        }
    }
}

/// Whether `error` is what asking meets while one worker follows another.
fn passes(error: &Error) -> bool {
    match error {
        Error::Unreachable { .. } | Error::Timeout { .. } => true,
        Error::Refused(answer) => answer.code == ErrorCode::Busy,
        error => error.broke_off(),
    }
}

fn progress(state: OperationState) -> &'static str {
    match state {
        OperationState::Checking => "checking the program",
        OperationState::Ending => "ending the old worker",
        OperationState::Recovering => "recovering pages and queues",
        OperationState::Done => "serving",
        OperationState::RolledBack => "rolled back",
        OperationState::Failed => "failed",
    }
}

fn finish(
    operation: OperationStatus,
    text: &str,
    view: View,
    out: &mut dyn Write,
) -> Result<u8, Error> {
    if view.json {
        table::print_json(text, out)?;
    }
    if operation.state != OperationState::Done {
        return Err(Error::Operation(operation));
    }
    if !view.json {
        writeln!(out, "{}", success(&operation)).map_err(Error::Output)?;
    }
    Ok(exit::OK)
}

/// `upgraded from 1.2.3 to 1.3.0; guests waited 87 ms`.
fn success(operation: &OperationStatus) -> String {
    let new = operation
        .new_version
        .as_deref()
        .unwrap_or("unknown version");
    let what = match (operation.kind, &operation.old_version) {
        (OperationKind::Upgrade, Some(old)) => format!("upgraded from {old} to {new}"),
        (OperationKind::Upgrade, None) => format!("upgraded to {new}"),
        (OperationKind::Restart, _) => format!("restarted {new}"),
    };
    match operation.pause_ms {
        Some(ms) => format!("{what}; guests waited {ms} ms"),
        None => what,
    }
}
