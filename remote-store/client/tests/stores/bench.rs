// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What every scenario stands on: a client of some fake stores, with its driver at work.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{MemfdFlags, memfd_create};
use tmem_pages::slots::{SlotHeader, SlotMemory};
use tmem_pages::{ObjectId, PageBytes, PageIndex, SlotWrite, Ticket};
use tmem_remote_client::control::{Command, Config, Kind, MemberSpec};
use tmem_remote_client::driver::{Ended, Handle, Status};
use tmem_remote_client::{
    Disk, ReadError, Replicated, Session, Settings, WriteError, Written, control_config, open_with,
};
use tmem_remote_protocol::checksum;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::fake::{FakeNet, FakeStore};

pub(crate) const SLOTS: u32 = 512;

/// The bytes of one version of a page.
pub(crate) fn page(slot: u32, version: u32) -> PageBytes {
    let mut page = [0; 4096];
    for (word, at) in page.as_chunks_mut::<8>().0.iter_mut().zip(0_u64..) {
        let mixed =
            (u64::from(slot) << 32 | u64::from(version)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        *word = (mixed ^ at.wrapping_mul(0xd6e8_feb8_6659_fd93)).to_le_bytes();
    }
    page
}

pub(crate) fn header(slot: u32, page: &PageBytes) -> SlotHeader {
    SlotHeader {
        pool_slot: 0,
        pool_serial: 0,
        object: ObjectId::ZERO,
        index: PageIndex(slot),
        ticket: Ticket::new(1).unwrap(),
        checksum: checksum(page),
        flags: 0,
    }
}

/// A client and its stores.
pub(crate) struct Bench {
    pub(crate) net: FakeNet,
    pub(crate) client: Arc<Replicated<FakeNet>>,
    pub(crate) session: Session<FakeNet>,
    pub(crate) handle: Handle,
    memory: OwnedFd,
    settings: Settings,
    driver: JoinHandle<Ended>,
}

pub(crate) fn settings(replicas: u8) -> Settings {
    Settings {
        namespace: "host7".into(),
        slots: SLOTS,
        replicas,
        seed: 7,
        epoch_floor: 1000,
        ..Settings::default()
    }
}

fn config(settings: &Settings) -> Config {
    Config {
        walk_slots: 64,
        start_grace: Duration::from_millis(500),
        ..control_config(settings)
    }
}

impl Bench {
    /// Stores that are up, and this many copies of each page.
    pub(crate) async fn new(stores: u8, replicas: u8) -> Self {
        Self::with(stores, settings(replicas), None).await
    }

    pub(crate) async fn with(stores: u8, settings: Settings, disk: Option<Disk>) -> Self {
        let memory = memfd_create("table", MemfdFlags::CLOEXEC).unwrap();
        let bench = Self::start(FakeNet::new(stores), memory, settings, disk);
        for number in 0..stores {
            bench.add(number).await;
        }
        bench
            .await_status("all stores are up", |status| {
                let up = status
                    .stores
                    .iter()
                    .filter(|s| s.member.state.to_string() == "up");
                up.count() >= usize::from(stores)
            })
            .await;
        bench
    }

    fn start(net: FakeNet, memory: OwnedFd, settings: Settings, disk: Option<Disk>) -> Self {
        let (slots, _) = SlotMemory::open(memory.try_clone().unwrap()).unwrap();
        let config = config(&settings);
        let (client, driver) =
            open_with(settings.clone(), config, net.clone(), slots, disk).unwrap();
        let handle = driver.handle();
        // The driver's tasks are not `Send`; those of a test need not be.
        let driver = tokio::task::spawn_local(driver.run());
        Self {
            session: client.session(1),
            net,
            client,
            handle,
            memory,
            settings,
            driver,
        }
    }

    /// The process is killed, and the next one takes over the table.
    pub(crate) async fn kill_and_restart(self, stores: u8) -> Self {
        let Self {
            net,
            client,
            session,
            handle,
            memory,
            settings,
            driver,
        } = self;
        driver.abort();
        // Its connections end with it.
        assert!(driver.await.unwrap_err().is_cancelled());
        drop((session, handle));
        let client = Arc::into_inner(client).unwrap();
        drop(client);
        let bench = Self::start(net, memory, settings, None);
        for number in 0..stores {
            bench.add(number).await;
        }
        bench
    }

    /// Until the driver has ended by itself.
    pub(crate) async fn ended(self) -> Ended {
        self.driver.await.unwrap()
    }

    pub(crate) async fn add(&self, number: u8) {
        let spec = MemberSpec {
            name: format!("s{number}"),
            address: format!("s{number}"),
            kind: Kind::Remote,
            domain: None,
            weight_percent: 100,
        };
        self.handle.command(Command::Add(spec)).await.unwrap();
    }

    pub(crate) fn store(&self, number: u8) -> FakeStore {
        self.net.store(number)
    }

    pub(crate) async fn write(&mut self, slot: u32, version: u32) -> Result<Written, WriteError> {
        self.write_all(&[(slot, version)]).await
    }

    pub(crate) async fn write_all(&mut self, pages: &[(u32, u32)]) -> Result<Written, WriteError> {
        let bytes: Vec<_> = (pages.iter())
            .map(|(slot, version)| {
                let page = page(*slot, *version);
                (*slot, header(*slot, &page), page)
            })
            .collect();
        let batch: Vec<SlotWrite<'_>> = (bytes.iter())
            .map(|(slot, header, page)| (*slot, header, page))
            .collect();
        self.session.write(&batch).await
    }

    /// Reads a page that must be this version.
    pub(crate) async fn read(&mut self, slot: u32, version: u32) -> Result<(), ReadError> {
        let expected = page(slot, version);
        let mut read = [0; 4096];
        self.session
            .read(slot, Some(checksum(&expected)), &mut read)
            .await?;
        assert_eq!(read, expected, "slot {slot} is not version {version}");
        Ok(())
    }

    pub(crate) async fn must_read(&mut self, slot: u32, version: u32) {
        let read = self.read(slot, version).await;
        read.unwrap_or_else(|error| panic!("slot {slot}, version {version}: {error}"));
    }

    /// How many stores have the slot's page.
    pub(crate) fn copies(&self, slot: u32) -> usize {
        self.net
            .all()
            .iter()
            .filter(|store| store.has(slot))
            .count()
    }

    pub(crate) async fn await_status(&self, what: &str, done: impl Fn(&Status) -> bool) {
        self.await_that(what, || done(&self.handle.status())).await;
    }

    pub(crate) async fn await_that(&self, what: &str, done: impl Fn() -> bool) {
        let wait = async {
            while !done() {
                sleep(Duration::from_millis(10)).await;
            }
        };
        if timeout(Duration::from_secs(60), wait).await.is_err() {
            panic!(
                "{what}: not within a minute\n{:#?}",
                self.handle.status().control
            );
        }
    }

    pub(crate) async fn await_state(&self, number: u8, state: &str) {
        let name = format!("s{number}");
        self.await_status(&format!("{name} is {state}"), |status| {
            status
                .store(&name)
                .is_some_and(|store| store.member.state.to_string() == state)
        })
        .await;
    }

    /// Until every page has its copies, on stores that are well.
    pub(crate) async fn await_whole(&self) {
        self.handle.command(Command::Repair).await.unwrap();
        self.await_status("every page has its copies", |status| {
            status.is_whole() && status.control.members.iter().all(|m| m.drain.is_none())
        })
        .await;
    }
}

/// How long something took, by the clock that jumps.
pub(crate) async fn timed<T>(work: impl Future<Output = T>) -> (T, Duration) {
    let begun = Instant::now();
    let done = work.await;
    (done, begun.elapsed())
}

/// Runs a scenario in a task set of its own.
pub(crate) async fn run(scenario: impl Future<Output = ()>) {
    tokio::task::LocalSet::new().run_until(scenario).await;
}
