// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Indirect tables that loop, nest, are cut, or are not there.

use super::{Fate, Victim, nowhere, offer};
use crate::bench::{Bench, Handle, UNTOUCHED_BYTE};
use crate::checks::{Check, Kind};
use crate::ring::{Descriptor, INDIRECT, NEXT, WRITE};
use crate::why::{Result, ensure};
use crate::wire::status;

pub(super) const CHECKS: &[Check] = &[
    Check {
        name: "indirect-table-that-loops",
        kind: Kind::Hostile,
        run: table_that_loops,
    },
    Check {
        name: "indirect-table-in-a-table",
        kind: Kind::Hostile,
        run: table_in_a_table,
    },
    Check {
        name: "indirect-table-cut-or-nowhere",
        kind: Kind::Hostile,
        run: table_cut_or_nowhere,
    },
    Check {
        name: "indirect-with-other-flags",
        kind: Kind::Hostile,
        run: with_other_flags,
    },
    Check {
        name: "indirect-table-of-thousands",
        kind: Kind::Hostile,
        run: table_of_thousands,
    },
];

/// Bytes of the table of a victim's three descriptors.
const TABLE: u32 = 48;
const _: () = assert!(TABLE as usize == 3 * Descriptor::BYTES);

/// Writes the victim's descriptors into the indirect table, and offers `outer` for them.
fn offer_table(bench: &mut Bench, victim: &Victim, outer: Descriptor) -> Result<Fate> {
    let ring = bench.ring(victim.queue);
    for (nth, descriptor) in (0..).zip(victim.descriptors) {
        descriptor.write(ring.table, nth);
    }
    outer.write(ring.descriptors, 0);
    offer(bench, victim.queue, 0, victim.answer)
}

/// The descriptor that offers the victim's table.
fn outer(bench: &mut Bench, victim: &Victim) -> Descriptor {
    Descriptor {
        address: bench.ring(victim.queue).table.address(),
        length: TABLE,
        flags: INDIRECT,
        next: 0,
    }
}

/// Fails unless a chain was dropped, or its queue stands still.
fn dropped(fate: Fate, what: core::fmt::Arguments<'_>) -> Result {
    ensure!(
        matches!(fate, Fate::Stuck | Fate::Used(0, UNTOUCHED_BYTE)),
        "{what}: {fate:?}"
    );
    Ok(())
}

fn table_that_loops(bench: &mut Bench) -> Result {
    let at = Handle::dense(bench.swap_area(64)?);
    for (from, to) in [
        (0, 0),
        (1, 0),
        (1, 1),
        (2, 0),
        (2, 2),
        (1, 3),
        (1, 100),
        (1, u16::MAX),
    ] {
        let mut victim = Victim::put(bench, at, 0);
        victim.descriptors[from] = victim.descriptors[from].then(to);
        let outer = outer(bench, &victim);
        let fate = offer_table(bench, &victim, outer)?;
        dropped(fate, format_args!("descriptor {from} followed by {to}"))?;
    }
    Ok(())
}

fn table_in_a_table(bench: &mut Bench) -> Result {
    let at = Handle::dense(bench.swap_area(64)?);
    for part in 0..3 {
        let mut victim = Victim::put(bench, at, 0);
        let outer = outer(bench, &victim);
        victim.descriptors[part] = Descriptor {
            flags: outer.flags | victim.descriptors[part].flags & NEXT,
            next: victim.descriptors[part].next,
            ..outer
        };
        let fate = offer_table(bench, &victim, outer)?;
        dropped(fate, format_args!("a table in descriptor {part} of itself"))?;
    }
    Ok(())
}

fn table_cut_or_nowhere(bench: &mut Bench) -> Result {
    let at = Handle::dense(bench.swap_area(64)?);
    for length in [0, 1, 15, 17, 16, 32, 47] {
        let victim = Victim::put(bench, at, 0);
        let outer = outer(bench, &victim);
        let fate = offer_table(bench, &victim, Descriptor { length, ..outer })?;
        dropped(fate, format_args!("a table of {length} bytes"))?;
    }
    for address in nowhere(bench) {
        let victim = Victim::put(bench, at, 0);
        let outer = outer(bench, &victim);
        let fate = offer_table(bench, &victim, Descriptor { address, ..outer })?;
        dropped(fate, format_args!("a table at {address:#x}"))?;
    }
    // A table longer than its chain is none of the device's business; one that leaves memory is.
    for length in [64, 4096, 1 << 20, 0xffff_fff0, u32::MAX] {
        let victim = Victim::put(bench, at, 0);
        let outer = outer(bench, &victim);
        let fate = offer_table(bench, &victim, Descriptor { length, ..outer })?;
        ensure!(
            matches!(
                fate,
                Fate::Stuck | Fate::Used(0, UNTOUCHED_BYTE) | Fate::Used(9, status::OK)
            ),
            "a table of {length} bytes: {fate:?}"
        );
    }
    Ok(())
}

fn with_other_flags(bench: &mut Bench) -> Result {
    let at = Handle::dense(bench.swap_area(64)?);
    for flags in [
        INDIRECT | NEXT,
        INDIRECT | WRITE,
        INDIRECT | NEXT | WRITE,
        u16::MAX,
    ] {
        for next in [0, 1, 300] {
            let victim = Victim::put(bench, at, 0);
            let mut outer = outer(bench, &victim);
            outer.flags = flags;
            outer.next = next;
            // What follows, if it is followed, is another answer.
            let ring = bench.ring(victim.queue);
            victim.descriptors[2].write(ring.descriptors, 1);
            let fate = offer_table(bench, &victim, outer)?;
            if let Fate::Used(bytes, _) = fate {
                ensure!(bytes <= 9, "flags {flags:#x}, next {next}: {fate:?}");
            }
        }
    }
    // A table with INDIRECT not negotiated is a table all the same, or none.
    bench.style.indirect = false;
    bench.again()?;
    let victim = Victim::put(bench, at, 0);
    let outer = outer(bench, &victim);
    let fate = offer_table(bench, &victim, outer)?;
    ensure!(
        matches!(
            fate,
            Fate::Stuck | Fate::Used(0..=8, _) | Fate::Used(9, status::OK)
        ),
        "a table without the feature: {fate:?}"
    );
    Ok(())
}

/// A chain that is longer than any request needs, without a loop: the device gives up, or finds
/// that the lengths do not add up.
fn table_of_thousands(bench: &mut Bench) -> Result {
    let at = Handle::dense(bench.swap_area(64)?);
    let victim = Victim::put(bench, at, 0);
    let table = bench.areas.put.pages(1, 128);
    for length in [1_u16, 0] {
        let count = 32_767;
        for nth in 0..count {
            let piece = Descriptor {
                address: victim.pieces[1].address(),
                length: u32::from(length),
                ..Descriptor::default()
            };
            piece.then(nth + 1).write(table, nth);
        }
        victim.descriptors[0].write(table, 0);
        victim.descriptors[2].write(table, count);
        let outer = Descriptor {
            address: table.address(),
            length: 32_768 * 16,
            flags: INDIRECT,
            next: 0,
        };
        outer.write(bench.ring(victim.queue).descriptors, 0);
        let fate = offer(bench, victim.queue, 0, victim.answer)?;
        ensure!(
            matches!(fate, Fate::Stuck | Fate::Used(0..=8, _)) && fate != Fate::Used(8, status::OK),
            "{count} descriptors of {length} bytes: {fate:?}"
        );
    }
    Ok(())
}
