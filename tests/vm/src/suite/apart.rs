// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Two guests of one daemon.

use super::Figure;
use crate::bench::{Bench, LONG, MEMORY_MIB, available_mib, clean_result, settled, swap_on};
use crate::load;
use anyhow::{Result, ensure};

const NAMES: [&str; 2] = ["vm0", "vm1"];

/// Both swap at once; each reads what it wrote. Then the second one leaves, and the first one's
/// pages stay as they were.
pub(super) fn two_guests(bench: &Bench<'_>) -> Result<Vec<Figure>> {
    let daemon = bench.daemon(&NAMES)?;
    let mut first = bench.boot(&daemon, NAMES[0], MEMORY_MIB)?;
    let mut second = bench.boot(&daemon, NAMES[1], MEMORY_MIB)?;
    swap_on(&mut first)?;
    swap_on(&mut second)?;

    // The first guest's process stays, so that its pages are on the host when the second leaves.
    let mib = available_mib(&first, 140)?;
    let seed = bench.seed;
    load::start_holding(&mut first, mib, seed)?;
    let other_seed = seed.wrapping_add(1);
    let output = second
        .run(
            &format!("tmem-workload pages --mib {mib} --seed {other_seed} --passes 0"),
            LONG,
        )?
        .ok()?;
    clean_result(&output)?;
    load::wait_until_held(&mut first)?;

    let of_second = settled(&daemon, &mut second, NAMES[1])?;
    second.run("swapoff -a && rmmod virtio_tmem", LONG)?.ok()?;
    second.shut_down()?;
    let of_first = settled(&daemon, &mut first, NAMES[0])?;
    ensure!(
        of_first > 1000,
        "Only {of_first} pages of the first guest are on the host"
    );
    let frames = daemon.status()?.pages.held;
    ensure!(
        frames == daemon.pages(NAMES[0])? + daemon.pages(NAMES[1])?,
        "Both guests' pools do not add up to the {frames} pages of the whole"
    );
    load::check_held(&mut first)?;
    first.shut_down()?;
    daemon.shut_down()?;
    Ok(vec![
        ("pages_of_first", of_first),
        ("pages_of_second", of_second),
    ])
}
