// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a page costs beside its 4096 bytes, as the engine counts it.
//!
//! In DRAM: all metadata of an engine whose frames are full and whose tiers below are empty, without
//! their slot tables, by its pages; with its policy as large as it becomes once pages have left, which
//! is when some remember what left their frames. Below: what metadata but the policy's the engine has
//! more when as many pages again have come, and others gone to the file, by the pages that are there
//! now, so that what frames cost is not in it; and the slot table, by its slots.

use tmem_pages::Tier;
use tmem_pages::policy::POLICIES;
use tmem_pages::slots::SlotFile;

use super::AREA;
use super::stand::{Size, Stand};
use crate::{Error, Result, Row};

/// Frames of the engine that is filled.
const FRAMES: u32 = 32_768;
/// Pages that are put: half of them have no room in DRAM.
const PAGES: u32 = 2 * FRAMES;
/// What the design allows.
const DRAM_BYTES_MAX: f64 = 48.0;
const BELOW_BYTES_MAX: f64 = 16.0;

pub(super) fn rows() -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let mut worst: f64 = 0.0;
    for kind in POLICIES {
        let (dram, below) = bytes(kind.name)?;
        rows.push(AREA.limited(
            format!("metadata of a page in DRAM, {}", kind.name),
            "bytes",
            dram,
            DRAM_BYTES_MAX,
            "all metadata but slot tables, by the pages; DRAM full, nothing below, but the policy as it is \
             once pages have left; dense pool",
        ));
        worst = worst.max(below);
    }
    rows.push(AREA.limited(
        "metadata of a page below DRAM",
        "bytes",
        worst,
        BELOW_BYTES_MAX,
        "what the same engine has more, but its policy, with as many pages in the PM file as in DRAM, by those, and a slot \
         of the slot table; the most of all policies",
    ));
    Ok(rows)
}

/// Bytes for each page in DRAM, and below.
fn bytes(policy: &str) -> Result<(f64, f64)> {
    let file = SlotFile::memory(PAGES).map_err(Error::other("make a file of memory"))?;
    let size = Size {
        frames: FRAMES,
        pages: PAGES,
    };
    let mut stand = Stand::new(size, Some(file))?;
    let set = stand.guest.set_policy(policy, 1);
    set.map_err(Error::other("choose a policy"))?;
    (0..FRAMES).try_for_each(|number| stand.put(number))?;
    let metadata = |stand: &Stand| {
        let memory = stand.engine.memory();
        let of_dram = memory.policies + memory.copies;
        let own = memory.metadata() - memory.slot_tables - of_dram;
        (own, of_dram, memory.slot_tables)
    };
    let (full, _, slots) = metadata(&stand);
    let in_dram = stand.used(Tier::Dram) - stand.used(Tier::Pm);
    stand.fill(PAGES)?;
    let (more, policy, _) = metadata(&stand);
    let below = u64::from(PAGES) - stand.guest.dram_pages();
    let slot = ratio(slots, PAGES.into());
    Ok((
        ratio(full + policy, in_dram),
        ratio(more - full, below) + slot,
    ))
}

#[expect(clippy::cast_precision_loss, reason = "counts of a benchmark")]
fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}
