// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The configuration: what the command line says, then what the file says, then the defaults.

mod error;
mod raw;
mod value;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use error::ConfigError;
use raw::{RawFile, RawNamespace};
use tmem_pages::FRAMES_MAX;
use tmem_pages::slots::{Durability, SLOTS_MAX};
use tmem_remote_protocol::Namespace;
pub use value::Address;

use crate::args::{PmDurability, ServeArgs};
use crate::log::{LOG_SIZE_MAX, LOG_SIZE_MIN, LogSync};
use crate::store::{LogConfig, PmConfig, SHARDS_MAX};

/// The most shards that are taken without being asked for.
const SHARDS_DEFAULT_MAX: u16 = 8;
/// Polling for longer than this burns processors for nothing.
const POLL_US_MAX: u32 = 1_000_000;

/// What `remote-store serve` is to do, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen.
    pub listen: Vec<Address>,
    /// Pages in memory.
    pub capacity_pages: u32,
    /// Where pages and state are kept.
    pub state_dir: Option<PathBuf>,
    /// The file for more pages.
    pub pm: Option<PmConfig>,
    /// Certificates.
    pub tls: Option<TlsFiles>,
    /// What namespaces may keep.
    pub quotas: Quotas,
    /// The most namespaces.
    pub namespaces_max: u16,
    /// Threads that serve.
    pub shards: u16,
    /// The longest that they poll.
    pub poll: Duration,
    /// Their processors; none: wherever.
    pub pin: Vec<u16>,
    /// Where the metrics are.
    pub metrics: Option<Address>,
    /// The most connections.
    pub max_connections: u32,
    /// The most of one IP address.
    pub max_connections_per_client: u32,
    /// The longest without a request.
    pub idle: Option<Duration>,
    /// The log.
    pub log: Option<LogConfig>,
    /// Where the store is announced.
    pub etcd: Option<EtcdConfig>,
    /// What was asked for, to read quotas again.
    pub(crate) args: ServeArgs,
}

/// The files of TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The store's certificate.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Who signs clients' certificates.
    pub client_ca: PathBuf,
}

/// How the store is announced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdConfig {
    /// etcd.
    pub urls: Vec<String>,
    /// What clients are told.
    pub advertise: String,
    /// The store's name.
    pub name: String,
}

/// What namespaces may keep, in pages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Quotas {
    /// By name.
    pub named: BTreeMap<String, u64>,
    /// All others.
    pub others: Option<u64>,
    /// There are no others.
    pub only_listed: bool,
}

impl Config {
    /// Reads the file, if one is given, and checks everything.
    ///
    /// # Errors
    /// [`ConfigError`] that says which setting is wrong and what is possible.
    pub fn from_args(args: &ServeArgs) -> Result<Self, ConfigError> {
        let file = match &args.config {
            Some(path) => read(path)?,
            None => RawFile::default(),
        };
        let store = &file.store;
        let listen = if args.listen.is_empty() {
            &store.listen
        } else {
            &args.listen
        };
        let listen = listen.iter().map(|text| value::address("listen", text));
        let listen = listen.collect::<Result<Vec<_>, _>>()?;
        if listen.is_empty() {
            return Err(ConfigError::NoListener);
        }
        let capacity = args.capacity.as_ref().or(store.capacity.as_ref());
        let capacity = capacity.ok_or(ConfigError::NoCapacity)?;
        let capacity = value::pages("capacity", capacity)?;
        let most = u64::from(FRAMES_MAX);
        let capacity = value::within("capacity in pages", capacity, (16, most))?;
        let tls = tls(args, &file)?;
        let insecure = args.insecure || store.insecure;
        if insecure && tls.is_some() {
            return Err(ConfigError::InsecureTls);
        }
        if let (None, false, Some(open)) = (
            &tls,
            insecure,
            listen.iter().find(|address| !address.is_local()),
        ) {
            return Err(ConfigError::NeedsTls {
                address: open.to_string(),
            });
        }
        let shards = match args.shards.or(store.shards) {
            Some(shards) => value::within("shards", shards, (1, SHARDS_MAX))?,
            None => shards_default(),
        };
        let pin = if args.pin.is_empty() {
            store.pin.clone()
        } else {
            args.pin.clone()
        };
        if !pin.is_empty() && pin.len() != usize::from(shards) {
            return Err(ConfigError::Pins {
                pins: pin.len(),
                shards,
            });
        }
        let poll = args.poll_us.or(store.poll_us).unwrap_or(50);
        let poll = value::within("poll_us", poll, (0, POLL_US_MAX))?;
        let namespaces = args.namespaces_max.or(store.namespaces_max);
        let connections = args.max_connections.or(store.max_connections);
        let of_one = (args.max_connections_per_client).or(store.max_connections_per_client);
        let metrics = args.metrics.as_ref().or(store.metrics.as_ref());
        let idle = args.idle_timeout.or(store.idle_timeout);
        Ok(Self {
            // Not above FRAMES_MAX.
            capacity_pages: u32::try_from(capacity).unwrap_or(FRAMES_MAX),
            state_dir: args.state_dir.clone().or_else(|| store.state_dir.clone()),
            pm: pm(args, &file)?,
            quotas: quotas(args, &file)?,
            namespaces_max: value::within("namespaces_max", namespaces.unwrap_or(64), (1, 1024))?,
            poll: Duration::from_micros(poll.into()),
            metrics: metrics
                .map(|text| value::address("metrics", text))
                .transpose()?,
            max_connections: value::within(
                "max_connections",
                connections.unwrap_or(16_384),
                (1, 1 << 20),
            )?,
            max_connections_per_client: value::within(
                "max_connections_per_client",
                of_one.unwrap_or(4096),
                (1, 1 << 20),
            )?,
            idle: idle
                .map(|idle| value::within("idle_timeout", idle, (1, 1 << 30)))
                .transpose()?
                .map(|idle| Duration::from_secs(idle.into())),
            log: log(args, &file)?,
            etcd: etcd(args, &file)?,
            listen,
            tls,
            shards,
            pin,
            args: args.clone(),
        })
    }

    /// Reads the quotas again.
    ///
    /// # Errors
    /// As [`from_args`](Self::from_args).
    pub(crate) fn read_quotas(&self) -> Result<Quotas, ConfigError> {
        Self::from_args(&self.args).map(|config| config.quotas)
    }
}

fn read(path: &Path) -> Result<RawFile, ConfigError> {
    let text = fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.into(),
        source,
    })?;
    toml::from_str(&text).map_err(|source| ConfigError::Toml {
        path: path.into(),
        source,
    })
}

fn shards_default() -> u16 {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    u16::try_from(processors)
        .unwrap_or(SHARDS_DEFAULT_MAX)
        .clamp(1, SHARDS_DEFAULT_MAX)
}

fn tls(args: &ServeArgs, file: &RawFile) -> Result<Option<TlsFiles>, ConfigError> {
    match (&args.cert, &args.key, &args.client_ca) {
        (Some(cert), Some(key), Some(client_ca)) => Ok(Some(TlsFiles {
            cert: cert.clone(),
            key: key.clone(),
            client_ca: client_ca.clone(),
        })),
        (None, None, None) => Ok(file.tls.as_ref().map(|tls| TlsFiles {
            cert: tls.cert.clone(),
            key: tls.key.clone(),
            client_ca: tls.client_ca.clone(),
        })),
        _ => Err(ConfigError::PartOfTls),
    }
}

fn pm(args: &ServeArgs, file: &RawFile) -> Result<Option<PmConfig>, ConfigError> {
    let given = match (&args.pm_file, &args.pm_size, &file.pm) {
        (Some(path), Some(size), _) => Some((path, size, args.pm_durability)),
        (_, _, Some(pm)) => Some((&pm.path, &pm.size, pm.durability)),
        _ => None,
    };
    let Some((path, size, durability)) = given else {
        return Ok(None);
    };
    let slots = value::pages("pm size", size)?;
    let slots = value::within("pm size in pages", slots, (1, u64::from(SLOTS_MAX)))?;
    Ok(Some(PmConfig {
        path: path.clone(),
        slots: u32::try_from(slots).unwrap_or(SLOTS_MAX),
        durability: match durability.unwrap_or(PmDurability::Process) {
            PmDurability::Process => Durability::Process,
            PmDurability::Host => Durability::Host,
        },
    }))
}

fn log(args: &ServeArgs, file: &RawFile) -> Result<Option<LogConfig>, ConfigError> {
    let given = match (&args.log, &args.log_size, &file.log) {
        (Some(path), Some(size), _) => Some((path, size, args.log_sync)),
        (_, _, Some(log)) => Some((&log.path, &log.size, log.sync)),
        _ => None,
    };
    let Some((path, size, sync)) = given else {
        return Ok(None);
    };
    let pages = value::pages("log size", size)?;
    let (least, most) = (LOG_SIZE_MIN / 4096, LOG_SIZE_MAX / 4096);
    let pages = value::within("log size in pages", pages, (least, most))?;
    Ok(Some(LogConfig {
        path: path.clone(),
        size: pages * 4096,
        sync: match sync.unwrap_or(PmDurability::Host) {
            PmDurability::Process => LogSync::Process,
            PmDurability::Host => LogSync::Host,
        },
        salvage: args.log_salvage,
    }))
}

fn quotas(args: &ServeArgs, file: &RawFile) -> Result<Quotas, ConfigError> {
    let mut named = BTreeMap::new();
    for RawNamespace { name, quota } in &file.namespace {
        add_quota(&mut named, name, quota)?;
    }
    let mut given = BTreeMap::new();
    for quota in &args.quotas {
        let Some((name, size)) = quota.split_once('=') else {
            return Err(ConfigError::Quota {
                value: quota.clone(),
            });
        };
        add_quota(&mut given, name, size)?;
    }
    // What the command line says goes before.
    named.extend(given);
    let others = args.default_quota.as_ref();
    let others = others.or(file.store.default_quota.as_ref());
    Ok(Quotas {
        named,
        others: others
            .map(|size| value::pages("default_quota", size))
            .transpose()?,
        only_listed: args.only_listed || file.store.only_listed,
    })
}

fn add_quota(
    quotas: &mut BTreeMap<String, u64>,
    name: &str,
    size: &str,
) -> Result<(), ConfigError> {
    let pages = value::pages(&format!("the quota of {name}"), size)?;
    let name = Namespace::new(name)?.as_str().to_owned();
    if quotas.insert(name.clone(), pages).is_some() {
        return Err(ConfigError::Twice { name });
    }
    Ok(())
}

fn etcd(args: &ServeArgs, file: &RawFile) -> Result<Option<EtcdConfig>, ConfigError> {
    let (urls, advertise, name) = if args.etcd.is_empty() {
        let Some(etcd) = &file.etcd else {
            return Ok(None);
        };
        let advertise = args.advertise.as_ref().unwrap_or(&etcd.advertise);
        (
            &etcd.urls,
            advertise,
            args.name.as_ref().or(etcd.name.as_ref()),
        )
    } else {
        let advertise = args.advertise.as_ref();
        let advertise = advertise.ok_or(ConfigError::NoAdvertise)?;
        (&args.etcd, advertise, args.name.as_ref())
    };
    if cfg!(not(feature = "etcd")) {
        return Err(ConfigError::NotBuilt {
            key: "etcd",
            feature: "etcd",
        });
    }
    Ok(Some(EtcdConfig {
        urls: urls.clone(),
        advertise: advertise.clone(),
        name: name.unwrap_or(advertise).clone(),
    }))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Args, Command};

    fn serve(more: &[&str]) -> Result<Config, ConfigError> {
        let args = ["remote-store", "serve"].iter().chain(more);
        match Args::parse_from(args).command {
            Command::Serve(args) => Config::from_args(&args),
            Command::Cert(_) => unreachable!("serve was asked for"),
        }
    }

    #[test]
    fn command_line_goes_before_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.toml");
        let text = r#"
            [store]
            listen = ["unix:/run/x"]
            capacity = "1GiB"
            poll_us = 7
            [[namespace]]
            name = "a"
            quota = "8KiB"
            [[namespace]]
            name = "b"
            quota = "8KiB"
        "#;
        fs::write(&path, text).unwrap();
        let path = path.to_str().unwrap();
        let config = serve(&["--config", path, "--capacity", "1MiB", "--quota", "a=4KiB"]).unwrap();
        assert_eq!(config.capacity_pages, 256);
        assert_eq!(config.poll, Duration::from_micros(7));
        assert_eq!(config.listen, [Address::Unix("/run/x".into())]);
        let named: Vec<_> = config.quotas.named.into_iter().collect();
        assert_eq!(named, [("a".to_owned(), 1), ("b".to_owned(), 2)]);
    }

    #[test]
    fn strangers_need_certificates_or_the_word_insecure() {
        let open = ["--listen", "tcp://0.0.0.0:1", "--capacity", "1MiB"];
        assert!(matches!(serve(&open), Err(ConfigError::NeedsTls { .. })));
        assert!(serve(&[&open[..], &["--insecure"]].concat()).is_ok());
        let tls = ["--cert", "c", "--key", "k", "--client-ca", "a"];
        assert!(serve(&[&open[..], &tls].concat()).is_ok());
        let both = [&open[..], &tls, &["--insecure"]].concat();
        assert!(matches!(serve(&both), Err(ConfigError::InsecureTls)));
        assert!(serve(&["--listen", "tcp://127.0.0.1:1", "--capacity", "1MiB"]).is_ok());
    }

    #[test]
    fn wrong_setting_is_named() {
        let base = ["--listen", "unix:/x", "--capacity", "1MiB"];
        for (more, named) in [
            (vec!["--shards", "0"], "shards"),
            (vec!["--shards", "2", "--pin", "1"], "pin"),
            (vec!["--quota", "a"], "--quota a"),
            (vec!["--quota", "a=1MiB", "--quota", "a=2MiB"], "two quotas"),
            (vec!["--default-quota", "1"], "default_quota"),
            (vec!["--metrics", "here"], "metrics"),
            (vec!["--poll-us", "2000000"], "poll_us"),
        ] {
            let error = serve(&[&base[..], &more].concat()).unwrap_err();
            assert!(error.to_string().contains(named), "{error}");
        }
        assert!(matches!(serve(&base[..2]), Err(ConfigError::NoCapacity)));
        assert!(matches!(serve(&base[2..]), Err(ConfigError::NoListener)));
    }
}
