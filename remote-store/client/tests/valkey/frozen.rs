// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Servers that stand still: nobody waits longer than was agreed, nothing counts that should not, and
//! nothing that arrives late does harm.

use std::time::{Duration, Instant};

use tmem_pages::SlotStore;
use tmem_remote_client::valkey::{ValkeyError, ValkeyStore};

use crate::pages::{bound, config, memory, page, read, write};
use crate::servers::Servers;

#[test]
fn page_without_its_replica_is_not_acknowledged() {
    let Some(servers) = Servers::cluster(&[("cluster-node-timeout", "20000")]) else {
        return;
    };
    let config = config(&servers);
    let store = ValkeyStore::open(&config, memory(), 4096).unwrap();
    write(&store, 7, &page(1)).unwrap();
    for replica in 3..6 {
        servers.freeze(replica);
    }
    let begun = Instant::now();
    let error = write(&store, 7, &page(2)).unwrap_err();
    assert!(begun.elapsed() < bound(&config));
    match error {
        ValkeyError::Unacknowledged { reached: 0, .. } => {
            assert_eq!(store.stats().unacknowledged, 1);
        }
        // The primary has noticed by itself that its replica lags.
        ValkeyError::Refused { code, .. } => assert_eq!(code, "NOREPLICAS"),
        other => panic!("{other}"),
    }
    let error = read(&store, 7, &page(2)).unwrap_err();
    assert!(matches!(error, ValkeyError::NoPage { .. }), "{error}");
    for replica in 3..6 {
        servers.thaw(replica);
    }
    servers.wait_whole();
    write(&store, 7, &page(3)).unwrap();
    read(&store, 7, &page(3)).unwrap();
}

#[test]
fn late_set_of_a_frozen_primary_does_not_overwrite_the_next_page() {
    // No failover here: the primary comes back with unread requests.
    let Some(servers) = Servers::cluster(&[("cluster-node-timeout", "20000")]) else {
        return;
    };
    let mut config = config(&servers);
    config.deadline = Duration::from_secs(1);
    let store = ValkeyStore::open(&config, memory(), 4096).unwrap();
    let primary = servers.primary_of("{tmem.test.0}7");
    for round in 0..5 {
        write(&store, 7, &page(10 * round)).unwrap();
        servers.freeze(primary);
        let begun = Instant::now();
        let error = write(&store, 7, &page(10 * round + 1)).unwrap_err();
        assert!(matches!(error, ValkeyError::Deadline { .. }), "{error}");
        assert!(begun.elapsed() < bound(&config));
        let error = read(&store, 7, &page(10 * round + 1)).unwrap_err();
        assert!(matches!(error, ValkeyError::NoPage { .. }), "{error}");
        servers.thaw(primary);
        write(&store, 7, &page(10 * round + 2)).unwrap();
        for _ in 0..20 {
            read(&store, 7, &page(10 * round + 2)).unwrap();
        }
    }
    assert_eq!(store.stats().lost(), 0);
    assert!(store.stats().sent_again > 0);
}

#[test]
fn reads_of_a_frozen_primary_end_and_flushes_do_not_wait() {
    let Some(servers) = Servers::cluster(&[("cluster-node-timeout", "20000")]) else {
        return;
    };
    let mut config = config(&servers);
    config.deadline = Duration::from_secs(1);
    let store = ValkeyStore::open(&config, memory(), 4096).unwrap();
    for slot in 0..600 {
        write(&store, slot, &page(u64::from(slot))).unwrap();
    }
    for number in 0..6 {
        servers.freeze(number);
    }
    let begun = Instant::now();
    let error = read(&store, 7, &page(7)).unwrap_err();
    assert!(matches!(error, ValkeyError::Deadline { .. }), "{error}");
    assert!(begun.elapsed() < bound(&config));
    assert_eq!(store.stats().lost(), 0, "not answering is no loss");
    // So many that they would be thrown away at once: one answer to each node is waited for, once.
    let begun = Instant::now();
    for slot in 0..590 {
        store.invalidate(&[slot]).unwrap();
    }
    assert!(begun.elapsed() < bound(&config));
    for number in 0..6 {
        servers.thaw(number);
    }
    servers.wait_whole();
    read(&store, 599, &page(599)).unwrap();
    let error = read(&store, 7, &page(7)).unwrap_err();
    assert!(matches!(error, ValkeyError::NoPage { .. }), "{error}");
}
