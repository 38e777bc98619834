// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Balloons: what guests give back of their memory, and who decides.

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{Path, State};
use axum::routing::{get, post};
use axum::{Json, Router};
use tmem_admin_api::{
    BalloonAutoRequest, BalloonBudgetRequest, BalloonDetail, BalloonList, BalloonRequest, Schema,
    WEIGHT_MAX, path,
};

use super::body::{Answer, guest, read, told};
use super::router::{Failure, Source};
use crate::status::{BalloonAdmin, TierError};

type Name = Result<Path<String>, PathRejection>;
type Body = Result<Bytes, BytesRejection>;

pub(super) fn router() -> Router<Source> {
    let one = format!("{}/{{name}}/balloon", path::GUESTS);
    Router::new()
        .route(path::BALLOONS, get(list))
        .route(&format!("{}/budget", path::BALLOONS), post(budget))
        .route(&one, get(show).post(set))
        .route(&format!("{one}/auto"), post(auto))
}

/// What changes balloons, if the daemon has them.
fn admin(source: &Source) -> Answer<&dyn BalloonAdmin> {
    source.balloon_admin().ok_or_else(|| {
        let what = "this daemon has no balloons".into();
        TierError::NotAvailable { what }.into()
    })
}

fn all(admin: &dyn BalloonAdmin) -> Json<BalloonList> {
    Json(BalloonList {
        schema: Schema,
        budget_pages: admin.budget(),
        balloons: admin.balloons(),
    })
}

fn detail(admin: &dyn BalloonAdmin, name: &str) -> Answer<Json<BalloonDetail>> {
    let balloon = admin.balloon(name);
    let balloon = balloon.ok_or_else(|| Failure::no_such_guest(name))?;
    let schema = Schema;
    Ok(Json(BalloonDetail { schema, balloon }))
}

async fn list(State(source): State<Source>) -> Answer<Json<BalloonList>> {
    Ok(all(admin(&source)?))
}

async fn show(State(source): State<Source>, name: Name) -> Answer<Json<BalloonDetail>> {
    let admin = admin(&source)?;
    detail(admin, &guest(&source, name)?)
}

async fn set(State(source): State<Source>, name: Name, body: Body) -> Answer<Json<BalloonDetail>> {
    let hint = "send `{\"size_pages\": N}`, pages of 4096 bytes that the guest keeps";
    let admin = admin(&source)?;
    let name = guest(&source, name)?;
    let BalloonRequest { size_pages } = read(body, hint)?;
    told(
        "setting a balloon",
        &name,
        admin.set_balloon(&name, size_pages),
    )?;
    detail(admin, &name)
}

async fn auto(State(source): State<Source>, name: Name, body: Body) -> Answer<Json<BalloonDetail>> {
    let hint = "send one or more of `auto` (true or false), `floor_pages`, `ceiling_pages` (0: none) \
                and `weight` (1 to 10000)";
    let admin = admin(&source)?;
    let name = guest(&source, name)?;
    let request: BalloonAutoRequest = read(body, hint)?;
    if request == BalloonAutoRequest::default() {
        let message = "nothing is named that is to change".to_owned();
        return Err(Failure::bad_request(message, hint));
    }
    if let Some(weight) = request.weight
        && !(1..=WEIGHT_MAX).contains(&weight)
    {
        let message = format!("a weight of {weight} is not possible");
        return Err(Failure::bad_request(message, hint));
    }
    told(
        "setting how a balloon is steered",
        &name,
        admin.set_balloon_auto(&name, &request),
    )?;
    detail(admin, &name)
}

async fn budget(State(source): State<Source>, body: Body) -> Answer<Json<BalloonList>> {
    let hint = "send `{\"budget_pages\": N}`, or null for no limit";
    let admin = admin(&source)?;
    let BalloonBudgetRequest { budget_pages } = read(body, hint)?;
    admin.set_budget(budget_pages);
    told("setting the balloons' budget", "all guests on auto", Ok(()))?;
    Ok(all(admin))
}
