// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The files of the tiers below DRAM: opened by the keeper, before its sandbox and once, and used by
//! one worker after the other.

use std::collections::BTreeMap;
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
use super::stores;
use crate::config::{Config, PmConfig, RemoteConfig, RemoteKind, TlsConfig};
use crate::device::record::Records;
use crate::error::Error;
use crate::limits::{LAST_USER_GONE, LAST_USER_PAUSE};

/// Names under which they are handed over.
pub(crate) const PM: &str = "pm";
/// The memory that stands in for stores elsewhere.
pub(crate) const REMOTE: &str = "remote";
/// What is known of requests that are answered out of turn.
pub(crate) const RECORDS: &str = "records";
/// Which copies of pages lie on which stores.
pub(crate) const STORES: &str = "stores";
/// A file that counts as a store.
pub(crate) const DISK: &str = "disk";
/// Names of those that outlive the keeper.
const KEPT: [&str; 5] = [PM, REMOTE, RECORDS, STORES, DISK];
/// Names of certificates and key, which each keeper reads anew.
const TLS: [&str; 3] = ["tls-ca", "tls-cert", "tls-key"];

/// The descriptors.
#[derive(Debug, Default)]
pub(crate) struct TierFiles {
    pub(crate) pm: Option<OwnedFd>,
    pub(crate) remote: Option<OwnedFd>,
    pub(crate) records: Option<OwnedFd>,
    pub(crate) stores: Option<OwnedFd>,
    pub(crate) disk: Option<OwnedFd>,
    /// Who signs, this daemon's certificate, its key.
    pub(crate) tls: [Option<OwnedFd>; 3],
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
        let [pm, remote, records, stores, disk] = KEPT.map(&mut kept);
        let locked = |kept: Option<OwnedFd>, path: &Path, tier| {
            let kept = kept.filter(|kept| is_at(kept, path));
            kept.map_or_else(|| open_locked(path, tier), Ok)
        };
        let wanted_pm = config.pm.as_ref();
        let wanted = config.remote.as_ref();
        let wanted_disk = wanted.and_then(|remote| remote.stores()?.disk.as_ref());
        let emulated = wanted.is_some_and(|remote| remote.kind == RemoteKind::Emulated);
        let elsewhere = wanted.is_some() && !emulated;
        let anew = |kept: Option<OwnedFd>, name| kept.map_or_else(|| memory(name), Ok);
        let records = match records {
            Some(kept) => kept,
            None => {
                let file = memory("tmem-records")?;
                Records::make(&file).map_err(Error::Records)?;
                file
            }
        };
        Ok(Self {
            pm: (wanted_pm.map(|wanted| locked(pm, &wanted.path, PM))).transpose()?,
            remote: emulated.then(|| anew(remote, "tmem-remote")).transpose()?,
            records: Some(records),
            stores: elsewhere.then(|| anew(stores, "tmem-stores")).transpose()?,
            disk: (wanted_disk.map(|wanted| locked(disk, &wanted.path, DISK))).transpose()?,
            tls: wanted
                .and_then(RemoteConfig::tls)
                .map_or(Ok([None, None, None]), open_tls)?,
            // Only a file that does not outlive the host needs it, and says so if it lacks it.
            boot: slots::boot_id().ok(),
        })
    }

    /// Those that outlive the keeper, by name.
    pub(crate) fn kept(&self) -> impl Iterator<Item = (&'static str, BorrowedFd<'_>)> {
        let files = [
            &self.pm,
            &self.remote,
            &self.records,
            &self.stores,
            &self.disk,
        ];
        (KEPT.into_iter().zip(files))
            .filter_map(|(name, file)| Some((name, file.as_ref()?.as_fd())))
    }

    /// All that a worker is handed, by name.
    pub(crate) fn named(&self) -> impl Iterator<Item = (&'static str, BorrowedFd<'_>)> {
        let tls = TLS.into_iter().zip(&self.tls);
        self.kept()
            .chain(tls.filter_map(|(name, file)| Some((name, file.as_ref()?.as_fd()))))
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
            let tls = TLS.iter().position(|tls| tls == name);
            let place = match name.as_str() {
                PM => Some(&mut handed.pm),
                REMOTE => Some(&mut handed.remote),
                RECORDS => Some(&mut handed.records),
                STORES => Some(&mut handed.stores),
                DISK => Some(&mut handed.disk),
                _ => tls.and_then(|nth| handed.tls.get_mut(nth)),
            };
            if let Some(place) = place {
                *place = Some(file);
            }
        }
        handed
    }
}

fn memory(name: &str) -> Result<OwnedFd, Error> {
    memfd_create(name, MemfdFlags::CLOEXEC).map_err(|error| Error::Records(error.into()))
}

/// Looks up what the configuration has names for, as the worker cannot: by address, what it stands for.
///
/// # Errors
/// [`Error::Lookup`], if nothing is known of a name.
pub(crate) fn look_up(config: &Config) -> Result<BTreeMap<String, String>, Error> {
    let remote = config.remote.iter();
    let names = remote
        .flat_map(RemoteConfig::addresses)
        .filter(|address| address.is_a_name());
    names
        .map(|address| match address.looked_up() {
            Ok(found) => Ok((address.to_string(), found.to_string())),
            Err(source) => Err(Error::Lookup {
                address: address.to_string(),
                source,
            }),
        })
        .collect()
}

/// Certificates and key, which only root may be able to open.
fn open_tls(tls: &TlsConfig) -> Result<[Option<OwnedFd>; 3], Error> {
    let mut opened = [None, None, None];
    for (place, path) in opened.iter_mut().zip([&tls.ca, &tls.cert, &tls.key]) {
        let file = File::open(path).map_err(|source| Error::StateFile {
            path: path.clone(),
            source,
        })?;
        *place = Some(file.into());
    }
    Ok(opened)
}

fn is_at(file: &OwnedFd, path: &Path) -> bool {
    let of_path = fs::metadata(path).map(|found| (found.dev(), found.ino()));
    let of_file = rustix::fs::fstat(file).map(|found| (found.st_dev, found.st_ino));
    matches!((of_path, of_file), (Ok(of_path), Ok(of_file)) if of_path == of_file)
}

/// Opens a tier's file, and locks it against other programs for as long as a descriptor of it is open.
fn open_locked(path: &Path, tier: &'static str) -> Result<OwnedFd, Error> {
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
                return Err(Error::Tier { tier, source });
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
    /// What the remote tier is made of, if that is elsewhere.
    pub(crate) elsewhere: Option<stores::Opened>,
    /// What the PM file was found as.
    pub(crate) pm_found: Option<OpenedAs>,
    /// Must not be closed: with any descriptor of a file the process gives up its claim to it.
    _held: Vec<OwnedFd>,
}

/// Opens the stores. One that a dying process has still is waited for.
///
/// # Errors
/// [`Error::Tier`], if a file is not what it should be; [`Error::Stores`].
pub(crate) fn open_stores(
    config: &Config,
    files: &mut TierFiles,
    addresses: &BTreeMap<String, String>,
    paths: &Arc<Paths>,
) -> Result<OpenStores, Error> {
    let mut open = OpenStores::default();
    let boot = files.boot;
    let behind_link = |store: Arc<dyn SlotStore>, tier| -> Arc<dyn SlotStore> {
        Arc::new(LinkedStore::new(store, tier, paths))
    };
    if let (Some(file), Some(wanted)) = (files.pm.take(), &config.pm) {
        let (store, found) = open_one(&file, &wanted.path, wanted.pages, durability(wanted), boot)
            .map_err(|source| Error::Tier { tier: PM, source })?;
        if found != OpenedAs::Kept {
            tracing::info!(path = %wanted.path.display(), ?found, "the PM file holds nothing");
        }
        open.pm_found = Some(found);
        open.stores.pm = Some(behind_link(Arc::new(store), Tier::Pm));
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
        open.stores.remote = Some(behind_link(Arc::new(store), Tier::Remote));
        open._held.push(file);
    }
    if let Some(wanted) = &config.remote
        && let Some(elsewhere) = stores::open(wanted, files, addresses)?
    {
        open.stores.remote = Some(behind_link(Arc::clone(&elsewhere.store), Tier::Remote));
        open.elsewhere = Some(elsewhere);
    }
    let stores = &open.stores;
    if [&stores.pm, &stores.remote]
        .into_iter()
        .flatten()
        .any(|store| store.is_far())
    {
        paths.set_far();
    }
    if stores.pm.is_some() || stores.remote.is_some() {
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

pub(super) fn open_one(
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
