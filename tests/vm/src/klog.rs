// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a guest's kernel log must not hold, whatever a test was about.

/// Words that a healthy kernel does not print.
const OFFENCES: &[&str] = &[
    "WARNING:",
    "BUG:",
    "kernel BUG at",
    "Oops",
    "Call Trace:",
    "Kernel panic",
    "general protection",
    "invalid opcode",
    "Unable to handle",
    "unable to handle",
    "stack-protector",
    "refcount_t:",
    "list_add corruption",
    "list_del corruption",
    "Bad page state",
    "Bad rss-counter",
    "page allocation failure",
    "possible circular locking",
    "possible recursive locking",
    "inconsistent lock state",
    "scheduling while atomic",
    "sleeping function called from invalid context",
    "rcu: INFO",
    "self-detected stall",
    "soft lockup",
    "hard LOCKUP",
    "blocked for more than",
    "hung task",
    "UBSAN:",
    "KASAN:",
    "ODEBUG:",
    "DEBUG_LOCKS_WARN_ON",
    "possible irq lock inversion",
    "INFO: trying to register non-static key",
    "INFO: lockdep is turned off",
    "suspicious RCU usage",
    "Invalid wait context",
    "bad unlock balance",
    "held lock freed",
    "page dumped because",
    "pagealloc:",
    "Slab corruption",
    "Poison overwritten",
    "Redzone overwritten",
    "Object already free",
    "usercopy: Kernel memory",
    "rust_kernel: panicked",
    "Out of memory",
    "invoked oom-killer",
    "segfault at",
    "I/O error",
    "Write-error on swap",
    "Read-error on swap",
    "swap_info_get:",
    "Unused swap",
    "Bad swap",
    "disagrees about version",
    // The driver's own, unless a device misbehaves: it must not take a shutdown for that.
    "a virtqueue is broken",
    "Unknown symbol",
];

/// How a kernel begins a report of an allocation that failed, and the report's call trace.
const ALLOCATION: &str = "page allocation failure: order:0,";
const TRACE: &str = "Call Trace:";
/// Where such a report's call trace ends, and after how many lines it is not looked for any more.
const TRACE_END: &str = "</TASK>";
const REPORT_LINES: usize = 80;
/// The one place that may report it. Linux 7.2 asks there for a page to count a swap cluster's slots
/// in, a second time and aloud, in the very moment in which it frees memory because there is none
/// (mm/swapfile.c, `swap_cluster_populate`). When it gets none, the page that was to be swapped out
/// stays where it is, and another one is tried. Any guest that needs memory fast may say this once in
/// a while, with or without a balloon.
const SWAP_CLUSTER: &str = "swap_cluster_alloc_table+";

/// The lines of `log` that a healthy kernel does not print, in their order.
///
/// One report is excused, see [`SWAP_CLUSTER`]. That an unsigned module taints the kernel is said in
/// words that are not among those looked for.
#[must_use]
pub fn offences(log: &str) -> Vec<&str> {
    let lines: Vec<&str> = log.lines().collect();
    let mut excused_until = 0;
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        if line.contains(ALLOCATION) {
            let report = lines[at..].iter().take(REPORT_LINES);
            let trace: Vec<&&str> = report
                .take_while(|line| !line.contains(TRACE_END))
                .collect();
            if trace.iter().any(|line| line.contains(SWAP_CLUSTER)) {
                excused_until = at + trace.len();
            }
        }
        let is_excused = at < excused_until && (line.contains(ALLOCATION) || line.contains(TRACE));
        if !is_excused && OFFENCES.iter().any(|offence| line.contains(offence)) {
            found.push(*line);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEALTHY: &str = "\
[    0.000000] Linux version 7.2.12+deb13-cloud-amd64
[    1.720770] PCI: Using host bridge windows from ACPI; if necessary, report a bug
[    3.443916] RAS: Correctable Errors collector initialized.
[    4.6] virtio_tmem: loading out-of-tree module taints kernel.
[    4.7] virtio_tmem: module verification failed: signature and/or required key missing
[    5.0] Adding 524284k swap on /dev/vtmem0.  Priority:-1 extents:1 across:524284k SS";

    #[test]
    fn healthy_log_has_no_offence() {
        assert!(offences(HEALTHY).is_empty());
    }

    /// A report of an allocation that failed in `function`, as a kernel prints it.
    fn allocation_report(function: &str) -> String {
        format!(
            "[    7.26] kswapd0: page allocation failure: order:0, mode:0xc0de0(GFP_KERNEL|__GFP_HIGH)\n\
             [    7.26] CPU: 0 UID: 0 PID: 49 Comm: kswapd0 Tainted: G           OE\n\
             [    7.26] Call Trace:\n\
             [    7.26]  <TASK>\n\
             [    7.26]  warn_alloc+0x151/0x170\n\
             [    7.27]  {function}+0x2b/0x90\n\
             [    7.27]  kswapd+0x1c7/0x330\n\
             [    7.27]  </TASK>\n\
             [    7.27] Mem-Info:"
        )
    }

    #[test]
    fn report_of_the_swap_allocator_alone_is_excused() {
        let excused = allocation_report("swap_cluster_alloc_table");
        assert!(offences(&excused).is_empty());
        // Neither does it hide what is said within it or after it.
        let bug = "[    7.26] BUG: Bad page map in process hold";
        let within = excused.replace("[    7.26]  <TASK>", bug);
        assert_eq!(offences(&within), [bug]);
        let other = allocation_report("vtmem_ring_new");
        let log = format!("{excused}\n{other}");
        assert_eq!(offences(&log), offences(&other));
        assert_eq!(offences(&other).len(), 2);
    }

    #[test]
    fn report_without_an_end_is_not_excused_by_a_later_one() {
        let cut = "[    1.0] insmod: page allocation failure: order:0, mode:0x1";
        let lines = "[    2.0] Adding swap\n".repeat(REPORT_LINES);
        let log = format!(
            "{cut}\n{lines}{}",
            allocation_report("swap_cluster_alloc_table")
        );
        assert_eq!(offences(&log), [cut]);
    }

    #[test]
    fn each_kind_of_trouble_is_found_among_healthy_lines() {
        for trouble in [
            "[   12.3] WARNING: CPU: 1 PID: 77 at mm/swapfile.c:1 swap_range_free+0x1/0x2",
            "[   12.3] BUG: kernel NULL pointer dereference, address: 0000000000000008",
            "[   12.3] INFO: task stress-ng:77 blocked for more than 120 seconds.",
            "[   12.3] watchdog: BUG: soft lockup - CPU#0 stuck for 22s!",
            "[   12.3] rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:",
            "[   12.3] Read-error on swap-device (253:0:8)",
            "[   12.3] BUG: KASAN: slab-use-after-free in vtmem_end+0x1/0x2 [virtio_tmem]",
            "[   12.3] WARNING: possible circular locking dependency detected",
            "[   12.3] [ BUG: Invalid wait context ]",
            "[   12.3] ODEBUG: free active (active state 0) object: 0 object type: work_struct",
            "[   12.3] UBSAN: array-index-out-of-bounds in drivers/x.c:1:2",
            "[   12.3] rust_kernel: panicked at vq.rs:1:2: attempt to add with overflow",
            "[   12.3] page:0 refcount:0 mapcount:1 page dumped because: nonzero mapcount",
            "[   12.3] Oops: general protection fault, probably for non-canonical address",
        ] {
            let log = format!("{HEALTHY}\n{trouble}\n{HEALTHY}");
            assert_eq!(offences(&log), [trouble]);
        }
    }
}
