// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Why there is no store, or a namespace of it cannot be had.

use std::path::PathBuf;

use thiserror::Error;
use tmem_pages::slots::SlotError;
use tmem_pages::{EngineError, GuestError, PoolError, WorkerError};

/// Why a store cannot be opened or shared.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The folder of the state cannot be used.
    #[error("Cannot use the state folder {}: check its rights and its room", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file that says which store this is cannot be read or written.
    #[error("Cannot keep the store's state in {}: check its rights and its room", path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file that says which store this is holds something else.
    #[error(
        "Cannot use {}: it is not the state of a store of this version; remove it, and with it the pages beside it", path.display()
    )]
    NotState {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// Nobody says which boot of the host this is.
    #[error(
        "Cannot tell this boot of the host from another, and so not whether pages are still good: is /proc readable?"
    )]
    BootUnknown {
        /// What the system said.
        source: std::io::Error,
    },
    /// The folder has no room for the frames.
    #[error(
        "Cannot keep {needed} bytes of pages in {}: {free} bytes are free there; lower --capacity, or choose a folder with more room", path.display()
    )]
    NoRoom {
        /// The folder.
        path: PathBuf,
        /// Bytes that the store may need.
        needed: u64,
        /// Bytes that there are.
        free: u64,
    },
    /// The PM file cannot be opened.
    #[error("Cannot open the PM file {}: check its folder and its rights", path.display())]
    PmFile {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The PM file cannot be used.
    #[error("Cannot use the PM file {}", path.display())]
    Pm {
        /// The file.
        path: PathBuf,
        /// Why.
        source: SlotError,
    },
    /// The engine cannot be had.
    #[error("Cannot set up the pages' memory")]
    Engine(#[from] EngineError),
    /// The log cannot be used.
    #[error("Cannot use the store's log")]
    Log(#[from] crate::log::LogError),
    /// The log is another store's, or older than what the store was told.
    #[error(
        "Cannot use the log {}: it is another store's, or this store has run without it since; remove it, and it is written anew from what the store holds", path.display()
    )]
    OtherLog {
        /// The file.
        path: PathBuf,
    },
    /// The log holds more than there is room for.
    #[error(
        "Cannot take over {pages} pages of the log: there is no room; start with a larger --capacity"
    )]
    LogTooLarge {
        /// Pages that found none.
        pages: u64,
    },
    /// Memory holds more than the log has room for.
    #[error(
        "Cannot write what memory holds into the log: it is too small; start with a larger --log-size"
    )]
    LogTooSmall,
    /// There is no worker for one more shard, or for the mover.
    #[error("Cannot add a thread that serves pages")]
    Worker(#[from] WorkerError),
    /// There are more shards than the store was opened for.
    #[error("Cannot add a shard: the store was opened for {most}")]
    TooManyShards {
        /// Shards that there can be.
        most: u16,
    },
    /// A namespace that was found in the state cannot be served.
    #[error("Cannot serve namespace {name} as it was found")]
    Namespace {
        /// The namespace.
        name: String,
        /// Why.
        source: NamespaceError,
    },
}

/// Why a namespace cannot be had.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum NamespaceError {
    /// Only those that the configuration names are served.
    #[error("namespace {name} is not in this store's configuration")]
    Unlisted {
        /// The namespace.
        name: String,
    },
    /// The engine takes no more guests.
    #[error("namespace {name} cannot be made")]
    Guest {
        /// The namespace.
        name: String,
        /// Why.
        source: GuestError,
    },
    /// The pools cannot be made.
    #[error("the pools of namespace {name} cannot be made")]
    Pool {
        /// The namespace.
        name: String,
        /// Why.
        source: PoolError,
    },
    /// The client uses more indexes than a pool here can have.
    #[error("namespace {name} asks for {wanted} indexes in a pool, and {most} is the most here")]
    TooLarge {
        /// The namespace.
        name: String,
        /// Indexes asked for.
        wanted: u32,
        /// Indexes that there can be.
        most: u32,
    },
    /// A client with a newer epoch was here.
    #[error("namespace {name} was opened with epoch {newest}, and {epoch} is older")]
    Fenced {
        /// The namespace.
        name: String,
        /// The epoch that came late.
        epoch: u64,
        /// The newest one that came.
        newest: u64,
    },
    /// The epoch cannot be kept, so it cannot be promised.
    #[error("the epoch of namespace {name} cannot be kept")]
    Unkept {
        /// The namespace.
        name: String,
        /// Why.
        source: Box<StoreError>,
    },
}
