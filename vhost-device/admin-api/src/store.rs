// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Stores: the processes on this and other hosts that the remote tier keeps pages on, and what an
//! administrator does to them.

use serde::{Deserialize, Serialize};

use crate::words::words;
use crate::{Schema, TaskStatus};

/// Answer to `GET /v1/stores`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreList {
    /// Version of this layout.
    pub schema: Schema,
    /// How the pages are kept on them, all together.
    pub replication: Replication,
    /// In order of number.
    pub stores: Vec<Store>,
}

/// Answer to `GET /v1/stores/{name}`, and to what changes a store at once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreDetail {
    /// Version of this layout.
    pub schema: Schema,
    /// The store.
    pub store: Store,
}

words! {
    /// When a page counts as written.
    #[derive(Default)]
    AckPolicy {
        /// When all of its copies are acknowledged.
        #[default]
        All = "all",
        /// When the first is; the host keeps the page until the others are.
        First = "first",
    }
}

words! {
    /// What a store is.
    #[derive(Default)]
    StoreKind {
        /// A process that is reached over a socket.
        #[default]
        Store = "store",
        /// A file of this host, read only when no other copy can be had.
        Disk = "disk",
    }
}

words! {
    /// From where a store is known.
    #[derive(Default)]
    StoreOrigin {
        /// The daemon's configuration.
        #[default]
        Config = "config",
        /// An administrator, at run time.
        Admin = "admin",
        /// etcd.
        Etcd = "etcd",
    }
}

words! {
    /// What goes on with a store.
    #[derive(Default)]
    StoreState {
        /// It is being connected to, or compared with what should lie there; nothing is read from it yet.
        #[default]
        Joining = "joining",
        /// It takes and gives pages.
        Up = "up",
        /// It has not been heard of as it should: asked last, and given no new pages.
        Suspect = "suspect",
        /// It was not heard of for so long that its pages are copied elsewhere.
        Dead = "dead",
        /// Its pages are copied elsewhere, and it is given no new ones.
        Draining = "draining",
        /// It holds none of this daemon's pages and is given none.
        Drained = "drained",
    }
}

/// How pages are kept on the stores, all together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Replication {
    /// Under which name this daemon's pages lie on the stores.
    pub namespace: String,
    /// Copies that each page should have.
    pub replicas: u8,
    /// With fewer copies than this a page is not written.
    pub min_copies: u8,
    /// When a page counts as written.
    pub ack: AckPolicy,
    /// Pages on the stores.
    pub pages: u64,
    /// Of these, pages with fewer copies than they should have.
    pub below_pages: u64,
    /// Of these, pages of which no copy is left.
    pub lost_pages: u64,
    /// Pages that this host keeps besides until all of their copies are acknowledged.
    pub held_pages: u64,
    /// Copies made by repair, rebalancing and drains.
    pub repaired_pages: u64,
    /// Bytes a second that these take now.
    pub repair_bytes_per_second: u64,
    /// Bytes a second that they may take.
    pub repair_limit_bytes_per_second: u64,
    /// Reads that a second store answered because the first could not.
    pub failovers: u64,
    /// Reads that a second store was asked for because the first took long.
    pub hedged: u64,
    /// Copies that were not what had been written, found when they were read.
    pub bad_copies: u64,
    /// Number of this daemon's session; a higher one shuts it out.
    pub epoch: u64,
    /// Another daemon with a higher one has taken the namespace over.
    pub fenced: bool,
    /// What is wrong with etcd, where it says which stores there are.
    pub membership_error: Option<String>,
    /// The repair under way, or the last one.
    pub task: Option<TaskStatus>,
}

/// A store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Store {
    /// Its number among this daemon's stores.
    pub number: u32,
    /// What it goes by: its label, or else its address.
    pub name: String,
    /// Where it listens.
    pub address: String,
    /// What it is.
    pub kind: StoreKind,
    /// From where it is known.
    pub origin: StoreOrigin,
    /// What goes on with it.
    pub state: StoreState,
    /// Whether it is connected.
    pub connected: bool,
    /// The number that it gave itself, in hexadecimal; absent before it was ever connected.
    pub id: Option<String>,
    /// Copies of this daemon's pages on it.
    pub copies: u64,
    /// What fits into it, for all of its clients, in pages.
    pub capacity_pages: u64,
    /// What of that is free.
    pub free_pages: u64,
    /// What this daemon may have of it, in pages.
    pub quota_pages: u64,
    /// What of that it has.
    pub used_pages: u64,
    /// Since when nothing was heard of it, in ms; absent before anything was.
    pub heard_ms: Option<u64>,
    /// Pages read from it.
    pub reads: u64,
    /// Pages written to it.
    pub writes: u64,
    /// Pages that it was told to forget.
    pub flushes: u64,
    /// Requests that failed.
    pub errors: u64,
    /// Median of the time that a request took, in ns, lately.
    pub rtt_p50_ns: u64,
    /// 99 of 100 took no longer.
    pub rtt_p99_ns: u64,
    /// What was last wrong with it, a sentence.
    pub error: Option<String>,
    /// The drain under way, or the last one.
    pub task: Option<TaskStatus>,
}

/// Body of `POST /v1/stores`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreAddRequest {
    /// `IP:PORT`, `NAME@IP:PORT` where its certificate has a name, or `unix:PATH`.
    pub address: String,
    /// What people call it; its address without it.
    #[serde(default)]
    pub label: Option<String>,
    /// What it shares with others that are expected to fail together, such as a rack: no two copies of a
    /// page lie in one. Without it, it is one of its own.
    #[serde(default)]
    pub domain: Option<String>,
}

/// Body of `POST /v1/stores/{name}/remove`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreRemoveRequest {
    /// Also if pages lie on it of which there is no other copy, or fewer than there should be.
    pub force: bool,
}

impl Store {
    /// What is wrong with it, a sentence; nothing when it does what it should. It belongs among the
    /// [`Status::reasons`](crate::Status::reasons).
    #[must_use]
    pub fn reason(&self) -> Option<String> {
        let name = &self.name;
        let because = |text: String| match &self.error {
            Some(error) => format!("{text}: {error}"),
            None => text,
        };
        match self.state {
            StoreState::Up | StoreState::Drained => None,
            StoreState::Joining => Some(because(format!("store {name} is not in use yet"))),
            StoreState::Suspect => Some(because(format!("store {name} does not answer"))),
            StoreState::Dead => Some(because(format!("store {name} is dead"))),
            StoreState::Draining => Some(format!("store {name} is being drained")),
        }
    }
}

impl Replication {
    /// What is wrong with the pages on the stores, a sentence each. They belong among the
    /// [`Status::reasons`](crate::Status::reasons).
    #[must_use]
    pub fn reasons(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if self.fenced {
            reasons.push(format!(
                "another daemon has taken namespace {} over: the remote tier takes and gives nothing",
                self.namespace
            ));
        }
        if self.lost_pages > 0 {
            let pages = pages(self.lost_pages);
            reasons.push(format!("{pages} on the stores lost: no copy is left"));
        }
        if self.below_pages > 0 {
            let (pages, replicas) = (pages(self.below_pages), self.replicas);
            reasons.push(format!(
                "{pages} on the stores with fewer than {replicas} copies"
            ));
        }
        if let Some(error) = &self.membership_error {
            reasons.push(format!("etcd does not say which stores there are: {error}"));
        }
        reasons
    }
}

fn pages(count: u64) -> String {
    match count {
        1 => "1 page is".to_owned(),
        count => format!("{count} pages are"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_does_its_work_is_no_reason() {
        let reason = |state, error: Option<&str>| {
            let store = Store {
                name: "rack1".into(),
                state,
                error: error.map(Into::into),
                ..Store::default()
            };
            store.reason()
        };
        assert_eq!(reason(StoreState::Up, Some("it was dead once")), None);
        assert_eq!(reason(StoreState::Drained, None), None);
        let dead = reason(StoreState::Dead, Some("connection refused")).unwrap();
        assert_eq!(dead, "store rack1 is dead: connection refused");
    }

    #[test]
    fn whole_replication_is_no_reason_and_less_is_told_with_its_number() {
        let mut replication = Replication {
            replicas: 2,
            pages: 100,
            ..Replication::default()
        };
        assert_eq!(replication.reasons(), Vec::<String>::new());
        replication.below_pages = 7;
        replication.lost_pages = 1;
        let reasons = replication.reasons();
        assert_eq!(reasons.len(), 2);
        assert!(reasons[0].starts_with("1 page is") && reasons[0].contains("lost"));
        assert!(reasons[1].contains("7 pages are") && reasons[1].contains("fewer than 2"));
    }

    #[test]
    fn a_store_of_a_newer_daemon_is_read() {
        let new = r#"{"name": "a", "state": "up", "colour": "red"}"#;
        let store: Store = serde_json::from_str(new).unwrap();
        assert_eq!((store.name.as_str(), store.state), ("a", StoreState::Up));
    }
}
