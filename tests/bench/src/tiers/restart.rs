// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How long a new process takes until it answers the first gets: of a page in DRAM, and of one in the
//! PM file.
//!
//! The engine is dropped without any step of a shutdown, as a kill does it; what a dead process leaves
//! in the kernel's page cache is left there. After a reboot of the host there is no map, and no page
//! cache: the file's is dropped before.

use std::path::Path;
use std::time::Instant;

use tmem_pages::slots::Durability;
use tmem_pages::{EngineFiles, Tier};

use super::AREA;
use super::Scale;
use super::stand::{Size, Stand, drop_cache, slot_file, stores};
use crate::report::median;
use crate::{Error, Result, Row};

/// Milliseconds that each GiB of frames, and of PM file, may take.
const MS_DRAM: f64 = 50.0;
const MS_PM: f64 = 150.0;

pub(super) fn rows(scale: &Scale, folder: &Path) -> Result<Vec<Row>> {
    let path = folder.join("restart");
    let rows = vec![after_kill(scale, &path)?, after_reboot(scale, &path)?];
    Ok(rows)
}

fn remove(path: &Path) -> Result<()> {
    std::fs::remove_file(path).map_err(Error::system("remove a file that was measured"))
}

fn shared_memory() -> Result<EngineFiles> {
    EngineFiles::anonymous().map_err(Error::other("make shared memory"))
}

fn after_kill(scale: &Scale, path: &Path) -> Result<Row> {
    let frames = scale.restart;
    // Some slots are for victims, which have a copy in DRAM as well.
    let slots = frames + frames / 8;
    let size = Size {
        frames,
        pages: 2 * frames,
    };
    let files = shared_memory()?;
    let clone = || files.try_clone().map_err(Error::other("share memory"));
    let open = || slot_file(path, slots, Durability::Process);
    let mut stand = Stand::open(clone()?, size, stores(Some(open()?), false))?;
    stand.fill(size.pages)?;
    let [dram, pm] = [Tier::Dram, Tier::Pm].map(|tier| gib(stand.used(tier)));
    // A get may bring its page up, so each has another one.
    let first = stand.pages_in(Tier::Dram, scale.rounds)?;
    let below = stand.pages_in(Tier::Pm, scale.rounds)?;
    // Who opens the file next is the only one.
    drop(stand);
    let mut times = Vec::new();
    for (first, below) in first.into_iter().zip(below) {
        let files = clone()?;
        let start = Instant::now();
        let stand = Stand::open(files, size, stores(Some(open()?), false))?;
        times.push(first_gets(stand, &[first, below], start)?);
    }
    remove(path)?;
    let regime = format!(
        "{dram:.2} GiB in frames and {pm:.2} GiB in the file; engine dropped, files opened anew: until \
         a page of each tier was got; limit: {MS_DRAM} and {MS_PM} ms for a GiB"
    );
    let limit = dram.mul_add(MS_DRAM, pm * MS_PM);
    let name = "restart after a kill, first gets";
    Ok(AREA.limited(name, "ms", median(&times), limit, regime))
}

fn after_reboot(scale: &Scale, path: &Path) -> Result<Row> {
    let slots = scale.restart / 2;
    let size = Size {
        frames: slots / 4,
        pages: slots,
    };
    let open = || slot_file(path, slots, Durability::Host);
    let mut stand = Stand::open(shared_memory()?, size, stores(Some(open()?), true))?;
    stand.fill(size.pages)?;
    let below = stand.pages_in(Tier::Pm, scale.rounds)?;
    drop(stand);
    let (mut times, mut pm) = (Vec::new(), 0.0);
    for page in below {
        drop_cache(path)?;
        let files = shared_memory()?;
        let start = Instant::now();
        let stand = Stand::open(files, size, stores(Some(open()?), true))?;
        pm = gib(stand.used(Tier::Pm));
        times.push(first_gets(stand, &[page], start)?);
    }
    remove(path)?;
    let regime = format!(
        "{pm:.2} GiB in the file, durability host, an empty map, no page cache: headers scanned, pools \
         taken over, until a page was got; limit: {MS_PM} ms for a GiB"
    );
    let name = "restart after a reboot of the host, first get";
    Ok(AREA.limited(name, "ms", median(&times), pm * MS_PM, regime))
}

/// Gets pages, the last of which is in the PM file. Returns the milliseconds since `start`.
fn first_gets(mut stand: Stand, pages: &[u32], start: Instant) -> Result<f64> {
    pages.iter().try_for_each(|page| stand.get(*page))?;
    let time = start.elapsed().as_secs_f64() * 1e3;
    let stats = stand.pool.stats();
    if stats.hits_pm == 0 {
        return Err(Error::Refused {
            what: "the engine",
            answer: format!("from elsewhere what was in the PM file: {stats:?}"),
        });
    }
    Ok(time)
}

fn gib(pages: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "pages of a benchmark")]
    let pages = pages as f64;
    pages / f64::from(1 << 18)
}
