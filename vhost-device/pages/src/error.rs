// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Why there is no engine.

use std::path::PathBuf;

use thiserror::Error;

use crate::engine::{FRAMES_MAX, GUESTS_MAX, WORKERS_MAX};
use crate::layout::LAYOUT_VERSION;
use crate::slots::SlotError;
use crate::tier::Tier;

/// Why an engine cannot be made, or its files be had.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The number of frames is out of range.
    #[error("Cannot make an engine of {frames} frames: choose 1 to {FRAMES_MAX}")]
    BadFrames {
        /// Frames asked for.
        frames: u32,
    },
    /// The number of workers is out of range.
    #[error("Cannot make an engine for {workers_max} workers: choose 1 to {WORKERS_MAX}")]
    BadWorkers {
        /// Workers asked for.
        workers_max: u16,
    },
    /// The number of guests is out of range.
    #[error("Cannot make an engine for {guests_max} guests: choose 1 to {GUESTS_MAX}")]
    BadGuests {
        /// Guests asked for.
        guests_max: u16,
    },
    /// The map would be longer than a file can be.
    #[error("Cannot lay out an engine of {frames} frames for {guests_max} guests: lower one")]
    TooLarge {
        /// Frames asked for.
        frames: u32,
        /// Guests asked for.
        guests_max: u16,
    },
    /// The memory could not be had.
    #[error(
        "Cannot map {frames} frames of 4 KiB, and an index for {guests_max} guests: check the room and the rights of both files, and lower either"
    )]
    Memory {
        /// Frames, with the reserve.
        frames: u32,
        /// Guests that there can be.
        guests_max: u16,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file could not be opened or made.
    #[error("Cannot open the engine's file {}: check its folder, its rights and its room", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Another program has the file open.
    #[error("Cannot use the engine's file {}: another program has it; end that one or choose another file", path.display())]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// Another process, or another engine of this one, uses the files.
    #[error("Cannot use the engine's map: a live process uses it; wait for its end")]
    InUse,
    /// A descriptor of the files cannot be had or read.
    #[error("Cannot read the engine's map: check that it is a file of shared memory")]
    Unreadable {
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not an engine's map.
    #[error("Cannot use the engine's map: it is something else; choose another file, or remove it")]
    NotOurs,
    /// The map is of another version.
    #[error(
        "Cannot use the engine's map: it has version {version}, this program knows {LAYOUT_VERSION}; start the program that made it, or remove both files, and the pages in them"
    )]
    Version {
        /// The map's version.
        version: u32,
    },
    /// The map is of this version, but not whole.
    #[error("Cannot use the engine's map: {what}; remove both files, and the pages in them")]
    Damaged {
        /// What is wrong.
        what: &'static str,
    },
    /// The map was made for other counts.
    #[error(
        "Cannot use the engine's map: it was made for {made_for} {what}, and {asked_for} are asked for; ask for {made_for}, or remove both files, and the pages in them"
    )]
    OtherCounts {
        /// What is counted.
        what: &'static str,
        /// The map's count.
        made_for: u32,
        /// The count asked for.
        asked_for: u32,
    },
    /// The store of a tier is not the one that the map speaks of.
    #[error(
        "Cannot use the {tier} tier: its store is another one than the pages that left DRAM went to; give that one back, or remove the map, and all pages"
    )]
    OtherStore {
        /// The tier.
        tier: Tier,
    },
    /// Pages are in a tier that is not there.
    #[error(
        "Cannot go on without the {tier} tier: pages are in it; configure it as it was, or remove the map, and all pages"
    )]
    StoreMissing {
        /// The tier.
        tier: Tier,
    },
    /// The store of a tier cannot be read or written.
    #[error("Cannot use the {tier} tier's store")]
    Store {
        /// The tier.
        tier: Tier,
        /// Why.
        source: SlotError,
    },
    /// The file of frames does not belong to the map.
    #[error(
        "Cannot use the engine's frames: their file has {bytes} bytes and its map speaks of {expected}; give the file that belongs to the map, or remove both, and the pages in them"
    )]
    FramesLength {
        /// Bytes that the file has.
        bytes: u64,
        /// Bytes that it must have.
        expected: u64,
    },
}
