// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One guest's connection to its VMM, while there is one.
//!
//! Each connection has a device and a crate's daemon of its own, because the latter can be owned only
//! once; the guest's pools are in the [`Station`], which stays.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use tmem_abi::{event, health};
use vhost::vhost_user::{Error as VhostUserError, Listener};
use vhost_user_backend::{Error as BackendError, ShutdownHandle, VhostUserDaemon};
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::device::record::{GuestRecords, with_records};
use crate::device::{Device, Station};
use crate::sandbox::{self, ThreadKind};

/// The place of a guest's connection.
pub(crate) struct Place {
    station: Arc<Station>,
    connected: Arc<AtomicBool>,
    sandbox: sandbox::Mode,
    live: Option<Live>,
    /// Where the next connection's rings note what they defer.
    records: Option<GuestRecords>,
    /// Signalled by the thread that waits for the connection's end.
    ended: EventFd,
}

struct Live {
    device: Arc<Device>,
    shutdown: Option<ShutdownHandle>,
    thread: JoinHandle<()>,
}

/// Why a VMM that connected cannot be served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(
        "Cannot get event descriptors or a thread for the connection; see the limit on open files"
    )]
    Resources(#[from] io::Error),
    // The crate's error is no `std::error::Error`, so it stands in the text.
    #[error("Cannot start the vhost-user protocol: {0}")]
    Protocol(BackendError),
}

impl Place {
    /// The place of a guest whose threads fence themselves in as `sandbox` says; `connected` is true
    /// while a VMM is served.
    ///
    /// # Errors
    /// The kernel's, if there is no event descriptor to be had.
    pub(crate) fn new(
        station: Arc<Station>,
        connected: Arc<AtomicBool>,
        sandbox: sandbox::Mode,
    ) -> io::Result<Self> {
        Ok(Self {
            station,
            connected,
            sandbox,
            live: None,
            records: None,
            ended: EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?,
        })
    }

    /// Has the next connection's rings note in `records` what they defer.
    pub(crate) fn note_in(&mut self, records: Option<GuestRecords>) {
        self.records = records;
    }

    /// The guest's name.
    pub(crate) fn name(&self) -> &str {
        self.station.guest.name()
    }

    /// A VMM is served, or was and [`Place::join`] was not called yet.
    pub(crate) const fn is_taken(&self) -> bool {
        self.live.is_some()
    }

    /// Readable once a connection has ended.
    pub(crate) fn ended(&self) -> RawFd {
        self.ended.as_raw_fd()
    }

    /// Serves the VMM that waits on `listener`, which is readable, so that accepting does not block.
    ///
    /// # Errors
    /// [`Error`]; the VMM may have been accepted and hung up on.
    pub(crate) fn serve(&mut self, listener: &mut Listener) -> Result<(), Error> {
        let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
        let station = Arc::clone(&self.station);
        let device = Arc::new(Device::new(station, memory.clone(), self.sandbox)?);
        let name = format!("vu-{}", self.name());
        let make = || VhostUserDaemon::new(name, Arc::clone(&device), memory);
        let mut daemon = with_records(self.records.take(), make).map_err(Error::Protocol)?;
        let (wake, token) = device.wake();
        if let Some(control) = daemon.get_epoll_handlers().first() {
            control.register_listener(wake, vmm_sys_util::epoll::EventSet::IN, token)?;
        }
        daemon.start(listener).map_err(Error::Protocol)?;
        let shutdown = daemon.shutdown_handle();
        self.connected.store(true, Ordering::Relaxed);
        self.station.metrics.connected();
        let thread = std::thread::Builder::new()
            .name("connection".into())
            .spawn({
                let device = Arc::clone(&device);
                let connected = Arc::clone(&self.connected);
                let ended = self.ended.try_clone()?;
                let sandbox = self.sandbox;
                move || {
                    fence(sandbox, ThreadKind::Connection);
                    let result = daemon.wait();
                    connected.store(false, Ordering::Relaxed);
                    report(device.name(), result);
                    device.set_over();
                    // Ends the workers and waits for them.
                    drop(daemon);
                    // SAFETY: They have ended.
                    unsafe { device.close_exits() };
                    // Fails only if the counter is full, and then the place is awake already.
                    let _ = ended.write(1);
                }
            })?;
        tracing::info!(guest = self.name(), "a VMM is served");
        self.live = Some(Live {
            device,
            shutdown,
            thread,
        });
        Ok(())
    }

    /// Clears away a connection that has ended, and waits for one that has not.
    pub(crate) fn join(&mut self) {
        // Fails if nobody wrote, and then there is nothing to reset.
        let _ = self.ended.read();
        if let Some(live) = self.live.take()
            && live.thread.join().is_err()
        {
            tracing::error!(guest = self.name(), "a connection's thread panicked");
        }
    }

    /// Tells the driver that the daemon is about to end, and refuses puts from now on.
    pub(crate) fn announce_end(&self) {
        if let Some(live) = &self.live {
            live.device.set_ending();
            live.device.tell(event::HEALTH, health::ENDING);
        }
    }

    /// The driver knows all that it was to be told, or is gone.
    #[must_use]
    pub(crate) fn told(&self) -> bool {
        self.live
            .as_ref()
            .is_none_or(|live| live.device.told() || live.thread.is_finished())
    }

    /// Hangs up and waits until what the workers had taken is used.
    pub(crate) fn end(&mut self) {
        if let Some(shutdown) = self.live.as_ref().and_then(|live| live.shutdown.as_ref()) {
            shutdown.shutdown();
        }
        self.join();
    }
}

/// Takes from this thread what its kind does not need. One that cannot must not go on.
pub(crate) fn fence(mode: sandbox::Mode, kind: ThreadKind) {
    if let Err(error) = sandbox::enter_thread(mode, kind) {
        tracing::error!(
            ?kind,
            error = &error as &dyn std::error::Error,
            "a thread cannot be fenced in"
        );
        std::process::abort();
    }
}

/// Says how a connection ended. A VMM may vanish at any message; that is no error.
fn report(guest: &str, result: Result<(), BackendError>) {
    match result {
        Ok(())
        | Err(BackendError::HandleRequest(
            VhostUserError::Disconnected
            | VhostUserError::PartialMessage
            | VhostUserError::SocketBroken(_)
            | VhostUserError::SocketError(_)
            | VhostUserError::SocketRetry(_),
        )) => tracing::info!(guest, "the VMM has gone"),
        Err(error) => {
            tracing::warn!(guest, %error, "the VMM broke the vhost-user protocol and was hung up on");
        }
    }
}
