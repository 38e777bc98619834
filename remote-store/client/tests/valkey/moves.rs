// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Hash slots that move from one primary to another, restarts of the client, and garbage.

use redis::{Connection, cmd};
use rustix::fs::{MemfdFlags, memfd_create};
use tmem_pages::SlotStore;
use tmem_pages::slots::SlotMemory;
use tmem_remote_client::valkey::{ValkeyError, ValkeyStore};

use crate::pages::{config, memory, open, page, read, write};
use crate::servers::{Servers, wait};

fn id(connection: &mut Connection) -> String {
    cmd("CLUSTER").arg("MYID").query(connection).unwrap()
}

fn keys(servers: &Servers) -> usize {
    let count = |number| -> usize { cmd("DBSIZE").query(&mut servers.connect(number)).unwrap() };
    servers.primaries().into_iter().map(count).sum()
}

#[test]
fn pages_are_found_while_their_hash_slot_moves_and_after() {
    let Some(servers) = Servers::cluster(&[]) else {
        return;
    };
    let store = open(&servers);
    for slot in 0..100 {
        write(&store, slot, &page(u64::from(slot))).unwrap();
    }
    let key = "{tmem.test.0}0";
    let from = servers.primary_of(key);
    let to = servers
        .primaries()
        .into_iter()
        .find(|to| *to != from)
        .unwrap();
    let (mut source, mut target) = (servers.connect(from), servers.connect(to));
    let hashed: u16 = (cmd("CLUSTER").arg("KEYSLOT").arg(key))
        .query(&mut source)
        .unwrap();
    let (source_id, target_id) = (id(&mut source), id(&mut target));
    let set = |connection: &mut Connection, state: &str, id: &str| {
        let mut set = cmd("CLUSTER");
        set.arg("SETSLOT").arg(hashed).arg(state).arg(id);
        set.query::<()>(connection).unwrap();
    };
    set(&mut target, "IMPORTING", &source_id);
    set(&mut source, "MIGRATING", &target_id);
    let mut migrate = |slots: std::ops::Range<u32>| {
        let mut migrate = cmd("MIGRATE");
        migrate
            .arg("127.0.0.1")
            .arg(servers.all[to].port)
            .arg("")
            .arg(0)
            .arg(5000)
            .arg("KEYS");
        for slot in slots {
            migrate.arg(format!("{{tmem.test.0}}{slot}"));
        }
        migrate.query::<()>(&mut source).unwrap();
    };
    // Half of the keys are here, half are there.
    migrate(0..50);
    for slot in 0..100 {
        read(&store, slot, &page(u64::from(slot))).unwrap();
    }
    for slot in 25..75 {
        write(&store, slot, &page(1000 + u64::from(slot))).unwrap();
    }
    write(&store, 200, &page(200)).unwrap();
    assert!(store.stats().redirected > 0, "asked the other one");
    migrate(50..100);
    for number in [to, from] {
        set(&mut servers.connect(number), "NODE", &target_id);
    }
    wait("the primary to know", || servers.primary_of(key) == to);
    let redirected = store.stats().redirected;
    for slot in 0..100 {
        let tag = if (25..75).contains(&slot) { 1000 } else { 0 };
        read(&store, slot, &page(tag + u64::from(slot))).unwrap();
        write(&store, slot, &page(2000 + u64::from(slot))).unwrap();
        read(&store, slot, &page(2000 + u64::from(slot))).unwrap();
    }
    read(&store, 200, &page(200)).unwrap();
    let followed = store.stats().redirected - redirected;
    assert!(
        (1..10).contains(&followed),
        "{followed}: the map was renewed"
    );
    assert_eq!(store.stats().lost(), 0);
}

#[test]
fn next_process_finds_the_pages_and_throws_away_what_was_flushed() {
    let Some(servers) = Servers::cluster(&[]) else {
        return;
    };
    let file = memfd_create("slots", MemfdFlags::CLOEXEC).unwrap();
    let again = file.try_clone().unwrap();
    let config = config(&servers);
    let store = ValkeyStore::open(&config, SlotMemory::open(file).unwrap().0, 4096).unwrap();
    for slot in 0..300 {
        write(&store, slot, &page(u64::from(slot))).unwrap();
    }
    let flushed: Vec<u32> = (0..100).collect();
    store.invalidate(&flushed).unwrap();
    assert_eq!(keys(&servers), 300, "too few to be worth a request");
    let id = store.id();
    drop(store);
    let (kept, fresh) = SlotMemory::open(again.try_clone().unwrap()).unwrap();
    assert!(!fresh);
    let store = ValkeyStore::open(&config, kept, 4096).unwrap();
    assert_eq!(store.id(), id);
    assert_eq!(keys(&servers), 200);
    for slot in 100..300 {
        read(&store, slot, &page(u64::from(slot))).unwrap();
        write(&store, slot, &page(500)).unwrap();
        read(&store, slot, &page(500)).unwrap();
    }
    drop(store);
    let mut other = config.clone();
    other.namespace = "other".to_owned();
    let (kept, _) = SlotMemory::open(again).unwrap();
    let refused = ValkeyStore::open(&other, kept, 4096);
    assert!(matches!(refused, Err(ValkeyError::OtherNamespace { .. })));
    // A life without memory of the one before keeps nothing of it, and another namespace's pages stay.
    let neighbour = ValkeyStore::open(&other, memory(), 4096).unwrap();
    write(&neighbour, 3, &page(3)).unwrap();
    drop(ValkeyStore::open(&config, memory(), 4096).unwrap());
    assert_eq!(keys(&servers), 1);
    read(&neighbour, 3, &page(3)).unwrap();
}

#[test]
fn many_flushes_are_thrown_away_at_once_and_slots_are_used_again() {
    let Some(servers) = Servers::cluster(&[]) else {
        return;
    };
    let store = open(&servers);
    for slot in 0..1500 {
        write(&store, slot, &page(u64::from(slot))).unwrap();
    }
    for slot in 0..1200 {
        store.invalidate(&[slot]).unwrap();
        if slot % 3 == 0 {
            write(&store, slot, &page(9000 + u64::from(slot))).unwrap();
        }
    }
    let kept = 300 + 400;
    let keys = keys(&servers);
    assert!((kept..kept + 600).contains(&keys), "{keys} keys");
    for slot in (0..1200).step_by(3) {
        read(&store, slot, &page(9000 + u64::from(slot))).unwrap();
    }
    for slot in 1200..1500 {
        read(&store, slot, &page(u64::from(slot))).unwrap();
    }
}
