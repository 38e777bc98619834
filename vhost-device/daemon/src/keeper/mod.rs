// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The keeper: the process that a front-end is connected to, so that the one that serves it may die.
//!
//! ```text
//!  VMM ──socket──▶ keeper ──socket──▶ worker      control messages: few, passed on and recorded
//!   └── memory and event descriptors ──▶ worker   data: the keeper has no part in it
//! ```
//! It owns the listeners, each front-end's connection, the descriptors that came over it, and the two
//! files that hold the pages ([`tmem_pages::EngineFiles`]). It maps no memory and reads no page. When
//! the worker dies it starts the next one, hands it the files, and replays the record of each
//! connection. An upgrade is the same with another program, which was asked before.
//!
//! - `message`, `record`, `session`: vhost-user messages, what they amount to, one connection.
//! - `ports`: guests' sockets, from which connections come.
//! - `child`, `restart`, `life`: a worker process, when to start the next one, and how one follows
//!   another.
//! - `upgrade`: another program takes over, or does not.
//! - `start`, `store`: what is there at the beginning, and what outlives the keeper itself.
//! - this file: the loop. One thread, which never waits but in `poll`.

mod child;
mod life;
mod message;
mod ports;
mod record;
mod restart;
mod session;
mod start;
mod store;
mod upgrade;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tmem_admin_api::{DaemonStatus, EndCause};
use tmem_pages::EngineFiles;

use crate::channel::ToWorker;
use crate::config::Config;
use crate::error::Error;
use crate::notify::Notify;
use crate::sandbox;
use crate::tiers::files::TierFiles;
use child::{Program, Worker};
use restart::Restarts;
use session::Session;
use store::Store;
use upgrade::Upgrade;

#[cfg(test)]
mod tests;

pub use start::run;
pub use store::StoreError;

/// A worker that is not ready by then, and by [`Keeper::allowance`], is given up.
const READY_DEADLINE: Duration = Duration::from_secs(60);
/// Between two attempts to hand a connection to a worker that has no room for it.
const SERVE_AGAIN: Duration = Duration::from_millis(5);
/// Between two questions whether the worker lives.
const PING: Duration = Duration::from_secs(5);
/// Questions without an answer after which the worker is taken to be stuck.
const PINGS_LOST_MAX: u32 = 6;
/// For how long the worker may finish when the daemon ends.
const END_DEADLINE: Duration = Duration::from_secs(2);
/// Between two attempts to have somebody who answers admins while nothing can be served.
const CARETAKER_PAUSE: Duration = Duration::from_secs(5);

/// A guest's socket, and the connection on it.
#[derive(Debug)]
struct Port {
    name: String,
    listener: UnixListener,
    /// Removed at the end.
    path: Option<PathBuf>,
    session: Option<Session>,
}

/// The worker of the day.
#[derive(Debug)]
struct Serving {
    process: Worker,
    version: String,
    started: Instant,
    ready: Option<Instant>,
    /// Pings that were not answered.
    lost: u32,
    /// Why the keeper ended it.
    why: Option<EndCause>,
    /// What it said before it ended itself.
    refusal: Option<String>,
}

impl Serving {
    fn new(process: Worker, version: String) -> Self {
        Self {
            process,
            version,
            started: Instant::now(),
            ready: None,
            lost: 0,
            why: None,
            refusal: None,
        }
    }
}

/// See the module's head.
struct Keeper {
    config: Config,
    files: EngineFiles,
    /// Those of the tiers below DRAM.
    tier_files: TierFiles,
    /// What stores' names stand for.
    addresses: BTreeMap<String, String>,
    /// What administrators have set, as the worker told it.
    settings: Option<serde_json::Value>,
    ports: Vec<Port>,
    admin: Option<UnixListener>,
    admin_path: Option<PathBuf>,
    admin_group: Option<u32>,
    sandbox: sandbox::Mode,
    signals: OwnedFd,
    notify: Notify,
    store: Store,
    program: Program,
    worker: Option<Serving>,
    restarts: Restarts,
    /// When to start the next worker.
    next_start: Option<Instant>,
    next_ping: Instant,
    /// Since when nobody serves.
    down_since: Option<Instant>,
    upgrade: Option<Upgrade>,
    /// What admins are told.
    status: DaemonStatus,
    sessions: u64,
    /// A worker has been ready.
    proven: bool,
    /// Why the first worker did not want to start at all.
    refused: Option<String>,
}

/// Something to look at.
#[derive(Clone, Copy, Debug)]
enum Token {
    Signals,
    WorkerDead,
    WorkerSays,
    CandidateDead,
    CandidateSays,
    Listener(usize),
    Front(usize),
    Back(usize),
}

impl Keeper {
    /// Keeps until a signal ends it.
    fn run(&mut self) -> Result<(), Error> {
        self.start_worker();
        self.save();
        loop {
            if let Some(reason) = self.refused.take() {
                return Err(Error::Refused { reason });
            }
            let ready = self.wait().map_err(Error::Control)?;
            for token in ready {
                match token {
                    Token::Signals => return Ok(()),
                    Token::WorkerDead => self.reap(),
                    Token::WorkerSays => self.hear(),
                    Token::CandidateDead => self.candidate_died(),
                    Token::CandidateSays => self.hear_candidate(),
                    Token::Listener(guest) => self.accept(guest),
                    Token::Front(guest) => self.with_session(guest, Session::read_front),
                    Token::Back(guest) => self.look_back(guest),
                }
            }
            self.look_at_clock();
            self.save();
            for guest in 0..self.ports.len() {
                self.with_session(guest, Session::send_answer);
            }
        }
    }

    /// Makes what has changed outlive this process.
    fn save(&mut self) {
        let sessions = self.ports.iter().filter_map(|port| {
            let session = port.session.as_ref()?;
            Some((port.name.as_str(), session))
        });
        let settings = self
            .settings
            .as_ref()
            .map(|settings| (settings, &self.config));
        self.store.save(&self.notify, sessions, settings);
    }

    /// Waits for something to happen. Returns what did.
    fn wait(&self) -> io::Result<Vec<Token>> {
        let mut tokens = Vec::new();
        let mut fds = Vec::new();
        let mut watch = |token, fd, flags| {
            tokens.push(token);
            fds.push(PollFd::from_borrowed_fd(fd, flags));
        };
        watch(Token::Signals, self.signals.as_fd(), PollFlags::IN);
        if let Some(worker) = &self.worker {
            // What it said before it died counts.
            watch(Token::WorkerSays, worker.process.channel(), PollFlags::IN);
            watch(Token::WorkerDead, worker.process.pidfd(), PollFlags::IN);
        }
        if let Some(candidate) = self.upgrade.as_ref().and_then(Upgrade::candidate) {
            watch(Token::CandidateSays, candidate.channel(), PollFlags::IN);
            watch(Token::CandidateDead, candidate.pidfd(), PollFlags::IN);
        }
        for (guest, port) in self.ports.iter().enumerate() {
            let Some(session) = &port.session else {
                watch(Token::Listener(guest), port.listener.as_fd(), PollFlags::IN);
                continue;
            };
            // One that waits for an answer is not looked at, not even for a hang-up.
            if let (front, true) = session.front() {
                watch(Token::Front(guest), front.as_fd(), PollFlags::IN);
            }
            if let Some((back, full)) = session.back() {
                let flags = if full {
                    PollFlags::IN | PollFlags::OUT
                } else {
                    PollFlags::IN
                };
                watch(Token::Back(guest), back.as_fd(), flags);
            }
        }
        let timeout = self
            .next_deadline()
            .saturating_duration_since(Instant::now());
        let timeout = Timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(timeout.subsec_nanos()),
        };
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready = fds.iter().map(|fd| !fd.revents().is_empty());
        let tokens = tokens.into_iter().zip(ready);
        Ok(tokens
            .filter_map(|(token, ready)| ready.then_some(token))
            .collect())
    }

    fn next_deadline(&self) -> Instant {
        let unready = self.worker.as_ref().filter(|worker| worker.ready.is_none());
        let unready = unready.map(|worker| worker.started + READY_DEADLINE + self.allowance());
        let late = self.is_serving_late().then(|| Instant::now() + SERVE_AGAIN);
        let upgrade = self.upgrade.as_ref().map(Upgrade::deadline);
        [unready, late, upgrade, self.next_start, self.notify.due()]
            .into_iter()
            .flatten()
            .fold(self.next_ping, Instant::min)
    }

    /// How much longer a recovery may take with this many pages: 256 ms a GiB, several times what it
    /// does.
    fn allowance(&self) -> Duration {
        Duration::from_millis(self.config.tier_pages() / 1024)
    }

    fn look_at_clock(&mut self) {
        let now = Instant::now();
        self.notify.alive(now);
        if self.next_start.is_some_and(|at| at <= now) {
            self.next_start = None;
            self.start_worker();
        }
        if self
            .upgrade
            .as_ref()
            .is_some_and(|upgrade| upgrade.deadline() <= now)
        {
            self.upgrade_is_late();
        }
        let ping = self.next_ping <= now;
        if ping {
            self.next_ping = now + PING;
        }
        if self.is_serving_late() {
            self.serve_all();
        }
        let allowance = self.allowance();
        let Some(worker) = &mut self.worker else {
            return;
        };
        if worker.ready.is_none() {
            if worker.started + READY_DEADLINE + allowance <= now {
                self.end_worker(EndCause::NotReady);
            }
        } else if ping {
            worker.lost += 1;
            if worker.lost > PINGS_LOST_MAX {
                self.end_worker(EndCause::Hung);
            } else {
                worker.process.send(&ToWorker::Ping, &[]);
            }
        }
    }

    /// Ends the worker, hangs up, and removes the sockets' files.
    fn end(&mut self) {
        self.notify.stopping();
        self.upgrade = None;
        if self.notify.is_there() {
            // The service manager keeps listeners and connections: if another keeper follows, guests
            // notice nothing.
            self.worker = None;
            return;
        }
        if let Some(worker) = &mut self.worker {
            worker.process.send(&ToWorker::End, &[]);
            let deadline = Instant::now() + END_DEADLINE;
            while worker.process.ended().is_none() && Instant::now() < deadline {
                let mut fds = [PollFd::from_borrowed_fd(
                    worker.process.pidfd(),
                    PollFlags::IN,
                )];
                let soon = Timespec {
                    tv_sec: 0,
                    tv_nsec: 100_000_000,
                };
                // An interruption is as good as an end: both are looked at.
                let _ = poll(&mut fds, Some(&soon));
            }
        }
        self.worker = None;
        let ports = self.ports.iter_mut().filter_map(|port| port.path.take());
        for path in ports.chain(self.admin_path.take()) {
            if let Err(error) = std::fs::remove_file(&path) {
                tracing::warn!(path = %path.display(), %error, "cannot remove a socket's file");
            }
        }
    }
}
