// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The daemon's processes, and operations on them.
//!
//! An operation ends the process that accepts it. So it is answered with 202 and a number as soon
//! as the keeper has taken it on, and its caller asks over new connections how far it is.

use std::path::Path;

use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use tmem_admin_api::{
    DaemonDetail, DaemonOperation, ErrorCode, OperationAccepted, OperationDetail, Schema,
    UpgradeRequest, path,
};

use super::body::read;
use super::router::{Failure, Source};
use crate::status::RequestError;

/// What an upgrade takes.
const HINT: &str = "send no body, or `{\"binary\": PATH}` with an absolute path";

pub(super) fn router() -> Router<Source> {
    Router::new()
        .route(path::DAEMON, get(daemon))
        .route(path::OPERATION, get(operation))
        .route(path::UPGRADE, post(upgrade))
        .route(path::RESTART, post(restart))
}

async fn daemon(State(source): State<Source>) -> Json<DaemonDetail> {
    Json(DaemonDetail {
        schema: Schema,
        daemon: source.daemon(),
    })
}

async fn operation(State(source): State<Source>) -> Json<OperationDetail> {
    Json(OperationDetail {
        schema: Schema,
        operation: source.daemon().operation,
    })
}

async fn upgrade(
    State(source): State<Source>,
    body: Result<Bytes, BytesRejection>,
) -> Result<(StatusCode, Json<OperationAccepted>), Failure> {
    let UpgradeRequest { binary } = read(body, HINT)?;
    if let Some(path) = &binary
        && !Path::new(path).is_absolute()
    {
        let message = format!("{path:?} is not an absolute path");
        return Err(Failure::bad_request(message, HINT));
    }
    begin(&source, &DaemonOperation::Upgrade { binary })
}

async fn restart(
    State(source): State<Source>,
) -> Result<(StatusCode, Json<OperationAccepted>), Failure> {
    begin(&source, &DaemonOperation::Restart)
}

fn begin(
    source: &Source,
    operation: &DaemonOperation,
) -> Result<(StatusCode, Json<OperationAccepted>), Failure> {
    let kind = operation.kind().as_str();
    match source.request(operation) {
        Ok(id) => {
            tracing::info!(id, ?operation, "taken on by the keeper");
            let accepted = OperationAccepted { schema: Schema, id };
            Ok((StatusCode::ACCEPTED, Json(accepted)))
        }
        Err(error) => {
            tracing::warn!(?operation, %error, "not taken on");
            Err(refusal(kind, &error))
        }
    }
}

fn refusal(kind: &str, error: &RequestError) -> Failure {
    let (status, code, hint) = match error {
        RequestError::NoKeeper => (
            StatusCode::CONFLICT,
            ErrorCode::NoKeeper,
            "stop and start it, with `systemctl restart vhost-device-tmem` for example; guests \
             lose their device then",
        ),
        RequestError::UnderWay { .. } => (
            StatusCode::CONFLICT,
            ErrorCode::OperationUnderWay,
            "wait until it has ended; `tmemctl daemon show` tells how far it is",
        ),
        RequestError::Refused { .. } => (
            StatusCode::UNPROCESSABLE_ENTITY,
            ErrorCode::Refused,
            "nothing was changed; mend what the message says and ask again",
        ),
        RequestError::Silent(_) => (
            StatusCode::SERVICE_UNAVAILABLE,
            ErrorCode::KeeperSilent,
            "look at the daemon's log; `tmemctl daemon show` tells whether anything was begun",
        ),
    };
    let source = std::error::Error::source(error).map(|source| format!(": {source}"));
    let message = format!("cannot {kind}: {error}{}", source.unwrap_or_default());
    Failure(status, code, message, hint)
}
