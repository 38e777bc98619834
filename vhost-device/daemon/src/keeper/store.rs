// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What outlives the keeper itself: its descriptors and its record, kept by systemd's descriptor store
//! (`FileDescriptorStoreMax=`, `sd_pid_notify_with_fds(3)`). Without a service manager nothing does.
//!
//! Every descriptor has a name there: `map`, `frames`, `pm`, `remote`, `records`, `stores`,
//! `disk`, `admin`, `listen.GUEST`, and `sN.…` for those of connection N. `state` is a memory file with the record of all connections, as versioned JSON,
//! written twice in turn with a sequence number and a checksum, so that one copy is whole whenever
//! the keeper dies.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{MemfdFlags, memfd_create};
use serde::{Deserialize, Serialize};

use super::session::Session;
use crate::config::Config;
use crate::notify::Notify;

/// Version of the record.
const VERSION: u32 = 1;
/// Where the second copy begins. A connection's record takes some kilobytes.
const COPY_BYTES: u64 = 16 << 20;
/// Sequence number, length, checksum.
const HEAD: usize = 24;
/// The first descriptor that a service manager hands over.
const FIRST_FD: RawFd = 3;
/// The record's name.
const STATE: &str = "state";
/// Stands for the number of a descriptor that was handed over, and is the one of its name until this
/// keeper has looked at all of them for the first time.
const INHERITED: RawFd = -1;

/// The record of all connections.
#[derive(Debug, Deserialize, Serialize)]
struct Saved {
    version: u32,
    sessions: Vec<SavedSession>,
    /// What administrators had set, and under which configuration.
    #[serde(default)]
    settings: Option<(serde_json::Value, Box<Config>)>,
}

/// One connection's.
#[derive(Debug, Deserialize, PartialEq, Serialize)]
pub(super) struct SavedSession {
    pub(super) guest: String,
    pub(super) number: u64,
    pub(super) messages: Vec<SavedMessage>,
    pub(super) replies: Vec<(u32, Vec<u8>, Vec<u8>)>,
    pub(super) pending: Option<SavedMessage>,
}

/// A message, with the names of its descriptors.
#[derive(Debug, Deserialize, PartialEq, Serialize)]
pub(super) struct SavedMessage {
    pub(super) request: u32,
    pub(super) flags: u32,
    pub(super) body: Vec<u8>,
    pub(super) files: Vec<String>,
}

/// Why what a service manager hands over cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Of another version.
    #[error(
        "Cannot go on with the connections of a daemon whose record has version {found}; this one reads version {VERSION}: start the version that wrote it, or clear the unit's descriptor store"
    )]
    Version {
        /// The version found.
        found: u32,
    },
    /// Not one.
    #[error(
        "Cannot go on with the connections of the last daemon: their record is damaged; clear the unit's descriptor store"
    )]
    Damaged,
    /// The system.
    #[error("Cannot keep the record of connections")]
    System(#[from] io::Error),
}

/// Descriptors that were handed over at the start, by name.
#[derive(Debug, Default)]
pub(super) struct Inherited {
    files: BTreeMap<String, OwnedFd>,
    /// All names, also of those that were removed.
    names: Vec<String>,
}

impl Inherited {
    /// Takes what the environment says is there (`sd_listen_fds_with_names(3)`).
    pub(super) fn take() -> Self {
        let variable = |name| std::env::var(name).ok();
        let own = variable("LISTEN_PID").is_some_and(|pid| pid == std::process::id().to_string());
        let count = variable("LISTEN_FDS").and_then(|count| count.parse::<RawFd>().ok());
        let (true, Some(count)) = (own, count) else {
            return Self::default();
        };
        let names = variable("LISTEN_FDNAMES").unwrap_or_default();
        let fds = (FIRST_FD..FIRST_FD.saturating_add(count)).filter(|fd| {
            // SAFETY: The number is only asked about; if nothing is open there, the kernel says so.
            let fd = unsafe { BorrowedFd::borrow_raw(*fd) };
            rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::CLOEXEC).is_ok()
        });
        let named = names.split(':').zip(fds);
        // SAFETY: The service manager gave us this descriptor, which is open, and names it once; this
        // is the only place that takes it.
        let owned = named.map(|(name, fd)| (name.to_owned(), unsafe { OwnedFd::from_raw_fd(fd) }));
        let files: BTreeMap<_, _> = owned.collect();
        Self {
            names: files.keys().cloned().collect(),
            files,
        }
    }

    /// The descriptor of this name, if there is one.
    pub(super) fn remove(&mut self, name: &str) -> Option<OwnedFd> {
        self.files.remove(name)
    }

    /// The record that the last keeper left, if there is one: connections, and what administrators had
    /// set, unless that was under another configuration than `config`, which holds then.
    ///
    /// # Errors
    /// [`StoreError`], if it cannot be read.
    pub(super) fn saved(
        &self,
        config: &Config,
    ) -> Result<(Vec<SavedSession>, Option<serde_json::Value>), StoreError> {
        let Some(state) = self.files.get(STATE) else {
            return Ok((Vec::new(), None));
        };
        let file = File::from(state.try_clone()?);
        let copies = [0, COPY_BYTES].map(|at| read_copy(&file, at));
        let newest = copies
            .into_iter()
            .flatten()
            .max_by_key(|(sequence, _)| *sequence);
        let Some((_, json)) = newest else {
            // Nothing was ever written, or nothing whole is left.
            let empty = file.metadata()?.len() == 0;
            return if empty {
                Ok((Vec::new(), None))
            } else {
                Err(StoreError::Damaged)
            };
        };
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        match serde_json::from_slice::<Version>(&json) {
            Ok(Version { version: VERSION }) => {}
            Ok(Version { version: found }) => return Err(StoreError::Version { found }),
            Err(_) => return Err(StoreError::Damaged),
        }
        let saved: Saved = serde_json::from_slice(&json).map_err(|_| StoreError::Damaged)?;
        let settings = saved.settings.filter(|(_, under)| **under == *config);
        Ok((saved.sessions, settings.map(|(settings, _)| settings)))
    }
}

/// The other side: what is to be handed over to the next keeper.
#[derive(Debug)]
pub(super) struct Store {
    state: File,
    sequence: u64,
    written: Vec<u8>,
    /// What the manager has, by name, and the number that it had here.
    stored: BTreeMap<String, RawFd>,
}

impl Store {
    /// A store that goes on with what an earlier keeper left in it.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn new(inherited: &mut Inherited) -> io::Result<Self> {
        let state = match inherited.remove("state") {
            Some(state) => state,
            None => memfd_create("tmem-keeper-state", MemfdFlags::CLOEXEC)?,
        };
        let state = File::from(state);
        let copies = [0, COPY_BYTES].map(|at| read_copy(&state, at));
        let last = copies.into_iter().flatten().map(|(sequence, _)| sequence);
        Ok(Self {
            sequence: last.max().unwrap_or(0),
            state,
            written: Vec::new(),
            stored: std::mem::take(&mut inherited.names)
                .into_iter()
                .map(|name| (name, INHERITED))
                .collect(),
        })
    }

    /// Keeps a descriptor that stays for as long as the daemon.
    pub(super) fn keep(&mut self, notify: &Notify, name: &str, file: BorrowedFd<'_>) {
        self.sync(notify, &[(name.to_owned(), file)], name);
    }

    /// Writes the record of all connections and settings, if it has changed, and keeps the connections'
    /// descriptors.
    pub(super) fn save<'a>(
        &mut self,
        notify: &Notify,
        sessions: impl Iterator<Item = (&'a str, &'a Session)>,
        settings: Option<(&serde_json::Value, &Config)>,
    ) {
        if !notify.is_there() {
            return;
        }
        let mut files = Vec::new();
        let sessions = sessions.map(|(guest, session)| session.save(guest, &mut files));
        let saved = Saved {
            version: VERSION,
            sessions: sessions.collect(),
            settings: settings
                .map(|(settings, config)| (settings.clone(), Box::new(config.clone()))),
        };
        // Plain structures of numbers and strings.
        let json = serde_json::to_vec(&saved).unwrap_or_default();
        // Descriptors first: the record must not name what is not there.
        self.sync(notify, &files, "s");
        if json != self.written {
            if let Err(error) = self.write(&json) {
                tracing::error!(%error, "the record of connections would not outlive the keeper");
            }
            self.written = json;
        }
        if !self.stored.contains_key(STATE) {
            notify.keep(STATE, self.state.as_fd());
            self.stored.insert(STATE.to_owned(), self.state.as_raw_fd());
        }
    }

    /// Makes the manager have `files` under the names that begin with `prefix`, and no others.
    fn sync(&mut self, notify: &Notify, files: &[(String, BorrowedFd<'_>)], prefix: &str) {
        let wanted: BTreeMap<_, _> = files.iter().map(|(name, file)| (name, file)).collect();
        let gone: Vec<String> = (self.stored.iter())
            .filter(|(name, fd)| {
                let same = |file: &&&BorrowedFd<'_>| [file.as_raw_fd(), INHERITED].contains(fd);
                name.starts_with(prefix)
                    && *name != STATE
                    && wanted.get(name).filter(same).is_none()
            })
            .map(|(name, _)| name.clone())
            .collect();
        for name in gone {
            notify.forget(&name);
            self.stored.remove(&name);
        }
        for (name, file) in wanted {
            if !self.stored.contains_key(name) {
                notify.keep(name, *file);
            }
            self.stored.insert(name.clone(), file.as_raw_fd());
        }
    }

    fn write(&mut self, json: &[u8]) -> io::Result<()> {
        self.sequence += 1;
        let mut bytes = self.sequence.to_le_bytes().to_vec();
        bytes.extend((json.len() as u64).to_le_bytes());
        bytes.extend(u64::from(checksum(json)).to_le_bytes());
        bytes.extend(json);
        self.state
            .write_all_at(&bytes, (self.sequence % 2) * COPY_BYTES)
    }
}

fn read_copy(file: &File, at: u64) -> Option<(u64, Vec<u8>)> {
    let mut head = [0; HEAD];
    file.read_exact_at(&mut head, at).ok()?;
    let [sequence, length, sum] = [0, 1, 2].map(|word| {
        let bytes = head[word * 8..word * 8 + 8].try_into();
        u64::from_le_bytes(bytes.unwrap_or_default())
    });
    let length = usize::try_from(length)
        .ok()
        .filter(|length| *length as u64 <= COPY_BYTES)?;
    let mut json = vec![0; length];
    file.read_exact_at(&mut json, at + HEAD as u64).ok()?;
    (sequence > 0 && u64::from(checksum(&json)) == sum).then_some((sequence, json))
}

/// FNV-1a: a torn write is to be noticed, not an attack; only this daemon and its manager have the
/// file.
fn checksum(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |sum, byte| {
        (sum ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> File {
        memfd_create("state", MemfdFlags::CLOEXEC).unwrap().into()
    }

    fn store(state: &File) -> Store {
        let mut inherited = handed_over(state);
        Store::new(&mut inherited).unwrap()
    }

    fn handed_over(state: &File) -> Inherited {
        let state = OwnedFd::from(state.try_clone().unwrap());
        Inherited {
            files: BTreeMap::from([(STATE.to_owned(), state)]),
            names: Vec::new(),
        }
    }

    fn record(version: u32, guests: &[&str]) -> Vec<u8> {
        let sessions = guests.iter().map(|guest| SavedSession {
            guest: (*guest).to_owned(),
            number: 7,
            messages: Vec::new(),
            replies: Vec::new(),
            pending: None,
        });
        let sessions = sessions.collect();
        let settings = None;
        let saved = Saved {
            version,
            sessions,
            settings,
        };
        serde_json::to_vec(&saved).unwrap()
    }

    fn config() -> Config {
        let guest = "[[guest]]\nname = \"a\"\nsocket = \"/s\"\ngrant = \"1MiB\"\n";
        Config::from_toml(&format!("[daemon]\ndram = \"1MiB\"\n{guest}")).unwrap()
    }

    #[test]
    fn what_was_set_under_another_configuration_is_not_gone_on_with() {
        let state = file();
        let set = serde_json::json!({"overcommit": true});
        let saved = Saved {
            version: VERSION,
            sessions: Vec::new(),
            settings: Some((set.clone(), Box::new(config()))),
        };
        let json = serde_json::to_vec(&saved).unwrap();
        store(&state).write(&json).unwrap();
        let settings = |config| handed_over(&state).saved(&config).unwrap().1;
        assert_eq!(settings(config()), Some(set));
        let mut other = config();
        other.overcommit = true;
        assert_eq!(settings(other), None);
    }

    fn guests(state: &File) -> Vec<String> {
        let (sessions, _) = handed_over(state).saved(&config()).unwrap();
        sessions.into_iter().map(|saved| saved.guest).collect()
    }

    #[test]
    fn the_newest_record_is_read_and_a_torn_one_is_not() {
        let state = file();
        assert!(guests(&state).is_empty());
        let mut first = store(&state);
        first.write(&record(VERSION, &["a"])).unwrap();
        first.write(&record(VERSION, &["a", "b"])).unwrap();
        assert_eq!(guests(&state), ["a", "b"]);
        // The next keeper goes on behind it.
        let mut next = store(&state);
        next.write(&record(VERSION, &["c"])).unwrap();
        assert_eq!(guests(&state), ["c"]);
        // It dies while it writes.
        next.write(&record(VERSION, &["d"])).unwrap();
        let copy = (next.sequence % 2) * COPY_BYTES;
        state.write_all_at(b"x", copy + HEAD as u64 + 20).unwrap();
        assert_eq!(guests(&state), ["c"], "the record before is whole");
    }

    #[test]
    fn a_record_of_another_version_is_refused_with_its_number() {
        let state = file();
        store(&state).write(&record(VERSION + 76, &["a"])).unwrap();
        let before = state.metadata().unwrap().len();
        let refused = handed_over(&state)
            .saved(&config())
            .unwrap_err()
            .to_string();
        assert!(refused.contains("version 77"), "{refused}");
        assert_eq!(
            state.metadata().unwrap().len(),
            before,
            "nothing was touched"
        );
        let garbage = file();
        garbage.write_all_at(&[0xee; 100], 0).unwrap();
        let refused = handed_over(&garbage).saved(&config());
        assert!(matches!(refused, Err(StoreError::Damaged)));
    }
}
