// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The real daemon, started for the guests of one test, and what it says of them.

mod manager;
mod setup;
mod worker;

pub use setup::Setup;
pub use worker::Worker;

use crate::guest::tail;
use crate::process::Process;
use manager::Manager;
use serde::de::DeserializeOwned;
use setup::{admin_socket, configuration, configuration_file, guest_socket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use tmem_admin_api::{
    BalloonList, DaemonDetail, DaemonStatus, Guest, GuestList, GuestStats, OperationDetail,
    OperationStatus, Pool, PoolList, Stats, Status, StoreList,
};

/// `tmemctl` exits so when the daemon is degraded; it has told all the same.
const EXIT_DEGRADED: i32 = 4;
/// `tmemctl` exits so when the daemon said no; of an operation it has told why.
const EXIT_FAILED: i32 = 1;
const START_DEADLINE: Duration = Duration::from_secs(30);
const END_DEADLINE: Duration = Duration::from_secs(20);

/// What can go wrong with the daemon.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file of the daemon's, or a program.
    #[error("Cannot {action} {path}")]
    Io {
        /// The verb.
        action: &'static str,
        /// The file or program.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// It does not serve, or no longer.
    #[error("The daemon {what}; the end of {log} is:\n{tail}")]
    Gone {
        /// What it did or did not.
        what: &'static str,
        /// Its log.
        log: PathBuf,
        /// Its last lines.
        tail: String,
    },
    /// `tmemctl` failed.
    #[error("`tmemctl {arguments}` failed: {said}")]
    Ctl {
        /// Its arguments.
        arguments: String,
        /// What it said.
        said: String,
    },
    /// `tmemctl` printed something else than was asked for.
    #[error("Cannot read what `tmemctl {arguments}` printed")]
    Answer {
        /// Its arguments.
        arguments: String,
        /// Where it differs.
        source: serde_json::Error,
    },
    /// The daemon does not know a guest that it was started with.
    #[error("The daemon says nothing of guest {0}")]
    NoGuest(String),
}

/// This module's result.
pub type Result<T> = std::result::Result<T, Error>;

/// The programs that a test runs on the host.
#[derive(Clone, Debug)]
pub struct Programs {
    /// `vhost-device-tmem`.
    pub daemon: PathBuf,
    /// `tmemctl`.
    pub tmemctl: PathBuf,
    /// `remote-store`.
    pub remote_store: PathBuf,
}

/// A running daemon. Dropping it ends it.
#[derive(Debug)]
pub struct Daemon {
    process: Process,
    tmemctl: PathBuf,
    sockets: PathBuf,
    log: PathBuf,
    program: PathBuf,
    /// Keeps its descriptors, if it runs under one.
    manager: Option<Manager>,
    starts: u32,
}

impl Daemon {
    /// Starts the daemon with its sockets in `sockets` and its log in `logs`, and waits until
    /// every guest's socket and the admin socket are there.
    ///
    /// # Errors
    /// If it does not start, or does not listen within 30 s.
    pub fn start(
        programs: &Programs,
        setup: &Setup<'_>,
        sockets: &Path,
        logs: &Path,
    ) -> Result<Self> {
        let config = configuration_file(sockets);
        std::fs::write(&config, configuration(setup, sockets)).map_err(|source| Error::Io {
            action: "write",
            path: config.clone(),
            source,
        })?;
        let log = logs.join("daemon.log");
        let manager = if setup.managed {
            let socket = sockets.join("notify.sock");
            let manager = Manager::listen(socket.clone()).map_err(|source| Error::Io {
                action: "listen at",
                path: socket,
                source,
            })?;
            Some(manager)
        } else {
            None
        };
        let daemon = Self {
            process: spawn(&programs.daemon, manager.as_ref(), sockets, &log)?,
            tmemctl: programs.tmemctl.clone(),
            sockets: sockets.to_owned(),
            log,
            program: programs.daemon.clone(),
            manager,
            starts: 1,
        };
        let mut expected: Vec<PathBuf> = setup
            .guests
            .iter()
            .map(|name| daemon.socket(name))
            .collect();
        expected.push(admin_socket(sockets));
        let start = Instant::now();
        while !expected.iter().all(|path| path.exists()) {
            if daemon.process.has_ended() {
                return Err(daemon.gone("ended at its start"));
            }
            if start.elapsed() > START_DEADLINE {
                return Err(daemon.gone("does not listen"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(daemon)
    }

    /// Kills the whole daemon, and starts it again as a service manager does: once no process of it is
    /// left, with the descriptors that it had kept. Its log is another one then.
    ///
    /// # Errors
    /// If it does not end or does not start.
    pub fn kill_and_start_again(&mut self) -> Result<()> {
        let worker = self.worker();
        self.process.kill();
        let start = Instant::now();
        while worker.is_some_and(Worker::is_alive) {
            if start.elapsed() > END_DEADLINE {
                return Err(self.gone("was killed, and its worker lives on"));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        self.starts += 1;
        self.log
            .set_file_name(format!("daemon-{}.log", self.starts));
        self.process = spawn(
            &self.program,
            self.manager.as_ref(),
            &self.sockets,
            &self.log,
        )?;
        Ok(())
    }

    /// The vhost-user socket of guest `name`.
    #[must_use]
    pub fn socket(&self, name: &str) -> PathBuf {
        guest_socket(&self.sockets, name)
    }

    /// Counters and latencies of guest `name`.
    ///
    /// # Errors
    /// If the daemon does not answer, or does not know the guest.
    pub fn stats(&self, name: &str) -> Result<GuestStats> {
        let stats: Stats = self.ask(&["stats"])?;
        stats
            .guests
            .into_iter()
            .find(|guest| guest.guest == name)
            .ok_or_else(|| Error::NoGuest(name.to_owned()))
    }

    /// Guest `name` as the daemon knows it.
    ///
    /// # Errors
    /// If the daemon does not answer, or does not know the guest.
    pub fn guest(&self, name: &str) -> Result<Guest> {
        let list: GuestList = self.ask(&["guest", "list"])?;
        list.guests
            .into_iter()
            .find(|guest| guest.name == name)
            .ok_or_else(|| Error::NoGuest(name.to_owned()))
    }

    /// The pools of guest `name`.
    ///
    /// # Errors
    /// If the daemon does not answer.
    pub fn pools(&self, name: &str) -> Result<Vec<Pool>> {
        let list: PoolList = self.ask(&["pool", "list"])?;
        Ok(list
            .pools
            .into_iter()
            .filter(|pool| pool.guest == name)
            .collect())
    }

    /// Pages in all pools of guest `name`.
    ///
    /// # Errors
    /// If the daemon does not answer.
    pub fn pages(&self, name: &str) -> Result<u64> {
        Ok(self.pools(name)?.iter().map(|pool| pool.pages).sum())
    }

    /// The daemon as a whole.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn status(&self) -> Result<Status> {
        self.ask_for(&["status"], &[EXIT_DEGRADED])
    }

    /// The stores of the remote tier, and how pages are kept on them.
    ///
    /// # Errors
    /// If it does not answer, or its remote tier is not on stores.
    pub fn stores(&self) -> Result<StoreList> {
        self.ask_for(&["store", "list"], &[EXIT_DEGRADED])
    }

    /// Every guest's balloon.
    ///
    /// # Errors
    /// If the daemon does not answer.
    pub fn balloons(&self) -> Result<BalloonList> {
        self.ask_for(&["balloon", "show"], &[EXIT_DEGRADED])
    }

    /// The worker at this moment, if there is one.
    #[must_use]
    pub fn worker(&self) -> Option<Worker> {
        Worker::of(self.process.id())
    }

    /// The daemon's processes and what happened to them.
    ///
    /// # Errors
    /// If it does not answer, as while one worker follows another.
    pub fn processes(&self) -> Result<DaemonStatus> {
        let detail: DaemonDetail = self.ask_for(&["daemon", "show"], &[EXIT_DEGRADED])?;
        Ok(detail.daemon)
    }

    /// Replaces the worker's program by `binary`, or by what lies where the daemon was started from,
    /// and tells what came of it: that it was refused or rolled back is no error.
    ///
    /// # Errors
    /// If the daemon does not answer, or nothing has come of it within a minute.
    pub fn upgrade(&self, binary: Option<&Path>) -> Result<OperationStatus> {
        let binary = binary.map(Path::to_string_lossy);
        let mut words = vec!["daemon", "upgrade"];
        if let Some(binary) = &binary {
            words.extend(["--binary", binary]);
        }
        self.operation(&words)
    }

    /// Replaces the worker by a fresh one, also after the daemon has given up.
    ///
    /// # Errors
    /// As [`upgrade`](Self::upgrade).
    pub fn restart(&self) -> Result<OperationStatus> {
        self.operation(&["daemon", "restart"])
    }

    fn operation(&self, words: &[&str]) -> Result<OperationStatus> {
        let detail: OperationDetail = self.ask_for(words, &[EXIT_FAILED])?;
        detail.operation.ok_or_else(|| Error::Ctl {
            arguments: words.join(" "),
            said: "it knows of no operation".to_owned(),
        })
    }

    /// Asks it to end, and waits for that.
    ///
    /// # Errors
    /// If it has ended before, ends with a failure, or takes longer than 20 s.
    pub fn shut_down(self) -> Result<()> {
        if self.process.has_ended() {
            return Err(self.gone("ended before it was asked to"));
        }
        match self.process.terminate(END_DEADLINE) {
            Some(status) if status.success() => Ok(()),
            Some(_) => Err(self.gone("ended with a failure")),
            None => Err(self.gone("does not end")),
        }
    }

    /// Has `tmemctl` do something whose answer does not matter.
    ///
    /// # Errors
    /// If it fails.
    pub fn tell(&self, words: &[&str]) -> Result<()> {
        self.ask_for::<serde_json::Value>(words, &[EXIT_DEGRADED])
            .map(drop)
    }

    fn ask<T: DeserializeOwned>(&self, words: &[&str]) -> Result<T> {
        self.ask_for(words, &[])
    }

    /// As [`ask`](Self::ask), where an exit status among `told` comes with an answer as 0 does.
    fn ask_for<T: DeserializeOwned>(&self, words: &[&str], told: &[i32]) -> Result<T> {
        let output = Command::new(&self.tmemctl)
            .arg("--socket")
            .arg(admin_socket(&self.sockets))
            .args(words)
            .arg("--json")
            .output()
            .map_err(|source| Error::Io {
                action: "run",
                path: self.tmemctl.clone(),
                source,
            })?;
        let code = output.status.code();
        let has_told = code.is_some_and(|code| code == 0 || told.contains(&code));
        if !has_told || output.stdout.is_empty() {
            if self.process.has_ended() {
                return Err(self.gone("is gone"));
            }
            return Err(Error::Ctl {
                arguments: words.join(" "),
                said: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            });
        }
        serde_json::from_slice(&output.stdout).map_err(|source| Error::Answer {
            arguments: words.join(" "),
            source,
        })
    }

    fn gone(&self, what: &'static str) -> Error {
        let said = std::fs::read_to_string(&self.log).unwrap_or_default();
        Error::Gone {
            what,
            log: self.log.clone(),
            tail: tail(&said),
        }
    }
}

/// Starts `program`, under `manager` if there is one.
fn spawn(program: &Path, manager: Option<&Manager>, sockets: &Path, log: &Path) -> Result<Process> {
    let command = manager.map_or_else(
        || Ok(Command::new(program)),
        |manager| manager.command(program),
    );
    let spawned = command.and_then(|mut command| {
        command.arg("--config").arg(configuration_file(sockets));
        Process::spawn(command, log)
    });
    spawned.map_err(|source| Error::Io {
        action: "start",
        path: program.to_owned(),
        source,
    })
}
