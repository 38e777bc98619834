// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The worker's life: it is started, becomes ready, is ended or dies, and another follows, until it is
//! enough.

use std::os::fd::AsFd;
use std::time::Instant;

use tmem_admin_api::{DaemonState, EndCause};

use super::restart::Verdict;
use super::session::Session;
use super::{CARETAKER_PAUSE, Keeper, Serving, start};
use crate::channel::{self, Start, ToKeeper, ToWorker};
use crate::config::is_name;
use crate::error::tell;
use crate::sandbox;
use crate::tiers::traces;

impl Keeper {
    /// Starts a worker of the program of the day: to serve, or to answer admins alone.
    pub(super) fn start_worker(&mut self) {
        match self.program.start() {
            Ok(process) => {
                self.worker = Some(Serving::new(process, String::new()));
                self.send_start();
            }
            Err(error) => {
                tracing::error!(%error, "cannot start a worker");
                self.next_start = Some(Instant::now() + CARETAKER_PAUSE);
            }
        }
    }

    /// Tells the worker all that it has to know.
    pub(super) fn send_start(&mut self) {
        let failed = self.status.state == DaemonState::Failed;
        if !failed {
            self.status.state = DaemonState::Recovering;
        }
        let Some(worker) = &self.worker else { return };
        let start = Start {
            config: self.config.clone(),
            admin_group: self.admin_group,
            sandbox: self.sandbox,
            status: self.status.clone(),
            caretaker: failed,
            admin: self.admin.is_some(),
            files: (self.tier_files.named())
                .map(|(name, _)| name.to_owned())
                .collect(),
            boot: self.tier_files.boot,
            addresses: self.addresses.clone(),
            settings: self.settings.clone(),
        };
        let mut files = vec![self.files.map.as_fd(), self.files.frames.as_fd()];
        files.extend(self.admin.as_ref().map(AsFd::as_fd));
        files.extend(self.tier_files.named().map(|(_, file)| file));
        worker
            .process
            .send(&ToWorker::Start(Box::new(start)), &files);
    }

    /// Ends the worker; its death is dealt with when it is seen.
    pub(super) fn end_worker(&mut self, why: EndCause) {
        if let Some(worker) = &mut self.worker {
            worker.why.get_or_insert(why);
            worker.process.kill();
            self.down_since.get_or_insert_with(Instant::now);
        }
    }

    /// The worker is dead: what next?
    pub(super) fn reap(&mut self) {
        // The last that it said may say why.
        self.hear();
        let Some(status) = self
            .worker
            .as_mut()
            .and_then(|worker| worker.process.ended())
        else {
            return;
        };
        let Some(worker) = self.worker.take() else {
            return;
        };
        let now = Instant::now();
        self.down_since.get_or_insert(now);
        for session in self
            .ports
            .iter_mut()
            .filter_map(|port| port.session.as_mut())
        {
            session.detach();
        }
        let end = start::worker_end(status, &worker);
        tracing::warn!(
            worker = worker.process.id(),
            end = end.told(),
            refusal = worker.refusal,
            "the worker has ended"
        );
        let failed = self.status.state == DaemonState::Failed;
        if !failed {
            *self.status.restarts.entry(end.cause).or_default() += 1;
        }
        if let (false, Some(reason)) = (self.proven, &worker.refusal) {
            // What it was told is wrong, and would be the next time.
            self.refused = Some(reason.clone());
            return;
        }
        let reason = worker.refusal.clone().unwrap_or_else(|| end.told());
        self.status.last_end = Some(end);
        self.status.worker = None;
        match worker.why {
            Some(EndCause::Upgrade) => return self.take_over(),
            Some(EndCause::Restart) => {
                self.restarts.forgive();
                self.status.state = DaemonState::Recovering;
                self.status.failure = None;
                return self.start_worker();
            }
            _ => {}
        }
        if failed {
            self.next_start = Some(now + CARETAKER_PAUSE);
            return;
        }
        if self.roll_back(&format!("the new worker ended: {reason}")) {
            return self.start_worker();
        }
        match self.restarts.died(worker.ready, now) {
            Verdict::Start(pause) if pause.is_zero() => self.start_worker(),
            Verdict::Start(pause) => self.next_start = Some(now + pause),
            Verdict::GiveUp(deaths) => self.give_up(deaths, &reason),
        }
    }

    /// A crash loop: no more workers, until an admin says so. Front-ends are answered from the
    /// record, so that they and their guests live; the guests' requests stay in their rings.
    pub(super) fn give_up(&mut self, deaths: u32, reason: &str) {
        let failure = format!("{deaths} workers ended in a row, the last one: {reason}");
        tracing::error!(
            failure,
            "nothing is served until an admin restarts or upgrades the daemon"
        );
        self.status.state = DaemonState::Failed;
        self.status.failure = Some(failure);
        for guest in 0..self.ports.len() {
            self.with_session(guest, Session::answer_alone);
        }
        self.start_worker();
    }

    /// Hears what the worker says.
    pub(super) fn hear(&mut self) {
        while let Some(message) = self
            .worker
            .as_ref()
            .and_then(|worker| worker.process.receive())
        {
            let Some(worker) = &mut self.worker else {
                return;
            };
            match message {
                ToKeeper::Hello { channel, version } => {
                    worker.version = version;
                    if channel != channel::VERSION {
                        worker.refusal =
                            Some(format!("it speaks version {channel} of the channel"));
                        self.end_worker(EndCause::Other);
                    }
                }
                ToKeeper::Ready {
                    pages,
                    recovery_ms,
                    sandbox,
                } => self.ready(pages, recovery_ms, &sandbox),
                ToKeeper::Refused { reason } => worker.refusal = Some(reason),
                ToKeeper::Ended { guest, session } => self.session_ended(guest, session),
                ToKeeper::Pong => worker.lost = 0,
                ToKeeper::Operate(operation) => self.operate(&operation),
                ToKeeper::Settings(settings) => self.settings = Some(settings),
                ToKeeper::OpenTrace { name } => self.open_trace(&name),
                ToKeeper::Checked => {}
            }
        }
    }

    /// Makes a file for a page trace, which the worker cannot.
    fn open_trace(&self, name: &str) {
        let Some(worker) = &self.worker else { return };
        let opened = match &self.config.trace_dir {
            // A name is no path, whoever asks.
            Some(dir) if is_name(name) => {
                traces::create(&dir.join(format!("{name}.trace"))).map_err(|error| tell(&error))
            }
            _ => Err("there is no folder for traces, or the name is none".to_owned()),
        };
        match opened {
            Ok(file) => {
                let trace = ToWorker::Trace { error: None };
                worker.process.send(&trace, &[file.as_fd()]);
            }
            Err(error) => {
                let error = Some(error);
                worker.process.send(&ToWorker::Trace { error }, &[]);
            }
        }
    }

    /// The worker has the pages; now the connections.
    pub(super) fn ready(&mut self, pages: u64, recovery_ms: u64, sandbox: &sandbox::Report) {
        let Some(worker) = &mut self.worker else {
            return;
        };
        worker.ready = Some(Instant::now());
        worker.lost = 0;
        self.proven = true;
        self.status.worker = Some(start::process_status(
            worker.process.id(),
            &worker.version,
            sandbox,
        ));
        if self.status.state == DaemonState::Failed {
            return self.tell_status();
        }
        self.status.last_recovery = Some(start::recovery(pages, recovery_ms));
        tracing::info!(
            worker = worker.process.id(),
            pages,
            recovery_ms,
            "a worker is ready"
        );
        self.notify.ready();
        self.serve_all();
        self.look_whether_resumed();
    }

    /// Everything is as it was before the last worker died, or is not yet.
    pub(super) fn look_whether_resumed(&mut self) {
        let mut sessions = self.ports.iter().filter_map(|port| port.session.as_ref());
        if !self.is_ready() || !sessions.all(Session::is_resumed) {
            return;
        }
        let Some(since) = self.down_since.take() else {
            if self.status.state != DaemonState::Running {
                self.status.state = DaemonState::Running;
                self.tell_status();
            }
            return;
        };
        let pause_ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::info!(pause_ms, "guests are served again");
        self.status.state = DaemonState::Running;
        self.status.last_pause_ms = Some(pause_ms);
        self.status.longest_pause_ms = self.status.longest_pause_ms.max(Some(pause_ms));
        self.operation_resumed(pause_ms);
        self.tell_status();
    }

    pub(super) fn tell_status(&self) {
        if let Some(worker) = &self.worker {
            worker
                .process
                .send(&ToWorker::Status(Box::new(self.status.clone())), &[]);
        }
    }
}
