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
    "Unknown symbol",
];

/// The lines of `log` that a healthy kernel does not print, in their order.
///
/// No line is excused: that an unsigned module taints the kernel is said in words that are not
/// among those looked for.
#[must_use]
pub fn offences(log: &str) -> Vec<&str> {
    log.lines()
        .filter(|line| OFFENCES.iter().any(|offence| line.contains(offence)))
        .collect()
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
