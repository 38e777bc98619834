// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Area `tiers`: what leaves DRAM and comes back, what survives, and what size costs.
//!
//! All in one process, one thread that puts and gets, pinned to one processor; the mover steps on that
//! thread or, where its work is to be in the background, on another one. The PM file is a
//! slot file on an ordinary file system, in a folder that the caller names.
//!
//! | rows | beside | module |
//! | --- | --- | --- |
//! | demotion to the PM file | plain writes of the same batches | `demotion` |
//! | p99 of a DRAM hit while the mover demotes | the same without | `demotion` |
//! | first get after a kill, after a reboot | a limit for each GiB | `restart` |
//! | metadata of a page | a limit in bytes | `metadata` |
//! | gets among many real pages | copies over the same memory | `footprint` |
//! | index with many entries | the same with few | `footprint` |
//! | puts and gets with DRAM and a file | foyer's hybrid cache, redb | `peers` |

mod demotion;
mod footprint;
mod metadata;
mod peers;
mod restart;
mod stand;

use std::path::PathBuf;
use std::time::Duration;

use crate::pin::{self, Processors};
use crate::report::{Machine, SCHEMA};
use crate::row::Area;
use crate::{Error, Report, Result};

/// The area of all these rows.
const AREA: Area = Area("tiers");

/// Where and how much to measure.
#[derive(Clone, Debug, Default)]
pub struct TiersOptions {
    /// Fewer pages, shorter passes, fewer rounds.
    pub quick: bool,
    /// The folder for files that are written to, on the file system to measure; without one, a new
    /// one in `/var/tmp`. All that is made in it goes away again.
    pub folder: Option<PathBuf>,
    /// What to measure of it; all, if none is named.
    pub parts: Vec<TiersPart>,
}

/// A part of this area.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TiersPart {
    /// Demotion to the PM file, and DRAM hits beside it.
    Demotion,
    /// First gets after a kill and after a reboot.
    Restart,
    /// Metadata, many real pages, many entries.
    Size,
    /// Beside foyer and redb.
    Peers,
}

/// Sizes that follow from `quick`.
#[derive(Clone, Copy, Debug)]
struct Scale {
    rounds: usize,
    /// Length of a pass that ends by time.
    pass: Duration,
    /// Pages that are demoted in a pass.
    demoted: u32,
    /// Pages in each tier before a restart.
    restart: u32,
    /// Real pages: few and many.
    real: [u32; 2],
    /// Index entries: few and many.
    entries: [u32; 2],
    /// Index entries that are inserted in a pass.
    inserts: u32,
    /// Frames of each store that is compared with others; its pages are 4 times as many.
    frames: u32,
}

impl Scale {
    const fn new(quick: bool) -> Self {
        if quick {
            Self {
                rounds: 3,
                pass: Duration::from_millis(100),
                demoted: 1 << 14,
                restart: 1 << 15,
                real: [1 << 15, 1 << 18],
                entries: [1 << 20, 1 << 23],
                inserts: 1 << 17,
                frames: 1 << 12,
            }
        } else {
            Self {
                rounds: 5,
                pass: Duration::from_millis(300),
                demoted: 1 << 16,
                restart: 1 << 18,
                real: [1 << 18, 1 << 21],
                entries: [1 << 20, 1 << 26],
                inserts: 1 << 18,
                frames: 1 << 15,
            }
        }
    }
}

/// Measures everything of this area.
///
/// # Errors
/// When the machine has fewer than two processors, the folder cannot be written to, or an engine, a
/// file or a peer fails.
pub fn tiers(options: &TiersOptions) -> Result<Report> {
    let scale = Scale::new(options.quick);
    let processors = Processors::choose()?;
    let parent = options.folder.clone();
    let parent = parent.unwrap_or_else(|| PathBuf::from("/var/tmp"));
    let folder =
        tempfile::tempdir_in(parent).map_err(Error::system("make a folder to measure in"))?;
    let path = folder.path();
    let wants = |part| options.parts.is_empty() || options.parts.contains(&part);
    let results = pin::on(processors.client, || {
        let mut rows = Vec::new();
        if wants(TiersPart::Size) {
            rows.extend(metadata::rows()?);
        }
        if wants(TiersPart::Demotion) {
            rows.extend(demotion::rows(&scale, path)?);
            rows.extend(demotion::hits(&scale, processors, path)?);
        }
        if wants(TiersPart::Restart) {
            rows.extend(restart::rows(&scale, path)?);
        }
        if wants(TiersPart::Size) {
            rows.extend(footprint::gets(&scale)?);
            rows.extend(footprint::index(&scale)?);
        }
        if wants(TiersPart::Peers) {
            rows.extend(peers::rows(&scale, path)?);
        }
        Ok::<_, Error>(rows)
    })??;
    Ok(Report {
        schema: SCHEMA,
        machine: Machine::here(),
        results,
    })
}
