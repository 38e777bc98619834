// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The file as it is written; nothing in it is checked but its form.

use std::path::PathBuf;

use serde::Deserialize;

use crate::args::PmDurability;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawFile {
    #[serde(default)]
    pub(super) store: RawStore,
    pub(super) pm: Option<RawPm>,
    pub(super) log: Option<RawLog>,
    pub(super) tls: Option<RawTls>,
    pub(super) etcd: Option<RawEtcd>,
    #[serde(default)]
    pub(super) namespace: Vec<RawNamespace>,
}

/// `[store]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawStore {
    #[serde(default)]
    pub(super) listen: Vec<String>,
    pub(super) capacity: Option<String>,
    pub(super) state_dir: Option<PathBuf>,
    #[serde(default)]
    pub(super) insecure: bool,
    pub(super) default_quota: Option<String>,
    #[serde(default)]
    pub(super) only_listed: bool,
    pub(super) namespaces_max: Option<u16>,
    pub(super) shards: Option<u16>,
    pub(super) poll_us: Option<u32>,
    #[serde(default)]
    pub(super) pin: Vec<u16>,
    pub(super) metrics: Option<String>,
    pub(super) max_connections: Option<u32>,
    pub(super) max_connections_per_client: Option<u32>,
    pub(super) idle_timeout: Option<u32>,
}

/// `[pm]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPm {
    pub(super) path: PathBuf,
    pub(super) size: String,
    pub(super) durability: Option<PmDurability>,
}

/// `[log]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLog {
    pub(super) path: PathBuf,
    pub(super) size: String,
    pub(super) sync: Option<PmDurability>,
}

/// `[tls]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTls {
    pub(super) cert: PathBuf,
    pub(super) key: PathBuf,
    pub(super) client_ca: PathBuf,
}

/// `[etcd]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawEtcd {
    pub(super) urls: Vec<String>,
    pub(super) advertise: String,
    pub(super) name: Option<String>,
}

/// `[[namespace]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawNamespace {
    pub(super) name: String,
    pub(super) quota: String,
}
