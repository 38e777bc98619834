// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! From configuration and descriptors to a client of the stores, or of a Valkey Cluster.

use std::collections::BTreeMap;
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use tmem_admin_api::AckPolicy;
use tmem_pages::SlotStore;
use tmem_pages::slots::{Durability, SlotError, SlotFile, SlotMemory};
use tmem_remote_client::connect::{Network, NetworkConfig, Tls};
use tmem_remote_client::membership::Roster;
use tmem_remote_client::{Ack, Disk, Hedge, Settings};

use super::{DISK, StoreSettings, StoresDesk};
use crate::config::{self, RemoteConfig, RemoteKind, StoresConfig};
use crate::limits::{LAST_USER_GONE, LAST_USER_PAUSE};
use crate::tiers::files::{TierFiles, open_one};

/// Why the remote tier cannot be had from elsewhere.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoresError {
    /// A certificate or the key.
    #[error("Cannot read the {what} of TLS")]
    Read {
        /// Which.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// They are not what they should be.
    #[error(transparent)]
    Tls(#[from] tmem_remote_client::connect::TlsError),
    /// The table of copies, or the copy on disk.
    #[error("Cannot keep which page lies on which store")]
    Table(#[from] SlotError),
    /// The client.
    #[error(transparent)]
    Client(#[from] tmem_remote_client::OpenError),
    /// The address of a server of etcd.
    #[error(transparent)]
    Endpoint(#[from] tmem_etcd::BadEndpoint),
    /// etcd.
    #[error(transparent)]
    Etcd(#[from] tmem_etcd::EtcdError),
    /// The cluster.
    #[cfg(feature = "valkey")]
    #[error(transparent)]
    Valkey(#[from] tmem_remote_client::valkey::ValkeyError),
    /// This program was made without that.
    #[error("This program was built without Valkey: build it with its feature valkey")]
    NoValkey,
    /// The keeper did not hand the table over.
    #[error("The keeper has not handed over the table of copies")]
    NoTable,
}

/// What a worker has of the remote tier elsewhere.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) store: Arc<dyn SlotStore>,
    /// Absent of a Valkey Cluster.
    pub(crate) desk: Option<StoresDesk>,
    /// Must not be closed: with any descriptor of a file the process gives up its claim to it.
    pub(crate) _held: Vec<OwnedFd>,
}

/// Opens what `remote` says; nothing if that is in this process. `addresses` are those that the keeper
/// has looked up.
///
/// # Errors
/// [`StoresError`].
pub(crate) fn open(
    remote: &RemoteConfig,
    files: &mut TierFiles,
    addresses: &BTreeMap<String, String>,
) -> Result<Option<Opened>, StoresError> {
    match &remote.kind {
        RemoteKind::Emulated => Ok(None),
        RemoteKind::Stores(config) => stores(remote.pages, config, files, addresses).map(Some),
        RemoteKind::Valkey(config) => {
            super::valkey::open(remote.pages, config, files, addresses).map(Some)
        }
    }
}

fn stores(
    pages: u64,
    config: &StoresConfig,
    files: &mut TierFiles,
    addresses: &BTreeMap<String, String>,
) -> Result<Opened, StoresError> {
    let mut held = Vec::new();
    let memory = table(files, &mut held)?;
    let network = Network::new(&NetworkConfig {
        tls: tls(files)?,
        insecure: config.insecure,
    })?;
    let disk = match (&config.disk, files.disk.take()) {
        (Some(wanted), Some(file)) => {
            let disk = disk(wanted, &file, files.boot)?;
            held.push(file);
            Some(disk)
        }
        _ => None,
    };
    let (store, driver) = tmem_remote_client::open(settings(pages, config), network, memory, disk)?;
    let desk = StoresDesk {
        config: config.clone(),
        addresses: addresses.clone(),
        handle: driver.handle(),
        driver: Mutex::new(Some(driver)),
        thread: Mutex::default(),
        settings: Mutex::new(StoreSettings::default()),
        roster: Arc::new(Mutex::new(Roster::new())),
        etcd: etcd(config)?,
        following: Mutex::default(),
    };
    Ok(Opened {
        store,
        desk: Some(desk),
        _held: held,
    })
}

/// A client of etcd, if that is to be asked.
fn etcd(config: &StoresConfig) -> Result<Option<tmem_etcd::Client>, StoresError> {
    if config.etcd.is_empty() {
        return Ok(None);
    }
    let endpoints = config.etcd.iter().map(|url| url.parse());
    let endpoints = endpoints.collect::<Result<Vec<tmem_etcd::Endpoint>, _>>()?;
    let client = tmem_etcd::Client::new(tmem_etcd::ClientConfig::new(endpoints))?;
    Ok(Some(client))
}

fn settings(pages: u64, config: &StoresConfig) -> Settings {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
    Settings {
        namespace: config.namespace.clone(),
        slots: slots(pages),
        replicas: config.replicas,
        ack: match config.ack {
            AckPolicy::All => Ack::All,
            AckPolicy::First => Ack::First,
        },
        min_copies: config.min_copies,
        advert_period: config.advert,
        hedge: match config.hedge {
            config::Hedge::Auto => Hedge::Auto,
            config::Hedge::Off => Hedge::Off,
            config::Hedge::After(time) => Hedge::After(time),
        },
        poll: Duration::from_micros(config.poll_us.into()),
        repair_bytes_per_second: config.repair_bytes,
        epoch_floor: since_1970.map_or(1, super::millis),
        // Daemons that begin together are not to choose the same stores.
        seed: RandomState::new().hash_one(&config.namespace),
        ..Settings::default()
    }
}

pub(super) fn slots(pages: u64) -> u32 {
    u32::try_from(pages).unwrap_or(u32::MAX)
}

/// The table of copies; a dying process that has it still is waited for.
pub(super) fn table(
    files: &mut TierFiles,
    held: &mut Vec<OwnedFd>,
) -> Result<SlotMemory, StoresError> {
    let file = files.stores.take().ok_or(StoresError::NoTable)?;
    let deadline = Instant::now() + LAST_USER_GONE;
    let failed = |source| SlotError::Io {
        path: "stores".into(),
        doing: "open",
        source,
    };
    let memory = loop {
        match SlotMemory::open(file.try_clone().map_err(failed)?) {
            Err(SlotError::InUse { .. }) if Instant::now() < deadline => {
                std::thread::sleep(LAST_USER_PAUSE);
            }
            opened => break opened?.0,
        }
    };
    held.push(file);
    Ok(memory)
}

fn disk(
    wanted: &config::DiskConfig,
    file: &OwnedFd,
    boot: Option<[u8; 16]>,
) -> Result<Disk, StoresError> {
    let durability = Durability::Process;
    let (file, _): (SlotFile, _) = open_one(
        file,
        Path::new(&wanted.path),
        wanted.pages,
        durability,
        boot,
    )?;
    Ok(Disk::new(file, DISK.to_owned()))
}

/// Certificates and key, if they were handed over.
fn tls(files: &mut TierFiles) -> Result<Option<Tls>, StoresError> {
    let mut read = |nth: usize, what| {
        let file = files.tls.get_mut(nth).and_then(Option::take);
        let file =
            file.map(|file| whole(file).map_err(|source| StoresError::Read { what, source }));
        file.transpose()
    };
    let (ca, cert, key) = (
        read(0, "certificate authority")?,
        read(1, "certificate")?,
        read(2, "key")?,
    );
    Ok(match (ca, cert, key) {
        (Some(ca), Some(cert), Some(key)) => Some(Tls { ca, cert, key }),
        _ => None,
    })
}

/// All of a file, whoever has read in it before.
fn whole(file: OwnedFd) -> io::Result<Vec<u8>> {
    let mut file = File::from(file);
    let mut bytes = Vec::new();
    io::Seek::rewind(&mut file)?;
    // PEM; no certificate is as long.
    file.take(1 << 20).read_to_end(&mut bytes)?;
    Ok(bytes)
}
