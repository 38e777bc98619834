// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A made-up daemon behind the real server.

use std::path::PathBuf;
use std::sync::Arc;

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
