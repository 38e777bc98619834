// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Tiers: their sizes, watermarks and drains, and the tasks that these become.
//!
//! A resize or a drain is answered with 202 and a task's number, and goes on behind the answer. The
//! caller asks for the task until it has ended. All else is done when it is answered.

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use tmem_admin_api::{
    ErrorCode, ResizeRequest, Schema, TaskDetail, TaskList, TaskStatus, TierDetail, TierList,
    TierName, Watermarks, WatermarksRequest, path,
};

use super::body::{Answer, admin, read, tier, told};
use super::router::{Failure, Source};
use crate::status::TierAdmin;

type Name = Result<Path<String>, PathRejection>;
type Body = Result<Bytes, BytesRejection>;

pub(super) fn router() -> Router<Source> {
    let one = |action: &str| format!("{}/{{name}}{action}", path::TIERS);
    Router::new()
        .route(path::TIERS, get(tiers))
        .route(&one(""), get(show))
        .route(&one("/resize"), post(resize))
        .route(&one("/drain"), post(drain))
        .route(&one("/undrain"), post(undrain))
        .route(&one("/watermarks"), post(watermarks))
        .route(path::TASKS, get(tasks))
        .route(&format!("{}/{{id}}", path::TASKS), get(task))
}

/// The answer to a request that began a task.
pub(super) fn accepted(task: TaskStatus) -> (StatusCode, Json<TaskDetail>) {
    let schema = Schema;
    (StatusCode::ACCEPTED, Json(TaskDetail { schema, task }))
}

async fn tiers(State(source): State<Source>) -> Answer<Json<TierList>> {
    Ok(Json(TierList {
        schema: Schema,
        tiers: admin(&source)?.tiers(),
    }))
}

async fn show(State(source): State<Source>, name: Name) -> Answer<Json<TierDetail>> {
    let admin = admin(&source)?;
    detail(admin, tier(admin, name)?)
}

fn detail(admin: &dyn TierAdmin, name: TierName) -> Answer<Json<TierDetail>> {
    // It was there when it was looked for; nobody takes tiers away.
    let tier = admin.tier(name).unwrap_or_default();
    let schema = Schema;
    Ok(Json(TierDetail { schema, tier }))
}

async fn resize(
    State(source): State<Source>,
    name: Name,
    body: Body,
) -> Answer<(StatusCode, Json<TaskDetail>)> {
    let hint = "send `{\"pages\": N}`, pages of 4096 bytes; to empty a tier drain it";
    let admin = admin(&source)?;
    let name = tier(admin, name)?;
    let ResizeRequest { pages } = read(body, hint)?;
    if pages == 0 {
        let message = "a tier has at least one page".to_owned();
        return Err(Failure::bad_request(message, hint));
    }
    let begun = admin.resize_tier(name, pages);
    told("resizing a tier", name.as_str(), begun).map(accepted)
}

async fn drain(State(source): State<Source>, name: Name) -> Answer<(StatusCode, Json<TaskDetail>)> {
    let admin = admin(&source)?;
    let name = tier(admin, name)?;
    told("draining a tier", name.as_str(), admin.drain_tier(name)).map(accepted)
}

async fn undrain(State(source): State<Source>, name: Name) -> Answer<Json<TierDetail>> {
    let admin = admin(&source)?;
    let name = tier(admin, name)?;
    told(
        "using a tier again",
        name.as_str(),
        admin.undrain_tier(name),
    )?;
    detail(admin, name)
}

async fn watermarks(
    State(source): State<Source>,
    name: Name,
    body: Body,
) -> Answer<Json<TierDetail>> {
    let hint = "send `low_percent`, `high_percent` or both, 0 to 90 percent of the tier";
    let admin = admin(&source)?;
    let name = tier(admin, name)?;
    let marks: WatermarksRequest = read(body, hint)?;
    let mut given = [marks.low_percent, marks.high_percent]
        .into_iter()
        .flatten();
    if let Some(percent) = given.find(|&percent| percent > Watermarks::PERCENT_MAX) {
        let message = format!("a watermark of {percent} % is not possible");
        return Err(Failure::bad_request(message, hint));
    }
    if marks == WatermarksRequest::default() {
        let message = "neither watermark is named".to_owned();
        return Err(Failure::bad_request(message, hint));
    }
    let set = admin.set_watermarks(name, &marks);
    told("setting watermarks", name.as_str(), set)?;
    detail(admin, name)
}

async fn tasks(State(source): State<Source>) -> Answer<Json<TaskList>> {
    Ok(Json(TaskList {
        schema: Schema,
        tasks: admin(&source)?.tasks(),
    }))
}

async fn task(State(source): State<Source>, id: Name) -> Answer<Json<TaskDetail>> {
    let Path(id) = id.map_err(|error| Failure::bad_query(error.body_text()))?;
    let admin = admin(&source)?;
    let found = id.parse().ok().and_then(|id| admin.task(id));
    let task = found.ok_or_else(|| {
        Failure(
            StatusCode::NOT_FOUND,
            ErrorCode::NoSuchTask,
            format!("this worker knows no task {id:?}"),
            "tasks are forgotten when the worker ends; `tmemctl tier show` and `tmemctl guest show` \
             tell how things are",
        )
    })?;
    let schema = Schema;
    Ok(Json(TaskDetail { schema, task }))
}
