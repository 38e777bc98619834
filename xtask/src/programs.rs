// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Programs that tests and benchmarks of remote stores start beside ours. What the machine does not
//! have comes from the toolchain root, so that nothing is installed that would start a service.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use tempfile::TempDir;
use vm_images::{Cache, Consent, Prereqs, Progress, Toolchain};

/// Where the root has them.
const PROGRAMS: [&str; 6] = [
    "usr/bin/valkey-server",
    "usr/bin/valkey-cli",
    "usr/bin/etcd",
    "usr/bin/memcached",
    "usr/sbin/nft",
    "usr/bin/ip",
];

/// A `PATH` on which all of them are, for as long as this lives.
#[derive(Debug)]
pub(crate) struct Programs {
    path: OsString,
    _scripts: TempDir,
}

impl Programs {
    /// Finds them, or has the toolchain root made, which has them.
    pub(crate) fn ensure(consent: Consent) -> Result<Self> {
        let path = env::var_os("PATH").unwrap_or_default();
        let scripts = tempfile::tempdir().context("Cannot make a temporary folder")?;
        let mut folders = vec![scripts.path().to_owned()];
        folders.extend(env::split_paths(&path));
        let is_there = |program: &&str| {
            let name = Path::new(program).file_name().unwrap_or_default();
            folders.iter().any(|folder| folder.join(name).is_file())
        };
        let missing: Vec<&str> = (PROGRAMS.into_iter())
            .filter(|program| !is_there(program))
            .collect();
        if !missing.is_empty() {
            Prereqs::ensure(consent)?;
            let toolchain = Toolchain::ensure(&Cache::open()?, &Progress::stderr())?;
            for program in missing {
                toolchain.start_script(program, scripts.path())?;
            }
        }
        Ok(Self {
            path: env::join_paths(folders).context("Cannot put a folder on PATH")?,
            _scripts: scripts,
        })
    }

    /// One of them.
    pub(crate) fn find(&self, name: &str) -> Option<PathBuf> {
        let mut places = env::split_paths(&self.path).map(|folder| folder.join(name));
        places.find(|place| place.is_file())
    }

    /// Lets a command, and what it starts, find them.
    pub(crate) fn tell<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        command.env("PATH", &self.path)
    }
}
