// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Values that are gone, older, another's or damaged: made by hand, as a failover would leave them.

use redis::{Connection, cmd};
use tmem_pages::{PAGE_SIZE, SlotStore};
use tmem_remote_client::valkey::ValkeyError;

use crate::pages::{checksum, config, header, memory, open, page, read, write};
use crate::servers::Servers;

fn value(connection: &mut Connection, key: &str) -> Vec<u8> {
    cmd("GET").arg(key).query(connection).unwrap()
}

fn put(connection: &mut Connection, key: &str, value: &[u8]) {
    cmd("SET")
        .arg(key)
        .arg(value)
        .query::<()>(connection)
        .unwrap();
}

#[test]
fn whatever_is_not_the_last_write_is_a_loss_and_never_a_page() {
    let Some(servers) = Servers::cluster(&[]) else {
        return;
    };
    let store = open(&servers);
    let key = "{tmem.test.0}7";
    let mut primary = servers.connect(servers.primary_of(key));
    let lost = |what: &str| match read(&store, 7, &page(2)).unwrap_err() {
        ValkeyError::Lost {
            slot: 7,
            what: found,
        } => assert!(found.contains(what), "{found}"),
        other => panic!("{other}"),
    };
    write(&store, 7, &page(1)).unwrap();
    let older = value(&mut primary, key);
    write(&store, 7, &page(2)).unwrap();
    let newest = value(&mut primary, key);
    read(&store, 7, &page(2)).unwrap();

    put(&mut primary, key, &older);
    lost("earlier");
    cmd("DEL").arg(key).query::<()>(&mut primary).unwrap();
    lost("nothing");
    put(&mut primary, key, b"something");
    lost("something else");
    let mut damaged = newest.clone();
    damaged[32 + PAGE_SIZE / 2] ^= 1;
    put(&mut primary, key, &damaged);
    lost("other bytes");
    // The value of another slot.
    write(&store, 8, &page(2)).unwrap();
    let other = value(&mut primary, "{tmem.test.0}8");
    put(&mut primary, key, &other);
    lost("something else");
    assert_eq!(store.stats().lost(), 5);
    put(&mut primary, key, &newest);
    read(&store, 7, &page(2)).unwrap();
}

#[test]
fn earlier_write_of_the_very_same_bytes_is_a_loss_too() {
    let Some(servers) = Servers::cluster(&[]) else {
        return;
    };
    let store = open(&servers);
    let key = "{tmem.test.0}7";
    let mut primary = servers.connect(servers.primary_of(key));
    write(&store, 7, &page(1)).unwrap();
    let older = value(&mut primary, key);
    write(&store, 7, &page(1)).unwrap();
    put(&mut primary, key, &older);
    let error = read(&store, 7, &page(1)).unwrap_err();
    assert!(
        matches!(error, ValkeyError::Lost { slot: 7, .. }),
        "{error}"
    );
}

#[test]
fn flushed_page_and_page_of_an_earlier_life_do_not_come_back() {
    let Some(servers) = Servers::cluster(&[]) else {
        return;
    };
    let store = open(&servers);
    let key = "{tmem.test.0}7";
    let mut primary = servers.connect(servers.primary_of(key));
    write(&store, 7, &page(1)).unwrap();
    let flushed = value(&mut primary, key);
    store.invalidate(&[7]).unwrap();
    put(&mut primary, key, &flushed);
    let error = read(&store, 7, &page(1)).unwrap_err();
    assert!(matches!(error, ValkeyError::NoPage { slot: 7 }), "{error}");
    drop(store);
    // The same namespace with new memory: its first write of the slot has the same turn.
    let config = config(&servers);
    let store = tmem_remote_client::valkey::ValkeyStore::open(&config, memory(), 4096).unwrap();
    write(&store, 7, &page(1)).unwrap();
    put(&mut primary, key, &flushed);
    let error = read(&store, 7, &page(1)).unwrap_err();
    assert!(
        matches!(error, ValkeyError::Lost { slot: 7, .. }),
        "{error}"
    );
}

#[test]
fn pages_asked_for_ahead_are_the_last_ones_or_are_read_again() {
    let Some(servers) = Servers::cluster(&[]) else {
        return;
    };
    let store = open(&servers);
    let pages: Vec<_> = (0..600).map(page).collect();
    let headers: Vec<_> = pages.iter().map(header).collect();
    let batch: Vec<_> = (0..)
        .zip(&headers)
        .zip(&pages)
        .map(|((slot, header), page)| (slot, header, page))
        .collect();
    store.write(&batch).unwrap();
    // Slots of three chunks, some of which change after they were asked for.
    let slots: Vec<u32> = (0..600).step_by(3).collect();
    let wanted: Vec<_> = slots
        .iter()
        .map(|slot| (*slot, checksum(&pages[*slot as usize])))
        .collect();
    store.will_read(&wanted);
    let rewritten = page(9999);
    write(&store, 30, &rewritten).unwrap();
    store.invalidate(&[60]).unwrap();
    for slot in &slots {
        let expected = &pages[*slot as usize];
        match slot {
            30 => {
                // The engine would ask with the new page's checksum; with the old one there is none.
                read(&store, 30, &rewritten).unwrap();
                assert!(read(&store, 30, expected).is_err());
            }
            60 => assert!(read(&store, 60, expected).is_err()),
            _ => read(&store, *slot, expected).unwrap(),
        }
    }
}
