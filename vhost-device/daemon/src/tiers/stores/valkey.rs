// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The remote tier on a Valkey Cluster, in programs that are built with it. There is nobody to look after
//! its nodes: the cluster does that itself.

use std::collections::BTreeMap;

use super::open::{Opened, StoresError};
use crate::config::ValkeyConfig;
use crate::tiers::files::TierFiles;

/// Connects to the cluster.
///
/// # Errors
/// [`StoresError`].
#[cfg(feature = "valkey")]
pub(super) fn open(
    pages: u64,
    config: &ValkeyConfig,
    files: &mut TierFiles,
    addresses: &BTreeMap<String, String>,
) -> Result<Opened, StoresError> {
    use tmem_remote_client::valkey;

    let mut held = Vec::new();
    let memory = super::open::table(files, &mut held)?;
    let nodes = config.nodes.iter().map(|node| {
        let node = node.to_string();
        let looked_up = addresses.get(&node).cloned().unwrap_or(node);
        // A name would be for a certificate.
        let number = looked_up
            .split_once('@')
            .map(|(_, number)| number.to_owned());
        number.unwrap_or(looked_up)
    });
    let mut settings = valkey::ValkeyConfig::new(&*config.namespace, nodes.collect());
    settings.replicas = config.replicas;
    let store = valkey::ValkeyStore::open(&settings, memory, super::open::slots(pages))?;
    Ok(Opened {
        store: std::sync::Arc::new(store),
        desk: None,
        _held: held,
    })
}

/// Says that it is not there.
///
/// # Errors
/// [`StoresError::NoValkey`].
#[cfg(not(feature = "valkey"))]
pub(super) fn open(
    _pages: u64,
    _config: &ValkeyConfig,
    _files: &mut TierFiles,
    _addresses: &BTreeMap<String, String>,
) -> Result<Opened, StoresError> {
    Err(StoresError::NoValkey)
}
