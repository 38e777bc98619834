// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Several stores, and one client of them.

use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::fs::{FlockOperation, MemfdFlags, flock, memfd_create};
use tempfile::TempDir;
use tmem_pages::slots::SlotMemory;
use tmem_remote_client::connect::{Network, NetworkConfig};
use tmem_remote_client::control::{Command, Kind, MemberSpec, State};
use tmem_remote_client::driver::{Handle, Status};
use tmem_remote_client::{Replicated, Settings, open};

use super::network::{Namespace, unavailable};
use super::process::{StoreOptions, StoreProcess};

/// One store, and the network that it is in.
#[derive(Debug)]
pub struct Member {
    /// What it is called.
    pub name: String,
    /// The process.
    pub process: StoreProcess,
    /// A network of its own, where that is possible.
    pub namespace: Option<Namespace>,
}

impl Member {
    /// Starts it again after it was killed.
    ///
    /// # Errors
    /// If it does not become ready.
    pub fn restart(&mut self) -> Result<()> {
        self.process.restart(self.namespace.as_ref())
    }
}

/// Stores and their client. All of it ends with this value.
#[derive(Debug)]
pub struct Cluster {
    /// The client.
    pub client: Arc<Replicated<Network>>,
    /// Its driver's handle.
    pub handle: Handle,
    /// The stores.
    pub members: Vec<Member>,
    folder: TempDir,
    _lock: std::fs::File,
}

impl Cluster {
    /// Starts stores with what `options` makes of their numbers and folders, and a client that keeps
    /// `replicas` copies of each of `slots` pages on them.
    ///
    /// Where networks of their own are possible and `apart` asks for them, each store is in one.
    ///
    /// # Errors
    /// If a store does not start, or the client does not meet them all.
    pub fn start(
        stores: usize,
        apart: bool,
        settings: Settings,
        options: impl Fn(usize, &Path) -> StoreOptions,
    ) -> Result<Self> {
        let lock = alone()?;
        let folder = tempfile::tempdir().context("Cannot make a folder")?;
        let apart = apart && unavailable().is_none();
        let mut members = Vec::new();
        for number in 0..stores {
            let at = folder.path().join(format!("store-{number}"));
            std::fs::create_dir(&at)?;
            let namespace = apart.then(Namespace::new).transpose()?;
            let mut options = options(number, &at);
            if let Some(namespace) = &namespace {
                options.listen = vec![format!("tcp://{}:7440", namespace.address())];
                options = options.flag("--insecure");
            }
            let process = StoreProcess::start(options, &at.join("log"), namespace.as_ref())?;
            members.push(Member {
                name: format!("store-{number}"),
                process,
                namespace,
            });
        }
        let network = Network::new(&NetworkConfig {
            tls: None,
            insecure: true,
        })?;
        let memory = memfd_create("slots", MemfdFlags::CLOEXEC)?;
        let (memory, _) = SlotMemory::open(memory)?;
        let (client, driver) = open(settings, network, memory, None)?;
        let handle = driver.handle();
        driver.spawn(|| {})?;
        for member in &members {
            let spec = MemberSpec {
                name: member.name.clone(),
                address: member.process.address(),
                kind: Kind::Remote,
                domain: None,
                weight_percent: 100,
            };
            handle.command_blocking(Command::Add(spec))?;
        }
        let cluster = Self {
            client,
            handle,
            members,
            folder,
            _lock: lock,
        };
        cluster.until("all stores are met", Duration::from_secs(20), |status| {
            let up = |name: &str| {
                let store = status.store(name);
                store.is_some_and(|store| store.member.state == State::Up)
            };
            cluster.members.iter().all(|member| up(&member.name))
        })?;
        Ok(cluster)
    }

    /// A store's folder.
    #[must_use]
    pub fn folder(&self, number: usize) -> std::path::PathBuf {
        self.folder.path().join(format!("store-{number}"))
    }

    /// Waits until the client's status is as it should be, and says how long that took.
    ///
    /// # Errors
    /// If it does not come about.
    pub fn until(
        &self,
        what: &str,
        limit: Duration,
        done: impl Fn(&Status) -> bool,
    ) -> Result<Duration> {
        let start = Instant::now();
        loop {
            let status = self.handle.status();
            if done(&status) {
                return Ok(start.elapsed());
            }
            ensure!(
                start.elapsed() < limit,
                "Within {limit:?} it did not come about that {what}: {status:#?}"
            );
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until all stores are up and every page has its copies.
    ///
    /// # Errors
    /// If that does not come about.
    pub fn until_whole(&self) -> Result<Duration> {
        let limit = Duration::from_secs(60);
        self.until("every page has its copies", limit, |status| {
            let up = status
                .stores
                .iter()
                .all(|store| store.member.state == State::Up);
            up && status.is_whole()
        })
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.handle.stop();
    }
}

/// Waits until no other test of this machine has stores: they would take each other's time.
fn alone() -> Result<std::fs::File> {
    let path = std::env::temp_dir().join("tmem-store-tests.lock");
    let file = std::fs::File::create(&path);
    let file = file.with_context(|| format!("Cannot open {}", path.display()))?;
    flock(&file, FlockOperation::LockExclusive)?;
    Ok(file)
}
