// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The remote tier on stores elsewhere, as the daemon runs it.
//!
//! ```text
//!  keeper ── table of copies (memory), disk copy, certificates ──▶ worker
//!                                                                  │ open: before its sandbox
//!  queue worker, mover ── LinkedStore ── Replicated ── lanes ──▶ stores
//!                                            │ table            ▲ adverts, lists, repair
//!                                        StoresDesk ── thread "stores": Driver
//!  admin API ── admin ── commands ──────────▲     │ settings ──▶ keeper ──▶ next worker
//! ```
//! Who gets or puts a page talks to the stores itself; one thread, which ends with the worker, watches
//! over the stores and over the copies. Which copies there are outlives the worker in memory that the
//! keeper holds; which stores administrators have added, removed or drained outlives it as the other
//! [settings](super::settings) do.
//!
//! - `open`: from configuration and descriptors to a client.
//! - `valkey`: the same on a Valkey Cluster.
//! - this file: the thread's life, and how a worker's stores begin.
//! - `admin`, `show`: what an administrator does and sees.

mod admin;
mod open;
mod show;
mod valkey;

use std::collections::BTreeMap;
use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tmem_admin_api::{StoreAddRequest, StoreOrigin};
use tmem_etcd::{Client, FollowConfig};
use tmem_remote_client::connect::Network;
use tmem_remote_client::control::{Command, Kind, MemberSpec, State};
use tmem_remote_client::driver::{CommandError, Driver, Handle, Status};
use tmem_remote_client::membership::etcd::{Following, follow};
use tmem_remote_client::membership::{Roster, Source};

use crate::config::StoresConfig;
use crate::connection::fence;
use crate::error::Error;
use crate::limits::{STORES_ANSWER, STORES_AWAITED, STORES_LOOK};
use crate::sandbox::{self, ThreadKind};

pub use open::StoresError;
pub(crate) use open::{Opened, open};

/// The name of the copy on this host's disk.
const DISK: &str = "disk";

/// What administrators have changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct StoreSettings {
    /// Stores besides those of the configuration.
    pub(crate) added: Vec<StoreAddRequest>,
    /// Names of stores of the configuration that are not used.
    pub(crate) removed: Vec<String>,
    /// Names of stores that are to be empty.
    pub(crate) draining: Vec<String>,
}

/// The stores of a worker.
pub(crate) struct StoresDesk {
    config: StoresConfig,
    /// Looked up, by the address that the configuration has.
    addresses: BTreeMap<String, String>,
    handle: Handle,
    /// Not started yet.
    driver: Mutex<Option<Driver<Network>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    settings: Mutex<StoreSettings>,
    /// Who names which stores.
    roster: Arc<Mutex<Roster>>,
    /// What etcd names, if it is asked.
    etcd: Option<Client>,
    following: Mutex<Option<Following>>,
}

/// A thread that waits for the driver's answer.
struct Caller(Thread);

impl Wake for Caller {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

impl fmt::Debug for StoresDesk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoresDesk").finish_non_exhaustive()
    }
}

impl StoresDesk {
    /// Starts the thread, tells it which stores there are, and waits, not long, until pages can be had
    /// from them.
    ///
    /// # Errors
    /// [`Error::Control`], if there is no thread to be had.
    pub(crate) fn start(&self, settings: StoreSettings, mode: sandbox::Mode) -> Result<(), Error> {
        let Some(driver) = self.driver.lock().take() else {
            return Ok(());
        };
        let thread = std::thread::Builder::new()
            .name("stores".into())
            .spawn(move || look_after(driver, mode));
        *self.thread.lock() = Some(thread.map_err(Error::Control)?);
        for (source, spec) in self.specs(&settings) {
            let name = spec.name.clone();
            // The driver is told by a command, which says what is wrong.
            self.roster.lock().named(source, spec.clone());
            if let Err(error) = self.command(Command::Add(spec)) {
                tracing::error!(store = name, %error, "a store cannot be used");
            }
        }
        for name in &settings.draining {
            let drain = Command::Drain { name: name.clone() };
            if let Err(error) = self.command(drain) {
                tracing::error!(store = name, %error, "a drain cannot be gone on with");
            }
        }
        *self.settings.lock() = settings;
        self.follow(mode)?;
        self.await_up();
        Ok(())
    }

    /// Begins to ask etcd which stores there are.
    fn follow(&self, mode: sandbox::Mode) -> Result<(), Error> {
        let Some(client) = self.etcd.clone() else {
            return Ok(());
        };
        let handle = self.handle.clone();
        let tell = move |event| {
            if let Err(error) = handle.tell(event) {
                tracing::error!(%error, "a store that etcd names cannot be used");
            }
        };
        let following = follow(
            client,
            FollowConfig::default(),
            Arc::clone(&self.roster),
            move || fence(mode, ThreadKind::Stores),
            tell,
        );
        *self.following.lock() = Some(following.map_err(Error::Control)?);
        Ok(())
    }

    /// What is wrong with etcd, if it is asked.
    fn membership_error(&self) -> Option<String> {
        self.following.lock().as_ref()?.trouble()
    }

    /// All stores that there should be.
    fn specs(&self, settings: &StoreSettings) -> Vec<(Source, MemberSpec)> {
        let configured = self.config.stores.iter();
        let configured = configured.filter(|store| !settings.removed.contains(&store.name()));
        let configured = configured.map(|store| {
            let address = store.address.to_string();
            let looked_up = self.addresses.get(&address).cloned();
            MemberSpec {
                domain: store.domain.clone(),
                ..spec(store.name(), looked_up.unwrap_or(address))
            }
        });
        let added = settings.added.iter().map(spec_of);
        let disk = self.config.disk.as_ref();
        let disk = disk.map(|disk| MemberSpec {
            kind: Kind::Disk,
            ..spec(DISK.to_owned(), disk.path.display().to_string())
        });
        let configured = configured.chain(disk).map(|spec| (Source::Config, spec));
        let added = added.map(|spec| (Source::Admin, spec));
        configured.chain(added).collect()
    }

    /// Waits until no store is about to be met, for a worker that begins with pages on stores would else
    /// find none of them. One that does not answer is not waited for longer.
    fn await_up(&self) {
        let deadline = Instant::now() + STORES_AWAITED;
        let unknown = |status: &Status| {
            let mut stores = status.stores.iter().map(|store| &store.member);
            stores.any(|member| member.state == State::Joining && member.error.is_none())
        };
        while unknown(&self.handle.status()) && Instant::now() < deadline {
            std::thread::sleep(STORES_LOOK);
        }
    }

    pub(crate) fn settings(&self) -> StoreSettings {
        self.settings.lock().clone()
    }

    fn origin(&self, name: &str) -> StoreOrigin {
        let roster = self.roster.lock();
        let first = roster.sources(name).next();
        match first {
            Some(Source::Admin) => StoreOrigin::Admin,
            Some(Source::Etcd) => StoreOrigin::Etcd,
            // Nobody names one that is on its way out.
            Some(Source::Config) | None => StoreOrigin::Config,
        }
    }

    /// Has the driver do something, which takes it no time. Also for the admin thread, whose runtime does
    /// not let anybody wait.
    fn command(&self, command: Command) -> Result<(), CommandError> {
        let mut command = pin!(self.handle.command(command));
        let waker = Waker::from(Arc::new(Caller(std::thread::current())));
        let mut context = Context::from_waker(&waker);
        let deadline = Instant::now() + STORES_ANSWER;
        loop {
            if let Poll::Ready(done) = command.as_mut().poll(&mut context) {
                return done;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(CommandError::Ended);
            }
            std::thread::park_timeout(left);
        }
    }

    /// Ends the thread.
    pub(crate) fn end(&self) {
        drop(self.following.lock().take());
        self.handle.stop();
        if let Some(thread) = self.thread.lock().take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that looks after the stores panicked");
        }
    }
}

impl Drop for StoresDesk {
    fn drop(&mut self) {
        self.end();
    }
}

fn spec(name: String, address: String) -> MemberSpec {
    MemberSpec {
        name,
        address,
        kind: Kind::Remote,
        domain: None,
        weight_percent: 100,
    }
}

fn name_of(added: &StoreAddRequest) -> String {
    let label = added.label.clone();
    label.unwrap_or_else(|| added.address.clone())
}

fn spec_of(added: &StoreAddRequest) -> MemberSpec {
    MemberSpec {
        domain: added.domain.clone(),
        ..spec(name_of(added), added.address.clone())
    }
}

/// The thread.
fn look_after(driver: Driver<Network>, mode: sandbox::Mode) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    fence(mode, ThreadKind::Stores);
    match runtime {
        Ok(runtime) => {
            let ended = runtime.block_on(driver.run());
            tracing::info!(?ended, "nobody looks after the stores any more");
        }
        Err(error) => tracing::error!(%error, "nobody looks after the stores"),
    }
}

/// A time in ms.
fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
