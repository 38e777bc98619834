// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Tasks: what an administrator asked of the tiers and what takes a while.
//!
//! The daemon answers with a number, works in the background, and is asked how far it is. Tasks belong
//! to the worker that took them on: one that follows a worker's end knows none of the earlier ones,
//! though it goes on with a drain or a resize that had begun.

use serde::{Deserialize, Serialize};

use crate::Schema;
use crate::words::words;

/// Answer to `GET /v1/tasks`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskList {
    /// Version of this layout.
    pub schema: Schema,
    /// Those under way, and the last ones that ended; in order of number.
    pub tasks: Vec<TaskStatus>,
}

/// Answer to `GET /v1/tasks/{id}`; with HTTP status 202 to a request that began one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskDetail {
    /// Version of this layout.
    pub schema: Schema,
    /// The task.
    pub task: TaskStatus,
}

/// How far a task is, or how it ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskStatus {
    /// Its number, from 1, rising from the worker's start.
    pub id: u64,
    /// What is done.
    pub kind: TaskKind,
    /// The tier, guest or store that it is done to.
    pub subject: String,
    /// Whether it goes on.
    pub state: TaskState,
    /// Pages that it has dealt with.
    pub done_pages: u64,
    /// Pages that there are to deal with, as far as it is known; it may change on the way.
    pub total_pages: u64,
    /// Why it failed or did less than was asked for, a sentence; absent otherwise.
    pub reason: Option<String>,
    /// How long it has taken so far, in ms.
    pub took_ms: u64,
}

words! {
    /// What a task does.
    TaskKind {
        /// Brings a tier to another size.
        Resize = "resize",
        /// Moves all pages out of a tier.
        Drain = "drain",
        /// Frees memory of a guest.
        Reclaim = "reclaim",
        /// Copies all pages of a store to others.
        StoreDrain = "store_drain",
        /// Gives every page on stores its number of copies.
        Repair = "repair",
    }
}

words! {
    /// Whether a task goes on.
    TaskState {
        /// It does.
        Running = "running",
        /// It has ended; [`TaskStatus::reason`] says whether it did less than was asked for.
        Done = "done",
        /// It was called off by another request.
        Cancelled = "cancelled",
        /// It cannot go on.
        Failed = "failed",
    }
}

impl TaskState {
    /// Whether no other state follows.
    #[must_use]
    pub const fn is_final(self) -> bool {
        !matches!(self, Self::Running)
    }
}

impl TaskStatus {
    /// How far it is, in percent, rounded down. A task with nothing to do is wholly done.
    #[must_use]
    pub fn percent(&self) -> u8 {
        let (done, total) = (u128::from(self.done_pages), u128::from(self.total_pages));
        let percent = (done * 100).checked_div(total).unwrap_or(100).min(100);
        u8::try_from(percent).unwrap_or(100)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percents_are_rounded_down_and_never_beyond_100() {
        let percent = |done_pages, total_pages| {
            let task = TaskStatus {
                id: 1,
                kind: TaskKind::Drain,
                subject: "pm".into(),
                state: TaskState::Running,
                done_pages,
                total_pages,
                reason: None,
                took_ms: 0,
            };
            task.percent()
        };
        assert_eq!((percent(0, 7), percent(999, 1000)), (0, 99));
        assert_eq!(
            (percent(7, 7), percent(9, 7), percent(0, 0)),
            (100, 100, 100)
        );
        assert_eq!(percent(u64::MAX / 2, u64::MAX), 49);
    }
}
