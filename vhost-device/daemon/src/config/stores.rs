// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The remote tier as configured: a stand-in in this process, the project's own stores, or a Valkey
//! Cluster. Which stores there are, how pages are kept on them, and what may be connected to.
//!
//! What concerns one kind alone is refused with another, so that nobody believes in copies that there
//! are not.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tmem_admin_api::AckPolicy;

use super::address::StoreAddress;
use super::raw::{RawRemote, RawStore, RawTls, RemoteWord};
use super::value::{pages, range, size};
use super::{ConfigError, value};
use crate::limits::{
    ADVERT_MS, NAME_BYTES_MAX, POLL_US_MAX, REMOTE_PAGES_MAX, REPLICAS_MAX, STORES_MAX,
};
use crate::sandbox::Reach;

const REPLICAS: u8 = 2;
const VALKEY_REPLICAS: u32 = 1;
/// Replicas of a primary that can be waited for.
const VALKEY_REPLICAS_MAX: u32 = 5;
const ADVERT_MS_USUAL: u32 = 100;
const POLL_US: u32 = 50;
const REPAIR: &str = "100MiB";

/// The farthest tier.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteConfig {
    /// Pages that fit into it.
    pub pages: u64,
    /// Where they are.
    #[serde(default)]
    pub kind: RemoteKind,
}

/// What the remote tier is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RemoteKind {
    /// Memory of this daemon that stands in for stores, behind the link model.
    #[default]
    Emulated,
    /// Stores of the project's own, each page on several.
    Stores(Box<StoresConfig>),
    /// The primaries of a Valkey Cluster.
    Valkey(Box<ValkeyConfig>),
}

/// How pages are kept on stores.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoresConfig {
    /// The stores of the static list.
    pub stores: Vec<StoreConfig>,
    /// Copies of each page.
    pub replicas: u8,
    /// When a page counts as written.
    pub ack: AckPolicy,
    /// With fewer copies than this a page is not written at all.
    pub min_copies: u8,
    /// Under which name this daemon's pages lie on the stores.
    pub namespace: String,
    /// How often stores say that they live, and how much room they have.
    pub advert: Duration,
    /// When a get that has no answer yet asks another store.
    pub hedge: Hedge,
    /// The longest that whoever waits for a store polls, in µs; 0: never.
    pub poll_us: u32,
    /// Bytes a second that repair, rebalancing and drains may take.
    pub repair_bytes: u64,
    /// How the connections are kept private.
    pub tls: Option<TlsConfig>,
    /// Plain connections beyond this host are meant.
    pub insecure: bool,
    /// Where etcd tells which stores there are, if it does.
    pub etcd: Vec<String>,
    /// A file of this host that counts as a store.
    pub disk: Option<DiskConfig>,
    /// TCP ports, besides those of the stores named here, that the worker may connect to.
    pub ports: Vec<u16>,
}

/// One store of the static list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreConfig {
    /// Where it listens.
    pub address: StoreAddress,
    /// What people call it.
    pub label: Option<String>,
    /// What it shares with others that are expected to fail together.
    pub domain: Option<String>,
}

impl StoreConfig {
    /// The name that it goes by.
    #[must_use]
    pub fn name(&self) -> String {
        let label = self.label.clone();
        label.unwrap_or_else(|| self.address.to_string())
    }
}

/// Files of mutual TLS, in PEM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsConfig {
    /// Who signs stores' certificates.
    pub ca: PathBuf,
    /// This daemon's certificate.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// A file of this host that counts as a store; it is read only when no other copy can be had.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskConfig {
    /// The file; made if it is not there.
    pub path: PathBuf,
    /// Pages that fit into it.
    pub pages: u64,
}

/// When a get that has no answer yet asks another store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hedge {
    /// After a time that is derived from what gets usually take.
    #[default]
    Auto,
    /// Never, unless the store is taken for dead.
    Off,
    /// After this time.
    After(Duration),
}

/// A Valkey Cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ValkeyConfig {
    /// Some of its nodes; the others are learnt from these.
    pub nodes: Vec<StoreAddress>,
    /// Under which name this daemon's pages lie there.
    pub namespace: String,
    /// Replicas that a page must have reached before it counts as written.
    pub replicas: u32,
    /// Plain connections beyond this host are meant; there are no others.
    pub insecure: bool,
    /// TCP ports, besides those of the nodes named here, that the worker may connect to.
    pub ports: Vec<u16>,
}

impl RemoteConfig {
    pub(super) fn of(raw: &RawRemote) -> Result<Self, ConfigError> {
        let kind = match raw.kind {
            RemoteWord::Emulated => {
                raw.only(&[])?;
                RemoteKind::Emulated
            }
            RemoteWord::Stores => {
                raw.only(RawRemote::OF_STORES)?;
                RemoteKind::Stores(Box::new(stores(raw)?))
            }
            RemoteWord::Valkey => {
                raw.only(RawRemote::OF_VALKEY)?;
                RemoteKind::Valkey(Box::new(valkey(raw)?))
            }
        };
        Ok(Self {
            pages: pages("remote.size", &raw.size)?,
            kind,
        })
    }

    /// The project's own stores, if it is made of them.
    #[must_use]
    pub fn stores(&self) -> Option<&StoresConfig> {
        match &self.kind {
            RemoteKind::Stores(stores) => Some(stores),
            _ => None,
        }
    }

    /// The Valkey Cluster, if it is made of one.
    #[must_use]
    pub fn valkey(&self) -> Option<&ValkeyConfig> {
        match &self.kind {
            RemoteKind::Valkey(valkey) => Some(valkey),
            _ => None,
        }
    }

    /// How connections are kept private, if they are.
    #[must_use]
    pub fn tls(&self) -> Option<&TlsConfig> {
        self.stores()?.tls.as_ref()
    }

    /// What a worker must be able to connect to; nothing if the tier is in this process.
    #[must_use]
    pub fn reach(&self) -> Option<Reach> {
        match &self.kind {
            RemoteKind::Emulated => None,
            RemoteKind::Stores(stores) => Some(stores.reach()),
            RemoteKind::Valkey(valkey) => Some(to_reach(&valkey.nodes, &valkey.ports)),
        }
    }

    /// All addresses that it names.
    #[must_use]
    pub fn addresses(&self) -> Vec<&StoreAddress> {
        match &self.kind {
            RemoteKind::Emulated => Vec::new(),
            RemoteKind::Stores(stores) => {
                (stores.stores.iter()).map(|store| &store.address).collect()
            }
            RemoteKind::Valkey(valkey) => valkey.nodes.iter().collect(),
        }
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let most = match &self.kind {
            RemoteKind::Emulated => u64::from(u32::MAX - 1),
            _ => REMOTE_PAGES_MAX,
        };
        range("remote.size (in pages)", self.pages, 1, most)?;
        match &self.kind {
            RemoteKind::Emulated => Ok(()),
            RemoteKind::Stores(stores) => stores.check(),
            RemoteKind::Valkey(valkey) => valkey.check(),
        }
    }
}

/// What is needed to connect to these.
fn to_reach<'a>(addresses: impl IntoIterator<Item = &'a StoreAddress>, ports: &[u16]) -> Reach {
    let mut reach = Reach {
        ports: ports.iter().copied().collect(),
        ..Reach::default()
    };
    for address in addresses {
        match address {
            StoreAddress::Tcp { port, .. } => {
                reach.ports.insert(*port);
            }
            StoreAddress::Unix(path) => {
                reach.folders.extend(path.parent().map(Path::to_owned));
            }
        }
    }
    reach
}

impl StoreAddress {
    /// Whether a worker that may connect to `reach` may connect to it.
    #[must_use]
    pub fn is_within(&self, reach: &Reach) -> bool {
        match self {
            Self::Tcp { port, .. } => reach.ports.contains(port),
            Self::Unix(path) => path
                .parent()
                .is_some_and(|folder| reach.folders.contains(folder)),
        }
    }
}

fn stores(raw: &RawRemote) -> Result<StoresConfig, ConfigError> {
    let stores = raw.store.iter().enumerate();
    let hedge = raw.hedge.as_deref().map(hedge).transpose()?;
    let disk = raw.disk.as_ref().map(|disk| {
        Ok::<_, ConfigError>(DiskConfig {
            path: disk.path.clone(),
            pages: pages("remote.disk.size", &disk.size)?,
        })
    });
    let repair = raw.repair_bandwidth.as_deref().unwrap_or(REPAIR);
    Ok(StoresConfig {
        stores: stores
            .map(|(nth, raw)| store(nth, raw))
            .collect::<Result<_, _>>()?,
        replicas: raw.replicas.unwrap_or(REPLICAS),
        ack: raw.ack.unwrap_or_default(),
        min_copies: raw.min_copies.unwrap_or(1),
        namespace: raw.namespace.clone().unwrap_or_else(own_name),
        advert: Duration::from_millis(raw.advert_ms.unwrap_or(ADVERT_MS_USUAL).into()),
        hedge: hedge.unwrap_or_default(),
        poll_us: raw.poll_us.unwrap_or(POLL_US),
        repair_bytes: size("remote.repair_bandwidth", repair)?,
        tls: raw.tls.as_ref().map(tls),
        insecure: raw.insecure.unwrap_or(false),
        etcd: raw.etcd.clone(),
        disk: disk.transpose()?,
        ports: raw.ports.clone(),
    })
}

fn store(nth: usize, raw: &RawStore) -> Result<StoreConfig, ConfigError> {
    let key = format!("remote.store[{nth}].address");
    Ok(StoreConfig {
        address: address(key, &raw.address)?,
        label: raw.label.clone(),
        domain: raw.domain.clone(),
    })
}

fn valkey(raw: &RawRemote) -> Result<ValkeyConfig, ConfigError> {
    let nodes = raw.nodes.iter().enumerate();
    let nodes = nodes.map(|(nth, text)| address(format!("remote.nodes[{nth}]"), text));
    Ok(ValkeyConfig {
        nodes: nodes.collect::<Result<_, _>>()?,
        // Its keys' names may have no dots.
        namespace: (raw.namespace.clone()).unwrap_or_else(|| own_name().replace('.', "-")),
        replicas: raw.replicas.map_or(VALKEY_REPLICAS, u32::from),
        insecure: raw.insecure.unwrap_or(false),
        ports: raw.ports.clone(),
    })
}

fn address(key: String, text: &str) -> Result<StoreAddress, ConfigError> {
    text.parse()
        .map_err(|source| ConfigError::StoreAddress { key, source })
}

fn tls(raw: &RawTls) -> TlsConfig {
    TlsConfig {
        ca: raw.ca.clone(),
        cert: raw.cert.clone(),
        key: raw.key.clone(),
    }
}

/// `auto`, `off`, or a time.
fn hedge(text: &str) -> Result<Hedge, ConfigError> {
    let bad = || ConfigError::Hedge {
        value: text.to_owned(),
    };
    match text {
        "auto" => return Ok(Hedge::Auto),
        "off" => return Ok(Hedge::Off),
        _ => {}
    }
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?);
    let number: u64 = number.parse().map_err(|_| bad())?;
    let after = match unit.trim() {
        "us" => Duration::from_micros(number),
        "ms" => Duration::from_millis(number),
        _ => return Err(bad()),
    };
    if after.is_zero() || after > Duration::from_secs(1) {
        return Err(bad());
    }
    Ok(Hedge::After(after))
}

/// The host's name, as far as it can be a namespace.
fn own_name() -> String {
    let name = rustix::system::uname();
    let name = name.nodename().to_string_lossy();
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let name: String = name.chars().filter(|c| allowed(*c)).collect();
    let name = name.trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
    match name.get(..name.len().min(NAME_BYTES_MAX)) {
        Some(name) if !name.is_empty() => name.to_owned(),
        _ => "tmem".to_owned(),
    }
}

/// Where a server of etcd is: by number, since a worker can look nothing up.
fn endpoint(url: &str) -> Option<SocketAddr> {
    let place = url.strip_prefix("http://")?.trim_end_matches('/');
    place.parse().ok().filter(|at: &SocketAddr| at.port() != 0)
}

impl StoresConfig {
    /// What a worker must be able to connect to.
    #[must_use]
    pub fn reach(&self) -> Reach {
        let addresses = self.stores.iter().map(|store| &store.address);
        let mut reach = to_reach(addresses, &self.ports);
        let etcd = self.etcd.iter();
        reach
            .ports
            .extend(etcd.filter_map(|url| endpoint(url)).map(|at| at.port()));
        reach
    }

    fn check(&self) -> Result<(), ConfigError> {
        range("remote.replicas", self.replicas, 1, REPLICAS_MAX)?;
        range("remote.min_copies", self.min_copies, 1, self.replicas)?;
        let advert = u64::try_from(self.advert.as_millis()).unwrap_or(u64::MAX);
        range("remote.advert_ms", advert, ADVERT_MS.0, ADVERT_MS.1)?;
        range("remote.poll_us", self.poll_us, 0, POLL_US_MAX)?;
        let (least, most) = (1 << 20, 1 << 40);
        range(
            "remote.repair_bandwidth (in bytes)",
            self.repair_bytes,
            least,
            most,
        )?;
        value::name("remote.namespace", &self.namespace)?;
        for url in &self.etcd {
            if endpoint(url).is_none() {
                return Err(ConfigError::EtcdEndpoint { value: url.clone() });
            }
        }
        if let Some(disk) = &self.disk {
            super::tiers::check_absolute("remote.disk.path", &disk.path)?;
        }
        check_tls(self.tls.as_ref())?;
        check_ports(&self.ports)?;
        let known = self.stores.len() + usize::from(self.disk.is_some());
        if self.stores.is_empty() && self.etcd.is_empty() {
            return Err(ConfigError::NoStore);
        }
        if known > STORES_MAX {
            return Err(ConfigError::TooManyStores { stores: known });
        }
        if self.etcd.is_empty() && known < usize::from(self.replicas) {
            let replicas = self.replicas;
            return Err(ConfigError::TooFewStores { replicas, known });
        }
        let mut names = HashSet::new();
        let mut addresses = HashSet::new();
        for (nth, store) in self.stores.iter().enumerate() {
            let key = |key: &str| format!("remote.store[{nth}].{key}");
            if let Some(label) = &store.label {
                value::name(&key("label"), label)?;
            }
            if let Some(domain) = &store.domain {
                value::name(&key("domain"), domain)?;
            }
            let twice = |key, value| Err(ConfigError::Twice { key, value });
            if !addresses.insert(&store.address) {
                return twice(key("address"), store.address.to_string());
            }
            if !names.insert(store.name()) {
                return twice(key("label"), store.name());
            }
            let plain = self.tls.is_none() && !self.insecure;
            if plain && !store.address.is_on_this_host() {
                let key = key("address");
                let value = store.address.to_string();
                return Err(ConfigError::PlainStore { key, value });
            }
        }
        Ok(())
    }
}

impl ValkeyConfig {
    fn check(&self) -> Result<(), ConfigError> {
        value::name("remote.namespace", &self.namespace)?;
        if self.namespace.contains('.') {
            return Err(ConfigError::ValkeyNamespace {
                value: self.namespace.clone(),
            });
        }
        range("remote.replicas", self.replicas, 1, VALKEY_REPLICAS_MAX)?;
        check_ports(&self.ports)?;
        if self.nodes.is_empty() {
            return Err(ConfigError::NoNode);
        }
        for (nth, node) in self.nodes.iter().enumerate() {
            let key = format!("remote.nodes[{nth}]");
            let value = node.to_string();
            if matches!(node, StoreAddress::Unix(_)) {
                return Err(ConfigError::NodeSocket { key, value });
            }
            if !self.insecure && !node.is_on_this_host() {
                return Err(ConfigError::PlainNode { key, value });
            }
        }
        Ok(())
    }
}

fn check_tls(tls: Option<&TlsConfig>) -> Result<(), ConfigError> {
    let Some(tls) = tls else { return Ok(()) };
    for (key, path) in [
        ("remote.tls.ca", &tls.ca),
        ("remote.tls.cert", &tls.cert),
        ("remote.tls.key", &tls.key),
    ] {
        super::tiers::check_absolute(key, path)?;
    }
    Ok(())
}

fn check_ports(ports: &[u16]) -> Result<(), ConfigError> {
    (ports.iter()).try_for_each(|port| range("remote.ports", *port, 1, u16::MAX))
}
