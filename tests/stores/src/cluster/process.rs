// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One `remote-store serve`, as a child process that may be killed, frozen and started again.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::network::Namespace;
use super::program;

/// A store is ready, or has ended, within this time.
const PATIENCE: Duration = Duration::from_secs(20);

/// How a store is started.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Addresses as of `--listen`.
    pub listen: Vec<String>,
    /// Everything else.
    pub arguments: Vec<OsString>,
}

impl StoreOptions {
    /// A store of this size that listens on a free port of loopback.
    #[must_use]
    pub fn new(capacity: &str) -> Self {
        Self {
            listen: vec!["tcp://127.0.0.1:0".into()],
            arguments: vec!["--capacity".into(), capacity.into()],
        }
    }

    /// With another argument, and its value.
    #[must_use]
    pub fn with(mut self, argument: &str, value: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self.arguments.push(value.into());
        self
    }

    /// With another flag.
    #[must_use]
    pub fn flag(mut self, flag: &str) -> Self {
        self.arguments.push(flag.into());
        self
    }
}

/// A store's process. It ends with this value.
#[derive(Debug)]
pub struct StoreProcess {
    options: StoreOptions,
    log: PathBuf,
    child: Option<Child>,
    addresses: Vec<String>,
}

impl StoreProcess {
    /// Starts a store, and waits until it is ready. Its log goes to `log`.
    ///
    /// # Errors
    /// If it does not become ready; the log's end is told.
    pub fn start(options: StoreOptions, log: &Path, inside: Option<&Namespace>) -> Result<Self> {
        let mut process = Self {
            options,
            log: log.into(),
            child: None,
            addresses: Vec::new(),
        };
        process.spawn(inside)?;
        // It comes back under the address that clients know.
        process.options.listen.clone_from(&process.addresses);
        Ok(process)
    }

    fn spawn(&mut self, inside: Option<&Namespace>) -> Result<()> {
        let program = program::remote_store()?;
        let mut command = match inside {
            Some(namespace) => namespace.command(program),
            None => Command::new(program),
        };
        command.arg("serve");
        for address in &self.options.listen {
            command.args(["--listen", address]);
        }
        let log = File::options().create(true).append(true).open(&self.log);
        let log = log.with_context(|| format!("Cannot write {}", self.log.display()))?;
        let mut child = command
            .args(&self.options.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .context("Cannot start remote-store")?;
        let told = child.stdout.take().map(lines);
        self.child = Some(child);
        self.addresses.clear();
        let told = told.context("remote-store has no standard output")?;
        let start = Instant::now();
        loop {
            let left = PATIENCE.saturating_sub(start.elapsed());
            let line = match told.recv_timeout(left) {
                Ok(line) => line,
                Err(RecvTimeoutError::Timeout) => {
                    bail!("remote-store is not ready: {}", self.tail())
                }
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("remote-store ended at its start: {}", self.tail())
                }
            };
            if let Some(address) = line.strip_prefix("listening ") {
                self.addresses.push(address.into());
            } else if line == "ready" {
                ensure!(!self.addresses.is_empty(), "remote-store listens nowhere");
                return Ok(());
            }
        }
    }

    /// Where it listens, as of `--listen`, without `tcp://`: what clients are told.
    #[must_use]
    pub fn address(&self) -> String {
        let first = self.addresses.first().map_or("", String::as_str);
        first.strip_prefix("tcp://").unwrap_or(first).to_owned()
    }

    /// The process id.
    ///
    /// # Errors
    /// If it is not running.
    pub fn pid(&self) -> Result<Pid> {
        let child = self.child.as_ref().context("The store is not running")?;
        let number = i32::try_from(child.id())?;
        Pid::from_raw(number).context("A process has a number")
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// If it is not running.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill_process(self.pid()?, signal)?)
    }

    /// Kills it, as nothing that it could notice, and waits for its end.
    ///
    /// # Errors
    /// If it is not running.
    pub fn kill(&mut self) -> Result<()> {
        self.signal(Signal::KILL)?;
        if let Some(mut child) = self.child.take() {
            child.wait()?;
        }
        Ok(())
    }

    /// Starts it again, with the same arguments, under the same address.
    ///
    /// # Errors
    /// If it does not become ready.
    pub fn restart(&mut self, inside: Option<&Namespace>) -> Result<()> {
        ensure!(self.child.is_none(), "The store is still running");
        self.spawn(inside)
    }

    /// How it ended, if it has, or ends soon.
    ///
    /// # Errors
    /// If it is still there after `patience`.
    pub fn wait(&mut self, patience: Duration) -> Result<ExitStatus> {
        let start = Instant::now();
        let child = self.child.as_mut().context("The store is not running")?;
        loop {
            if let Some(status) = child.try_wait()? {
                self.child = None;
                return Ok(status);
            }
            ensure!(start.elapsed() < patience, "The store does not end");
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Whether it is running.
    pub fn is_running(&mut self) -> bool {
        let child = self.child.as_mut();
        child.is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// The last lines of its log.
    #[must_use]
    pub fn tail(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    }
}

impl Drop for StoreProcess {
    fn drop(&mut self) {
        if self.child.is_some() {
            // One that is frozen ends too.
            let _ = self.kill();
        }
    }
}

/// The lines of a child's output, as they come.
fn lines(output: std::process::ChildStdout) -> Receiver<String> {
    let (send, receive) = channel();
    thread::spawn(move || {
        for line in BufReader::new(output).lines() {
            let Ok(line) = line else { return };
            // Nobody listens once the store is ready; the output is read on all the same.
            let _ = send.send(line);
        }
    });
    receive
}
