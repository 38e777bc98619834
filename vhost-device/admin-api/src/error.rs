// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The body of every answer that is not a success.

use serde::{Deserialize, Serialize};

use crate::Schema;
use crate::words::words;

/// Why a request was not answered. Goes with an HTTP status of 400 or more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorAnswer {
    /// Version of this layout.
    pub schema: Schema,
    /// For programs.
    pub code: ErrorCode,
    /// For people: what was asked, of what, and why it failed.
    pub message: String,
    /// What to do next; may be empty.
    pub hint: String,
}

words! {
    /// Kinds of failure that a program may want to tell apart.
    ErrorCode {
        /// 400: not a request of this API.
        BadRequest = "bad_request",
        /// 403: the caller is not one of those whom the daemon answers.
        Forbidden = "forbidden",
        /// 404: the path names no such thing.
        NotFound = "not_found",
        /// 404: no guest has this name.
        NoSuchGuest = "no_such_guest",
        /// 405: the path exists, the method on it does not.
        MethodNotAllowed = "method_not_allowed",
        /// 409: another operation on the daemon is under way.
        OperationUnderWay = "operation_under_way",
        /// 409: the daemon runs as one process, without a keeper to carry the operation out.
        NoKeeper = "no_keeper",
        /// 422: the daemon refused what was asked, before anything was changed.
        Refused = "refused",
        /// 422: a text that the daemon reads, such as a link's settings, is not one that it understands.
        BadText = "bad_text",
        /// 404: the daemon has no tier of this name.
        NoSuchTier = "no_such_tier",
        /// 404: the daemon has no store of this name.
        NoSuchStore = "no_such_store",
        /// 404: there is no policy of this name.
        NoSuchPolicy = "no_such_policy",
        /// 404: the worker knows no task of this number.
        NoSuchTask = "no_such_task",
        /// 409: the daemon is not set up for it.
        NotAvailable = "not_available",
        /// 409: a task is under way that the request would get in the way of.
        TaskUnderWay = "task_under_way",
        /// 500: the daemon tried and failed.
        Failed = "failed",
        /// 413: the body is larger than any request of this API.
        TooLarge = "too_large",
        /// 503: too many callers at a time.
        Busy = "busy",
        /// 503: the daemon has failed and serves no guest; only what is about itself is answered.
        NotServing = "not_serving",
        /// 503: the keeper does not answer the worker.
        KeeperSilent = "keeper_silent",
    }
}
