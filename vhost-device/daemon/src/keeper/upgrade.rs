// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What admins ask for: another program takes over from the running worker, or the same one begins
//! anew.
//!
//! ```text
//!           can it read the state? yes          the old one is dead       all connections resumed
//! checking ───────────────────────▶ ending ──────────────────▶ recovering ─────────────────▶ done
//!    │ no, or too late                                            │ it ends, refuses, or is late
//!    ▼                                                            ▼
//!  failed: nothing was touched                              rolled back: the old program starts again
//! ```
//! The old worker is killed, not asked: that a worker may die at any moment is what everything here
//! is built and tested for, so there is no second way.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use tmem_admin_api::{DaemonOperation, DaemonState, EndCause, OperationState, OperationStatus};

use super::child::{Program, Worker};
use super::{Keeper, Serving};
use crate::channel::{self, ToKeeper, ToWorker};

/// A program that has not said by then that it can go on is not started.
const CHECK_DEADLINE: Duration = Duration::from_secs(10);
/// A program that does not serve by then is replaced by the old one.
const TAKE_OVER_DEADLINE: Duration = Duration::from_secs(10);

/// An upgrade under way.
#[derive(Debug)]
pub(super) enum Upgrade {
    /// The new program is asked whether it can go on, or waits for the old worker's death.
    Checking {
        program: Program,
        candidate: Worker,
        version: String,
        deadline: Instant,
    },
    /// The new program serves, or should soon.
    TakingOver {
        /// To go back to.
        old: Program,
        deadline: Instant,
    },
}

impl Upgrade {
    /// The worker that is asked.
    pub(super) const fn candidate(&self) -> Option<&Worker> {
        match self {
            Self::Checking { candidate, .. } => Some(candidate),
            Self::TakingOver { .. } => None,
        }
    }

    pub(super) const fn deadline(&self) -> Instant {
        match self {
            Self::Checking { deadline, .. } | Self::TakingOver { deadline, .. } => *deadline,
        }
    }

    pub(super) const fn is_taking_over(&self) -> bool {
        matches!(self, Self::TakingOver { .. })
    }
}

impl Keeper {
    /// Begins what an admin asks for.
    pub(super) fn operate(&mut self, operation: &DaemonOperation) {
        let last = self.status.operation.as_ref();
        if last.is_some_and(|last| !last.state.is_final()) {
            // Its number shows the admin that it is not his.
            return self.tell_status();
        }
        let version = self.worker.as_ref().map(|worker| worker.version.clone());
        self.status.operation = Some(OperationStatus {
            id: last.map_or(0, |last| last.id) + 1,
            kind: operation.kind(),
            state: OperationState::Checking,
            reason: None,
            old_version: version,
            new_version: None,
            pause_ms: None,
        });
        match operation {
            DaemonOperation::Restart => {
                self.note(OperationState::Ending, None);
                self.end_worker(EndCause::Restart);
            }
            DaemonOperation::Upgrade { binary } => {
                if let Err(reason) = self.check(binary.as_deref()) {
                    self.note(OperationState::Failed, Some(reason));
                }
            }
        }
    }

    /// Starts the new program, and asks it.
    fn check(&mut self, binary: Option<&str>) -> Result<(), String> {
        let program = self.program.another(binary)?;
        let candidate = program
            .start()
            .map_err(|error| format!("the new program cannot be started: {error}"))?;
        let files = [self.files.map.as_fd(), self.files.frames.as_fd()];
        candidate.send(&ToWorker::Check, &files);
        self.upgrade = Some(Upgrade::Checking {
            program,
            candidate,
            version: String::new(),
            deadline: Instant::now() + CHECK_DEADLINE,
        });
        self.tell_status();
        Ok(())
    }

    /// Hears what the new program says of itself and of the state.
    pub(super) fn hear_candidate(&mut self) {
        while let Some(Upgrade::Checking {
            candidate, version, ..
        }) = &mut self.upgrade
            && let Some(message) = candidate.receive()
        {
            match message {
                ToKeeper::Hello {
                    channel,
                    version: new,
                } => {
                    if let Some(operation) = &mut self.status.operation {
                        operation.new_version = Some(new.clone());
                    }
                    *version = new;
                    if channel != channel::VERSION {
                        let reason = format!(
                            "the new program speaks version {channel} of the channel, this keeper {}; restart the whole daemon instead",
                            channel::VERSION
                        );
                        return self.refuse(reason);
                    }
                }
                ToKeeper::Refused { reason } => return self.refuse(reason),
                ToKeeper::Checked => {
                    self.note(OperationState::Ending, None);
                    if self.worker.is_none() {
                        // It is dead already, and the next one may take a while.
                        self.next_start = None;
                        return self.take_over();
                    }
                    return self.end_worker(EndCause::Upgrade);
                }
                _ => {}
            }
        }
    }

    /// The new program ended before it was asked to serve.
    pub(super) fn candidate_died(&mut self) {
        // The last that it said may say why.
        self.hear_candidate();
        if let Some(Upgrade::Checking { candidate, .. }) = &mut self.upgrade
            && let Some(status) = candidate.ended()
        {
            self.refuse(format!(
                "the new program ended while it was asked: {}",
                super::child::describe(status)
            ));
        }
    }

    /// The new program has not answered, or does not serve, in time.
    pub(super) fn upgrade_is_late(&mut self) {
        if self.upgrade.as_ref().is_some_and(Upgrade::is_taking_over) {
            let ms = (TAKE_OVER_DEADLINE + self.allowance()).as_millis();
            self.refuse_take_over(&format!("the new program did not serve within {ms} ms"));
        } else {
            let ms = CHECK_DEADLINE.as_millis();
            self.refuse(format!("the new program did not answer within {ms} ms"));
        }
    }

    /// The old worker is dead; the new program's turn.
    pub(super) fn take_over(&mut self) {
        let Some(Upgrade::Checking {
            program,
            candidate,
            version,
            ..
        }) = self.upgrade.take()
        else {
            return self.start_worker();
        };
        let old = std::mem::replace(&mut self.program, program);
        self.upgrade = Some(Upgrade::TakingOver {
            old,
            deadline: Instant::now() + TAKE_OVER_DEADLINE + self.allowance(),
        });
        self.down_since.get_or_insert_with(Instant::now);
        self.restarts.forgive();
        self.status.state = DaemonState::Recovering;
        self.status.failure = None;
        self.worker = Some(Serving::new(candidate, version));
        if let Some(operation) = &mut self.status.operation {
            operation.state = OperationState::Recovering;
        }
        self.send_start();
    }

    /// Every connection is served again.
    pub(super) fn operation_resumed(&mut self, pause_ms: u64) {
        if matches!(self.upgrade, Some(Upgrade::TakingOver { .. })) {
            self.upgrade = None;
            self.status.upgrades += 1;
        }
        if let Some(operation) = &mut self.status.operation {
            let under_way = matches!(
                operation.state,
                OperationState::Ending | OperationState::Recovering
            );
            if under_way {
                // A reason is there if it was rolled back.
                if operation.reason.is_some() {
                    operation.state = OperationState::RolledBack;
                } else {
                    operation.state = OperationState::Done;
                    let worker = self.worker.as_ref();
                    operation.new_version = worker.map(|worker| worker.version.clone());
                }
            }
            operation.pause_ms.get_or_insert(pause_ms);
        }
    }

    /// The new program is not started; the old worker has not noticed.
    fn refuse(&mut self, reason: String) {
        self.upgrade = None;
        self.note(OperationState::Failed, Some(reason));
    }

    /// The new program took over and is not fit to: ends it. The rest follows from its death.
    pub(super) fn refuse_take_over(&mut self, reason: &str) {
        self.roll_back(reason);
        self.end_worker(EndCause::NotReady);
    }

    /// Goes back to the old program, if one is being replaced. The new one is dead, or about to be.
    pub(super) fn roll_back(&mut self, reason: &str) -> bool {
        match self.upgrade.take() {
            Some(Upgrade::TakingOver { old, .. }) => {
                self.program = old;
                self.note(OperationState::Recovering, Some(reason.to_owned()));
                true
            }
            other => {
                self.upgrade = other;
                false
            }
        }
    }

    /// Notes how the operation goes, and tells those who ask.
    fn note(&mut self, state: OperationState, reason: Option<String>) {
        if let Some(operation) = &mut self.status.operation {
            tracing::info!(id = operation.id, ?state, reason, "an admin's operation");
            operation.state = state;
            operation.reason = reason;
        }
        self.tell_status();
    }
}
