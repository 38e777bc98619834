// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The keeper's start, in the order of the conventions: bind, limits, sandbox; then the loop. There
//! is one thread from beginning to end.

use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Instant;

use rustix::fs::{FlockOperation, flock};
use tmem_admin_api::{
    DaemonState, DaemonStatus, EndCause, ProcessStatus, Recovery, SandboxLayer, WorkerEnd,
};
use tmem_pages::{EngineError, EngineFiles};

use super::child::Program;
use super::restart::Restarts;
use super::session::Session;
use super::store::{Inherited, SavedSession, Store, StoreError};
use super::{Keeper, Port, Serving};
use crate::config::{Config, Socket};
use crate::error::Error;
use crate::limits::{LAST_USER_GONE, LAST_USER_PAUSE};
use crate::notify::Notify;
use crate::tiers::files::{TierFiles, look_up};
use crate::{admin, sandbox, signals, socket};

/// Keeps guests' connections, and a worker that serves them, until a signal ends the daemon.
/// `arguments` say how workers log.
///
/// # Errors
/// [`Error`], if something that was asked for cannot be had; nothing is left behind then.
pub fn run(config: &Config, arguments: Vec<String>) -> Result<(), Error> {
    let signals = signals::block()
        .and_then(|blocked| signals::descriptor(&blocked))
        .map_err(Error::Control)?;
    let notify = Notify::from_environment();
    let admin_group = config
        .admin
        .as_ref()
        .and_then(|admin| admin.group.as_deref())
        .map(admin::group_id)
        .transpose()?;
    let mut inherited = Inherited::take();
    let (saved, settings) = inherited.saved(config)?;
    let mut ports = bind(config, &mut inherited)?;
    let admin = match (&config.admin, inherited.remove("admin")) {
        (Some(_), Some(listener)) => Some(UnixListener::from(listener)),
        (Some(admin), None) => Some(admin::bind(&admin.socket, admin_group)?),
        (None, _) => None,
    };
    if config.sandbox != sandbox::Mode::None {
        give_away(config);
    }
    let files = match (inherited.remove("map"), inherited.remove("frames")) {
        (Some(map), Some(frames)) => EngineFiles { map, frames },
        _ => files(config)?,
    };
    let tier_files = TierFiles::open(config, |name| inherited.remove(name))?;
    let addresses = look_up(config)?;
    let sessions = restore(&mut ports, saved, &mut inherited);
    files.check().map_err(|source| Error::State { source })?;
    let pairs: Vec<u16> = config
        .guests
        .iter()
        .map(|guest| guest.queue_pairs)
        .collect();
    sandbox::check_limits(&pairs)?;
    let own = std::env::current_exe().map_err(Error::Control)?;
    let program = Program::own(&config.upgrade_dirs, arguments).map_err(Error::Control)?;
    let plan = sandbox::KeeperPlan {
        user: config.user.clone(),
        writable_dirs: socket_dirs(config),
        trace_dir: config.trace_dir.clone(),
        // The folder, for a package's update puts another file under the same name.
        executable: (config.upgrade_dirs.iter().cloned())
            .chain(own.parent().map(Path::to_owned))
            .collect(),
        reach: reach(config),
    };
    let report = sandbox::enter_keeper(config.sandbox, &plan)?;
    tracing::info!(sandbox = %report, guests = ports.len(), "the keeper is there");
    let mut keeper = Keeper {
        admin_path: config.admin.as_ref().map(|admin| admin.socket.clone()),
        admin_group,
        sandbox: config.sandbox,
        signals,
        store: store(
            &notify,
            &mut inherited,
            &ports,
            (&files, &tier_files),
            admin.as_ref(),
        )?,
        notify,
        program,
        worker: None,
        restarts: Restarts::new(config.crash_limit, config.crash_window),
        next_start: None,
        next_ping: Instant::now() + super::PING,
        // Guests that were served have waited since the last keeper's end.
        down_since: (ports.iter().any(|port| port.session.is_some())).then(Instant::now),
        upgrade: None,
        status: DaemonStatus {
            state: DaemonState::Recovering,
            keeper: Some(process_status(
                std::process::id(),
                env!("CARGO_PKG_VERSION"),
                &report,
            )),
            ..DaemonStatus::default()
        },
        sessions,
        files,
        tier_files,
        addresses,
        settings,
        ports,
        admin,
        proven: false,
        refused: None,
        config: config.clone(),
    };
    let ended = keeper.run();
    tracing::info!("ending");
    keeper.end();
    ended
}

/// Gives the sockets to the user that this process is about to become, who removes them at the end.
fn give_away(config: &Config) {
    let user = config.user.as_deref().and_then(sandbox::user_to_become);
    let Some((user, group)) = user else { return };
    let guests = config
        .guests
        .iter()
        .filter_map(|guest| match &guest.socket {
            Socket::Path(path) => Some((path, Some(group))),
            Socket::Fd(_) => None,
        });
    // Its group is who may use the admin API.
    let admin = config.admin.iter().map(|admin| (&admin.socket, None));
    for (path, group) in guests.chain(admin) {
        if let Err(error) = std::os::unix::fs::chown(path, Some(user), group) {
            tracing::warn!(path = %path.display(), %error, "cannot give a socket to the daemon's user");
        }
    }
}

/// Goes on with the connections of an earlier keeper. Returns the next connection's number.
fn restore(ports: &mut [Port], saved: Vec<SavedSession>, inherited: &mut Inherited) -> u64 {
    let mut next = 0;
    for saved in saved {
        next = next.max(saved.number + 1);
        let Some(port) = ports.iter_mut().find(|port| port.name == saved.guest) else {
            tracing::warn!(
                guest = saved.guest,
                "a guest with a VMM is no longer configured"
            );
            continue;
        };
        match Session::restore(saved, inherited) {
            Ok(session) => {
                tracing::info!(guest = port.name, "a VMM is still connected");
                port.session = Some(session);
            }
            Err(error) => {
                tracing::error!(guest = port.name, %error, "a VMM's connection cannot be gone on with");
            }
        }
    }
    next
}

/// Has the service manager keep what the next keeper needs.
fn store(
    notify: &Notify,
    inherited: &mut Inherited,
    ports: &[Port],
    (files, tier_files): (&EngineFiles, &TierFiles),
    admin: Option<&UnixListener>,
) -> Result<Store, Error> {
    let mut store = Store::new(inherited).map_err(StoreError::System)?;
    store.keep(notify, "map", files.map.as_fd());
    store.keep(notify, "frames", files.frames.as_fd());
    for (name, file) in tier_files.kept() {
        store.keep(notify, name, file);
    }
    if let Some(admin) = admin {
        store.keep(notify, "admin", admin.as_fd());
    }
    for port in ports {
        store.keep(
            notify,
            &format!("listen.{}", port.name),
            port.listener.as_fd(),
        );
    }
    Ok(store)
}

/// Listens on every guest's socket, unless it is handed over.
fn bind(config: &Config, inherited: &mut Inherited) -> Result<Vec<Port>, Error> {
    let mut ports = Vec::new();
    for guest in &config.guests {
        let listener = match inherited.remove(&format!("listen.{}", guest.name)) {
            Some(listener) => UnixListener::from(listener),
            None => socket::listen(guest)?,
        };
        listener.set_nonblocking(true).map_err(Error::Control)?;
        tracing::info!(
            guest = guest.name,
            socket = ?guest.socket,
            grant_pages = guest.grant_pages,
            queue_pairs = guest.queue_pairs,
            "listening"
        );
        ports.push(Port {
            name: guest.name.clone(),
            listener,
            path: match &guest.socket {
                Socket::Path(path) => Some(path.clone()),
                Socket::Fd(_) => None,
            },
            session: None,
        });
    }
    Ok(ports)
}

/// The files that hold the pages and say where each is: in the state's folder, where they outlive the
/// daemon, or in anonymous memory.
fn files(config: &Config) -> Result<EngineFiles, Error> {
    let engine = |source| Error::State { source };
    if let Some(dir) = &config.state_dir {
        let frames = config.frames_file.clone();
        let frames = frames.unwrap_or_else(|| dir.join("frames"));
        // The worker of a daemon that was killed has the files for a moment longer.
        let deadline = Instant::now() + LAST_USER_GONE;
        return loop {
            match EngineFiles::open(&dir.join("map"), &frames) {
                Err(EngineError::Locked { .. }) if Instant::now() < deadline => {
                    std::thread::sleep(LAST_USER_PAUSE);
                }
                opened => break opened.map_err(engine),
            }
        };
    }
    let mut files = EngineFiles::anonymous().map_err(engine)?;
    if let Some(path) = &config.frames_file {
        let open = || {
            let mut options = std::fs::OpenOptions::new();
            let options = options.read(true).write(true).create(true).truncate(false);
            let file = options.open(path)?;
            // Emptying a file that another daemon has mapped would kill that daemon's worker.
            flock(&file, FlockOperation::NonBlockingLockExclusive)?;
            file.set_len(0)?;
            std::io::Result::Ok(file)
        };
        let file = open().map_err(|source| Error::StateFile {
            path: path.clone(),
            source,
        })?;
        files.frames = file.into();
    }
    Ok(files)
}

/// What workers must be able to connect to. A folder that is not there cannot be let into the sandbox.
fn reach(config: &Config) -> Option<sandbox::Reach> {
    let mut reach = config.remote.as_ref()?.reach()?;
    reach.folders.retain(|folder| {
        let there = folder.is_dir();
        if !there {
            let folder = folder.display();
            tracing::warn!(
                %folder,
                "the folder of a store's socket is not there: the store is out of reach until the daemon is started with it"
            );
        }
        there
    });
    Some(reach)
}

/// The folders of all sockets, each once.
fn socket_dirs(config: &Config) -> Vec<PathBuf> {
    let guests = config
        .guests
        .iter()
        .filter_map(|guest| match &guest.socket {
            Socket::Path(path) => Some(path),
            Socket::Fd(_) => None,
        });
    let sockets = guests.chain(config.admin.as_ref().map(|admin| &admin.socket));
    let mut dirs: Vec<PathBuf> = sockets
        .filter_map(|path| std::path::absolute(path).ok()?.parent().map(Path::to_owned))
        .collect();
    dirs.sort();
    dirs.dedup();
    dirs
}

/// What admins are told of a process that has just started.
pub(super) fn process_status(pid: u32, version: &str, sandbox: &sandbox::Report) -> ProcessStatus {
    let layers = sandbox.layers.iter().map(|layer| {
        let (on, reason) = match &layer.state {
            sandbox::State::Entered => (true, None),
            sandbox::State::Partly(but) => (true, Some(but.clone())),
            sandbox::State::Missing(reason) => (false, Some(reason.clone())),
        };
        SandboxLayer {
            name: layer.layer.to_string(),
            on,
            reason,
        }
    });
    ProcessStatus {
        pid,
        version: version.to_owned(),
        started_unix_ms: admin::now_unix_ms(),
        sandbox: layers.collect(),
    }
}

/// What admins are told of a recovery that is just over.
pub(super) fn recovery(pages: u64, took_ms: u64) -> Recovery {
    Recovery {
        pages,
        took_ms,
        at_unix_ms: admin::now_unix_ms(),
    }
}

/// What admins are told of a worker's end.
pub(super) fn worker_end(status: ExitStatus, worker: &Serving) -> WorkerEnd {
    let (cause, code) = match (worker.why, status.signal(), status.code()) {
        (Some(why), _, _) => (why, None),
        (None, Some(signal), _) => (EndCause::Signal, Some(signal)),
        (None, None, code) => (EndCause::Exit, code),
    };
    WorkerEnd {
        cause,
        code,
        at_unix_ms: admin::now_unix_ms(),
        pid: worker.process.id(),
        version: worker.version.clone(),
    }
}
