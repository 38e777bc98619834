// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The whole daemon in one process: engine, guests, and the control loop that accepts their VMMs.
//!
//! For tests, for benchmarks that want to know what the second process costs, and for debuggers. The
//! program itself runs a [`keeper`](crate::keeper) and a [`worker`](crate::worker).

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::JoinHandle;

use event_manager::{EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberOps};
use parking_lot::Mutex;
use tmem_pages::{Engine, EngineFiles};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::admin;
use crate::balloon::steer::SteeringThread;
use crate::config::Config;
use crate::connection::Place;
use crate::error::Error;
use crate::port::Port;
use crate::sandbox;
use crate::service;
use crate::snapshot::Running;
use crate::tiers::files::{self, TierFiles};
use crate::tiers::mover::MoverThread;
use crate::tiers::paths::Paths;
use crate::tiers::stores::StoreSettings;
use crate::{process, socket};

/// A running daemon. Dropping it stops it.
pub struct Daemon {
    running: Arc<Running>,
    stop: EventFd,
    control: Option<JoinHandle<()>>,
    admin: Option<(admin::Server, std::path::PathBuf)>,
    mover: Option<MoverThread>,
    steering: Option<SteeringThread>,
}

impl Daemon {
    /// Makes the frames, listens on every socket and begins to serve.
    ///
    /// # Errors
    /// [`Error`]; nothing is left behind then.
    pub fn start(config: &Config) -> Result<Self, Error> {
        let files = EngineFiles::anonymous().map_err(|source| Error::State { source })?;
        let watch = process::Watch::open(&files);
        let paths = Arc::new(Paths::new());
        let mut tier_files = TierFiles::open(config, |_| None)?;
        let addresses = files::look_up(config)?;
        let stores = files::open_stores(config, &mut tier_files, &addresses, &paths)?;
        let told = Arc::default();
        let opened = service::open(config, files, stores, &paths, None, &told)?;
        let running = Arc::new(Running::new(opened, watch, told));
        // Before anybody moves or gets pages.
        if let Some(stores) = running.stores_desk() {
            stores.start(StoreSettings::default(), sandbox::Mode::None)?;
        }
        let mover = MoverThread::start(&running, sandbox::Mode::None)?;
        let steering = SteeringThread::start(&running, sandbox::Mode::None)?;
        let ports = Ports(open_ports(config, &running)?);
        let admin = match &config.admin {
            Some(config) => Some(serve_admin(config, &running)?),
            None => None,
        };
        let stop = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK).map_err(Error::Control)?;
        let control = spawn_control(ports, stop.try_clone().map_err(Error::Control)?)?;
        Ok(Self {
            running,
            stop,
            control: Some(control),
            admin,
            mover: Some(mover),
            steering: Some(steering),
        })
    }

    /// What the admin API is answered from.
    #[must_use]
    pub fn source(&self) -> Arc<dyn crate::AdminSource> {
        Arc::clone(&self.running) as Arc<dyn crate::AdminSource>
    }

    /// The engine, for tests that look behind the device.
    #[must_use]
    pub fn engine(&self) -> &Arc<Engine> {
        &self.running.engine
    }

    /// Accepts no more VMMs, tells the drivers, lets the workers finish what they have taken, hangs
    /// up, and removes the sockets' files. Takes a fraction of a second.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let Some(control) = self.control.take() else {
            return;
        };
        // Fails only if the counter is full, and then the loop is awake already.
        let _ = self.stop.write(1);
        if control.join().is_err() {
            tracing::error!("the control loop panicked");
        }
        self.steering = None;
        self.mover = None;
        if let Some((server, path)) = self.admin.take() {
            drop(server);
            if let Err(error) = std::fs::remove_file(&path) {
                tracing::warn!(path = %path.display(), %error, "cannot remove a socket's file");
            }
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.end();
    }
}

type SharedPort = Arc<Mutex<Port>>;

/// The guests' ports; they end with this, whichever way start-up or the control loop goes.
struct Ports(Vec<SharedPort>);

impl Drop for Ports {
    fn drop(&mut self) {
        for port in &self.0 {
            port.lock().end();
        }
    }
}

fn open_ports(config: &Config, running: &Running) -> Result<Vec<SharedPort>, Error> {
    let mut ports = Ports(Vec::new());
    for (config, guest) in config.guests.iter().zip(&running.guests) {
        let listener = socket::listen(config)?;
        let (station, connected) = (Arc::clone(&guest.station), Arc::clone(&guest.connected));
        let place = Place::new(station, connected, sandbox::Mode::None).map_err(Error::Control)?;
        let port = Port::new(place, listener, guest.socket.clone());
        ports.0.push(Arc::new(Mutex::new(port)));
        tracing::info!(
            guest = config.name,
            socket = ?config.socket,
            grant_pages = config.grant_pages,
            queue_pairs = config.queue_pairs,
            "listening"
        );
    }
    Ok(std::mem::take(&mut ports.0))
}

fn serve_admin(
    config: &crate::config::AdminConfig,
    running: &Arc<Running>,
) -> Result<(admin::Server, std::path::PathBuf), Error> {
    let group = config.group.as_deref().map(admin::group_id).transpose()?;
    let listener = admin::bind(&config.socket, group)?;
    let server = admin::Server::start(
        listener,
        admin::Access::new(group),
        admin::Limits::default(),
        sandbox::Mode::None,
        Arc::clone(running) as Arc<dyn crate::AdminSource>,
    )?;
    Ok((server, config.socket.clone()))
}

/// Ends the control loop.
struct Stopper {
    stop: EventFd,
    stopped: Arc<AtomicBool>,
}

impl MutEventSubscriber for Stopper {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        if let Err(error) = ops.add(Events::new(&self.stop, EventSet::IN)) {
            tracing::error!(%error, "the control loop cannot be stopped");
        }
    }

    fn process(&mut self, _events: Events, _ops: &mut EventOps<'_>) {
        self.stopped
            .store(true, std::sync::atomic::Ordering::Relaxed);
    }
}

/// A port as the control loop sees it.
struct Watched(SharedPort);

impl MutEventSubscriber for Watched {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        self.0.lock().init(ops);
    }

    fn process(&mut self, events: Events, ops: &mut EventOps<'_>) {
        self.0.lock().process(events, ops);
    }
}

fn spawn_control(ports: Ports, stop: EventFd) -> Result<JoinHandle<()>, Error> {
    let stopped = Arc::new(AtomicBool::new(false));
    let mut manager = EventManager::<Box<dyn MutEventSubscriber + Send>>::new()?;
    manager.add_subscriber(Box::new(Stopper {
        stop,
        stopped: Arc::clone(&stopped),
    }));
    for port in &ports.0 {
        manager.add_subscriber(Box::new(Watched(Arc::clone(port))));
    }
    let run = move || {
        while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
            if let Err(error) = manager.run() {
                tracing::error!(%error, "the control loop fails and ends");
                break;
            }
        }
        drop(manager);
        announce(&ports);
        drop(ports);
    };
    std::thread::Builder::new()
        .name("control".into())
        .spawn(run)
        .map_err(|error: io::Error| Error::Control(error))
}

/// Gives the drivers a moment to hear of the end.
fn announce(ports: &Ports) {
    let ports: Vec<_> = ports.0.iter().map(|port| port.lock()).collect();
    let places: Vec<_> = ports.iter().map(|port| &port.place).collect();
    service::announce_end(&places);
}
