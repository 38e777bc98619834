// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a store must not forget besides its pages: which one it is, and the newest epoch of each
//! namespace. A small file, replaced whole.
//!
//! An epoch is kept before it is promised to the client that brought it, so that a client of an
//! older one is refused after a restart too.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::StoreError;

/// The form of the file.
const VERSION: u32 = 1;

/// Which store this is, as clients tell stores apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The store, for life.
    pub store_id: [u8; 16],
    /// One life of its pages: another one means that they may be gone.
    pub incarnation: u64,
}

impl Identity {
    /// One that nobody else has.
    ///
    /// # Errors
    /// The system's, if it has no random numbers.
    pub fn random() -> io::Result<Self> {
        let mut bytes = [0; 24];
        let filled = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
        if filled < bytes.len() {
            return Err(io::Error::other("the system gave too few random bytes"));
        }
        let (mut store_id, mut incarnation) = ([0; 16], [0; 8]);
        store_id.copy_from_slice(&bytes[..16]);
        incarnation.copy_from_slice(&bytes[16..]);
        Ok(Self {
            store_id,
            incarnation: u64::from_le_bytes(incarnation),
        })
    }
}

/// The file as it is written.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    version: u32,
    store_id: [u8; 16],
    incarnation: u64,
    /// The host's boot in which it was written.
    boot: String,
    epochs: BTreeMap<String, u64>,
    /// The process that wrote this had a log.
    #[serde(default)]
    logged: bool,
}

/// What is kept, and where.
#[derive(Debug)]
pub(crate) struct State {
    path: Option<PathBuf>,
    /// A write is to outlive the host.
    sync: bool,
    kept: Kept,
    /// Written in this boot of the host, by a process that is gone.
    same_boot: bool,
    /// There was one, and it had no log.
    ran_without_log: bool,
}

impl State {
    /// Reads the file at `path`, or begins as `identity` if there is none. Without a path nothing
    /// outlives the process.
    pub(crate) fn load(
        path: Option<PathBuf>,
        sync: bool,
        identity: Identity,
    ) -> Result<Self, StoreError> {
        // Where it matters, it is asked for before.
        let boot = boot().unwrap_or_default();
        let found = match &path {
            Some(path) => read(path)?,
            None => None,
        };
        let same_boot = found
            .as_ref()
            .is_some_and(|found| found.boot == boot && !boot.is_empty());
        let ran_without_log = found.as_ref().is_some_and(|found| !found.logged);
        let mut kept = found.unwrap_or_else(|| Kept {
            version: VERSION,
            store_id: identity.store_id,
            incarnation: identity.incarnation,
            boot: String::new(),
            epochs: BTreeMap::new(),
            logged: false,
        });
        kept.boot = boot;
        Ok(Self {
            path,
            sync,
            kept,
            same_boot,
            ran_without_log,
        })
    }

    /// Memory files beside this one are as a process of this boot left them.
    pub(crate) fn is_of_this_boot(&self) -> bool {
        self.same_boot
    }

    /// The last process had no log: one that is older than it may lack what that process was told.
    pub(crate) fn ran_without_log(&self) -> bool {
        self.ran_without_log
    }

    /// Whether this process has a log.
    pub(crate) fn set_logged(&mut self, logged: bool) {
        self.kept.logged = logged;
    }

    pub(crate) fn identity(&self) -> Identity {
        Identity {
            store_id: self.kept.store_id,
            incarnation: self.kept.incarnation,
        }
    }

    /// Pages may be gone: begins another life.
    pub(crate) fn begin(&mut self, incarnation: u64) {
        self.kept.incarnation = incarnation;
    }

    /// The newest epoch of a namespace; 0 if none came.
    pub(crate) fn epoch(&self, namespace: &str) -> u64 {
        self.kept.epochs.get(namespace).copied().unwrap_or(0)
    }

    /// A namespace's newest epoch, as something else has kept it.
    pub(crate) fn raise_epoch(&mut self, namespace: &str, epoch: u64) {
        if epoch > self.epoch(namespace) {
            self.kept.epochs.insert(namespace.to_owned(), epoch);
        }
    }

    /// Is another store, in another life.
    pub(crate) fn become_identity(&mut self, identity: Identity) {
        self.kept.store_id = identity.store_id;
        self.kept.incarnation = identity.incarnation;
    }

    /// Keeps a namespace's newest epoch.
    pub(crate) fn set_epoch(&mut self, namespace: &str, epoch: u64) -> Result<(), StoreError> {
        let before = self.kept.epochs.insert(namespace.to_owned(), epoch);
        let saved = self.save();
        if saved.is_err() {
            match before {
                Some(before) => self.kept.epochs.insert(namespace.to_owned(), before),
                None => self.kept.epochs.remove(namespace),
            };
        }
        saved
    }

    /// Writes all of it.
    pub(crate) fn save(&self) -> Result<(), StoreError> {
        let Some(path) = &self.path else {
            return Ok(());
        };
        self.write(path).map_err(|source| StoreError::State {
            path: path.clone(),
            source,
        })
    }

    fn write(&self, path: &Path) -> io::Result<()> {
        let text = serde_json::to_vec(&self.kept)?;
        let mut new = path.as_os_str().to_owned();
        new.push(".new");
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)?;
        file.write_all(&text)?;
        if self.sync {
            file.sync_all()?;
        }
        drop(file);
        fs::rename(&new, path)?;
        if let (true, Some(folder)) = (self.sync, path.parent()) {
            let folder = if folder.as_os_str().is_empty() {
                Path::new(".")
            } else {
                folder
            };
            File::open(folder)?.sync_all()?;
        }
        Ok(())
    }
}

/// What a file holds, if there is one.
fn read(path: &Path) -> Result<Option<Kept>, StoreError> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            return Err(StoreError::State {
                path: path.into(),
                source,
            });
        }
    };
    let wrong = |source| StoreError::NotState {
        path: path.into(),
        source,
    };
    let kept: Kept = serde_json::from_slice(&text).map_err(wrong)?;
    if kept.version != VERSION {
        let what = format!("it has version {}", kept.version);
        return Err(wrong(serde::de::Error::custom(what)));
    }
    Ok(Some(kept))
}

/// This boot of the host. What outlives the process alone must not be taken for what outlived the host:
/// without an answer there is no such store.
pub(super) fn boot() -> Result<String, StoreError> {
    named(fs::read_to_string("/proc/sys/kernel/random/boot_id"))
}

fn named(boot: io::Result<String>) -> Result<String, StoreError> {
    let named = boot.and_then(|id| match id.trim() {
        "" => Err(io::ErrorKind::UnexpectedEof.into()),
        id => Ok(id.to_owned()),
    });
    named.map_err(|source| StoreError::BootUnknown { source })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Identity = Identity {
        store_id: [1; 16],
        incarnation: 7,
    };
    const SECOND: Identity = Identity {
        store_id: [2; 16],
        incarnation: 8,
    };

    #[test]
    fn second_process_is_the_same_store_and_knows_the_newest_epoch() {
        let dir = tempfile::tempdir().unwrap();
        let path = Some(dir.path().join("store.json"));
        let mut state = State::load(path.clone(), true, FIRST).unwrap();
        assert!(!state.is_of_this_boot());
        state.set_epoch("a", 5).unwrap();
        drop(state);
        let state = State::load(path, true, SECOND).unwrap();
        assert!(state.is_of_this_boot());
        assert_eq!(state.identity(), FIRST);
        assert_eq!((state.epoch("a"), state.epoch("b")), (5, 0));
    }

    #[test]
    fn a_boot_that_is_not_told_is_an_error_and_no_boot_like_another() {
        assert_eq!(named(Ok("abc\n".into())).unwrap(), "abc");
        for unread in [Ok("\n".into()), Err(io::ErrorKind::NotFound.into())] {
            let error = named(unread).unwrap_err();
            assert!(matches!(error, StoreError::BootUnknown { .. }), "{error}");
        }
    }

    #[test]
    fn epoch_that_cannot_be_kept_is_not_known() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gone").join("store.json");
        let mut state = State::load(Some(path), false, FIRST).unwrap();
        assert!(matches!(
            state.set_epoch("a", 5),
            Err(StoreError::State { .. })
        ));
        assert_eq!(state.epoch("a"), 0);
    }

    #[test]
    fn file_of_something_else_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.json");
        fs::write(&path, "{}").unwrap();
        let error = State::load(Some(path), false, FIRST).unwrap_err();
        assert!(matches!(error, StoreError::NotState { .. }), "{error}");
    }
}
