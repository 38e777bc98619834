// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A made-up daemon behind the real server, and a socket whose answers are scripted.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Value;
use vhost_device_tmem::admin::{Access, Limits, Server, bind};
use vhost_device_tmem::sandbox::Mode;

use crate::fake::FakeSource;
use crate::ran::{Ran, run};

pub(crate) struct Daemon {
    pub(crate) socket: PathBuf,
    _server: Server,
    _dir: tempfile::TempDir,
}

impl Daemon {
    pub(crate) fn start(source: FakeSource, access: Access) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("admin.sock");
        let listener = bind(&socket, None).unwrap();
        let limits = Limits::default();
        let server = Server::start(listener, access, limits, Mode::None, Arc::new(source));
        Self {
            socket,
            _server: server.unwrap(),
            _dir: dir,
        }
    }

    /// One that everybody may ask who runs the tests.
    pub(crate) fn of(source: FakeSource) -> Self {
        Self::start(source, Access::new(None))
    }

    pub(crate) fn healthy() -> Self {
        Self::of(FakeSource::healthy())
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        run(&self.socket, arguments)
    }

    /// Runs a command as it is typed, after the program's name.
    pub(crate) fn line(&self, line: &str) -> Ran {
        self.run(&line.split_whitespace().collect::<Vec<_>>())
    }
}

/// An admin socket, open whether or not anybody answers on it, as a keeper has it; and answers that a
/// test chooses, one connection each.
pub(crate) struct Scripted {
    pub(crate) listener: UnixListener,
    pub(crate) socket: PathBuf,
    _dir: tempfile::TempDir,
}

impl Scripted {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("admin.sock");
        Self {
            listener: UnixListener::bind(&socket).unwrap(),
            socket,
            _dir: dir,
        }
    }

    /// Answers the next caller, or hangs up on it, and returns what it asked.
    pub(crate) fn answer(&self, answer: Option<(&str, Value)>) -> String {
        let (mut stream, _) = self.listener.accept().unwrap();
        let mut asked = [0; 4096];
        let count = stream.read(&mut asked).unwrap();
        if let Some((status, body)) = answer {
            let body = body.to_string();
            let length = body.len();
            write!(
                stream,
                "HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{body}"
            )
            .unwrap();
        }
        let asked = String::from_utf8_lossy(&asked[..count]);
        asked.lines().next().unwrap_or_default().to_owned()
    }
}
