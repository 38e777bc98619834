// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The file as it is written; nothing in it is checked but its form.

use std::path::PathBuf;

use serde::Deserialize;
use tmem_admin_api::Durability;

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

/// `[remote]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRemote {
    pub(super) size: String,
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
