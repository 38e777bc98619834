// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The remote tier on stores and on a Valkey Cluster.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use tmem_admin_api::AckPolicy;

use super::super::*;

const DAEMON: &str =
    "[daemon]\ndram = \"1GiB\"\n[[guest]]\nname = \"vm0\"\nsocket = \"/s\"\ngrant = \"1MiB\"\n";

const STORES: &str = r#"
    [remote]
    kind = "stores"
    size = "4GiB"
    replicas = 3
    ack = "first"
    min_copies = 2
    namespace = "host7"
    advert_ms = 50
    hedge = "2ms"
    poll_us = 20
    repair_bandwidth = "64MiB"
    ports = [7450]
    etcd = ["http://10.0.0.9:2379", "http://[::1]:2378"]
    disk = { path = "/var/lib/tmem/copies", size = "1GiB" }

    [remote.tls]
    ca = "/etc/tmem/ca.pem"
    cert = "/etc/tmem/client.pem"
    key = "/etc/tmem/client.key"

    [[remote.store]]
    address = "10.0.0.1:7440"
    label = "rack1"
    domain = "row1"

    [[remote.store]]
    address = "unix:/run/remote-store/sock"
"#;

const LOCAL: &str = r#"
    [remote]
    kind = "stores"
    size = "4GiB"

    [[remote.store]]
    address = "127.0.0.1:7440"

    [[remote.store]]
    address = "[::1]:7441"
    label = "second"
"#;

const VALKEY: &str = r#"
    [remote]
    kind = "valkey"
    size = "4GiB"
    namespace = "host7"
    nodes = ["127.0.0.1:6379", "127.0.0.1:6380"]
    ports = [6381]
"#;

fn read(remote: &str) -> RemoteConfig {
    let config = Config::from_toml(&format!("{DAEMON}{remote}")).unwrap();
    config.remote.unwrap()
}

fn error(remote: &str, from: &str, to: &str) -> String {
    assert!(remote.contains(from), "{from}");
    let text = format!("{DAEMON}{}", remote.replacen(from, to, 1));
    crate::error::tell(&Config::from_toml(&text).unwrap_err())
}

#[test]
fn stores_are_read_with_all_that_may_be_said_of_them() {
    let remote = read(STORES);
    assert_eq!(remote.pages, 4 << 18);
    let stores = remote.stores().unwrap();
    assert_eq!(
        (stores.replicas, stores.min_copies, stores.ack),
        (3, 2, AckPolicy::First)
    );
    assert_eq!(stores.namespace, "host7");
    assert_eq!(stores.advert, Duration::from_millis(50));
    assert_eq!(stores.hedge, Hedge::After(Duration::from_millis(2)));
    assert_eq!((stores.poll_us, stores.repair_bytes), (20, 64 << 20));
    assert_eq!(stores.disk.as_ref().unwrap().pages, 1 << 18);
    assert_eq!(
        remote.tls().unwrap().key,
        PathBuf::from("/etc/tmem/client.key")
    );
    let names: Vec<_> = stores.stores.iter().map(StoreConfig::name).collect();
    assert_eq!(names, ["rack1", "unix:/run/remote-store/sock"]);
    assert_eq!(stores.stores[0].domain.as_deref(), Some("row1"));
}

#[test]
fn stores_without_much_said_are_kept_twice_and_plain_on_this_host_alone() {
    let remote = read(LOCAL);
    let stores = remote.stores().unwrap();
    assert_eq!(
        (stores.replicas, stores.min_copies, stores.ack),
        (2, 1, AckPolicy::All)
    );
    assert_eq!((stores.hedge, stores.insecure), (Hedge::Auto, false));
    assert!(is_name(&stores.namespace), "{}", stores.namespace);
    let text = error(LOCAL, "127.0.0.1:7440", "10.0.0.1:7440");
    assert!(text.contains("[remote.tls]"), "{text}");
    let plain = LOCAL.replacen("[[remote.store]]", "insecure = true\n[[remote.store]]", 1);
    read(&plain.replacen("127.0.0.1:7440", "10.0.0.1:7440", 1));
}

#[test]
fn a_worker_may_connect_to_what_is_named_and_nothing_else() {
    let reach = read(STORES).reach().unwrap();
    assert_eq!(reach.ports, BTreeSet::from([2378, 2379, 7440, 7450]));
    assert_eq!(
        reach.folders,
        BTreeSet::from([PathBuf::from("/run/remote-store")])
    );
    let within = |text: &str| text.parse::<StoreAddress>().unwrap().is_within(&reach);
    assert!(within("10.9.9.9:7450") && within("unix:/run/remote-store/second"));
    assert!(!within("10.0.0.1:7441") && !within("unix:/run/other/sock"));
    let reach = read(VALKEY).reach().unwrap();
    assert_eq!(reach.ports, BTreeSet::from([6379, 6380, 6381]));
    assert_eq!(read("[remote]\nsize = \"1GiB\"\n").reach(), None);
}

#[test]
fn what_is_impossible_is_named_with_what_is_possible() {
    let cases = [
        ("replicas = 3", "replicas = 4", "remote.replicas"),
        ("min_copies = 2", "min_copies = 4", "remote.min_copies"),
        ("\"host7\"", "\"a/b\"", "remote.namespace"),
        ("advert_ms = 50", "advert_ms = 1", "remote.advert_ms"),
        ("\"2ms\"", "\"2\"", "remote.hedge"),
        ("\"2ms\"", "\"2s\"", "\"auto\""),
        ("\"64MiB\"", "\"64KiB\"", "remote.repair_bandwidth"),
        ("ports = [7450]", "ports = [0]", "remote.ports"),
        ("http://10.0.0.9:2379", "10.0.0.9:2379", "remote.etcd"),
        ("\"/var/lib/tmem/copies\"", "\"copies\"", "remote.disk.path"),
        ("\"/etc/tmem/ca.pem\"", "\"ca.pem\"", "remote.tls.ca"),
        ("10.0.0.1:7440", "10.0.0.1", "remote.store[0].address"),
        ("10.0.0.1:7440", "10.0.0.1", "HOST:PORT"),
        ("\"rack1\"", "\"rack 1\"", "remote.store[0].label"),
        ("size = \"4GiB\"", "size = \"2TiB\"", "remote.size"),
        ("kind = \"stores\"", "kind = \"stars\"", "stars"),
        ("kind = \"stores\"", "", "remote.kind = \"stores\""),
        (
            "kind = \"stores\"",
            "kind = \"valkey\"",
            "needs remote.kind",
        ),
    ];
    for (from, to, wanted) in cases {
        let text = error(STORES, from, to);
        assert!(text.contains(wanted), "{from} -> {to}: {text}");
    }
}

#[test]
fn stores_are_enough_and_each_is_one() {
    let second = "[[remote.store]]\n    address = \"[::1]:7441\"\n    label = \"second\"\n";
    let text = error(LOCAL, second, "");
    assert!(text.contains("replicas = 2 needs 2 stores"), "{text}");
    let none = "[remote]\nkind = \"stores\"\nsize = \"1GiB\"\n";
    assert!(error(none, "size", "size").contains("[[remote.store]]"));
    // Nobody knows how many etcd will name.
    read(&format!("{none}etcd = [\"http://127.0.0.1:2379\"]\n"));
    let text = error(LOCAL, "[::1]:7441", "127.0.0.1:7440");
    assert!(text.contains("remote.store[1].address"), "{text}");
    let twice = LOCAL.replacen(
        "address = \"127.0.0.1:7440\"",
        "address = \"127.0.0.1:7440\"\n    label = \"second\"",
        1,
    );
    let text = error(&twice, "second", "second");
    assert!(text.contains("remote.store[1].label"), "{text}");
}

#[test]
fn a_cluster_is_read_and_its_names_have_no_dots() {
    let remote = read(VALKEY);
    let valkey = remote.valkey().unwrap();
    assert_eq!((valkey.nodes.len(), valkey.replicas), (2, 1));
    assert!(error(VALKEY, "\"host7\"", "\"host.7\"").contains("dot"));
    assert!(error(VALKEY, "127.0.0.1:6379", "10.0.0.1:6379").contains("remote.insecure"));
    assert!(error(VALKEY, "127.0.0.1:6379", "unix:/s").contains("Unix socket"));
    let nodes = "nodes = [\"127.0.0.1:6379\", \"127.0.0.1:6380\"]";
    assert!(error(VALKEY, nodes, "").contains("remote.nodes"));
    assert!(error(VALKEY, "ports = [6381]", "replicas = 9").contains("remote.replicas"));
}

#[test]
fn a_remote_tier_of_an_older_keeper_is_a_stand_in() {
    let older: RemoteConfig = serde_json::from_str(r#"{"pages": 256}"#).unwrap();
    assert_eq!(older, read("[remote]\nsize = \"1MiB\"\n"));
    for text in [STORES, LOCAL, VALKEY] {
        let remote = read(text);
        let json = serde_json::to_string(&remote).unwrap();
        assert_eq!(serde_json::from_str::<RemoteConfig>(&json).unwrap(), remote);
    }
}
