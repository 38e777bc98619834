// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Paths to answers.

use std::sync::Arc;

use axum::body::HttpBody;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Path, Query, Request, State};
use axum::http::{StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Deserialize;
use tmem_admin_api::{
    DaemonState, DaemonStatus, ErrorAnswer, ErrorCode, GuestDetail, GuestList, PoolList, Schema,
    Stats, Status, path,
};

use super::{balloons, links, metrics, operations, quotas, stores, tiers};
use crate::status::AdminSource;

/// The largest body that is put up with: a path of the longest kind, escaped, in a little JSON.
const BODY_BYTES_MAX: u16 = 8192;

pub(super) type Source = Arc<dyn AdminSource>;

pub(super) fn router(source: Source) -> Router {
    let about_guests = Router::new()
        .route(path::GUESTS, get(guests))
        .route(&format!("{}/{{name}}", path::GUESTS), get(guest))
        .route(path::POOLS, get(pools))
        .route(path::STATS, get(stats))
        .merge(tiers::router())
        .merge(quotas::router())
        .merge(links::router())
        .merge(stores::router())
        .merge(balloons::router())
        .route_layer(middleware::from_fn_with_state(Arc::clone(&source), serving));
    Router::new()
        .route(path::STATUS, get(status))
        .merge(about_guests)
        .merge(operations::router())
        .route(path::METRICS, get(prometheus))
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX.into()))
        .layer(middleware::from_fn(bound_body))
        .with_state(source)
}

/// An answer that is not a success.
#[derive(Debug)]
pub(super) struct Failure(
    pub(super) StatusCode,
    pub(super) ErrorCode,
    pub(super) String,
    pub(super) &'static str,
);

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let Self(status, code, message, hint) = self;
        let answer = ErrorAnswer {
            schema: Schema,
            code,
            message,
            hint: hint.into(),
        };
        (status, Json(answer)).into_response()
    }
}

impl Failure {
    pub(super) fn no_such_guest(name: &str) -> Self {
        Self(
            StatusCode::NOT_FOUND,
            ErrorCode::NoSuchGuest,
            format!("no guest is named {name:?}"),
            "`tmemctl guest list` shows the guests",
        )
    }

    pub(super) fn bad_query(message: String) -> Self {
        Self(
            StatusCode::BAD_REQUEST,
            ErrorCode::BadRequest,
            message,
            "pools and stats take `?guest=NAME`, nothing else takes a query",
        )
    }

    pub(super) fn too_large() -> Self {
        Self(
            StatusCode::PAYLOAD_TOO_LARGE,
            ErrorCode::TooLarge,
            format!("the request has a body of more than {BODY_BYTES_MAX} bytes"),
            "send none, or what the path takes; the page about tmemctl says what that is",
        )
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct GuestFilter {
    guest: Option<String>,
}

/// Refuses a body that is announced as too long before any of it is read.
async fn bound_body(request: Request, next: Next) -> Response {
    if request.body().size_hint().lower() > BODY_BYTES_MAX.into() {
        return Failure::too_large().into_response();
    }
    next.run(request).await
}

/// Keeps questions about guests from a source that knows none, so that nobody takes its silence for
/// an answer.
async fn serving(State(source): State<Source>, request: Request, next: Next) -> Response {
    let daemon = source.daemon();
    if daemon.state != DaemonState::Failed {
        return next.run(request).await;
    }
    Failure(
        StatusCode::SERVICE_UNAVAILABLE,
        ErrorCode::NotServing,
        format!(
            "the daemon has failed and cannot tell about guests{}",
            daemon
                .failure
                .map(|why| format!(": {why}"))
                .unwrap_or_default()
        ),
        DaemonStatus::FAILED_HINT,
    )
    .into_response()
}

async fn status(State(source): State<Source>) -> Json<Status> {
    Json(source.status())
}

async fn guests(State(source): State<Source>) -> Json<GuestList> {
    Json(GuestList {
        schema: Schema,
        guests: source.guests(),
    })
}

async fn guest(
    State(source): State<Source>,
    name: Result<Path<String>, PathRejection>,
) -> Result<Json<GuestDetail>, Failure> {
    let Path(name) = name.map_err(|error| Failure::bad_query(error.body_text()))?;
    guest_detail(&source, &name)
}

/// A guest and its pools.
pub(super) fn guest_detail(source: &Source, name: &str) -> Result<Json<GuestDetail>, Failure> {
    let found = source.guest(name).zip(source.pools(name));
    let (guest, pools) = found.ok_or_else(|| Failure::no_such_guest(name))?;
    Ok(Json(GuestDetail {
        schema: Schema,
        guest,
        pools,
    }))
}

async fn pools(
    State(source): State<Source>,
    filter: Result<Query<GuestFilter>, QueryRejection>,
) -> Result<Json<PoolList>, Failure> {
    let pools = of_guests(&source, filter, |name| source.pools(name))?;
    Ok(Json(PoolList {
        schema: Schema,
        pools: pools.into_iter().flatten().collect(),
    }))
}

async fn stats(
    State(source): State<Source>,
    filter: Result<Query<GuestFilter>, QueryRejection>,
) -> Result<Json<Stats>, Failure> {
    let guests = of_guests(&source, filter, |name| source.stats(name))?;
    Ok(Json(Stats {
        schema: Schema,
        uptime_ns: source.uptime_ns(),
        guests,
    }))
}

/// What `ask` says of the guest that the query names, or of every guest. A guest that goes away
/// between being listed and being asked about is left out.
fn of_guests<T>(
    source: &Source,
    filter: Result<Query<GuestFilter>, QueryRejection>,
    ask: impl Fn(&str) -> Option<T>,
) -> Result<Vec<T>, Failure> {
    let Query(filter) = filter.map_err(|error| Failure::bad_query(error.body_text()))?;
    match filter.guest {
        Some(name) => match ask(&name) {
            Some(answer) => Ok(vec![answer]),
            None => Err(Failure::no_such_guest(&name)),
        },
        None => Ok(source
            .guests()
            .iter()
            .filter_map(|guest| ask(&guest.name))
            .collect()),
    }
}

async fn prometheus(State(source): State<Source>) -> impl IntoResponse {
    let text = metrics::render(source.as_ref());
    (
        [(
            header::CONTENT_TYPE,
            "text/plain; version=0.0.4; charset=utf-8",
        )],
        text,
    )
}

async fn no_such_path(uri: Uri) -> Failure {
    Failure(
        StatusCode::NOT_FOUND,
        ErrorCode::NotFound,
        format!("this API has no path {:?}", uri.path()),
        "paths are /v1/status, /v1/guests, /v1/guests/NAME, /v1/pools, /v1/stats, /v1/tiers, \
         /v1/tiers/NAME, /v1/stores, /v1/stores/NAME, /v1/tasks, /v1/tasks/ID, /v1/policies, \
         /v1/links, /v1/balloons, /v1/guests/NAME/balloon, /v1/daemon, /v1/daemon/operation, /metrics, and those that take a POST",
    )
}

async fn no_such_method(request: Request) -> Failure {
    Failure(
        StatusCode::METHOD_NOT_ALLOWED,
        ErrorCode::MethodNotAllowed,
        format!(
            "{} is not a method of {:?}",
            request.method(),
            request.uri().path()
        ),
        "use GET to look, POST to change; the page about tmemctl says which paths change what",
    )
}
