// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The real program, and certificates that it made.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// The program.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_remote-store");

/// A store that runs until it is dropped.
pub(crate) struct Process {
    pub(crate) child: Child,
    /// What it listens on, in order.
    pub(crate) addresses: Vec<SocketAddr>,
    /// Where its metrics are.
    pub(crate) metrics: Option<SocketAddr>,
}

impl Process {
    /// Starts it and waits until it is ready.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let mut child = Command::new(PROGRAM)
            .arg("serve")
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let (mut addresses, mut metrics) = (Vec::new(), None);
        let mut ready = false;
        for line in out.lines() {
            let line = line.unwrap();
            if let Some(address) = line.strip_prefix("listening tcp://") {
                addresses.push(address.parse().unwrap());
            } else if let Some(address) = line.strip_prefix("metrics tcp://") {
                metrics = Some(address.parse().unwrap());
            } else if line == "ready" {
                ready = true;
                break;
            }
        }
        assert!(ready, "the store ended: {:?}", child.wait());
        Self {
            child,
            addresses,
            metrics,
        }
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args([signal, &pid]).status().unwrap();
        assert!(sent.success());
    }

    /// Kills it, as a crash does.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs `remote-store cert`.
pub(crate) fn cert(arguments: &[&str]) {
    let made = Command::new(PROGRAM).arg("cert").args(arguments).output();
    let made = made.unwrap();
    assert!(made.status.success(), "{made:?}");
}

/// A path, as an argument.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
