// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The body of every answer that is not a success.

use serde::{Deserialize, Serialize};

use crate::Schema;

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

/// Kinds of failure that a program may want to tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// 400: not a request of this API.
    BadRequest,
    /// 403: the caller is not one of those whom the daemon answers.
    Forbidden,
    /// 404: the path names no such thing.
    NotFound,
    /// 404: no guest has this name.
    NoSuchGuest,
    /// 405: the path exists, the method on it does not.
    MethodNotAllowed,
    /// 409: another operation on the daemon is under way.
    OperationUnderWay,
    /// 409: the daemon runs as one process, without a keeper to carry the operation out.
    NoKeeper,
    /// 422: the keeper refused the operation, before it began.
    Refused,
    /// 413: the body is larger than any request of this API.
    TooLarge,
    /// 503: too many callers at a time.
    Busy,
    /// 503: the daemon has failed and serves no guest; only what is about itself is answered.
    NotServing,
    /// 503: the keeper does not answer the worker.
    KeeperSilent,
}
