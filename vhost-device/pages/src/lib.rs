// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The page engine of virtio-tmem.
#![deny(unsafe_code)]

mod account;
mod bundle;
mod check;
mod checksum;
mod counters;
mod engine;
mod frames;
mod guest;
mod handle;
mod index;
mod pool;
mod shared;
mod stats;
#[allow(unsafe_code)]
mod sys;
mod worker;

pub use engine::{Backing, Engine, EngineConfig, EngineError, FRAMES_MAX, GUESTS_MAX, WORKERS_MAX};
pub use guest::{EpochOutcome, Guest, GuestConfig, GuestError};
pub use handle::{
    CopyFault, Epoch, ObjectId, PAGE_SIZE, PageBytes, PageIndex, PageSink, PageSource, PoolId,
    Ticket,
};
pub use pool::{Layout, POOLS_MAX, Pool, PoolError, PoolKind, PoolSpec};
pub use stats::{EngineStats, GuestStats, MemoryReport, PoolStats};
pub use worker::{FlushResult, GetMode, GetResult, PutResult, Worker, WorkerError};
