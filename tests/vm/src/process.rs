// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A child that never outlives its owner: monitors and daemons of tests.

use std::cell::RefCell;
use std::fs::File;
use std::io::{Error, Result};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// A running program, killed and waited for on drop.
#[derive(Debug)]
pub(crate) struct Process(RefCell<Child>);

impl Process {
    /// Starts `command` without input, with all of its output in `log`.
    pub(crate) fn spawn(mut command: Command, log: &Path) -> Result<Self> {
        let output = File::create(log)?;
        command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        let end_with_parent = || {
            // SAFETY: the call changes an attribute of the calling process and takes no pointer.
            let done = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
            if done == 0 {
                Ok(())
            } else {
                Err(Error::last_os_error())
            }
        };
        // SAFETY: between fork and exec the closure makes one system call and allocates nothing.
        unsafe { command.pre_exec(end_with_parent) };
        Ok(Self(RefCell::new(command.spawn()?)))
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.0.borrow().id()
    }

    /// Whether it has ended by itself.
    pub(crate) fn has_ended(&self) -> bool {
        // An error means that it is no longer there to wait for.
        !matches!(self.0.borrow_mut().try_wait(), Ok(None))
    }

    /// Kills it and waits for its end.
    pub(crate) fn kill(&self) {
        let mut child = self.0.borrow_mut();
        // Both fail only for a child that has ended and was waited for.
        let _ = child.kill();
        let _ = child.wait();
    }

    /// Asks it to end and waits for that; `None` if it did not within `deadline`.
    pub(crate) fn terminate(&self, deadline: Duration) -> Option<ExitStatus> {
        let id = libc::pid_t::try_from(self.0.borrow().id()).ok()?;
        // SAFETY: sends a signal to a child that was not waited for, so the id is still its own.
        unsafe { libc::kill(id, libc::SIGTERM) };
        let start = Instant::now();
        loop {
            if let Ok(Some(status)) = self.0.borrow_mut().try_wait() {
                return Some(status);
            }
            if start.elapsed() > deadline {
                return None;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper(log: &Path) -> Process {
        let mut command = Command::new("sleep");
        command.arg("600");
        Process::spawn(command, log).expect("sleep starts")
    }

    #[test]
    fn dropped_process_is_gone() {
        let folder = tempfile::tempdir().expect("a folder");
        let process = sleeper(&folder.path().join("log"));
        let id = process.0.borrow().id();
        assert!(!process.has_ended());
        drop(process);
        assert!(!Path::new(&format!("/proc/{id}")).exists());
    }

    #[test]
    fn terminated_process_tells_its_status() {
        let folder = tempfile::tempdir().expect("a folder");
        let process = sleeper(&folder.path().join("log"));
        let status = process.terminate(Duration::from_secs(30));
        assert!(status.is_some_and(|status| !status.success()));
        assert!(process.has_ended());
    }
}
