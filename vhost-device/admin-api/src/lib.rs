// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The admin API of `vhost-device-tmem`: paths, answers and errors, as types.
//!
//! The daemon serves HTTP/1.1 with JSON bodies on a Unix socket ([`DEFAULT_SOCKET`]); `tmemctl` is
//! its first client, `curl --unix-socket` the second. This crate holds what both ends must agree
//! on and nothing that runs: no socket, no runtime, no command line.
//!
//! | path | answer |
//! | --- | --- |
//! | [`path::STATUS`] | [`Status`]: health, tiers, where the memory went |
//! | [`path::GUESTS`] | [`GuestList`] |
//! | [`path::GUESTS`]`/{name}` | [`GuestDetail`] |
//! | [`path::POOLS`]`?guest=` | [`PoolList`] |
//! | [`path::STATS`]`?guest=` | [`Stats`]: counters and latencies |
//! | [`path::TIERS`] | [`TierList`] |
//! | [`path::TIERS`]`/{name}` | [`TierDetail`] |
//! | …`/resize`, `/drain`, by POST | [`TaskDetail`]; resize takes a [`ResizeRequest`] |
//! | …`/undrain`, `/watermarks`, by POST | [`TierDetail`]; the latter takes a [`WatermarksRequest`] |
//! | [`path::GUESTS`]`/{name}/limits`, `/freeze`, `/thaw`, `/policy`, by POST | [`GuestDetail`]; they take a [`LimitsRequest`], nothing, nothing, a [`PolicyRequest`] |
//! | …`/reclaim`, by POST | [`TaskDetail`]; takes a [`ReclaimRequest`] |
//! | …`/trace/start`, `/trace/stop`, by POST | [`TraceDetail`]; start takes a [`TraceRequest`] |
//! | [`path::TASKS`], [`path::TASKS`]`/{id}` | [`TaskList`], [`TaskDetail`]: how far resize, drain and reclaim are |
//! | [`path::POLICIES`] | [`PolicyList`] |
//! | [`path::STORES`] | [`StoreList`]: the stores of the remote tier, and how pages are kept on them |
//! | [`path::STORES`], by POST | [`StoreDetail`]; takes a [`StoreAddRequest`] |
//! | [`path::STORES`]`/{name}` | [`StoreDetail`] |
//! | …`/drain`, and [`path::STORES`]`/repair`, by POST | [`TaskDetail`] |
//! | …`/undrain`, `/remove`, by POST | [`StoreDetail`]; the latter takes a [`StoreRemoveRequest`] |
//! | [`path::BALLOONS`] | [`BalloonList`]: what guests give back, and what they shall |
//! | …`/budget`, by POST | [`BalloonList`]; takes a [`BalloonBudgetRequest`] |
//! | [`path::GUESTS`]`/{name}/balloon` | [`BalloonDetail`]; by POST it takes a [`BalloonRequest`] |
//! | …`/auto`, by POST | [`BalloonDetail`]; takes a [`BalloonAutoRequest`] |
//! | [`path::LINKS`] | [`LinkList`] |
//! | …`/set`, `/clear`, `/faults`, by POST | [`LinkList`]; they take a [`LinkRequest`], a [`LinkClearRequest`], a [`FaultsRequest`] |
//! | [`path::DAEMON`] | [`DaemonDetail`]: the processes, their restarts and sandboxes |
//! | [`path::UPGRADE`], by POST | [`OperationAccepted`]; takes an [`UpgradeRequest`] |
//! | [`path::RESTART`], by POST | [`OperationAccepted`] |
//! | [`path::OPERATION`] | [`OperationDetail`]: how far the last of these is |
//! | [`path::METRICS`] | all figures as Prometheus text |
//!
//! Every JSON object that is a whole answer, errors included, has a field `schema`. Its number
//! changes when a field changes its meaning, its unit or its name, or goes; a new field does not
//! change it, so a client must ignore fields that it does not know. Units are in the names:
//! `_bytes`, `_pages`, `_ns`, `_ms`, `_seconds`; a count without a unit counts pages or, where the field
//! says so, requests or events.

mod balloon;
mod daemon;
mod error;
mod guest;
mod latency;
mod link;
mod operation;
mod pool;
mod quota;
mod schema;
mod stats;
mod status;
mod store;
mod task;
mod tier;
mod tier_stats;
mod words;

pub use balloon::{
    Balloon, BalloonAutoRequest, BalloonBudgetRequest, BalloonCounts, BalloonDecision,
    BalloonDetail, BalloonDriver, BalloonList, BalloonMode, BalloonRefusal, BalloonRefusalReason,
    BalloonRequest, BalloonStatistics,
};
pub use daemon::{
    DaemonDetail, DaemonState, DaemonStatus, EndCause, ProcessStatus, Recovery, SandboxLayer,
    WorkerEnd,
};
pub use error::{ErrorAnswer, ErrorCode};
pub use guest::{Guest, GuestDetail, GuestList};
pub use latency::{Bucket, Histogram};
pub use link::{
    FaultsRequest, Link, LinkClearRequest, LinkDirection, LinkDirections, LinkFault, LinkList,
    LinkQueue, LinkRequest,
};
pub use operation::{
    DaemonOperation, OperationAccepted, OperationDetail, OperationKind, OperationState,
    OperationStatus, UpgradeRequest,
};
pub use pool::{Pool, PoolKind, PoolLayout, PoolList};
pub use quota::{
    DramCap, Freeable, GuestMemory, LimitsRequest, NoCap, Policy, PolicyList, PolicyRequest,
    ReclaimRequest, TraceDetail, TraceRequest, TraceStatus, WEIGHT_MAX,
};
pub use schema::Schema;
pub use stats::{GuestStats, Latency, Op, PageResult, RequestStatus, Stats};
pub use status::{Health, Memory, PageTotals, Resident, Status};
pub use store::{
    AckPolicy, Replication, Store, StoreAddRequest, StoreDetail, StoreKind, StoreList, StoreOrigin,
    StoreRemoveRequest, StoreState,
};
pub use task::{TaskDetail, TaskKind, TaskList, TaskState, TaskStatus};
pub use tier::{
    Durability, Promises, ResizeRequest, Tier, TierDetail, TierKind, TierList, TierName, TierState,
    Watermarks, WatermarksRequest,
};
pub use tier_stats::{HitTier, RefusalReason, StageTimes, TierCounts, TierOp, TierResult};

/// Where the daemon listens and `tmemctl` looks unless they are told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/tmem/admin.sock";

/// Bytes of a page, the only size there is.
pub const PAGE_BYTES: u64 = 4096;

/// Paths of the API.
pub mod path {
    /// [`Status`](super::Status).
    pub const STATUS: &str = "/v1/status";
    /// [`GuestList`](super::GuestList); with `/{name}` behind it [`GuestDetail`](super::GuestDetail).
    pub const GUESTS: &str = "/v1/guests";
    /// [`PoolList`](super::PoolList); takes `?guest=`.
    pub const POOLS: &str = "/v1/pools";
    /// [`Stats`](super::Stats); takes `?guest=`.
    pub const STATS: &str = "/v1/stats";
    /// [`DaemonDetail`](super::DaemonDetail).
    pub const DAEMON: &str = "/v1/daemon";
    /// [`OperationDetail`](super::OperationDetail).
    pub const OPERATION: &str = "/v1/daemon/operation";
    /// By POST, with an [`UpgradeRequest`](super::UpgradeRequest).
    pub const UPGRADE: &str = "/v1/daemon/upgrade";
    /// By POST.
    pub const RESTART: &str = "/v1/daemon/restart";
    /// [`TierList`](super::TierList); with `/{name}` behind it [`TierDetail`](super::TierDetail), and
    /// behind that, by POST, `/resize`, `/drain`, `/undrain`, `/watermarks`.
    pub const TIERS: &str = "/v1/tiers";
    /// [`StoreList`](super::StoreList), or by POST a store to add; with `/{name}` behind it
    /// [`StoreDetail`](super::StoreDetail), and behind that, by POST, `/drain`, `/undrain`, `/remove`.
    /// With `/repair` behind it, by POST, all pages get their copies.
    pub const STORES: &str = "/v1/stores";
    /// [`TaskList`](super::TaskList); with `/{id}` behind it [`TaskDetail`](super::TaskDetail).
    pub const TASKS: &str = "/v1/tasks";
    /// [`PolicyList`](super::PolicyList).
    pub const POLICIES: &str = "/v1/policies";
    /// [`BalloonList`](super::BalloonList); with `/budget` behind it by POST.
    pub const BALLOONS: &str = "/v1/balloons";
    /// [`LinkList`](super::LinkList); with `/set`, `/clear` or `/faults` behind it by POST.
    pub const LINKS: &str = "/v1/links";
    /// Prometheus text.
    pub const METRICS: &str = "/metrics";
}
