// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What virtio-tmem asks of etcd, over its JSON gateway (`/v3/…`, etcd 3.4 and later).
//!
//! ```text
//!  remote-store ── register ──▶ /virtio-tmem/stores/NAME      under a lease
//!                                      │ list, watch
//!  daemon ────── Follower ◀────────────┘
//!         ────── claim ───────▶ /virtio-tmem/clients/NAMESPACE  a transaction, whose revision fences
//! ```
//! etcd says which stores there are and whose a namespace is. It is asked seldom and never on a page's
//! way: while it is down or frozen, everybody goes on with what they know. Its locks are not used,
//! because a lease cannot stop a client that does not know that it ran out; a claim's epoch can,
//! since the stores check it (`owner.rs`).
//!
//! # What it must not know
//! Pages, members, the engine. What a delete in etcd means for a store that still answers, its
//! caller decides.
//!
//! # Where to start reading
//! `client.rs` for the calls, `http.rs` for how one is made, `stores.rs` for how a list is followed.
//!
//! # Example
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use tmem_etcd::{Client, ClientConfig, FollowConfig, Follower};
//!
//! let endpoints = vec!["http://127.0.0.1:2379".parse()?];
//! let client = Client::new(ClientConfig::new(endpoints))?;
//! let mut stores = Follower::new(client, FollowConfig::default());
//! stores.follow(|news| println!("{news:?}")).await;
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

mod client;
mod endpoint;
mod error;
mod http;
mod owner;
mod record;
mod registration;
mod stores;
mod watch;
mod wire;

pub use client::{Client, ClientConfig, Conditional, KeyValue, Lease, Listing, When};
pub use endpoint::{BadEndpoint, Endpoint};
pub use error::EtcdError;
pub use owner::{Claim, ClaimError, Owned, Taken, claim};
pub use record::{CLIENTS, ListedStore, NAME_MAX, OwnerRecord, STORES, StoreRecord, is_name};
pub use registration::{BadName, Registered, RegistrationConfig, register};
pub use stores::{FollowConfig, Follower, StoreNews};
pub use watch::{Change, Watch};
