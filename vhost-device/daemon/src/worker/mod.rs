// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The worker: the process that maps guests' memory and keeps their pages, and that may die.
//!
//! It is started by the keeper with its end of the [channel](crate::channel::Channel) in place of standard
//! input. All else that it needs comes over the channel, so that it opens nothing by itself:
//!
//! ```text
//! Hello ─▶ (Check? answer) ─▶ Start: fence itself in, recover the pages, threads ─▶ Ready ─▶ desk
//! ```
//! It is crash-only: it has no state that must be saved before it ends, and is ended by SIGKILL.

mod desk;

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Signal, set_parent_process_death_signal};
use tmem_pages::EngineFiles;

use crate::admin::Caretaker;
use crate::balloon::steer::SteeringThread;
use crate::channel::{self, Channel, Start, ToKeeper, ToWorker};
use crate::device::record::Records;
use crate::error::{Error, tell};
use crate::sandbox::{self, ThreadKind};
use crate::snapshot::Running;
use crate::tiers::files::{self, OpenStores, TierFiles};
use crate::tiers::mover::MoverThread;
use crate::tiers::paths::Paths;
use crate::tiers::settings::Settings;
use crate::told::Told;
use crate::{AdminSource, admin, connection, process, service, signals};
use desk::Desk;

/// Serves guests as the keeper says, until it says that it is enough or kills this process.
#[must_use]
pub fn run() -> ExitCode {
    match prepare() {
        Ok(channel) => obey(&Arc::new(channel)),
        Err(error) => {
            tracing::error!(%error, "a worker is started by its keeper, not by hand");
            ExitCode::FAILURE
        }
    }
}

/// Ties this process to its keeper.
fn prepare() -> io::Result<Channel> {
    // Only the keeper ends a worker; a terminal's Ctrl-C goes to all processes.
    signals::block()?;
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let end = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    let channel = Channel::new(end);
    let hello = ToKeeper::Hello {
        channel: channel::VERSION,
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    channel.send(&hello, &[])?;
    Ok(channel)
}

/// Waits for the keeper's word, and does it.
fn obey(channel: &Arc<Channel>) -> ExitCode {
    loop {
        let mut fds = [PollFd::from_borrowed_fd(
            std::os::fd::AsFd::as_fd(&**channel),
            PollFlags::IN,
        )];
        // An interruption or an error shows in what is received.
        let _ = poll(&mut fds, None);
        let refused = match channel.receive() {
            Ok(None) => None,
            Ok(Some((ToWorker::Check, files))) => answer(channel, files).err(),
            Ok(Some((ToWorker::Start(start), files))) => match serve(*start, files, channel) {
                Ok(()) => return ExitCode::SUCCESS,
                Err(error) => Some(error),
            },
            Ok(Some(_)) => None,
            Err(error) => Some(Error::Control(error)),
        };
        if let Some(error) = refused {
            let reason = tell(&error);
            tracing::error!(reason, "the worker cannot go on");
            // If the keeper is gone there is nobody to tell.
            let _ = channel.send(&ToKeeper::Refused { reason }, &[]);
            return ExitCode::FAILURE;
        }
    }
}

/// Says whether this program can go on with a map.
fn answer(channel: &Channel, files: Vec<OwnedFd>) -> Result<(), Error> {
    let mut files = files.into_iter();
    let (Some(map), Some(frames)) = (files.next(), files.next()) else {
        return Err(incomplete());
    };
    let files = EngineFiles { map, frames };
    files.check().map_err(|source| Error::State { source })?;
    channel
        .send(&ToKeeper::Checked, &[])
        .map_err(Error::Control)
}

fn serve(start: Start, files: Vec<OwnedFd>, channel: &Arc<Channel>) -> Result<(), Error> {
    let began = Instant::now();
    let mut files = files.into_iter();
    let (Some(map), Some(frames)) = (files.next(), files.next()) else {
        return Err(incomplete());
    };
    let listener = (start.admin.then(|| files.next()).flatten()).map(UnixListener::from);
    let mut tier_files = TierFiles::handed_over(&start.files, files, start.boot);
    let files = EngineFiles { map, frames };
    let paths = Arc::new(Paths::new());
    let stores = if start.caretaker {
        OpenStores::default()
    } else {
        service::await_last_user(&files);
        files::open_stores(&start.config, &mut tier_files, &start.addresses, &paths)?
    };
    // The last that is opened by name.
    let watch = process::Watch::open(&files);
    let remote = start.config.remote.as_ref();
    let mut reach = remote.and_then(crate::config::RemoteConfig::reach);
    if let Some(reach) = &mut reach {
        // The keeper has told of those that are not there.
        reach.folders.retain(|folder| folder.is_dir());
    }
    let report = sandbox::enter_worker(start.sandbox, reach.as_ref())?;
    let mode = start.sandbox;
    let told = Arc::new(Told::new(start.status, Arc::clone(channel)));
    if start.caretaker {
        return care(&told, listener, start.admin_group, mode, report, channel);
    }
    let settings = start.settings.map(serde_json::from_value).transpose();
    let settings = settings.unwrap_or_else(|error| {
        // Another version's, perhaps; the map still has the rest.
        tracing::error!(%error, "what administrators had set is not understood");
        Some(Settings::of(&start.config))
    });
    let config = &start.config;
    let of_stores = settings.as_ref().map(|settings| settings.stores.clone());
    let opened = service::open(config, files, stores, &paths, settings, &told)?;
    let recovered = opened.recovery.pages;
    let running = Arc::new(Running::new(opened, watch, Arc::clone(&told)));
    let records = match tier_files.records.take() {
        Some(file) => Some(Records::open(file).map_err(Error::Records)?),
        None => None,
    };
    let mut desk = Desk::new(Arc::clone(channel), &running, told, mode, records)?;
    // Before anybody moves or gets pages.
    if let Some(stores) = running.stores_desk() {
        stores.start(of_stores.unwrap_or_default(), mode)?;
    }
    let _mover = MoverThread::start(&running, mode)?;
    let _steering = SteeringThread::start(&running, mode)?;
    let source = Arc::clone(&running) as Arc<dyn AdminSource>;
    let _admin = serve_admin(listener, start.admin_group, mode, source)?;
    connection::fence(mode, ThreadKind::Control);
    let ready = ToKeeper::Ready {
        pages: recovered,
        recovery_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
        sandbox: report,
    };
    channel.send(&ready, &[]).map_err(Error::Control)?;
    desk.run()
}

/// Serves the admin API alone: workers that serve guests die, and somebody must say so.
fn care(
    told: &Arc<Told>,
    listener: Option<UnixListener>,
    group: Option<u32>,
    mode: sandbox::Mode,
    report: sandbox::Report,
    channel: &Arc<Channel>,
) -> Result<(), Error> {
    let pass_on = {
        let told = Arc::clone(told);
        Box::new(move |operation: &_| told.request(operation))
    };
    let caretaker = Arc::new(Caretaker::new(told.status(), pass_on));
    let source = Arc::clone(&caretaker) as Arc<dyn AdminSource>;
    let _admin = serve_admin(listener, group, mode, source)?;
    connection::fence(mode, ThreadKind::Control);
    let ready = ToKeeper::Ready {
        pages: 0,
        recovery_ms: 0,
        sandbox: report,
    };
    channel.send(&ready, &[]).map_err(Error::Control)?;
    loop {
        let mut fds = [PollFd::from_borrowed_fd(
            std::os::fd::AsFd::as_fd(&**channel),
            PollFlags::IN,
        )];
        // An interruption or an error shows in what is received.
        let _ = poll(&mut fds, None);
        match channel.receive().map_err(Error::Control)? {
            Some((ToWorker::Status(status), _)) => {
                caretaker.update((*status).clone());
                told.update(*status);
            }
            Some((ToWorker::Ping, _)) => {
                channel.send(&ToKeeper::Pong, &[]).map_err(Error::Control)?;
            }
            Some((ToWorker::End, _)) => return Ok(()),
            _ => {}
        }
    }
}

fn serve_admin(
    listener: Option<UnixListener>,
    group: Option<u32>,
    mode: sandbox::Mode,
    source: Arc<dyn AdminSource>,
) -> Result<Option<admin::Server>, Error> {
    let start = |listener| {
        let access = admin::Access::new(group);
        admin::Server::start(listener, access, admin::Limits::default(), mode, source)
    };
    Ok(listener.map(start).transpose()?)
}

fn incomplete() -> Error {
    Error::Control(io::Error::other("the keeper's message lacks descriptors"))
}
