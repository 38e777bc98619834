// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The daemon's worker, found among the keeper's children, and the signals that a test sends it.

use std::io::{Error, Result};

/// A worker process as it was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Worker(libc::pid_t);

impl Worker {
    /// The worker that the process `keeper` has at this moment, if any: the youngest of its children.
    pub(super) fn of(keeper: u32) -> Option<Self> {
        let path = format!("/proc/{keeper}/task/{keeper}/children");
        let children = std::fs::read_to_string(path).ok()?;
        children.split_whitespace().last()?.parse().ok().map(Self)
    }

    /// Its process id.
    #[must_use]
    pub fn id(self) -> u32 {
        self.0.unsigned_abs()
    }

    /// Whether it has not ended. One that has may wait for long to be reaped by whoever inherited it.
    pub(super) fn is_alive(self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0)).unwrap_or_default();
        // The state follows the name, which is in brackets and may hold anything.
        let state = stat.rsplit_once(") ").map(|(_, state)| state);
        state.is_some_and(|state| !state.starts_with(['Z', 'X']))
    }

    /// Kills it, as a crash would: by SIGKILL.
    ///
    /// # Errors
    /// If there is no such process any more.
    pub fn kill(self) -> Result<()> {
        self.send(libc::SIGKILL)
    }

    /// Stops it, so that it does nothing until it [goes on](Self::go_on).
    ///
    /// # Errors
    /// If there is no such process any more.
    pub fn stop(self) -> Result<()> {
        self.send(libc::SIGSTOP)
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// If there is no such process any more.
    pub fn go_on(self) -> Result<()> {
        self.send(libc::SIGCONT)
    }

    fn send(self, signal: libc::c_int) -> Result<()> {
        // SAFETY: sends a signal to a child of the daemon that this test has started, and passes no
        // pointer.
        let sent = unsafe { libc::kill(self.0, signal) };
        if sent == 0 {
            Ok(())
        } else {
            Err(Error::last_os_error())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    #[test]
    fn the_youngest_child_is_found_and_killed() {
        // Children are listed by the thread that started them; this test's is not the first.
        let own = std::process::id();
        assert_eq!(Worker::of(u32::MAX), None);
        let mut child = Command::new("sleep").arg("600").spawn().expect("it starts");
        let worker = Worker(libc::pid_t::try_from(child.id()).expect("an id"));
        assert_eq!(worker.id(), child.id());
        assert_ne!(worker.id(), own);
        worker.stop().expect("it is there");
        worker.go_on().expect("it is there");
        assert!(worker.is_alive());
        worker.kill().expect("it is there");
        let start = std::time::Instant::now();
        while worker.is_alive() {
            assert!(start.elapsed().as_secs() < 30, "it lives on");
        }
        let status = child.wait().expect("it ends");
        assert_eq!(status.signal(), Some(libc::SIGKILL));
        assert!(worker.kill().is_err() && !worker.is_alive());
    }
}
