// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What must be true of all stores together once nothing is broken any more. Only a simulation can
//! ask this: it looks into the stores past everybody.

use std::fmt::Write;

use super::client::{self, ClientHost};
use super::stores::{Peeked, StoreHost};
use super::work::EPHEMERAL;
use super::world::Shared;

/// Every page that is certainly there has as many good copies as it must have, among the stores that
/// its client knows.
///
/// A store that is none of them may have an older one, until its client meets it again; see [`exact`].
pub(crate) fn whole(
    world: &Shared,
    clients: &[ClientHost],
    stores: &[StoreHost],
) -> Result<(), String> {
    let unsettled = world.with(|world| world.unsettled());
    if unsettled > 0 {
        return Err(format!("{unsettled} pages are still to be written again"));
    }
    copies(world, clients, stores, |good, _, wanted| good >= wanted)
}

/// Stores have as many copies of each page as there must be, and nothing else at all.
pub(crate) fn exact(
    world: &Shared,
    clients: &[ClientHost],
    stores: &[StoreHost],
) -> Result<(), String> {
    copies(world, clients, stores, |good, all, wanted| {
        good == wanted && all == wanted
    })?;
    leftovers(world, stores)
}

/// Compares what stores have of each page that is certainly there: good copies, all copies, and how
/// many there must be.
fn copies(
    world: &Shared,
    clients: &[ClientHost],
    stores: &[StoreHost],
    right: impl Fn(usize, usize, usize) -> bool,
) -> Result<(), String> {
    let wanted = world.with(|world| usize::from(world.plan.replicas));
    let mut wrong = String::new();
    let mut count = 0;
    for (number, host) in clients.iter().enumerate() {
        let namespace = client::name(number);
        let members = host.members();
        let wanted = wanted.min(members.len());
        for (slot, stamp) in world.with(|world| world.settled(number)) {
            let found: Vec<(usize, Peeked)> = (members.iter())
                .filter_map(|store| Some((*store, stores[*store].peek(&namespace, slot)?)))
                .collect();
            let good = |(_, peeked): &&(usize, Peeked)| *peeked == Peeked::Page(stamp);
            if !right(found.iter().filter(good).count(), found.len(), wanted) {
                count += 1;
                if count <= 4 {
                    let named = host.names(slot);
                    let _ = write!(wrong, "c{number} {stamp:?}: {found:?}, named {named:x?}; ");
                }
            }
        }
    }
    if count == 0 {
        return Ok(());
    }
    Err(format!("{count} pages have not {wanted} copies: {wrong}"))
}

/// No store has a page that is gone.
fn leftovers(world: &Shared, stores: &[StoreHost]) -> Result<(), String> {
    let gone = world.with(|world| {
        let mut gone = Vec::new();
        for (number, oracle) in world.oracles.iter().enumerate() {
            let slots = 0..world.plan.slots;
            gone.extend(
                slots
                    .filter(|slot| oracle.is_gone(*slot))
                    .map(|slot| (number, slot)),
            );
        }
        gone
    });
    for (number, slot) in gone {
        for (store, host) in stores.iter().enumerate() {
            if let Some(peeked) = host.peek(&client::name(number), slot) {
                return Err(format!(
                    "store {store} has {peeked:?}, which client {number} has flushed"
                ));
            }
        }
    }
    Ok(())
}

/// Beyond the promise pages are lost. Those that no store has any more may be missing from now on;
/// all others must be found.
pub(crate) fn forgive_what_is_nowhere(
    world: &Shared,
    clients: &[ClientHost],
    stores: &[StoreHost],
) {
    for (number, host) in clients.iter().enumerate() {
        let namespace = client::name(number);
        let members = host.members();
        for (slot, stamp) in world.with(|world| world.settled(number)) {
            let has =
                |store: &usize| stores[*store].peek(&namespace, slot) == Some(Peeked::Page(stamp));
            if slot < EPHEMERAL && !members.iter().any(has) {
                world.with(|world| world.oracles[number].forgive(slot));
                world.note(format_args!("c{number} {slot}: no copy is left"));
            }
        }
    }
}
