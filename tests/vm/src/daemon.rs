// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The real daemon, started for the guests of one test, and what it says of them.

use crate::guest::tail;
use crate::process::Process;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use tmem_admin_api::{Guest, GuestList, GuestStats, Pool, PoolList, Stats, Status};

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
}

/// How the daemon is set up.
#[derive(Clone, Debug)]
pub struct Setup<'a> {
    /// Names of its guests.
    pub guests: &'a [&'a str],
    /// Grant of each guest in MiB.
    pub grant_mib: u32,
    /// Queue pairs of each guest.
    pub queue_pairs: u16,
}

/// A running daemon. Dropping it ends it.
#[derive(Debug)]
pub struct Daemon {
    process: Process,
    tmemctl: PathBuf,
    sockets: PathBuf,
    log: PathBuf,
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
        let config = sockets.join("daemon.toml");
        std::fs::write(&config, configuration(setup, sockets)).map_err(|source| Error::Io {
            action: "write",
            path: config.clone(),
            source,
        })?;
        let log = logs.join("daemon.log");
        let mut command = Command::new(&programs.daemon);
        command.arg("--config").arg(&config);
        let process = Process::spawn(command, &log).map_err(|source| Error::Io {
            action: "start",
            path: programs.daemon.clone(),
            source,
        })?;
        let daemon = Self {
            process,
            tmemctl: programs.tmemctl.clone(),
            sockets: sockets.to_owned(),
            log,
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
        self.ask(&["status"])
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

    fn ask<T: DeserializeOwned>(&self, words: &[&str]) -> Result<T> {
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
        if !output.status.success() {
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

fn admin_socket(sockets: &Path) -> PathBuf {
    sockets.join("admin.sock")
}

fn guest_socket(sockets: &Path, name: &str) -> PathBuf {
    sockets.join(format!("{name}.sock"))
}

/// The daemon's configuration file.
fn configuration(setup: &Setup<'_>, sockets: &Path) -> String {
    let dram_mib = setup.grant_mib * u32::try_from(setup.guests.len()).unwrap_or(u32::MAX);
    let mut text = format!(
        "[daemon]\nadmin_socket = {:?}\ndram = \"{dram_mib}MiB\"\n",
        admin_socket(sockets)
    );
    for name in setup.guests {
        text.push_str(&format!(
            "\n[[guest]]\nname = {name:?}\nsocket = {:?}\ngrant = \"{}MiB\"\nqueue_pairs = {}\n",
            guest_socket(sockets, name),
            setup.grant_mib,
            setup.queue_pairs
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_guest_has_its_section() {
        let setup = Setup {
            guests: &["a", "b"],
            grant_mib: 512,
            queue_pairs: 2,
        };
        let text = configuration(&setup, Path::new("/s"));
        assert!(text.starts_with("[daemon]\nadmin_socket = \"/s/admin.sock\"\ndram = \"1024MiB\""));
        assert_eq!(text.matches("[[guest]]").count(), 2);
        assert!(text.contains("name = \"b\"\nsocket = \"/s/b.sock\"\ngrant = \"512MiB\""));
    }
}
