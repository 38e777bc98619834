// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The daemon under test.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use tempfile::TempDir;
use tmem_frontend::{DaemonProcess, Ended};

/// How to start it.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) guests: usize,
    pub(crate) grant_pages: u64,
    pub(crate) queue_pairs: u16,
    pub(crate) poll_us: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            guests: 1,
            grant_pages: 1 << 14,
            queue_pairs: 2,
            poll_us: 20,
        }
    }
}

/// A running daemon with a folder of its own.
pub(crate) struct Host {
    folder: TempDir,
    guests: usize,
    process: Option<DaemonProcess>,
}

impl Host {
    /// One guest, ordinary settings.
    pub(crate) fn one() -> Self {
        Self::start(&Settings::default())
    }

    pub(crate) fn start(settings: &Settings) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let dram = settings.grant_pages * settings.guests as u64 * 4 + 4096;
        let mut toml = format!(
            "[daemon]\ndram = \"{dram}KiB\"\npoll_us = {}\n",
            settings.poll_us
        );
        for guest in 0..settings.guests {
            write!(
                toml,
                "[[guest]]\nname = \"vm{guest}\"\nsocket = {:?}\ngrant = \"{}KiB\"\n\
                 queue_pairs = {}\n",
                socket(folder.path(), guest),
                settings.grant_pages * 4,
                settings.queue_pairs
            )
            .unwrap();
        }
        let config = folder.path().join("daemon.toml");
        fs::write(&config, toml).unwrap();
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let sockets: Vec<_> = (0..settings.guests)
            .map(|g| socket(folder.path(), g))
            .collect();
        let sockets: Vec<&Path> = sockets.iter().map(PathBuf::as_path).collect();
        let mut command = Command::new(binary());
        command
            .arg("--config")
            .arg(config)
            .args(["--log-level", "debug"]);
        command.stderr(Stdio::from(log));
        let process = DaemonProcess::start(&mut command, &sockets);
        let text = fs::read_to_string(folder.path().join("log")).unwrap();
        let process = process.unwrap_or_else(|error| panic!("{error:?}\n{text}"));
        Self {
            folder,
            guests: settings.guests,
            process: Some(process),
        }
    }

    /// Socket of a guest.
    pub(crate) fn socket(&self, guest: usize) -> PathBuf {
        assert!(guest < self.guests, "the host has {} guests", self.guests);
        socket(self.folder.path(), guest)
    }

    /// Ends the daemon by SIGTERM.
    pub(crate) fn terminate(mut self) -> Ended {
        let mut process = self.process.take().unwrap();
        assert!(
            process.is_running().unwrap(),
            "the daemon died:\n{}",
            self.log()
        );
        let ended = process.terminate().unwrap();
        assert!(
            !self.log().contains("panicked"),
            "the daemon panicked:\n{}",
            self.log()
        );
        ended
    }

    /// What the daemon has logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let Some(mut process) = self.process.take() else {
            return;
        };
        if std::thread::panicking() {
            eprintln!("the daemon's log:\n{}", self.log());
            return;
        }
        assert!(
            process.is_running().unwrap(),
            "the daemon died:\n{}",
            self.log()
        );
        let ended = process.terminate().unwrap();
        assert!(
            ended.status.success(),
            "{:?}:\n{}",
            ended.status,
            self.log()
        );
        assert!(
            !self.log().contains("panicked"),
            "the daemon panicked:\n{}",
            self.log()
        );
    }
}

fn socket(folder: &Path, guest: usize) -> PathBuf {
    folder.join(format!("vm{guest}.sock"))
}

/// The daemon's program: `TMEM_DAEMON`, or built once by cargo in the profile of this test.
fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if let Some(path) = env::var_os("TMEM_DAEMON") {
            return path.into();
        }
        // target/PROFILE/deps/this-test
        let test = env::current_exe().unwrap();
        let profile = test.ancestors().nth(2).unwrap();
        let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut build = Command::new(cargo);
        build.args([
            "build",
            "--quiet",
            "--package",
            "vhost-device-tmem",
            "--target-dir",
        ]);
        build.arg(profile.parent().unwrap());
        if profile.ends_with("release") {
            build.arg("--release");
        }
        assert!(
            build.status().unwrap().success(),
            "cargo cannot build the daemon"
        );
        profile.join("vhost-device-tmem")
    })
}
