// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Programs that serve a vhost-user socket, as child processes.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::{Error, Result, WAIT};

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Its status.
    pub status: ExitStatus,
    /// From the signal to the end.
    pub took: Duration,
}

/// A running back-end program; killed when dropped.
#[derive(Debug)]
pub struct DaemonProcess {
    program: PathBuf,
    child: Child,
}

impl DaemonProcess {
    /// Starts `command` and waits until all of `sockets` exist.
    pub fn start(command: &mut Command, sockets: &[&Path]) -> Result<Self> {
        let program = PathBuf::from(command.get_program());
        let child = command.spawn().map_err(|source| Error::Process {
            program: program.clone(),
            source,
        })?;
        let mut process = Self { program, child };
        for socket in sockets {
            process.wait_for(socket)?;
        }
        Ok(process)
    }

    fn wait_for(&mut self, socket: &Path) -> Result<()> {
        let start = Instant::now();
        while !socket.exists() {
            let ended = self.child.try_wait().map_err(|source| self.fail(source))?;
            if let Some(status) = ended {
                return Err(self.fail(std::io::Error::other(format!("it ended with {status}"))));
            }
            if start.elapsed() > WAIT {
                return Err(self.fail(std::io::Error::other("its socket does not appear")));
            }
            thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    fn fail(&self, source: std::io::Error) -> Error {
        Error::Process {
            program: self.program.clone(),
            source,
        }
    }

    /// Process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether the program runs.
    pub fn is_running(&mut self) -> Result<bool> {
        let ended = self.child.try_wait().map_err(|source| self.fail(source))?;
        Ok(ended.is_none())
    }

    /// Sends SIGTERM and waits for the end.
    pub fn terminate(&mut self) -> Result<Ended> {
        let start = Instant::now();
        self.signal(Signal::TERM)?;
        loop {
            if let Some(status) = self.child.try_wait().map_err(|source| self.fail(source))? {
                return Ok(Ended {
                    status,
                    took: start.elapsed(),
                });
            }
            if start.elapsed() > WAIT {
                return Err(self.fail(std::io::Error::other("it ignores SIGTERM")));
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Sends any signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.expect("a child's id is a process id");
        kill_process(pid, signal).map_err(|error| self.fail(error.into()))
    }
}

impl Drop for DaemonProcess {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
