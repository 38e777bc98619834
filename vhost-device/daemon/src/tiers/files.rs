// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The files of the tiers below DRAM: opened by the keeper, before its sandbox and once, and used by
//! one worker after the other.

use std::fs::{self, File, OpenOptions};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use rustix::fs::{FlockOperation, MemfdFlags, flock, memfd_create};
use rustix::io::Errno;
use tmem_pages::slots::{self, Durability, OpenedAs, SlotError, SlotFile};
use tmem_pages::{SlotStore, Stores, Tier};

use super::linked::LinkedStore;
use super::paths::Paths;
use crate::config::{Config, PmConfig};
use crate::device::record::Records;
use crate::error::Error;
use crate::limits::{LAST_USER_GONE, LAST_USER_PAUSE};

/// Names under which they are handed over.
pub(crate) const PM: &str = "pm";
/// The memory that stands in for stores elsewhere.
pub(crate) const REMOTE: &str = "remote";
/// What is known of requests that are answered out of turn.
pub(crate) const RECORDS: &str = "records";
/// All of them.
pub(crate) const NAMES: [&str; 3] = [PM, REMOTE, RECORDS];

/// The descriptors.
#[derive(Debug, Default)]
pub(crate) struct TierFiles {
    pub(crate) pm: Option<OwnedFd>,
    pub(crate) remote: Option<OwnedFd>,
    pub(crate) records: Option<OwnedFd>,
    /// This boot of the host.
    pub(crate) boot: Option<[u8; 16]>,
}

impl TierFiles {
    /// Opens what the configuration asks for, unless it is `kept` from before, by name.
    ///
    /// # Errors
    /// [`Error`], if a file cannot be had or another program has it.
    pub(crate) fn open(
        config: &Config,
        mut kept: impl FnMut(&str) -> Option<OwnedFd>,
    ) -> Result<Self, Error> {
        let [pm, remote, records] = NAMES.map(&mut kept);
        let pm = match &config.pm {
            Some(wanted) => Some(match pm.filter(|kept| is_at(kept, &wanted.path)) {
                Some(kept) => kept,
                None => open_pm(&wanted.path)?,
            }),
            None => None,
        };
        let remote = match (&config.remote, remote) {
            (None, _) => None,
            (Some(_), Some(kept)) => Some(kept),
            (Some(_), None) => Some(memory("tmem-remote")?),
        };
        let records = match records {
            Some(kept) => kept,
            None => {
                let file = memory("tmem-records")?;
                Records::make(&file).map_err(Error::Records)?;
                file
            }
        };
        Ok(Self {
            pm,
            remote,
            records: Some(records),
            // Only a file that does not outlive the host needs it, and says so if it lacks it.
            boot: slots::boot_id().ok(),
        })
    }

    /// They, by name.
    pub(crate) fn named(&self) -> impl Iterator<Item = (&'static str, BorrowedFd<'_>)> {
        let files = [&self.pm, &self.remote, &self.records];
        (NAMES.into_iter().zip(files))
            .filter_map(|(name, file)| Some((name, file.as_ref()?.as_fd())))
    }

    /// What was handed over under these names.
    pub(crate) fn handed_over(
        names: &[String],
        files: impl Iterator<Item = OwnedFd>,
        boot: Option<[u8; 16]>,
    ) -> Self {
        let mut handed = Self {
            boot,
            ..Self::default()
        };
        for (name, file) in names.iter().zip(files) {
            match name.as_str() {
                PM => handed.pm = Some(file),
                REMOTE => handed.remote = Some(file),
                RECORDS => handed.records = Some(file),
                _ => {}
            }
        }
        handed
    }
}

fn memory(name: &str) -> Result<OwnedFd, Error> {
    memfd_create(name, MemfdFlags::CLOEXEC).map_err(|error| Error::Records(error.into()))
}

fn is_at(file: &OwnedFd, path: &Path) -> bool {
    let of_path = fs::metadata(path).map(|found| (found.dev(), found.ino()));
    let of_file = rustix::fs::fstat(file).map(|found| (found.st_dev, found.st_ino));
    matches!((of_path, of_file), (Ok(of_path), Ok(of_file)) if of_path == of_file)
}

/// Opens the PM file, and locks it against other programs for as long as a descriptor of it is open.
fn open_pm(path: &Path) -> Result<OwnedFd, Error> {
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).create(true).truncate(false);
    let file: File = (options.mode(0o600).open(path)).map_err(|source| Error::StateFile {
        path: path.to_owned(),
        source,
    })?;
    // The worker of a daemon that was killed has the file for a moment longer.
    let deadline = Instant::now() + LAST_USER_GONE;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file.into()),
            Err(Errno::WOULDBLOCK) if Instant::now() < deadline => {
                std::thread::sleep(LAST_USER_PAUSE);
            }
            Err(Errno::WOULDBLOCK) => {
                let path = path.to_owned();
                let source = SlotError::Locked { path };
                return Err(Error::Tier { tier: PM, source });
            }
            Err(error) => {
                return Err(Error::StateFile {
                    path: path.to_owned(),
                    source: error.into(),
                });
            }
        }
    }
}

/// The stores of a worker.
#[derive(Debug, Default)]
pub(crate) struct OpenStores {
    pub(crate) stores: Stores,
    /// What the PM file was found as.
    pub(crate) pm_found: Option<OpenedAs>,
    /// Must not be closed: with any descriptor of a file the process gives up its claim to it.
    _held: Vec<OwnedFd>,
}

/// Opens the stores. One that a dying process has still is waited for.
///
/// # Errors
/// [`Error::Tier`], if a file is not what it should be.
pub(crate) fn open_stores(
    config: &Config,
    files: &mut TierFiles,
    paths: &Arc<Paths>,
) -> Result<OpenStores, Error> {
    let mut open = OpenStores::default();
    let boot = files.boot;
    let behind_link = |store: SlotFile, tier| -> Arc<dyn SlotStore> {
        Arc::new(LinkedStore::new(Arc::new(store), tier, paths))
    };
    if let (Some(file), Some(wanted)) = (files.pm.take(), &config.pm) {
        let (store, found) = open_one(&file, &wanted.path, wanted.pages, durability(wanted), boot)
            .map_err(|source| Error::Tier { tier: PM, source })?;
        if found != OpenedAs::Kept {
            tracing::info!(path = %wanted.path.display(), ?found, "the PM file holds nothing");
        }
        open.pm_found = Some(found);
        open.stores.pm = Some(behind_link(store, Tier::Pm));
        open.stores.keep_over_reboot = wanted.keep_over_reboot;
        open._held.push(file);
    }
    if let (Some(file), Some(wanted)) = (files.remote.take(), &config.remote) {
        let (path, durability) = (Path::new("tmem-remote"), Durability::Process);
        let (store, _) =
            open_one(&file, path, wanted.pages, durability, boot).map_err(|source| {
                Error::Tier {
                    tier: REMOTE,
                    source,
                }
            })?;
        open.stores.remote = Some(behind_link(store, Tier::Remote));
        open._held.push(file);
    }
    if open.stores.pm.is_some() || open.stores.remote.is_some() {
        paths.set_tiered();
    }
    Ok(open)
}

fn durability(pm: &PmConfig) -> Durability {
    match pm.durability {
        tmem_admin_api::Durability::Host => Durability::Host,
        tmem_admin_api::Durability::Process => Durability::Process,
    }
}

fn open_one(
    file: &OwnedFd,
    path: &Path,
    pages: u64,
    durability: Durability,
    boot: Option<[u8; 16]>,
) -> Result<(SlotFile, OpenedAs), SlotError> {
    let slots = u32::try_from(pages).unwrap_or(u32::MAX);
    let deadline = Instant::now() + LAST_USER_GONE;
    loop {
        let again = file.try_clone().map_err(|source| SlotError::Io {
            path: path.to_owned(),
            doing: "open",
            source,
        })?;
        let opened = match boot {
            Some(boot) => SlotFile::open_in_boot(again, path, slots, durability, boot),
            None => SlotFile::open(again, path, slots, durability),
        };
        match opened {
            Err(SlotError::InUse { .. }) if Instant::now() < deadline => {
                std::thread::sleep(LAST_USER_PAUSE);
            }
            opened => return opened.map(|(store, opened)| (store, opened.found)),
        }
    }
}
