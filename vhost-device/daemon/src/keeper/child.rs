// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A worker process, from the keeper's side.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::Serialize;

use crate::channel::{Channel, ToKeeper};
use crate::error::tell;
use crate::sandbox::{self, TrustedBinary};

/// The program that workers run; held open, so that it can be started again when its file is gone.
#[derive(Debug)]
pub(super) struct Program {
    origin: Origin,
    /// Where the keeper's own program lay at its start, and perhaps a newer one lies by now.
    path: PathBuf,
    /// Where other programs may lie.
    dirs: Vec<PathBuf>,
    /// How workers log.
    arguments: Vec<String>,
}

#[derive(Debug)]
enum Origin {
    /// The keeper's own program.
    Own(File),
    Other(TrustedBinary),
}

impl Program {
    /// The program that this process runs. Others are started from `dirs` alone.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn own(dirs: &[PathBuf], arguments: Vec<String>) -> io::Result<Self> {
        Ok(Self {
            origin: Origin::Own(File::open("/proc/self/exe")?),
            path: std::env::current_exe()?,
            dirs: dirs.to_vec(),
            arguments,
        })
    }

    /// Another program, or what lies now where the keeper's own did.
    ///
    /// # Errors
    /// Why it cannot be trusted, for people.
    pub(super) fn another(&self, path: Option<&str>) -> Result<Self, String> {
        let path = path.map_or(&*self.path, Path::new);
        // In the folder of the keeper's own program only that very file.
        let own = self.path.parent().filter(|_| path == self.path);
        let dirs: Vec<_> = (self.dirs.iter().cloned())
            .chain(own.map(Path::to_owned))
            .collect();
        let binary = sandbox::trusted_binary(path, &dirs).map_err(|error| tell(&error))?;
        Ok(Self {
            origin: Origin::Other(binary),
            path: self.path.clone(),
            dirs: self.dirs.clone(),
            arguments: self.arguments.clone(),
        })
    }

    /// Starts a worker of it.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn start(&self) -> io::Result<Worker> {
        let (channel, end) = Channel::pair()?;
        let mut command = match &self.origin {
            Origin::Own(file) => Command::new(format!("/proc/self/fd/{}", file.as_raw_fd())),
            Origin::Other(binary) => binary.command(),
        };
        // The worker finds its end of the channel where others find their input.
        let child = command
            .arg0("vhost-device-tmem")
            .arg("--worker")
            .args(&self.arguments)
            .stdin(end)
            .spawn()?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| io::Error::other("a process id of 0"))?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
        Ok(Worker {
            child,
            pidfd,
            channel,
        })
    }
}

/// A worker process.
#[derive(Debug)]
pub(super) struct Worker {
    child: Child,
    pidfd: OwnedFd,
    channel: Channel,
}

impl Worker {
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Readable once the process is dead.
    pub(super) fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Readable when it says something.
    pub(super) fn channel(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }

    /// Sends a message. Returns whether the worker will get it; one that cannot take it is busy, dead or
    /// stuck, and the latter two are noticed elsewhere.
    pub(super) fn send(&self, message: &impl Serialize, files: &[BorrowedFd<'_>]) -> bool {
        let sent = self.channel.send(message, files);
        if let Err(error) = &sent {
            tracing::debug!(worker = self.id(), %error, "the worker does not take a message");
        }
        sent.is_ok()
    }

    /// What it says next, if anything.
    pub(super) fn receive(&self) -> Option<ToKeeper> {
        match self.channel.receive() {
            Ok(message) => message.map(|(message, _)| message),
            // Its death is noticed elsewhere.
            Err(error) if is_hang_up(&error) => None,
            Err(error) => {
                tracing::error!(worker = self.id(), %error, "the worker says what is no message");
                self.kill();
                None
            }
        }
    }

    /// Ends it at once.
    pub(super) fn kill(&self) {
        // It may be dead already.
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
    }

    /// How it ended, if it has.
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.kill();
        // A killed child is waited for in no time.
        let _ = self.child.wait();
    }
}

fn is_hang_up(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionReset, UnexpectedEof};
    matches!(error.kind(), ConnectionReset | UnexpectedEof)
}

/// How a process ended, in words.
pub(super) fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => "an unknown end".to_owned(),
    }
}
