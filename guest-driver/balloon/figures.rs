// SPDX-License-Identifier: GPL-2.0
//! What the balloon counts, for debugfs, and what it tells the host of its guest.

use super::{agent::Record, ffi, Balloon};
use crate::{stats::Counter, wire};
use kernel::{
    fmt,
    sync::atomic::{Atomic, Relaxed},
};

/// Declares [`Figures`] and their listing, in the order in which debugfs shows them.
macro_rules! figures {
    ($( $(#[$doc:meta])* $name:ident, )*) => {
        /// The file `balloon` of a device.
        pub(crate) struct Figures {
            $( $(#[$doc])* pub(super) $name: Counter, )*
            /// Reports to the host so far.
            sequence: Atomic<u64>,
        }

        impl Figures {
            pub(super) fn new() -> Self {
                Self {
                    $( $name: Counter::new(), )*
                    sequence: Atomic::new(0),
                }
            }

            pub(crate) fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                $( write!(f, concat!(stringify!($name), " {}\n"), self.$name.get())?; )*
                Ok(())
            }
        }
    };
}

figures! {
    /// Pages that the host wants the balloon to hold.
    target,
    /// Pages that it works towards.
    goal,
    /// Pages that it holds.
    held,
    /// Blocks of 512 pages among them.
    held_blocks,
    /// Pages that stay with the guest whatever the host wants.
    floor,
    /// Pages that the host took.
    inflated,
    /// Pages that went back to the guest, for whatever reason.
    deflated,
    /// Those of them that went because the guest was out of memory.
    oom_deflated,
    /// Pages that the kernel moved.
    moved,
    /// Pages that the host refused.
    refused,
    /// Why it refused the last ones; 0: none since its last target.
    reason,
    /// Times that the kernel had no page for the balloon.
    failed_allocations,
    /// Requests to the host.
    requests,
    /// Statistics that the host took.
    reports,
    /// Whether free pages are reported: 0 no, 1 yes, 2 virtio-balloon does it.
    reporting,
    /// Free pages that were reported.
    reported,
    /// Those of them that the host freed.
    reported_freed,
    /// Whether an agent speaks.
    agent,
}

impl Balloon {
    /// Brings the figures that are states up to date.
    pub(super) fn note(&self) {
        let figures = &self.figures;
        figures.target.set(self.target());
        figures.goal.set(self.goal());
        figures.held.set(self.store.held());
        figures.held_blocks.set(self.store.held_blocks());
        figures.floor.set(self.floor());
        figures.agent.set(u64::from(Record::is_there()));
    }

    /// The worker of statistics: tells the host how the guest is, and when to do so next.
    pub(super) fn report_figures(&self) {
        self.note();
        if self.is_ending() {
            return;
        }
        let record = Record::last();
        let mut memory = ffi::Memory::default();
        // SAFETY: the structure is ours; the caller may sleep.
        unsafe { ffi::vtmem_balloon_look(&mut memory) };
        let figures = &self.figures;
        let mut turn = self.line.turn();
        let sequence = figures.sequence.fetch_add(1u64, Relaxed).wrapping_add(1);
        figures.requests.inc();
        let told = turn.send_stats(&wire::BalloonStats {
            sequence,
            // As late as can be: the host takes it for its account.
            held: self.store.held(),
            target: self.goal(),
            total: memory.total,
            available: memory.available,
            free: memory.free,
            swap_ins: memory.swap_ins,
            swap_outs: memory.swap_outs,
            refaults: memory.refaults,
            major_faults: memory.major_faults,
            psi_some_us: record.some_us,
            psi_full_us: record.full_us,
            floor: self.floor(),
            oom_deflated: figures.oom_deflated.get(),
            reason: figures.reason.get(),
            swapped: record.swapped,
        });
        drop(turn);
        if told.is_ok() {
            figures.reports.inc();
        }
        let interval = self.interval.load(Relaxed);
        if interval > 0 {
            self.tell.run_in(interval);
        }
    }
}
