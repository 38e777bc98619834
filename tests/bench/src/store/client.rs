// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The client that the daemon uses, on stores that run here, with pages whose versions are known.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::fs::{MemfdFlags, memfd_create};
use tmem_frontend::Random;
use tmem_pages::slots::{SlotHeader, SlotMemory};
use tmem_pages::{ObjectId, PageBytes, PageIndex, SlotStore, Ticket};
use tmem_remote_client::connect::{Network, NetworkConfig, Tls};
use tmem_remote_client::control::{Command, Kind, MemberSpec, State};
use tmem_remote_client::driver::{Ended, Handle};
use tmem_remote_client::{Replicated, Settings};
use tmem_remote_protocol::checksum;

use super::load::{is_version, write_version};
use super::pipe::Address;
use super::servers::Server;
use crate::row::histogram;
use crate::{Error, Result, pin};

/// How long stores may take to be met, and a broken one to be noticed.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// Pages of a batch while the store is filled.
const BATCH: u32 = 64;
const NAME: &str = "the client";

/// See the module's head.
pub(super) struct Client {
    pub(super) store: Arc<Replicated<Network>>,
    pub(super) handle: Handle,
    driver: Option<JoinHandle<io::Result<Ended>>>,
    /// By slot.
    versions: Vec<u32>,
    checksums: Vec<u32>,
    random: Random,
    page: Box<PageBytes>,
    got: Box<PageBytes>,
}

/// A get that took long.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slow {
    /// When it ended, since the load began.
    pub(super) at: Duration,
    pub(super) took: Duration,
    /// How long of that this thread ran, which never sleeps of itself: else something else had its
    /// processor.
    pub(super) ran: Duration,
}

/// Settings that all clients of the benchmark share.
pub(super) fn settings(namespace: &str, slots: u32, replicas: u8) -> Settings {
    Settings {
        namespace: namespace.to_owned(),
        slots,
        replicas,
        min_copies: replicas,
        poll: Duration::from_millis(5),
        seed: 1,
        ..Settings::default()
    }
}

impl Client {
    /// Opens a client, and waits until it has met all stores.
    pub(super) fn open(
        settings: Settings,
        servers: &[Server],
        certificates: Option<&Path>,
    ) -> Result<Self> {
        let failed = "open the client";
        let memory = memfd_create("slots", MemfdFlags::CLOEXEC)
            .map_err(Error::system("make shared memory"))?;
        let (memory, _) = SlotMemory::open(memory).map_err(Error::other(failed))?;
        let tls = certificates.map(read_certificates).transpose()?;
        let network = NetworkConfig {
            tls,
            insecure: false,
        };
        let network = Network::new(&network).map_err(Error::other(failed))?;
        let slots = settings.slots as usize;
        let (store, driver) = tmem_remote_client::open(settings, network, memory, None)
            .map_err(Error::other(failed))?;
        let handle = driver.handle();
        let driver = driver.spawn(|| {
            // It works beside the load, as it does in the daemon; where it cannot, it works anyway.
            let _ = pin::anywhere();
        });
        let client = Self {
            store,
            handle,
            driver: Some(driver.map_err(Error::system("start a thread"))?),
            versions: vec![0; slots],
            checksums: vec![0; slots],
            random: Random::new(3),
            page: Box::new(tmem_frontend::page_content(3)),
            got: Box::new([0; tmem_pages::PAGE_SIZE]),
        };
        for (number, server) in servers.iter().enumerate() {
            let address = match &server.address {
                Address::Tcp(address) => address.to_string(),
                Address::Unix(path) => format!("unix:{}", path.display()),
            };
            let spec = MemberSpec {
                name: format!("store{number}"),
                address,
                kind: Kind::Remote,
                domain: None,
                weight_percent: 100,
            };
            (client.handle.command_blocking(Command::Add(spec))).map_err(Error::other(failed))?;
        }
        client.wait("meet its stores", |client| {
            let stores = client.handle.status().stores;
            let up =
                |store: &tmem_remote_client::driver::StoreStatus| store.member.state == State::Up;
            stores.len() == servers.len() && stores.iter().all(up)
        })?;
        Ok(client)
    }

    /// Waits until something holds.
    pub(super) fn wait(&self, what: &str, done: impl Fn(&Self) -> bool) -> Result<()> {
        let begun = Instant::now();
        while !done(self) {
            if begun.elapsed() > WAIT_MAX {
                return Err(Error::Refused {
                    what: NAME,
                    answer: format!("that it cannot {what}: {:?}", self.handle.status().stores),
                });
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Writes each slot once.
    pub(super) fn fill(&mut self) -> Result<()> {
        let slots = u32::try_from(self.versions.len()).expect("fewer than 2^32 slots");
        let mut pages = vec![*self.page; BATCH as usize];
        for first in (0..slots).step_by(BATCH as usize) {
            let these = first..slots.min(first + BATCH);
            let mut headers = Vec::new();
            for (slot, page) in these.clone().zip(&mut pages) {
                let at = slot as usize;
                self.versions[at] = 1;
                write_version(page, slot, 1);
                headers.push(header(page));
                self.checksums[at] = checksum(page);
            }
            let batch: Vec<_> = (these.zip(&headers).zip(&pages))
                .map(|((slot, header), page)| (slot, header, page))
                .collect();
            (self.store.write(&batch)).map_err(Error::other("fill the stores"))?;
        }
        Ok(())
    }

    /// A slot by chance.
    pub(super) fn any(&mut self) -> u32 {
        let slots = u32::try_from(self.versions.len()).expect("fewer than 2^32 slots");
        self.random.below(slots)
    }

    /// True in so many of 100 cases.
    pub(super) fn percent(&mut self, percent: u32) -> bool {
        self.random.below(100) < percent
    }

    /// Writes one page. A write that fails leaves the page as it is to the engine: elsewhere. Here it
    /// is written again.
    pub(super) fn put(&mut self, slot: u32) -> Result<Duration> {
        let at = slot as usize;
        self.versions[at] += 1;
        write_version(&mut self.page, slot, self.versions[at]);
        let header = header(&self.page);
        self.checksums[at] = header.checksum;
        let begun = Instant::now();
        loop {
            match self.store.write(&[(slot, &header, &self.page)]) {
                Ok(()) => return Ok(begun.elapsed()),
                Err(error) if begun.elapsed() > WAIT_MAX => {
                    return Err(Error::other("put a page")(error));
                }
                Err(_) => (),
            }
        }
    }

    /// Says which slots are read next.
    pub(super) fn ahead(&self, slots: &[u32]) {
        let slots: Vec<_> = (slots.iter())
            .map(|slot| (*slot, self.checksums[*slot as usize]))
            .collect();
        self.store.will_read(&slots);
    }

    /// Reads one page, and looks at it.
    pub(super) fn get(&mut self, slot: u32) -> Result<Duration> {
        let at = slot as usize;
        let begun = Instant::now();
        (self.store.read(slot, self.checksums[at], &mut self.got))
            .map_err(Error::other("get a page"))?;
        let took = begun.elapsed();
        if is_version(&self.got, slot, self.versions[at]) {
            Ok(took)
        } else {
            Err(Error::Mismatch {
                what: NAME,
                index: slot,
            })
        }
    }

    /// One request after the other for some time, so many of 100 puts: what the gets took, in
    /// nanoseconds.
    pub(super) fn run(&mut self, puts: u32, time: Duration) -> Result<Histogram<u64>> {
        Ok(self.watch(puts, time, Duration::MAX)?.0)
    }

    /// As [`run`](Self::run); with those gets that took longer than `limit`.
    pub(super) fn watch(
        &mut self,
        puts: u32,
        time: Duration,
        limit: Duration,
    ) -> Result<(Histogram<u64>, Vec<Slow>)> {
        let (mut times, mut slow) = (histogram(), Vec::new());
        let start = Instant::now();
        while start.elapsed() < time {
            let slot = self.any();
            if self.percent(puts) {
                self.put(slot)?;
                continue;
            }
            let ran = pin::ran();
            let took = self.get(slot)?;
            record(&mut times, took);
            if took > limit {
                slow.push(Slow {
                    at: start.elapsed(),
                    took,
                    ran: pin::ran().saturating_sub(ran),
                });
            }
        }
        Ok((times, slow))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.handle.stop();
        if let Some(driver) = self.driver.take() {
            // How it ended matters to nobody any more.
            drop(driver.join());
        }
    }
}

/// Notes a time in nanoseconds.
pub(super) fn record(times: &mut Histogram<u64>, took: Duration) {
    times.saturating_record(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
}

fn header(page: &PageBytes) -> SlotHeader {
    SlotHeader {
        pool_slot: 0,
        pool_serial: 1,
        object: ObjectId::ZERO,
        index: PageIndex(0),
        ticket: Ticket::MIN,
        checksum: checksum(page),
        flags: 0,
    }
}

fn read_certificates(folder: &Path) -> Result<Tls> {
    let read =
        |name: &str| std::fs::read(folder.join(name)).map_err(Error::system("read a certificate"));
    Ok(Tls {
        ca: read("ca.pem")?,
        cert: read("client.pem")?,
        key: read("client.key")?,
    })
}
