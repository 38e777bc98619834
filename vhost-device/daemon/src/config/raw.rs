// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The file as it is written; nothing in it is checked but its form.

use std::path::PathBuf;

use serde::Deserialize;
use tmem_admin_api::{AckPolicy, Durability};

use super::ConfigError;
use crate::sandbox;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawFile {
    #[serde(default)]
    pub(super) daemon: RawDaemon,
    #[serde(default)]
    pub(super) dram: RawDram,
    pub(super) pm: Option<RawPm>,
    pub(super) remote: Option<RawRemote>,
    #[serde(default)]
    pub(super) link: RawLinks,
    #[serde(default)]
    pub(super) balloon: RawHostBalloon,
    #[serde(default)]
    pub(super) guest: Vec<RawGuest>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawDaemon {
    pub(super) dram: Option<String>,
    #[serde(default)]
    pub(super) overcommit: bool,
    pub(super) trace_dir: Option<PathBuf>,
    pub(super) frames_file: Option<PathBuf>,
    pub(super) state_dir: Option<PathBuf>,
    pub(super) sandbox: Option<sandbox::Mode>,
    pub(super) user: Option<String>,
    #[serde(default)]
    pub(super) upgrade_dirs: Vec<PathBuf>,
    pub(super) crash_limit: Option<u32>,
    pub(super) crash_window_s: Option<u32>,
    pub(super) poll_us: Option<u32>,
    pub(super) admin_socket: Option<PathBuf>,
    pub(super) admin_group: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawGuest {
    pub(super) name: String,
    pub(super) socket: PathBuf,
    pub(super) grant: String,
    pub(super) queue_pairs: Option<u16>,
    pub(super) dram_cap: Option<String>,
    pub(super) weight: Option<u32>,
    pub(super) floor: Option<String>,
    pub(super) policy: Option<String>,
    pub(super) policy_seed: Option<u64>,
    #[serde(default)]
    pub(super) link: RawLinks,
    #[serde(default)]
    pub(super) balloon: RawBalloon,
}

/// `[balloon]`, of the host.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawHostBalloon {
    pub(super) budget: Option<String>,
    pub(super) reserve: Option<String>,
}

/// `[guest.balloon]`.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawBalloon {
    pub(super) enabled: Option<bool>,
    pub(super) reporting: Option<bool>,
    #[serde(default)]
    pub(super) huge_pages: bool,
    pub(super) size: Option<String>,
    #[serde(default)]
    pub(super) auto: bool,
    pub(super) floor: Option<String>,
    pub(super) ceiling: Option<String>,
    pub(super) weight: Option<u32>,
}

/// `[dram]`.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawDram {
    pub(super) size: Option<String>,
    pub(super) max: Option<String>,
    pub(super) low_watermark: Option<String>,
    pub(super) high_watermark: Option<String>,
}

/// `[pm]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPm {
    pub(super) path: PathBuf,
    pub(super) size: String,
    #[serde(default)]
    pub(super) durability: Durability,
    #[serde(default)]
    pub(super) keep_over_reboot: bool,
}

/// What the remote tier is made of.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum RemoteWord {
    #[default]
    Emulated,
    Stores,
    Valkey,
}

/// `[remote]`, of any kind.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRemote {
    #[serde(default)]
    pub(super) kind: RemoteWord,
    pub(super) size: String,
    pub(super) replicas: Option<u8>,
    pub(super) ack: Option<AckPolicy>,
    pub(super) min_copies: Option<u8>,
    pub(super) namespace: Option<String>,
    pub(super) advert_ms: Option<u32>,
    pub(super) hedge: Option<String>,
    pub(super) poll_us: Option<u32>,
    pub(super) repair_bandwidth: Option<String>,
    pub(super) insecure: Option<bool>,
    #[serde(default)]
    pub(super) ports: Vec<u16>,
    #[serde(default)]
    pub(super) etcd: Vec<String>,
    pub(super) disk: Option<RawDisk>,
    pub(super) tls: Option<RawTls>,
    #[serde(default)]
    pub(super) store: Vec<RawStore>,
    #[serde(default)]
    pub(super) nodes: Vec<String>,
}

/// `[[remote.store]]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawStore {
    pub(super) address: String,
    pub(super) label: Option<String>,
    pub(super) domain: Option<String>,
}

/// `remote.disk`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawDisk {
    pub(super) path: PathBuf,
    pub(super) size: String,
}

/// `[remote.tls]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTls {
    pub(super) ca: PathBuf,
    pub(super) cert: PathBuf,
    pub(super) key: PathBuf,
}

impl RawRemote {
    /// What may be set of stores.
    pub(super) const OF_STORES: &[&str] = &[
        "replicas",
        "ack",
        "min_copies",
        "namespace",
        "advert_ms",
        "hedge",
        "poll_us",
        "repair_bandwidth",
        "insecure",
        "ports",
        "etcd",
        "disk",
        "tls",
        "store",
    ];
    /// What may be set of a Valkey Cluster.
    pub(super) const OF_VALKEY: &[&str] = &["replicas", "namespace", "insecure", "ports", "nodes"];

    /// Refuses what is set and not in `allowed`.
    pub(super) fn only(&self, allowed: &[&str]) -> Result<(), ConfigError> {
        let set = [
            ("replicas", self.replicas.is_some()),
            ("ack", self.ack.is_some()),
            ("min_copies", self.min_copies.is_some()),
            ("namespace", self.namespace.is_some()),
            ("advert_ms", self.advert_ms.is_some()),
            ("hedge", self.hedge.is_some()),
            ("poll_us", self.poll_us.is_some()),
            ("repair_bandwidth", self.repair_bandwidth.is_some()),
            ("insecure", self.insecure.is_some()),
            ("ports", !self.ports.is_empty()),
            ("etcd", !self.etcd.is_empty()),
            ("disk", self.disk.is_some()),
            ("tls", self.tls.is_some()),
            ("store", !self.store.is_empty()),
            ("nodes", !self.nodes.is_empty()),
        ];
        let mut wrong = set
            .iter()
            .filter(|(key, set)| *set && !allowed.contains(key));
        let Some((key, _)) = wrong.next() else {
            return Ok(());
        };
        let mut of = Vec::new();
        if Self::OF_STORES.contains(key) {
            of.push("\"stores\"");
        }
        if Self::OF_VALKEY.contains(key) {
            of.push("\"valkey\"");
        }
        Err(ConfigError::RemoteKind {
            key,
            of: of.join(" or "),
        })
    }
}

/// `[link]`, of all guests or of one.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLinks {
    pub(super) pm: Option<RawLink>,
    pub(super) remote: Option<RawLink>,
}

/// `[link.pm]`, `[link.remote]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLink {
    pub(super) r#in: Option<String>,
    pub(super) out: Option<String>,
}
