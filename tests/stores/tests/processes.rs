// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Real stores, killed, frozen, cut off and starved while threads read and write through the client.
//!
//! `TMEM_STORE_ROUNDS` says how many rounds; each hurts one store of two copies' worth, so every read
//! of a page that is there must succeed, and each key's history must be one that a register has.
//! Cuts need root, for network namespaces; without it those rounds are left out, and that is said.
#![allow(
    clippy::unwrap_used,
    reason = "a helper of tests fails as they do: by panicking"
)]

use std::sync::atomic::Ordering;
use std::thread::sleep;
use std::time::Duration;

use rustix::process::Signal;
use tmem_remote_client::control::State;
use tmem_remote_client::{Ack, Settings};
use tmem_store_tests::cluster::{
    Cluster, Cut, Load, MemoryLimit, SmallDisk, StoreOptions, unavailable,
};
use tmem_store_tests::{Random, parameter, seed};

const KEYS: u32 = 120;
const THREADS: u32 = 3;

fn settings(ack: Ack, random: &mut Random) -> Settings {
    Settings {
        namespace: "load".into(),
        slots: KEYS,
        replicas: 2,
        ack,
        advert_period: Duration::from_millis(100),
        epoch_floor: 1,
        seed: random.draw(),
        ..Settings::default()
    }
}

/// What a round does to a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hurt {
    Kill,
    KillWithState,
    Freeze,
    Cut(Cut),
}

/// Lets the load run with a store hurt, then asks whether anything was wrong.
fn round(cluster: &mut Cluster, hurt: Hurt, random: &mut Random, strict: bool) -> String {
    let victim = random.below(u32::try_from(cluster.members.len()).unwrap()) as usize;
    let mut load = Load::start(&cluster.client, KEYS, (THREADS, random.draw()), strict);
    sleep(Duration::from_millis(u64::from(random.between(100, 400))));
    let member = &mut cluster.members[victim];
    match hurt {
        Hurt::Kill | Hurt::KillWithState => member.process.kill().unwrap(),
        Hurt::Freeze => member.process.signal(Signal::STOP).unwrap(),
        Hurt::Cut(cut) => member.namespace.as_ref().unwrap().cut(cut).unwrap(),
    }
    // Now and then it comes back before it is dead to the client.
    sleep(Duration::from_millis(u64::from(random.between(50, 1200))));
    match hurt {
        Hurt::Kill => {
            std::fs::remove_dir_all(cluster.folder(victim).join("state")).unwrap();
            cluster.members[victim].restart().unwrap();
        }
        Hurt::KillWithState => cluster.members[victim].restart().unwrap(),
        Hurt::Freeze => cluster.members[victim]
            .process
            .signal(Signal::CONT)
            .unwrap(),
        Hurt::Cut(_) => {
            let namespace = cluster.members[victim].namespace.as_ref();
            namespace.unwrap().heal().unwrap();
        }
    }
    sleep(Duration::from_millis(100));
    load.rest();
    let took = cluster.until_whole().unwrap();
    load.read_and_flush_all();
    let seen = load.seen();
    let complaints = seen.complaints.lock();
    assert!(
        complaints.is_empty(),
        "{hurt:?} of store {victim}: {complaints:#?}"
    );
    if let Err(violation) = load.recorder().check() {
        panic!(
            "{hurt:?} of store {victim}: key {}:\n{}",
            violation.key, violation.text
        );
    }
    let (operations, keys) = load.recorder().sizes();
    let writes = seen.writes.load(Ordering::Relaxed);
    assert!(writes > 100, "{writes} writes in a round");
    format!(
        "{hurt:?} of store {victim}: {operations} operations on {keys} keys, {} writes failed, \
         longest read {} us, whole after {took:?}",
        seen.failed.load(Ordering::Relaxed),
        seen.longest_read.load(Ordering::Relaxed),
    )
}

fn rounds(test: &str, ack: Ack) {
    let mut random = Random::new(seed(test), 1);
    let mut hurts = vec![Hurt::Kill, Hurt::KillWithState, Hurt::Freeze];
    match unavailable() {
        None => hurts.extend([Cut::Both, Cut::To, Cut::From].map(Hurt::Cut)),
        Some(why) => println!("no store is cut off: {why}"),
    }
    let stores = random.between(3, 5) as usize;
    let settings = settings(ack, &mut random);
    let mut cluster = Cluster::start(stores, true, settings, |_, folder| {
        StoreOptions::new("64MiB").with("--state-dir", folder.join("state"))
    })
    .unwrap();
    let count = parameter("TMEM_STORE_ROUNDS", 6) as usize;
    for number in 0..count {
        // Each kind in turn, so that few rounds have seen them all.
        let hurt = hurts[number % hurts.len()];
        println!(
            "round {number}: {}",
            round(&mut cluster, hurt, &mut random, true)
        );
    }
}

#[test]
fn acknowledged_pages_outlive_one_hurt_store() {
    rounds("acknowledged_pages_outlive_one_hurt_store", Ack::All);
}

#[test]
fn pages_acknowledged_by_the_first_store_outlive_another() {
    rounds(
        "pages_acknowledged_by_the_first_store_outlive_another",
        Ack::First,
    );
}

#[test]
fn full_disk_of_one_store_loses_nothing() {
    if !rustix::process::geteuid().is_root() {
        println!("left out: mounting a small file system needs root");
        return;
    }
    let mut random = Random::new(seed("full_disk_of_one_store_loses_nothing"), 2);
    let disks = tempfile::tempdir().unwrap();
    let disk = SmallDisk::mount(&disks.path().join("small"), 24).unwrap();
    let log = disk.path().join("log");
    let settings = settings(Ack::All, &mut random);
    let mut cluster = Cluster::start(3, false, settings, |number, _| {
        let options = StoreOptions::new("8MiB");
        if number == 0 {
            options.with("--log", &log).with("--log-size", "16MiB")
        } else {
            options
        }
    })
    .unwrap();
    let mut load = Load::start(&cluster.client, KEYS, (THREADS, random.draw()), true);
    sleep(Duration::from_millis(300));
    disk.fill().unwrap();
    sleep(Duration::from_millis(1500));
    assert!(
        cluster.members[0].process.is_running(),
        "{}",
        cluster.members[0].process.tail()
    );
    disk.make_room().unwrap();
    sleep(Duration::from_millis(300));
    load.rest();
    cluster.until_whole().unwrap();
    load.read_and_flush_all();
    assert!(
        load.seen().complaints.lock().is_empty(),
        "{:#?}",
        load.seen().complaints
    );
    assert_eq!(load.recorder().check(), Ok(()));
}

#[test]
fn store_that_the_kernel_kills_for_its_memory_loses_nothing() {
    let limit = match MemoryLimit::new(24) {
        Ok(limit) => limit,
        Err(why) => {
            println!("left out: {why:#}");
            return;
        }
    };
    let test = "store_that_the_kernel_kills_for_its_memory_loses_nothing";
    let mut random = Random::new(seed(test), 3);
    let mut large = settings(Ack::All, &mut random);
    // More pages than the group allows memory for: two copies of 80 MiB on three stores.
    large.slots = 20_480;
    let mut cluster = Cluster::start(3, false, large, |_, _| StoreOptions::new("256MiB")).unwrap();
    limit
        .hold(cluster.members[0].process.pid().unwrap())
        .unwrap();
    let filling = Load::start(&cluster.client, 20_480, (THREADS, random.draw()), true);
    let mut filling = filling;
    let mut killed = false;
    for _ in 0..600 {
        sleep(Duration::from_millis(50));
        killed = !cluster.members[0].process.is_running();
        if killed {
            break;
        }
    }
    assert!(killed, "the store was never killed for its memory");
    sleep(Duration::from_millis(300));
    filling.rest();
    let patience = Duration::from_secs(60);
    let dead = cluster.until(
        "pages have their copies on the others",
        patience,
        |status| {
            let store = status.store("store-0");
            store.is_some_and(|store| store.member.state == State::Dead) && status.below_pages == 0
        },
    );
    dead.unwrap();
    filling.read_and_flush_all();
    assert!(
        filling.seen().complaints.lock().is_empty(),
        "{:#?}",
        filling.seen().complaints
    );
    assert_eq!(filling.recorder().check(), Ok(()));
}
