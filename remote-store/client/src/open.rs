// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How a client comes to be.

use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tmem_pages::slots::SlotMemory;
use tmem_remote_protocol::ProtocolError;

use crate::connect::Connector;
use crate::control::{Config, ConfigError, Core, Known, MemberNo};
use crate::disk::Disk;
use crate::driver::Driver;
use crate::replicated::Replicated;
use crate::settings::{BadSettings, Settings};
use crate::shared::Shared;
use crate::table::{Table, TableError};

/// Why there is no client.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The settings cannot be.
    #[error(transparent)]
    Settings(#[from] BadSettings),
    /// Those for looking after the stores cannot be.
    #[error("Cannot look after the stores with these settings")]
    Config(#[from] ConfigError),
    /// The table of copies cannot be used.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The namespace is none.
    #[error(transparent)]
    Namespace(#[from] ProtocolError),
}

impl crate::control::Table for Table {
    fn slots(&self) -> u32 {
        Self::slots(self)
    }

    fn copies(&self, slot: u32) -> Option<u64> {
        Self::copies(self, slot)
    }
}

/// What the driver's core goes by, where the settings say nothing else.
#[must_use]
pub fn control_config(settings: &Settings) -> Config {
    Config {
        copies: settings.replicas,
        advert_period: settings.advert_period,
        connect_timeout: settings.connect_timeout,
        repair_bytes_per_second: settings.repair_bytes_per_second,
        ..Config::default()
    }
}

/// Makes a client: what the engine calls, and what looks after the stores. Nothing runs yet, and there
/// are no stores until the driver's handle adds some.
///
/// # Errors
/// [`OpenError`].
pub fn open<C: Connector>(
    settings: Settings,
    connector: C,
    memory: SlotMemory,
    disk: Option<Disk>,
) -> Result<(Arc<Replicated<C>>, Driver<C>), OpenError> {
    let config = control_config(&settings);
    open_with(settings, config, connector, memory, disk)
}

/// As [`open`], with every setting of the core at the caller's choice.
///
/// # Errors
/// [`OpenError`].
pub fn open_with<C: Connector>(
    settings: Settings,
    config: Config,
    connector: C,
    memory: SlotMemory,
    disk: Option<Disk>,
) -> Result<(Arc<Replicated<C>>, Driver<C>), OpenError> {
    settings.check()?;
    let table = Table::open(
        memory,
        &settings.namespace,
        settings.slots,
        settings.epoch_floor,
    )?;
    let known: Vec<Known> = (table.remembered().into_iter())
        .filter_map(|member| {
            Some(Known {
                number: MemberNo::new(member.number)?,
                name: member.name,
                incarnation: member.incarnation,
            })
        })
        .collect();
    let core = Core::new(config, &known, settings.seed, Duration::ZERO)?;
    let (shared, notes) = Shared::new(settings, connector, table, disk, core.view())?;
    let shared = Arc::new(shared);
    let driver = Driver::new(Arc::clone(&shared), core, notes);
    Ok((Arc::new(Replicated::new(shared)), driver))
}
