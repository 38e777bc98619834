// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What can go wrong, how it is told, and which exit code it gives.

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;
use tmem_admin_api::{
    ErrorAnswer, OperationKind, OperationState, OperationStatus, Schema, TaskState, TaskStatus,
};

/// Exit codes.
pub mod exit {
    /// Done.
    pub const OK: u8 = 0;
    /// The daemon said no, or its answer could not be used.
    pub const FAILED: u8 = 1;
    /// Wrong usage; mostly clap's.
    pub const USAGE: u8 = 2;
    /// No daemon answers.
    pub const UNREACHABLE: u8 = 3;
    /// `status`, `daemon show`, `store list` and `store show`: the daemon, or the store, is degraded.
    pub const DEGRADED: u8 = 4;
}

/// A failure of `tmemctl`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing accepts connections on the socket, or not ours.
    #[error("cannot reach the daemon at {}", socket.display())]
    Unreachable {
        /// Where.
        socket: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Connected, and then nothing.
    #[error("the daemon at {} did not answer within {time:?}", socket.display())]
    Timeout {
        /// Where.
        socket: PathBuf,
        /// How long it was given.
        time: Duration,
    },
    /// The conversation broke off, or was not HTTP.
    #[error("the connection to {} failed before an answer came", socket.display())]
    Connection {
        /// Where.
        socket: PathBuf,
        /// Why.
        source: hyper::Error,
    },
    /// The daemon refused, with a reason.
    #[error("{}", .0.message)]
    Refused(ErrorAnswer),
    /// The daemon refused, and the reason is not one that this version understands.
    #[error("the daemon answered {path} with HTTP status {status}")]
    Status {
        /// What was asked.
        path: String,
        /// HTTP status code.
        status: u16,
    },
    /// The answer is longer than any that makes sense, or broke off.
    #[error("the daemon's answer to {path} could not be received")]
    Body {
        /// What was asked.
        path: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The answer is not of the layout that this version reads.
    #[error("the daemon's answer to {path} is not one that this tmemctl can read")]
    Unreadable {
        /// What was asked.
        path: String,
        /// Why.
        source: serde_json::Error,
    },
    /// The request could not be written as JSON.
    #[error("cannot write the request")]
    Request(#[source] serde_json::Error),
    /// An operation ended otherwise than was asked for.
    #[error("{}", unsuccessful(.0))]
    Operation(OperationStatus),
    /// An operation's end was not heard of in time.
    #[error(
        "the {} has not ended within {seconds} s{}",
        kind.as_str(),
        state.map(|state| format!("; last seen: {state}")).unwrap_or_default()
    )]
    Deadline {
        /// What was asked for.
        kind: OperationKind,
        /// How long it was given.
        seconds: u64,
        /// How far it was, if anything was heard.
        state: Option<&'static str>,
        /// Why nothing newer is known, if the daemon could not be asked.
        source: Option<Box<Error>>,
    },
    /// Another operation took the place of the one waited for before its end was heard of.
    #[error("how the {} ended is not known: operation {id} was begun meanwhile", kind.as_str())]
    Overtaken {
        /// What was asked for.
        kind: OperationKind,
        /// The other one's number.
        id: u64,
    },
    /// A task ended otherwise than was asked for.
    #[error("the {} of {} {}{}", .0.kind.as_str(), .0.subject, ended(.0.state), because(.0))]
    Task(TaskStatus),
    /// A task's end was not heard of in time.
    #[error(
        "the {} of {} has not ended within {seconds} s; last seen: {} %",
        task.kind.as_str(), task.subject, task.percent()
    )]
    TaskDeadline {
        /// As it was last seen.
        task: TaskStatus,
        /// How long it was given.
        seconds: u64,
        /// Why nothing newer is known, if the daemon could not be asked.
        source: Option<Box<Error>>,
    },
    /// A balloon is not as large as it shall be, and was waited for.
    #[error("the balloon of {guest} holds {held} of {target}: {reason}")]
    Balloon {
        /// Whose.
        guest: String,
        /// What it holds.
        held: String,
        /// What it shall hold.
        target: String,
        /// Why it does not.
        reason: String,
    },
    /// The worker that knew a task has ended.
    #[error(
        "how the {} of {} ends is not known: another worker has followed the one that took it on",
        task.kind.as_str(), task.subject
    )]
    TaskLost {
        /// As it was last seen.
        task: TaskStatus,
    },
    /// Words that make no request together.
    #[error("{0}")]
    Usage(String),
    /// The name of a store's host cannot be looked up.
    #[error("cannot look up {name}")]
    Host {
        /// The name.
        name: String,
        /// What the system said.
        source: io::Error,
    },
    /// No runtime for the conversation.
    #[error("cannot set up the connection's event loop")]
    Runtime(#[source] io::Error),
    /// A file could not be written.
    #[error("cannot write {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Stdout failed.
    #[error("cannot write the output")]
    Output(#[source] io::Error),
}

/// What became of an operation that was rolled back or failed.
fn unsuccessful(operation: &OperationStatus) -> String {
    use std::fmt::Write;
    let mut text = format!("the {}", operation.kind.as_str());
    // Writing to a String cannot fail.
    if let Some(old) = &operation.old_version {
        let _ = write!(text, " from {old}");
    }
    if let Some(new) = &operation.new_version {
        let _ = write!(text, " to {new}");
    }
    text.push_str(match operation.state {
        OperationState::RolledBack => " was rolled back",
        _ => " failed",
    });
    if let Some(reason) = &operation.reason {
        let _ = write!(text, ": {reason}");
    }
    if let Some(pause_ms) = operation.pause_ms {
        let _ = write!(text, "; guests waited {pause_ms} ms");
    }
    text
}

fn ended(state: TaskState) -> &'static str {
    match state {
        TaskState::Cancelled => "was called off",
        _ => "failed",
    }
}

fn because(task: &TaskStatus) -> String {
    let reason = task.reason.as_ref();
    reason
        .map(|reason| format!(": {reason}"))
        .unwrap_or_default()
}

/// An error with `--json`. The same fields as the daemon's own errors, with codes of ours besides.
#[derive(Serialize)]
struct Report<'a> {
    schema: Schema,
    code: &'a str,
    message: &'a str,
    hint: &'a str,
}

impl Error {
    /// The program's exit code.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Unreachable { .. } | Self::Timeout { .. } => exit::UNREACHABLE,
            Self::Deadline {
                source: Some(source),
                ..
            }
            | Self::TaskDeadline {
                source: Some(source),
                ..
            } => source.exit_code(),
            Self::Usage(_) => exit::USAGE,
            _ => exit::FAILED,
        }
    }

    /// Whether the daemon was there and hung up, as a worker does that is ended.
    pub(crate) fn broke_off(&self) -> bool {
        match self {
            Self::Connection { source, .. } => !source.is_parse(),
            Self::Body { .. } => true,
            _ => false,
        }
    }

    /// A word for programs.
    fn code(&self) -> &'static str {
        match self {
            Self::Unreachable { .. } => "unreachable",
            Self::Timeout { .. } => "timeout",
            Self::Connection { .. } | Self::Body { .. } => "connection_failed",
            Self::Refused(answer) => answer.code.as_str(),
            Self::Status { .. } | Self::Unreadable { .. } => "unreadable_answer",
            Self::Operation(operation) => match operation.state {
                OperationState::RolledBack => "rolled_back",
                _ => "operation_failed",
            },
            Self::Deadline { .. } => "deadline",
            Self::Overtaken { .. } => "overtaken",
            Self::Task(task) => match task.state {
                TaskState::Cancelled => "task_cancelled",
                _ => "task_failed",
            },
            Self::TaskDeadline { .. } => "deadline",
            Self::TaskLost { .. } => "task_lost",
            Self::Balloon { .. } => "balloon_short",
            Self::Usage(_) => "usage",
            Self::Host { .. } => "unknown_host",
            Self::Request(_) | Self::Runtime(_) | Self::File { .. } | Self::Output(_) => "local",
        }
    }

    /// What to do next; may be empty.
    fn hint(&self) -> &str {
        match self {
            Self::Operation(operation) => match operation.state {
                OperationState::RolledBack => {
                    "the version before serves guests again; the daemon's log says more"
                }
                _ => "`tmemctl daemon show` tells whether guests are served, and what to do",
            },
            Self::Deadline { .. } | Self::Overtaken { .. } => {
                "it may still go on: `tmemctl daemon show` tells"
            }
            Self::Task(_) | Self::TaskDeadline { .. } | Self::TaskLost { .. } => {
                "`tmemctl tier show`, `guest show` and `store show` tell how things are"
            }
            Self::Balloon { .. } => {
                "the target stays; `tmemctl balloon show GUEST` tells more, `balloon set GUEST max` ends it"
            }
            Self::Usage(_) => "--help shows examples",
            Self::Host { .. } => "give the store's IP address in its place",
            Self::Unreachable { source, .. } => match source.kind() {
                io::ErrorKind::PermissionDenied => {
                    "run as root, or join the group that the daemon's configuration names for its \
                     admin socket and log in again"
                }
                io::ErrorKind::ConnectionRefused => {
                    "the daemon that made this socket has ended; start it, for example with \
                     `systemctl start vhost-device-tmem`"
                }
                _ => {
                    "start the daemon, for example with `systemctl start vhost-device-tmem`, or \
                     name its socket with --socket or TMEM_ADMIN_SOCKET"
                }
            },
            Self::Timeout { .. } => {
                "look at the daemon's log, for example with `journalctl -u vhost-device-tmem`"
            }
            Self::Connection { .. } => {
                "check that --socket names the admin socket, not a guest's vhost-user socket"
            }
            Self::Refused(answer) => &answer.hint,
            Self::Status { .. } | Self::Unreadable { .. } => {
                "compare `tmemctl --version` with the daemon's; they should be of one release"
            }
            Self::Body { .. } => "try again",
            Self::Request(_) | Self::Runtime(_) | Self::File { .. } | Self::Output(_) => "",
        }
    }

    /// The message and, behind it, each cause's.
    fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }

    /// Tells a person, or with `json` a program.
    pub(crate) fn report(&self, err: &mut dyn Write, json: bool) -> io::Result<()> {
        let message = self.chain();
        let hint = self.hint();
        if json {
            let report = Report {
                schema: Schema,
                code: self.code(),
                message: &message,
                hint,
            };
            serde_json::to_writer(&mut *err, &report)?;
            return writeln!(err);
        }
        writeln!(err, "tmemctl: {message}")?;
        if !hint.is_empty() {
            writeln!(err, "hint: {hint}")?;
        }
        Ok(())
    }
}
