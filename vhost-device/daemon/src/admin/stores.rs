// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Stores of the remote tier: which there are and how they are, what comes and goes, drains and repair.
//!
//! A store is named by its label or its address; in a path it is percent-encoded. A drain or a repair is
//! answered with 202 and a task's number, as those of tiers are.

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use tmem_admin_api::{
    Schema, Store, StoreAddRequest, StoreDetail, StoreList, StoreRemoveRequest, TaskDetail, path,
};

use super::body::{Answer, read, told};
use super::router::{Failure, Source};
use super::tiers::accepted;
use crate::status::{StoreAdmin, TierError};

type Name = Result<Path<String>, PathRejection>;
type Body = Result<Bytes, BytesRejection>;

pub(super) fn router() -> Router<Source> {
    let one = |action: &str| format!("{}/{{name}}{action}", path::STORES);
    Router::new()
        .route(path::STORES, get(list).post(add))
        // Before the names: no store can have this one.
        .route(&format!("{}/repair", path::STORES), post(repair))
        .route(&one(""), get(show))
        .route(&one("/remove"), post(remove))
        .route(&one("/drain"), post(drain))
        .route(&one("/undrain"), post(undrain))
}

/// What changes stores, if the daemon has any.
fn admin(source: &Source) -> Answer<&dyn StoreAdmin> {
    source.store_admin().ok_or_else(|| {
        let what = "the remote tier of this daemon is not made of stores".into();
        TierError::NotAvailable { what }.into()
    })
}

/// The store that the path names.
fn store(admin: &dyn StoreAdmin, name: Name) -> Answer<Store> {
    let Path(name) = name.map_err(|error| Failure::bad_query(error.body_text()))?;
    let found = admin.store(&name);
    found.ok_or_else(|| TierError::NoSuchStore { name }.into())
}

fn detail(store: Store) -> Json<StoreDetail> {
    let schema = Schema;
    Json(StoreDetail { schema, store })
}

async fn list(State(source): State<Source>) -> Answer<Json<StoreList>> {
    let admin = admin(&source)?;
    Ok(Json(StoreList {
        schema: Schema,
        replication: admin.replication(),
        stores: admin.stores(),
    }))
}

async fn show(State(source): State<Source>, name: Name) -> Answer<Json<StoreDetail>> {
    Ok(detail(store(admin(&source)?, name)?))
}

async fn add(State(source): State<Source>, body: Body) -> Answer<Json<StoreDetail>> {
    let hint = "send an `address`, such as \"10.0.0.1:7440\", and perhaps a `label`";
    let admin = admin(&source)?;
    let request: StoreAddRequest = read(body, hint)?;
    let added = admin.add_store(&request);
    let name = told("adding a store", &request.address, added)?;
    // It was added a moment ago; it may be gone if its like was removed at once.
    Ok(detail(admin.store(&name).unwrap_or_default()))
}

async fn remove(State(source): State<Source>, name: Name, body: Body) -> Answer<Json<StoreDetail>> {
    let hint = "send nothing, or `{\"force\": true}`";
    let admin = admin(&source)?;
    let store = store(admin, name)?;
    let StoreRemoveRequest { force } = read(body, hint)?;
    let removed = admin.remove_store(&store.name, force);
    told("removing a store", &store.name, removed)?;
    Ok(detail(store))
}

async fn drain(State(source): State<Source>, name: Name) -> Answer<(StatusCode, Json<TaskDetail>)> {
    let admin = admin(&source)?;
    let name = store(admin, name)?.name;
    told("draining a store", &name, admin.drain_store(&name)).map(accepted)
}

async fn undrain(State(source): State<Source>, name: Name) -> Answer<Json<StoreDetail>> {
    let admin = admin(&source)?;
    let before = store(admin, name)?;
    let name = &before.name;
    told("using a store again", name, admin.undrain_store(name))?;
    Ok(detail(admin.store(name).unwrap_or(before)))
}

async fn repair(State(source): State<Source>) -> Answer<(StatusCode, Json<TaskDetail>)> {
    let admin = admin(&source)?;
    told(
        "repairing pages' copies",
        "all stores",
        admin.repair_stores(),
    )
    .map(accepted)
}
