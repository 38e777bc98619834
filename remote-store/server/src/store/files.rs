// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The files of a store: state, frames and map in the state folder, the PM file. What they hold from
//! before is judged here.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tmem_pages::slots::{Durability, SlotFile};
use tmem_pages::{EngineFiles, PAGE_SIZE, SlotStore, Stores};

use super::error::StoreError;
use super::state::{self, State};
use super::{PmConfig, StoreConfig};

/// What was opened.
pub(super) struct Found {
    pub(super) engine: EngineFiles,
    pub(super) stores: Stores,
    /// The engine's files are as the last process left them.
    pub(super) whole: bool,
}

/// Opens the files of a store.
pub(super) fn open(config: &StoreConfig) -> Result<(State, Found), StoreError> {
    let sync = config
        .pm
        .as_ref()
        .is_some_and(|pm| pm.durability == Durability::Host);
    let beside_pm = |pm: &PmConfig| {
        let mut path = pm.path.as_os_str().to_owned();
        path.push(".store.json");
        PathBuf::from(path)
    };
    let state_path = match &config.state_dir {
        Some(dir) => {
            make_folder(dir)?;
            state::boot()?;
            Some(dir.join("store.json"))
        }
        None => config.pm.as_ref().map(beside_pm),
    };
    let state = State::load(state_path, sync, config.identity)?;
    let (engine, whole) = match &config.state_dir {
        Some(dir) => memory_files(dir, &state, config.capacity_pages)?,
        None => (EngineFiles::anonymous()?, false),
    };
    let pm = match &config.pm {
        Some(pm) => Some(open_pm(pm)?),
        None => None,
    };
    let stores = Stores {
        pm,
        remote: None,
        keep_over_reboot: true,
    };
    let found = Found {
        engine,
        stores,
        whole,
    };
    Ok((state, found))
}

fn make_folder(dir: &Path) -> Result<(), StoreError> {
    let mut builder = fs::DirBuilder::new();
    let made = builder.recursive(true).mode(0o700).create(dir);
    made.map_err(|source| StoreError::Folder {
        path: dir.into(),
        source,
    })
}

/// The engine's files in a folder, and whether they hold what was acknowledged.
fn memory_files(
    dir: &Path,
    state: &State,
    capacity_pages: u32,
) -> Result<(EngineFiles, bool), StoreError> {
    let (map, frames) = (dir.join("map"), dir.join("frames"));
    let folder = |source| StoreError::Folder {
        path: dir.into(),
        source,
    };
    // Opened first, so that files in use are not removed.
    let files = EngineFiles::open(&map, &frames)?;
    let length = rustix::fs::fstat(files.map.as_fd()).map_err(|error| folder(error.into()))?;
    let filled = length.st_size > 0;
    if filled && !state.is_of_this_boot() {
        // A host that went down wrote back what it liked, in any order.
        for file in [&files.map, &files.frames] {
            rustix::fs::ftruncate(file, 0).map_err(|error| folder(error.into()))?;
        }
    }
    check_room(dir, &files, capacity_pages)?;
    Ok((files, filled && state.is_of_this_boot()))
}

/// A frame that the file system has no room for would end the process, so that is found out now.
fn check_room(dir: &Path, files: &EngineFiles, capacity_pages: u32) -> Result<(), StoreError> {
    let folder = |source: rustix::io::Errno| StoreError::Folder {
        path: dir.into(),
        source: source.into(),
    };
    let room = rustix::fs::fstatvfs(&files.frames).map_err(folder)?;
    let taken = rustix::fs::fstat(&files.frames).map_err(folder)?.st_blocks;
    let taken = u64::try_from(taken).unwrap_or(0).saturating_mul(512);
    let free = room.f_bavail.saturating_mul(room.f_frsize);
    let needed = u64::from(capacity_pages) * PAGE_SIZE as u64;
    // A file system without a limit of its own says that it has no blocks.
    if room.f_blocks > 0 && needed > free.saturating_add(taken) {
        return Err(StoreError::NoRoom {
            path: dir.into(),
            needed,
            free,
        });
    }
    Ok(())
}

fn open_pm(config: &PmConfig) -> Result<Arc<dyn SlotStore>, StoreError> {
    let failed = |source: io::Error| StoreError::PmFile {
        path: config.path.clone(),
        source,
    };
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&config.path)
        .map_err(failed)?;
    let opened = SlotFile::open(file.into(), &config.path, config.slots, config.durability);
    let (file, found) = opened.map_err(|source| StoreError::Pm {
        path: config.path.clone(),
        source,
    })?;
    tracing::info!(path = %config.path.display(), mode = %file.mode(), found = ?found.found, "PM file");
    Ok(Arc::new(file))
}
