// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What is refused when a store is opened, and what a full cluster does.

use tmem_remote_client::valkey::{ValkeyError, ValkeyStore};

use crate::pages::{config, memory, open, page, read, write};
use crate::servers::Servers;

fn refusal(servers: &Servers) -> String {
    match ValkeyStore::open(&config(servers), memory(), 10) {
        Err(error @ ValkeyError::Unfit { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn server_without_cluster_mode_is_refused() {
    let Some(servers) = Servers::start(1, &[("cluster-enabled", "no")]) else {
        return;
    };
    drop(servers.connect(0));
    let error = refusal(&servers);
    assert!(error.contains("not in cluster mode"), "{error}");
}

#[test]
fn cluster_that_drops_pages_or_forgets_replicas_is_refused() {
    let Some(servers) = Servers::cluster(&[]) else {
        return;
    };
    // A replica is looked at too: it may be the primary tomorrow.
    for (name, bad, good, why) in [
        (
            "maxmemory-policy",
            "allkeys-lru",
            "noeviction",
            "drops pages",
        ),
        ("min-replicas-to-write", "0", "1", "no replica will get"),
    ] {
        for server in [1, 4] {
            let mut connection = servers.connect(server);
            let mut set = |value: &str| {
                let mut set = redis::cmd("CONFIG");
                set.arg("SET").arg(name).arg(value);
                set.query::<()>(&mut connection).unwrap();
            };
            set(bad);
            let error = refusal(&servers);
            let port = servers.all[server].port.to_string();
            assert!(error.contains(why) && error.contains(&port), "{error}");
            set(good);
        }
    }
    let mut more = config(&servers);
    more.replicas = 2;
    let error = ValkeyStore::open(&more, memory(), 10).unwrap_err();
    assert!(error.to_string().contains("has 1 replicas"), "{error}");
    drop(open(&servers));
}

#[test]
fn full_cluster_refuses_new_pages_and_keeps_the_old_ones() {
    let Some(servers) = Servers::cluster(&[]) else {
        return;
    };
    let store = open(&servers);
    let pages: Vec<_> = (0..64).map(page).collect();
    for (slot, page) in (0..).zip(&pages) {
        write(&store, slot, page).unwrap();
    }
    for number in servers.primaries() {
        let mut set = redis::cmd("CONFIG");
        set.arg("SET").arg("maxmemory").arg("1mb");
        set.query::<()>(&mut servers.connect(number)).unwrap();
    }
    let error = write(&store, 1000, &page(1000)).unwrap_err();
    assert!(error.is_full(), "{error}");
    for (slot, page) in (0..).zip(&pages) {
        read(&store, slot, page).unwrap();
    }
    let error = read(&store, 1000, &page(1000)).unwrap_err();
    assert!(matches!(error, ValkeyError::NoPage { slot: 1000 }));
}
