// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Are the debug kernel's checkers on, and is what they say noticed? Without this, a silent log would
//! prove nothing.

use super::Figure;
use crate::bench::{Bench, MEMORY_MIB, QUICK};
use crate::klog;
use anyhow::{Result, ensure};

/// Errors that the kernel's own dump test makes on demand, and words of the report that must follow.
const ERRORS: &[(&str, &str)] = &[
    ("READ_AFTER_FREE", "BUG: KASAN: slab-use-after-free"),
    ("SLAB_LINEAR_OVERFLOW", "BUG: KASAN: slab-out-of-bounds"),
    (
        "VMALLOC_LINEAR_OVERFLOW",
        "BUG: KASAN: vmalloc-out-of-bounds",
    ),
    ("ARRAY_BOUNDS", "UBSAN: array-index-out-of-bounds"),
    ("CORRUPT_LIST_ADD", "list_add corruption"),
];

/// Lockdep turns itself off after its first report, so it is asked before that.
const LOCKDEP_ON: &str = "grep -q '^ *debug_locks: *1$' /proc/lockdep_stats";

/// Makes each error, and looks for its report among the offences of the log.
pub(super) fn find_errors(bench: &Bench<'_>) -> Result<Vec<Figure>> {
    let daemon = bench.daemon(&["vm0"])?;
    let mut guest = bench.boot(&daemon, "vm0", MEMORY_MIB)?;
    guest.run(LOCKDEP_ON, QUICK)?.ok()?;
    guest.check_log()?;
    for (error, report) in ERRORS {
        // The shell that makes the error may die of it, which is no failure here.
        guest.run(
            &format!("(echo {error} >/sys/kernel/debug/provoke-crash/DIRECT)"),
            QUICK,
        )?;
        let log = guest.log();
        let offences = klog::offences(&log);
        ensure!(
            offences.iter().any(|line| line.contains(report)),
            "After {error}, no \"{report}\" is among the offences: {offences:?}"
        );
    }
    // Its log is as bad as it should be, so the guest is not asked to end well.
    drop(guest);
    daemon.shut_down()?;
    Ok(vec![("errors_found", ERRORS.len() as u64)])
}
