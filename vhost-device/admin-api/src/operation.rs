// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Operations on the daemon itself. They end the worker that accepts them, so they are answered
//! before they begin, and followed over new connections, which the next worker answers.

use serde::{Deserialize, Serialize};

use crate::Schema;
use crate::words::words;

/// What an administrator may ask of the keeper.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum DaemonOperation {
    /// Replace the worker by one of another program, or of the same file as it is now.
    Upgrade {
        /// Absolute path of the program; the keeper's own one if absent.
        binary: Option<String>,
    },
    /// Replace the worker by a fresh one of the same program. Leaves the failed state.
    Restart,
}

impl DaemonOperation {
    /// Which of them.
    #[must_use]
    pub const fn kind(&self) -> OperationKind {
        match self {
            Self::Upgrade { .. } => OperationKind::Upgrade,
            Self::Restart => OperationKind::Restart,
        }
    }
}

/// Body of `POST /v1/daemon/upgrade`. No body is the same as `{}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UpgradeRequest {
    /// Absolute path of the program; the one that the daemon was started from if absent.
    pub binary: Option<String>,
}

/// Answer to `POST /v1/daemon/upgrade` and `POST /v1/daemon/restart`, with HTTP status 202.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationAccepted {
    /// Version of this layout.
    pub schema: Schema,
    /// The operation's number, above those of all operations before.
    pub id: u64,
}

/// Answer to `GET /v1/daemon/operation`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationDetail {
    /// Version of this layout.
    pub schema: Schema,
    /// The last operation asked for; absent if there was none since the keeper's start.
    pub operation: Option<OperationStatus>,
}

/// How far an operation is, or how it ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationStatus {
    /// Its number: from 1, rising.
    pub id: u64,
    /// What was asked for.
    pub kind: OperationKind,
    /// How far it is.
    pub state: OperationState,
    /// Why it was rolled back or failed; absent otherwise.
    pub reason: Option<String>,
    /// Version of the worker that served before; absent if none did.
    pub old_version: Option<String>,
    /// Version of the worker that serves, or was to serve, afterwards; absent until it is known.
    pub new_version: Option<String>,
    /// How long guests waited, in ms; absent until they are served again.
    pub pause_ms: Option<u64>,
}

words! {
    /// Which operation.
    OperationKind {
        /// [`DaemonOperation::Upgrade`].
        Upgrade = "upgrade",
        /// [`DaemonOperation::Restart`].
        Restart = "restart",
    }
}

words! {
    /// How far an operation is.
    OperationState {
        /// Whether the new program can take over is being found out. Guests are served.
        Checking = "checking",
        /// The old worker is being ended. From here on guests wait.
        Ending = "ending",
        /// The new worker recovers the pages and takes the queues over.
        Recovering = "recovering",
        /// The new worker serves guests.
        Done = "done",
        /// The old program serves guests: the new one was refused, or not ready in time.
        RolledBack = "rolled_back",
        /// Nobody serves guests, or what was asked for could not be begun.
        Failed = "failed",
    }
}

impl OperationState {
    /// Whether no other state follows.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Done | Self::RolledBack | Self::Failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_come_back_as_they_were_sent() {
        let upgrade = DaemonOperation::Upgrade {
            binary: Some("/opt/tmem/worker".into()),
        };
        for (operation, text) in [
            (upgrade, r#"{"kind":"upgrade","binary":"/opt/tmem/worker"}"#),
            (
                DaemonOperation::Upgrade { binary: None },
                r#"{"kind":"upgrade","binary":null}"#,
            ),
            (DaemonOperation::Restart, r#"{"kind":"restart"}"#),
        ] {
            assert_eq!(serde_json::to_string(&operation).unwrap(), text);
            assert_eq!(
                serde_json::from_str::<DaemonOperation>(text).unwrap(),
                operation
            );
        }
    }

    #[test]
    fn an_upgrade_with_a_misspelt_field_is_not_read() {
        assert!(serde_json::from_str::<UpgradeRequest>(r#"{"binray": "/x"}"#).is_err());
        assert_eq!(
            serde_json::from_str::<UpgradeRequest>("{}").unwrap().binary,
            None
        );
    }

    #[test]
    fn three_states_are_final() {
        let last: Vec<_> = OperationState::ALL
            .iter()
            .filter(|state| state.is_final())
            .collect();
        let words: Vec<_> = last.iter().map(|state| state.as_str()).collect();
        assert_eq!(words, ["done", "rolled_back", "failed"]);
    }
}
