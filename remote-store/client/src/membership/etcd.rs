// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! etcd as a source of members, in a thread of its own: it may hang for seconds, and nobody who reads
//! or writes pages, or looks after stores, waits for it.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use parking_lot::Mutex;
use tmem_etcd::{Client, FollowConfig, Follower, StoreNews, StoreRecord};
use tokio::sync::oneshot;

use super::roster::{Roster, Source};
use crate::control::{Event, Kind, MemberSpec};

/// The label that names a store's failure domain.
pub const DOMAIN: &str = "domain";

/// The label that says how many percent of a store are to be used.
pub const WEIGHT: &str = "weight";

/// What is known of etcd, and a way to end the thread that follows it.
#[derive(Debug)]
pub struct Following {
    trouble: Arc<Mutex<Option<String>>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Following {
    /// Why etcd cannot be asked; None if it can. Members stay as they are meanwhile.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().clone()
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        // Dropping the sender ends the thread, which waits for nothing else.
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that followed etcd had panicked");
        }
    }
}

/// What a store's record says to the core. None if it is nothing that etcd may say.
pub fn member(name: &str, record: &StoreRecord) -> Option<MemberSpec> {
    // A file of this host is this host's business.
    if record.address.starts_with("disk:") {
        return None;
    }
    let weight = record.labels.get(WEIGHT).map(|text| text.parse());
    Some(MemberSpec {
        name: name.to_owned(),
        address: record.address.clone(),
        kind: Kind::Remote,
        domain: record.labels.get(DOMAIN).cloned(),
        weight_percent: weight.map_or(Some(100), Result::ok)?,
    })
}

/// What one piece of news means.
pub fn event(roster: &mut Roster, news: StoreNews) -> Option<Event> {
    match news {
        StoreNews::Listed { name, record } => match member(&name, &record) {
            Some(spec) => roster.named(Source::Etcd, spec),
            None => {
                tracing::warn!(
                    name,
                    address = record.address,
                    "etcd lists what is no store"
                );
                roster.unnamed(Source::Etcd, &name)
            }
        },
        StoreNews::Gone { name } => roster.unnamed(Source::Etcd, &name),
        StoreNews::Complete { .. } | StoreNews::Trouble(_) => None,
    }
}

/// Follows etcd's list in a thread named `membership`, until what is returned is dropped. `on_start`
/// runs in it first (a sandbox, say); `tell` gets what changes.
///
/// # Errors
/// The thread cannot be started.
pub fn follow(
    client: Client,
    config: FollowConfig,
    roster: Arc<Mutex<Roster>>,
    on_start: impl FnOnce() + Send + 'static,
    mut tell: impl FnMut(Event) + Send + 'static,
) -> io::Result<Following> {
    let trouble = Arc::new(Mutex::new(None));
    let told = Arc::clone(&trouble);
    let (stop, stopped) = oneshot::channel::<()>();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let run = move || {
        on_start();
        let mut follower = Follower::new(client, config);
        let follow = follower.follow(|news| {
            match &news {
                StoreNews::Trouble(error) => {
                    tracing::warn!(%error, "etcd cannot be asked: stores stay as they are");
                    *told.lock() = Some(error.to_string());
                }
                StoreNews::Complete { .. } => *told.lock() = None,
                StoreNews::Listed { .. } | StoreNews::Gone { .. } => {}
            }
            let event = event(&mut roster.lock(), news);
            if let Some(event) = event {
                tell(event);
            }
        });
        runtime.block_on(async {
            tokio::select! {
                () = Box::pin(follow) => {}
                _ = stopped => {}
            }
        });
    };
    let thread = thread::Builder::new()
        .name("membership".into())
        .spawn(run)?;
    Ok(Following {
        trouble,
        stop: Some(stop),
        thread: Some(thread),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(address: &str, labels: &[(&str, &str)]) -> StoreRecord {
        let labels = labels.iter();
        StoreRecord {
            address: address.into(),
            id: "a".into(),
            labels: labels
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
        }
    }

    #[test]
    fn a_record_with_labels_is_a_member_with_a_domain_and_a_weight() {
        let record = record("10.0.0.1:7400", &[(DOMAIN, "rack1"), (WEIGHT, "50")]);
        let spec = member("one", &record).unwrap();
        assert_eq!(spec.domain.as_deref(), Some("rack1"));
        assert_eq!((spec.weight_percent, spec.kind), (50, Kind::Remote));
    }

    #[test]
    fn etcd_cannot_name_files_of_this_host_nor_odd_weights() {
        assert_eq!(member("one", &record("disk:/etc/passwd:1", &[])), None);
        assert_eq!(member("one", &record("a:1", &[(WEIGHT, "much")])), None);
    }

    #[test]
    fn news_become_events_and_trouble_changes_nothing() {
        let mut roster = Roster::new();
        let listed = |address: &str| StoreNews::Listed {
            name: "one".into(),
            record: record(address, &[]),
        };
        let added = event(&mut roster, listed("a:1"));
        assert!(matches!(added, Some(Event::AddMember(_))));
        assert_eq!(
            event(&mut roster, StoreNews::Complete { revision: 1 }),
            None
        );
        let gone = StoreNews::Gone { name: "one".into() };
        let unlist = Event::Unlist { name: "one".into() };
        assert_eq!(event(&mut roster, gone), Some(unlist));
        // What etcd named once and now describes as nonsense is off its list.
        event(&mut roster, listed("a:1"));
        let nonsense = event(&mut roster, listed("disk:/x:1"));
        assert!(matches!(nonsense, Some(Event::Unlist { .. })));
    }

    #[test]
    fn a_silent_etcd_is_trouble_and_dropping_ends_the_thread() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        let config = tmem_etcd::ClientConfig::new(vec![endpoint.parse().unwrap()]);
        let client = Client::new(config).unwrap();
        let roster = Arc::new(Mutex::new(Roster::new()));
        let (started, start) = std::sync::mpsc::channel();
        let on_start = move || started.send(()).unwrap();
        let tell = |event| panic!("nothing is known: {event:?}");
        let following = follow(client, FollowConfig::default(), roster, on_start, tell).unwrap();
        start.recv().unwrap();
        while following.trouble().is_none() {
            thread::yield_now();
        }
        assert!(following.trouble().unwrap().contains("Cannot connect"));
        drop(following);
    }
}
