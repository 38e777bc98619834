// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The daemon's processes: a keeper that stays, and workers that come and go.
//!
//! The keeper holds what guests must not lose and starts a new worker when one ends. It also tells
//! each worker these figures, because the worker is who answers. Keeper and worker may be of
//! different versions for a while, so every field may be absent when it is read.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::words::words;
use crate::{OperationStatus, Schema};

/// Answer to `GET /v1/daemon`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DaemonDetail {
    /// Version of this layout.
    pub schema: Schema,
    /// The processes.
    pub daemon: DaemonStatus,
}

/// The daemon's processes and what happened to them. Times are of the host's clock, in ms since
/// 1970; ages are their distances from `now_unix_ms`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DaemonStatus {
    /// When this was told.
    pub now_unix_ms: u64,
    /// Whether guests are served.
    pub state: DaemonState,
    /// Why `state` is `failed`, a sentence; absent otherwise.
    pub failure: Option<String>,
    /// The process that stays. Absent where the daemon runs as one process.
    pub keeper: Option<ProcessStatus>,
    /// The process that serves guests, absent while none does; or, while `state` is `failed`, the one
    /// that answers administrators alone.
    pub worker: Option<ProcessStatus>,
    /// Workers that ended and were followed by another, by cause; causes that never occurred may
    /// be absent. Since the keeper's start, like all that follows.
    pub restarts: BTreeMap<EndCause, u64>,
    /// How the last worker ended; absent while the first one runs.
    pub last_end: Option<WorkerEnd>,
    /// What the last worker found when it started; absent if none has been ready.
    pub last_recovery: Option<Recovery>,
    /// How long guests waited the last time that a worker followed another, in ms.
    pub last_pause_ms: Option<u64>,
    /// The longest of these times, in ms.
    pub longest_pause_ms: Option<u64>,
    /// Upgrades that were carried through.
    pub upgrades: u64,
    /// The last operation asked for, which may still be under way.
    pub operation: Option<OperationStatus>,
}

words! {
    /// Whether guests are served.
    #[derive(Default)]
    DaemonState {
        /// They are.
        #[default]
        Running = "running",
        /// Not yet again: a new worker is being started. Guests wait.
        Recovering = "recovering",
        /// No more: workers ended again and again, and no other is started until an administrator
        /// says so. Guests wait, and their pages are kept.
        Failed = "failed",
    }
}

words! {
    /// Why a worker ended.
    EndCause {
        /// A signal killed it that the keeper did not send.
        Signal = "signal",
        /// It ended by itself.
        Exit = "exit",
        /// It showed no sign of life, and the keeper killed it.
        Hung = "hung",
        /// It was not ready to serve in time after its start, and the keeper killed it.
        NotReady = "not_ready",
        /// An upgrade replaced it.
        Upgrade = "upgrade",
        /// An administrator asked for a restart.
        Restart = "restart",
        /// A cause that this version has no word for.
        #[serde(other)]
        Other = "other",
    }
}

/// One of the daemon's processes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessStatus {
    /// Process id.
    pub pid: u32,
    /// Version of its program.
    pub version: String,
    /// When it was started.
    pub started_unix_ms: u64,
    /// What fences it in, in the order in which it was put up; empty without a sandbox.
    pub sandbox: Vec<SandboxLayer>,
}

/// One means of keeping a process from what it does not need.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SandboxLayer {
    /// Such as `seccomp`.
    pub name: String,
    /// Whether it is in force.
    pub on: bool,
    /// Why it is off; of a layer that is on, what it does not cover. May be absent.
    pub reason: Option<String>,
}

/// The end of a worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerEnd {
    /// Why it ended.
    pub cause: EndCause,
    /// The signal's number for [`EndCause::Signal`], the exit code for [`EndCause::Exit`].
    pub code: Option<i32>,
    /// When.
    pub at_unix_ms: u64,
    /// Its process id.
    pub pid: u32,
    /// Its version.
    pub version: String,
}

/// What a worker found when it started, left there by the one before or by an earlier daemon.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Recovery {
    /// Pages found again, of all guests.
    pub pages: u64,
    /// How long it took to find them, in ms.
    pub took_ms: u64,
    /// When it was done.
    pub at_unix_ms: u64,
}

impl DaemonStatus {
    /// What to do about a daemon that has failed.
    pub const FAILED_HINT: &'static str = "mend the cause, which the daemon's log tells, then \
        `tmemctl daemon restart` or `tmemctl daemon upgrade`";

    /// The daemon's age in seconds, across restarts of its worker.
    #[must_use]
    pub fn uptime_seconds(&self) -> u64 {
        let oldest = self.keeper.as_ref().or(self.worker.as_ref());
        let started = oldest.map_or(self.now_unix_ms, |process| process.started_unix_ms);
        self.now_unix_ms.saturating_sub(started) / 1000
    }

    /// Restarts of all causes, those asked for included.
    #[must_use]
    pub fn restarts_total(&self) -> u64 {
        self.restarts.values().sum()
    }

    /// What is wrong with the processes, a sentence each; nothing when guests are served. They
    /// belong among the [`Status::reasons`](crate::Status::reasons).
    #[must_use]
    pub fn reasons(&self) -> Vec<String> {
        match self.state {
            DaemonState::Running => Vec::new(),
            DaemonState::Recovering => {
                vec!["no worker serves guests: a new one is being started".into()]
            }
            DaemonState::Failed => {
                let failure = self.failure.as_deref();
                vec![format!(
                    "no worker serves guests: {}",
                    failure.unwrap_or("the keeper has given up")
                )]
            }
        }
    }
}

impl WorkerEnd {
    /// The end in words, such as `killed by signal 9`.
    #[must_use]
    pub fn told(&self) -> String {
        match (self.cause, self.code) {
            (EndCause::Signal, Some(signal)) => format!("killed by signal {signal}"),
            (EndCause::Signal, None) => "killed by a signal".into(),
            (EndCause::Exit, Some(code)) => format!("exit code {code}"),
            (EndCause::Exit, None) => "ended by itself".into(),
            (EndCause::Hung, _) => "hung".into(),
            (EndCause::NotReady, _) => "not ready in time".into(),
            (EndCause::Upgrade, _) => "upgrade".into(),
            (EndCause::Restart, _) => "restart".into(),
            (EndCause::Other, _) => "a cause unknown to this version".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_version_says_is_read_as_far_as_it_is_known() {
        let newer = r#"{"state":"running","restarts":{"signal":2,"meteor":1},"moon":"full",
            "last_end":{"cause":"meteor","code":null,"at_unix_ms":5,"pid":7,"version":"9"}}"#;
        let read: DaemonStatus = serde_json::from_str(newer).unwrap();
        assert_eq!(read.restarts_total(), 3);
        assert_eq!(read.restarts[&EndCause::Other], 1);
        assert_eq!(read.last_end.unwrap().cause, EndCause::Other);
        let older: DaemonStatus = serde_json::from_str("{}").unwrap();
        assert_eq!(older, DaemonStatus::default());
    }

    #[test]
    fn the_status_comes_back_as_it_was_sent() {
        let status = DaemonStatus {
            state: DaemonState::Failed,
            failure: Some("10 workers ended in a row".into()),
            restarts: EndCause::ALL
                .iter()
                .zip(1..)
                .map(|(&c, n)| (c, n))
                .collect(),
            worker: Some(ProcessStatus {
                sandbox: vec![SandboxLayer::default()],
                ..ProcessStatus::default()
            }),
            ..DaemonStatus::default()
        };
        let text = serde_json::to_string(&status).unwrap();
        assert_eq!(serde_json::from_str::<DaemonStatus>(&text).unwrap(), status);
        assert!(text.contains(r#""not_ready":4"#), "{text}");
    }

    #[test]
    fn the_daemon_is_as_old_as_its_keeper() {
        let since = |started_unix_ms| {
            Some(ProcessStatus {
                started_unix_ms,
                ..ProcessStatus::default()
            })
        };
        let mut status = DaemonStatus {
            now_unix_ms: 9_999,
            keeper: since(1_000),
            worker: since(5_000),
            ..DaemonStatus::default()
        };
        assert_eq!(status.uptime_seconds(), 8);
        status.keeper = None;
        assert_eq!(status.uptime_seconds(), 4, "one process");
        status.now_unix_ms = 0;
        assert_eq!(status.uptime_seconds(), 0, "the clock was set back");
    }

    #[test]
    fn only_a_daemon_that_serves_nobody_gives_reasons() {
        let with = |state| DaemonStatus {
            state,
            failure: Some("too many ends".into()),
            ..DaemonStatus::default()
        };
        assert!(with(DaemonState::Running).reasons().is_empty());
        assert_eq!(with(DaemonState::Recovering).reasons().len(), 1);
        let failed = with(DaemonState::Failed).reasons();
        assert!(failed[0].ends_with(": too many ends"), "{failed:?}");
    }

    #[test]
    fn an_end_is_told_with_its_number() {
        let end = |cause, code| {
            let (at_unix_ms, pid, version) = (0, 1, "1".into());
            WorkerEnd {
                cause,
                code,
                at_unix_ms,
                pid,
                version,
            }
            .told()
        };
        assert_eq!(end(EndCause::Signal, Some(9)), "killed by signal 9");
        assert_eq!(end(EndCause::Exit, Some(1)), "exit code 1");
        assert_eq!(end(EndCause::Hung, None), "hung");
    }
}
