// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What is done to one guest: its limits, freezing, reclaim, policy and page trace.

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use tmem_admin_api::{
    GuestDetail, LimitsRequest, PolicyList, PolicyRequest, ReclaimRequest, Schema, TaskDetail,
    TraceDetail, TraceRequest, WEIGHT_MAX, path,
};

use super::body::{Answer, admin, guest, read, told};
use super::router::{Failure, Source, guest_detail};
use super::tiers::accepted;
use crate::config::is_name;
use crate::status::{TierAdmin, TierError};

type Name = Result<Path<String>, PathRejection>;
type Body = Result<Bytes, BytesRejection>;

pub(super) fn router() -> Router<Source> {
    let one = |action: &str| format!("{}/{{name}}/{action}", path::GUESTS);
    Router::new()
        .route(&one("limits"), post(limits))
        .route(&one("freeze"), post(freeze))
        .route(&one("thaw"), post(thaw))
        .route(&one("reclaim"), post(reclaim))
        .route(&one("policy"), post(policy))
        .route(&one("trace/start"), post(trace_start))
        .route(&one("trace/stop"), post(trace_stop))
        .route(path::POLICIES, get(policies))
}

async fn limits(State(source): State<Source>, name: Name, body: Body) -> Answer<Json<GuestDetail>> {
    let hint = "send one or more of `grant_pages`, `dram_cap_pages` (a number or \"none\"), \
                `weight` (1 to 10000) and `floor_pages`";
    let admin = admin(&source)?;
    let name = guest(&source, name)?;
    let limits: LimitsRequest = read(body, hint)?;
    if limits == LimitsRequest::default() {
        let message = "no limit is named".to_owned();
        return Err(Failure::bad_request(message, hint));
    }
    if let Some(weight) = limits.weight
        && !(1..=WEIGHT_MAX).contains(&weight)
    {
        let message = format!("a weight of {weight} is not possible");
        return Err(Failure::bad_request(message, hint));
    }
    told("limiting a guest", &name, admin.limit_guest(&name, &limits))?;
    guest_detail(&source, &name)
}

async fn freeze(State(source): State<Source>, name: Name) -> Answer<Json<GuestDetail>> {
    let admin = admin(&source)?;
    let name = guest(&source, name)?;
    told("freezing a guest", &name, admin.freeze_guest(&name))?;
    guest_detail(&source, &name)
}

async fn thaw(State(source): State<Source>, name: Name) -> Answer<Json<GuestDetail>> {
    let admin = admin(&source)?;
    let name = guest(&source, name)?;
    told("thawing a guest", &name, admin.thaw_guest(&name))?;
    guest_detail(&source, &name)
}

async fn reclaim(
    State(source): State<Source>,
    name: Name,
    body: Body,
) -> Answer<(StatusCode, Json<TaskDetail>)> {
    let hint = "send `{\"pages\": N}`, pages of 4096 bytes";
    let admin = admin(&source)?;
    let name = guest(&source, name)?;
    let ReclaimRequest { pages } = read(body, hint)?;
    if pages == 0 {
        let message = "there is nothing to reclaim in 0 pages".to_owned();
        return Err(Failure::bad_request(message, hint));
    }
    let begun = admin.reclaim_guest(&name, pages);
    told("reclaiming from a guest", &name, begun).map(accepted)
}

async fn policies(State(source): State<Source>) -> Answer<Json<PolicyList>> {
    Ok(Json(PolicyList {
        schema: Schema,
        policies: admin(&source)?.policies(),
    }))
}

async fn policy(State(source): State<Source>, name: Name, body: Body) -> Answer<Json<GuestDetail>> {
    let hint = "send `{\"policy\": NAME}`, and a `seed` for one that draws lots";
    let admin = admin(&source)?;
    let name = guest(&source, name)?;
    let request: PolicyRequest = read(body, hint)?;
    told("setting a policy", &name, admin.set_policy(&name, &request))?;
    guest_detail(&source, &name)
}

async fn trace_start(
    State(source): State<Source>,
    name: Name,
    body: Body,
) -> Answer<Json<TraceDetail>> {
    let hint = "send nothing, or `{\"name\": NAME}`: 1 to 64 letters, digits, `-`, `_` and `.`, the \
                first a letter or digit";
    let admin = admin(&source)?;
    let name = guest(&source, name)?;
    let TraceRequest { name: file } = read(body, hint)?;
    let file = file.unwrap_or_else(|| name.clone());
    // It becomes a part of a path.
    if !is_name(&file) {
        let message = format!("{file:?} is not a name for a trace");
        return Err(Failure::bad_request(message, hint));
    }
    let result = admin.trace_start(&name, &file);
    trace("tracing a guest", &name, result)
}

async fn trace_stop(State(source): State<Source>, name: Name) -> Answer<Json<TraceDetail>> {
    let admin: &dyn TierAdmin = admin(&source)?;
    let name = guest(&source, name)?;
    let result = admin.trace_stop(&name);
    trace("ending a guest's trace", &name, result)
}

fn trace(
    what: &str,
    name: &str,
    result: Result<tmem_admin_api::TraceStatus, TierError>,
) -> Answer<Json<TraceDetail>> {
    let trace = told(what, name, result)?;
    let schema = Schema;
    Ok(Json(TraceDetail { schema, trace }))
}
