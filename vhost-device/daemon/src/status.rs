// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the admin API is answered from: snapshots of the running daemon, as plain types.
//!
//! The admin server knows only [`AdminSource`] and, for what an administrator does to tiers, quotas,
//! policies and links, [`TierAdmin`], to stores, [`StoreAdmin`]; a test hands it made-up ones.

use tmem_admin_api::{
    Balloon, BalloonAutoRequest, DaemonOperation, DaemonStatus, FaultsRequest, Guest, GuestStats,
    LimitsRequest, Link, LinkClearRequest, LinkRequest, Policy, PolicyRequest, Pool, Replication,
    Status, Store, StoreAddRequest, TaskStatus, Tier, TierName, TraceStatus, WatermarksRequest,
};

/// Where the admin API's answers come from. Every method takes a fresh snapshot, holds no lock when
/// it returns, and never waits for a guest.
pub trait AdminSource: Send + Sync {
    /// Health, tiers and memory.
    fn status(&self) -> Status;

    /// All guests, in order of name.
    fn guests(&self) -> Vec<Guest>;

    /// One guest, or nothing if none has this name.
    fn guest(&self, name: &str) -> Option<Guest>;

    /// The pools of a guest in order of id, or nothing if no guest has this name.
    fn pools(&self, guest: &str) -> Option<Vec<Pool>>;

    /// A guest's counters and latencies, or nothing if no guest has this name.
    fn stats(&self, guest: &str) -> Option<GuestStats>;

    /// Time since the counters began, in nanoseconds.
    fn uptime_ns(&self) -> u64;

    /// The daemon's processes, the same as [`Status::daemon`]. While its state is `failed`, nothing
    /// is asked about guests.
    fn daemon(&self) -> DaemonStatus;

    /// Asks the keeper for an operation and returns its number, above those of all before. What
    /// becomes of it is told by [`DaemonStatus::operation`], from now on or by the next worker.
    /// Returns within a second: the keeper accepts or refuses, and begins afterwards, no sooner
    /// than the caller can have been answered.
    ///
    /// # Errors
    /// [`RequestError`]; nothing was begun then.
    fn request(&self, operation: &DaemonOperation) -> Result<u64, RequestError>;

    /// Tiers and what may be done to them. A source without any is answered for with
    /// [`ErrorCode::NotAvailable`](tmem_admin_api::ErrorCode::NotAvailable), never with silence.
    fn tier_admin(&self) -> Option<&dyn TierAdmin> {
        None
    }

    /// The stores of the remote tier and what may be done to them. A source without any is answered for
    /// in the same way.
    fn store_admin(&self) -> Option<&dyn StoreAdmin> {
        None
    }

    /// Guests' balloons and what may be done to them. A source without any is answered for in the same
    /// way.
    fn balloon_admin(&self) -> Option<&dyn BalloonAdmin> {
        None
    }
}

/// What an administrator does to guests' balloons. As with [`TierAdmin`], methods return at once; the
/// guest's driver follows in its own time.
pub trait BalloonAdmin: Send + Sync {
    /// What all guests on auto may keep together.
    fn budget(&self) -> Option<u64>;

    /// All balloons, in order of the guests' names.
    fn balloons(&self) -> Vec<Balloon>;

    /// One guest's, or nothing if no guest has this name.
    fn balloon(&self, guest: &str) -> Option<Balloon> {
        let mut balloons = self.balloons().into_iter();
        balloons.find(|balloon| balloon.guest == guest)
    }

    /// Fixes what a guest keeps of its memory. Ends its being on auto.
    ///
    /// # Errors
    /// [`TierError::NotAvailable`] of a guest without a balloon, [`TierError::Refused`] without a driver
    /// and below the floor.
    fn set_balloon(&self, guest: &str, size_pages: u64) -> Result<(), TierError>;

    /// Lets the controller decide, or not any more, and sets what it keeps to: all that the request names,
    /// or nothing.
    ///
    /// # Errors
    /// [`TierError::NotAvailable`] of a guest without a balloon, [`TierError::Refused`] of a floor above
    /// the ceiling or the guest's memory.
    fn set_balloon_auto(&self, guest: &str, request: &BalloonAutoRequest) -> Result<(), TierError>;

    /// Sets what all guests on auto may keep together.
    fn set_budget(&self, pages: Option<u64>);
}

/// What an administrator does to the stores that the remote tier keeps pages on. As with [`TierAdmin`],
/// methods return at once.
pub trait StoreAdmin: Send + Sync {
    /// How pages are kept on the stores, all together.
    fn replication(&self) -> Replication;

    /// All stores, in order of number.
    fn stores(&self) -> Vec<Store>;

    /// One store, by its name or its address.
    fn store(&self, name: &str) -> Option<Store> {
        let mut stores = self.stores().into_iter();
        stores.find(|store| store.name == name || store.address == name)
    }

    /// Lets pages be kept on another store from now on, and returns its name.
    ///
    /// # Errors
    /// [`TierError::BadText`] for what is no address, [`TierError::Refused`] where the name is taken or
    /// the worker's sandbox does not let it connect there.
    fn add_store(&self, request: &StoreAddRequest) -> Result<String, TierError>;

    /// Forgets a store. Without `force` only one that no page needs.
    ///
    /// # Errors
    /// [`TierError::NoSuchStore`], [`TierError::Refused`] with how many pages need it.
    fn remove_store(&self, name: &str, force: bool) -> Result<(), TierError>;

    /// Begins to copy all pages of a store to others, and gives it no new ones. Of a store that is being
    /// drained, the task under way.
    ///
    /// # Errors
    /// [`TierError::NoSuchStore`], [`TierError::Refused`] if the others are too few.
    fn drain_store(&self, name: &str) -> Result<TaskStatus, TierError>;

    /// Gives a store pages again, drained or on the way there.
    ///
    /// # Errors
    /// [`TierError::NoSuchStore`].
    fn undrain_store(&self, name: &str) -> Result<(), TierError>;

    /// Begins to give every page its number of copies. During a repair, the task under way.
    ///
    /// # Errors
    /// [`TierError::Refused`] while this daemon is shut out.
    fn repair_stores(&self) -> Result<TaskStatus, TierError>;
}

/// What an administrator does to tiers, guests' parts of them, policies and links.
///
/// Methods are called by the admin thread, one at a time. They change what is to be kept to and
/// return; what takes longer than some milliseconds is a task, which goes on behind them. What a
/// method refuses it has not begun. A guest's own figures, [`Guest::memory`], are part of
/// [`AdminSource::guest`]; the promises are part of [`AdminSource::status`].
pub trait TierAdmin: Send + Sync {
    /// All tiers that there are, nearest first: what [`Status::tiers`] holds.
    fn tiers(&self) -> Vec<Tier>;

    /// One tier, or nothing if the daemon has none of this name.
    fn tier(&self, name: TierName) -> Option<Tier> {
        self.tiers().into_iter().find(|tier| tier.name == name)
    }

    /// Begins to bring a tier to another size. Takes the place of a resize under way.
    ///
    /// # Errors
    /// [`TierError::Refused`] where promises, floors or the tier's largest size forbid it,
    /// [`TierError::UnderWay`] during a drain.
    fn resize_tier(&self, name: TierName, pages: u64) -> Result<TaskStatus, TierError>;

    /// Begins to move all pages out of a tier, which takes no more of them from now on. Of a tier that
    /// is being drained, the task under way.
    ///
    /// # Errors
    /// [`TierError::Refused`] where the other tiers cannot hold what is promised.
    fn drain_tier(&self, name: TierName) -> Result<TaskStatus, TierError>;

    /// Lets a tier take pages again; calls a drain under way off.
    ///
    /// # Errors
    /// [`TierError::Refused`] if the tier has failed.
    fn undrain_tier(&self, name: TierName) -> Result<(), TierError>;

    /// Sets when pages leave a tier for the next one.
    ///
    /// # Errors
    /// [`TierError::Refused`] if there is no next tier, or the marks that result are not
    /// [possible](tmem_admin_api::Watermarks::are_possible).
    fn set_watermarks(&self, name: TierName, marks: &WatermarksRequest) -> Result<(), TierError>;

    /// Tasks under way and the last ones that ended, in order of number.
    fn tasks(&self) -> Vec<TaskStatus>;

    /// One task, or nothing if this worker knows none of this number.
    fn task(&self, id: u64) -> Option<TaskStatus> {
        self.tasks().into_iter().find(|task| task.id == id)
    }

    /// Sets a guest's grant, cap, weight and floor: all that the request names, or nothing.
    ///
    /// # Errors
    /// [`TierError::Refused`] with what is possible, such as a grant below what the guest holds.
    fn limit_guest(&self, guest: &str, limits: &LimitsRequest) -> Result<(), TierError>;

    /// Refuses a guest's puts from now on.
    ///
    /// # Errors
    /// [`TierError::NoSuchGuest`].
    fn freeze_guest(&self, guest: &str) -> Result<(), TierError>;

    /// Takes a guest's puts again.
    ///
    /// # Errors
    /// [`TierError::NoSuchGuest`].
    fn thaw_guest(&self, guest: &str) -> Result<(), TierError>;

    /// Begins to take so many pages of DRAM from a guest. Ends with fewer where not so many are
    /// freeable; [`TaskStatus::reason`] says why.
    ///
    /// # Errors
    /// [`TierError::UnderWay`] during another reclaim of this guest.
    fn reclaim_guest(&self, guest: &str, pages: u64) -> Result<TaskStatus, TierError>;

    /// All policies, in order of name, and who has which.
    fn policies(&self) -> Vec<Policy>;

    /// Gives a guest another policy; its pages are handed over to it.
    ///
    /// # Errors
    /// [`TierError::NoSuchPolicy`].
    fn set_policy(&self, guest: &str, request: &PolicyRequest) -> Result<(), TierError>;

    /// All links: those of tiers, and guests' own.
    fn links(&self) -> Vec<Link>;

    /// Sets links to what the text says, and returns them. `local_npages` of DiME's form is the
    /// guest's DRAM cap.
    ///
    /// # Errors
    /// [`TierError::BadText`], and [`TierError::Refused`] below the calibrated floor.
    fn set_link(&self, request: &LinkRequest) -> Result<Vec<Link>, TierError>;

    /// Ends the emulation of links, and returns those that are left of the ones asked for.
    ///
    /// # Errors
    /// [`TierError::NoSuchGuest`], [`TierError::NoSuchTier`].
    fn clear_link(&self, request: &LinkClearRequest) -> Result<Vec<Link>, TierError>;

    /// Sets what goes wrong on links, and returns them.
    ///
    /// # Errors
    /// [`TierError::BadText`].
    fn set_faults(&self, request: &FaultsRequest) -> Result<Vec<Link>, TierError>;

    /// Begins to record which pages a guest puts, gets and flushes. `name` is a file's name: letters,
    /// digits, `-`, `_` and `.`, the first a letter or digit.
    ///
    /// # Errors
    /// [`TierError::NotAvailable`] without a `trace_dir`, [`TierError::Refused`] during another
    /// trace of this guest, [`TierError::Failed`] if the file cannot be made.
    fn trace_start(&self, guest: &str, name: &str) -> Result<TraceStatus, TierError>;

    /// Ends a guest's trace and tells what became of it.
    ///
    /// # Errors
    /// [`TierError::Refused`] if there is none.
    fn trace_stop(&self, guest: &str) -> Result<TraceStatus, TierError>;
}

/// Why something was not done. The text goes to the administrator as it is.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TierError {
    /// No tier of this name.
    #[error("the daemon has no tier {name:?}")]
    NoSuchTier {
        /// What was asked for.
        name: String,
    },
    /// No store of this name.
    #[error("the daemon has no store {name:?}")]
    NoSuchStore {
        /// What was asked for.
        name: String,
    },
    /// No guest of this name.
    #[error("no guest is named {name:?}")]
    NoSuchGuest {
        /// What was asked for.
        name: String,
    },
    /// No policy of this name.
    #[error("there is no policy {name:?}")]
    NoSuchPolicy {
        /// What was asked for.
        name: String,
    },
    /// Another task is in the way.
    #[error("task {id} is still under way")]
    UnderWay {
        /// Its number.
        id: u64,
    },
    /// The daemon is not set up for it.
    #[error("not available in this configuration: {what}")]
    NotAvailable {
        /// What is missing.
        what: String,
    },
    /// A text is not what it should be.
    #[error("{reason}")]
    BadText {
        /// Which word, and what is allowed.
        reason: String,
    },
    /// It must not be done.
    #[error("{reason}")]
    Refused {
        /// Why, with the figures that it would have to keep to.
        reason: String,
    },
    /// It was tried and failed.
    #[error("{what}")]
    Failed {
        /// What was tried.
        what: String,
        /// What the kernel said.
        source: std::io::Error,
    },
}

/// Why the keeper did not take an operation on.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// There is none.
    #[error("this daemon runs as one process and has no keeper that could replace it")]
    NoKeeper,
    /// One at a time.
    #[error("operation {id} on this daemon is still under way")]
    UnderWay {
        /// Its number.
        id: u64,
    },
    /// The keeper said no.
    #[error("the keeper refused: {reason}")]
    Refused {
        /// Such as a program that lies outside the directories it is trusted from.
        reason: String,
    },
    /// The keeper did not answer the worker.
    #[error("the keeper does not answer")]
    Silent(#[source] std::io::Error),
}
