// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Links: what is emulated between DRAM and the farther tiers. Texts are passed on as they are; what
//! reads them says what is wrong with them.

use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::routing::{get, post};
use axum::{Json, Router};
use tmem_admin_api::{FaultsRequest, Link, LinkClearRequest, LinkList, LinkRequest, Schema, path};

use super::body::{Answer, admin, check_tier, read, told};
use super::router::{Failure, Source};
use crate::status::TierError;

type Body = Result<Bytes, BytesRejection>;

pub(super) fn router() -> Router<Source> {
    Router::new()
        .route(path::LINKS, get(show))
        .route(&format!("{}/set", path::LINKS), post(set))
        .route(&format!("{}/clear", path::LINKS), post(clear))
        .route(&format!("{}/faults", path::LINKS), post(faults))
}

async fn show(State(source): State<Source>) -> Answer<Json<LinkList>> {
    Ok(list(admin(&source)?.links()))
}

fn list(links: Vec<Link>) -> Json<LinkList> {
    let schema = Schema;
    Json(LinkList { schema, links })
}

async fn set(State(source): State<Source>, body: Body) -> Answer<Json<LinkList>> {
    let hint = "send `text` with `tier`, `guest` or both, and a `direction`: in, out or both";
    let admin = admin(&source)?;
    let request: LinkRequest = read(body, hint)?;
    if request.text.trim().is_empty() {
        let message = "the text is empty: to end an emulation clear the link".to_owned();
        return Err(Failure::bad_request(message, hint));
    }
    if request.tier.is_none() && request.guest.is_none() {
        let message = "neither a tier nor a guest is named".to_owned();
        return Err(Failure::bad_request(message, hint));
    }
    if let Some(tier) = request.tier {
        check_tier(admin, tier)?;
    }
    check_guest(&source, request.guest.as_deref())?;
    let subject = request.tier.map_or("every tier", |tier| tier.as_str());
    told("setting a link", subject, admin.set_link(&request)).map(list)
}

async fn clear(State(source): State<Source>, body: Body) -> Answer<Json<LinkList>> {
    let hint = "send nothing, or one or more of `tier`, `guest` and `direction`";
    let admin = admin(&source)?;
    let request: LinkClearRequest = read(body, hint)?;
    if let Some(tier) = request.tier {
        check_tier(admin, tier)?;
    }
    check_guest(&source, request.guest.as_deref())?;
    let subject = request.tier.map_or("every tier", |tier| tier.as_str());
    told("clearing links", subject, admin.clear_link(&request)).map(list)
}

async fn faults(State(source): State<Source>, body: Body) -> Answer<Json<LinkList>> {
    let hint = "send `tier` and `text`, which may be empty, and a `guest` or a `direction`";
    let admin = admin(&source)?;
    let request: FaultsRequest = read(body, hint)?;
    check_tier(admin, request.tier)?;
    check_guest(&source, request.guest.as_deref())?;
    let subject = request.tier.as_str();
    told(
        "setting a link's faults",
        subject,
        admin.set_faults(&request),
    )
    .map(list)
}

fn check_guest(source: &Source, name: Option<&str>) -> Answer<()> {
    match name {
        Some(name) if source.guest(name).is_none() => {
            let name = name.to_owned();
            Err(TierError::NoSuchGuest { name }.into())
        }
        _ => Ok(()),
    }
}
