// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One guest's socket: a VMM at a time, as often as one comes.
//!
//! ```text
//!            a VMM connects                    it hangs up, or says nonsense
//! listening ───────────────> serving ───────────────────────────────────────> listening
//! ```
//!
//! The listener lives as long as the daemon, so its path never disappears. While a VMM is served the
//! listener is not watched: a second VMM waits in its backlog until the first is gone. Each
//! connection has a device and a crate's daemon of its own, because the latter can be owned only
//! once; the guest's pools are in the [`Station`], which stays.

use std::io;
use std::os::unix::io::AsRawFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use tmem_abi::{event, health};
use vhost::vhost_user::{Error as VhostUserError, Listener};
use vhost_user_backend::{Error as BackendError, ShutdownHandle, VhostUserDaemon};
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::device::{Device, Station};

/// A guest's socket and the connection on it, if there is one.
pub(crate) struct Port {
    station: Arc<Station>,
    connected: Arc<AtomicBool>,
    listener: Listener,
    /// Removed at the daemon's end.
    path: Option<PathBuf>,
    live: Option<Live>,
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
enum Error {
    #[error(
        "Cannot get event descriptors or a thread for the connection; see the limit on open files"
    )]
    Resources(#[from] io::Error),
    // The crate's error is no `std::error::Error`, so it stands in the text.
    #[error("Cannot start the vhost-user protocol: {0}")]
    Protocol(BackendError),
}

impl Port {
    /// The port of a guest whose VMMs connect to `listener`; `connected` is true while one is.
    ///
    /// # Errors
    /// The kernel's, if there is no event descriptor to be had.
    pub(crate) fn new(
        station: Arc<Station>,
        connected: Arc<AtomicBool>,
        listener: std::os::unix::net::UnixListener,
        path: Option<PathBuf>,
    ) -> io::Result<Self> {
        Ok(Self {
            station,
            connected,
            listener: Listener::from(listener),
            path,
            live: None,
            ended: EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?,
        })
    }

    fn name(&self) -> &str {
        self.station.guest.name()
    }

    fn watch(&self) -> Events {
        Events::new_raw(self.listener.as_raw_fd(), EventSet::IN)
    }

    /// Serves the VMM that waits. The listener is readable, so accepting does not block.
    fn serve(&mut self) -> Result<(), Error> {
        let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
        let device = Arc::new(Device::new(Arc::clone(&self.station), memory.clone())?);
        let name = format!("vu-{}", self.name());
        let mut daemon =
            VhostUserDaemon::new(name, Arc::clone(&device), memory).map_err(Error::Protocol)?;
        let (wake, token) = device.wake();
        if let Some(control) = daemon.get_epoll_handlers().first() {
            control.register_listener(wake, EventSet::IN, token)?;
        }
        daemon.start(&mut self.listener).map_err(Error::Protocol)?;
        let shutdown = daemon.shutdown_handle();
        self.connected.store(true, Ordering::Relaxed);
        self.station.metrics.connected();
        let thread = std::thread::Builder::new()
            .name("connection".into())
            .spawn({
                let device = Arc::clone(&device);
                let connected = Arc::clone(&self.connected);
                let ended = self.ended.try_clone()?;
                move || {
                    let result = daemon.wait();
                    connected.store(false, Ordering::Relaxed);
                    report(device.name(), result);
                    device.set_over();
                    // Ends the workers and waits for them.
                    drop(daemon);
                    // SAFETY: They have ended.
                    unsafe { device.close_exits() };
                    // Fails only if the counter is full, and then the port is awake already.
                    let _ = ended.write(1);
                }
            })?;
        tracing::info!(guest = self.name(), "a VMM has connected");
        self.live = Some(Live {
            device,
            shutdown,
            thread,
        });
        Ok(())
    }

    fn join(&mut self) {
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

    /// Hangs up and waits until what the workers had taken is used. Removes the socket's file.
    pub(crate) fn end(&mut self) {
        if let Some(shutdown) = self.live.as_ref().and_then(|live| live.shutdown.as_ref()) {
            shutdown.shutdown();
        }
        self.join();
        if let Some(path) = self.path.take()
            && let Err(error) = std::fs::remove_file(&path)
        {
            tracing::warn!(path = %path.display(), %error, "cannot remove a socket's file");
        }
    }
}

impl MutEventSubscriber for Port {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        for events in [self.watch(), Events::new(&self.ended, EventSet::IN)] {
            if let Err(error) = ops.add(events) {
                tracing::error!(guest = self.name(), %error, "cannot watch the guest's socket");
            }
        }
    }

    fn process(&mut self, events: Events, ops: &mut EventOps<'_>) {
        let watched = if events.fd() == self.listener.as_raw_fd() {
            match self.serve() {
                Ok(()) => ops.remove(self.watch()),
                Err(error) => {
                    tracing::error!(
                        guest = self.name(),
                        error = &error as &dyn std::error::Error,
                        "a VMM was turned away"
                    );
                    // Or the listener would be readable for ever.
                    drop(self.listener.accept());
                    Ok(())
                }
            }
        } else {
            self.join();
            ops.add(self.watch())
        };
        if let Err(error) = watched {
            tracing::error!(guest = self.name(), %error, "cannot watch the guest's socket");
        }
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
