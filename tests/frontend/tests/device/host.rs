// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The daemon under test.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use rustix::process::Pid;
use tempfile::TempDir;
use tmem_frontend::{DaemonProcess, Ended};

use crate::manager::{Manager, hand_over};

/// How to start it.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) guests: usize,
    pub(crate) grant_pages: u64,
    pub(crate) queue_pairs: u16,
    pub(crate) poll_us: u32,
    /// Memory for pages, in KiB; enough for all grants without it.
    pub(crate) dram_kib: Option<u64>,
    /// Further lines of the `[daemon]` table.
    pub(crate) daemon: String,
    /// Further tables; `FOLDER` in them is the daemon's folder.
    pub(crate) tables: String,
    /// Further lines of each guest's table.
    pub(crate) guest: String,
    /// A folder of programs, removed at the end.
    pub(crate) programs: Option<PathBuf>,
    /// The service manager's socket.
    pub(crate) manager: Option<PathBuf>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            guests: 1,
            grant_pages: 1 << 14,
            queue_pairs: 2,
            poll_us: 20,
            dram_kib: None,
            daemon: String::new(),
            tables: String::new(),
            guest: String::new(),
            programs: None,
            manager: None,
        }
    }
}

/// A running daemon with a folder of its own.
pub(crate) struct Host {
    folder: TempDir,
    settings: Settings,
    process: Option<DaemonProcess>,
}

impl Host {
    /// One guest, ordinary settings.
    pub(crate) fn one() -> Self {
        Self::start(&Settings::default())
    }

    pub(crate) fn start(settings: &Settings) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let enough = settings.grant_pages * settings.guests as u64 * 4 + 4096;
        let dram = settings.dram_kib.unwrap_or(enough);
        let place = folder.path().display().to_string();
        let tables = settings.tables.replace("FOLDER", &place);
        let mut toml = format!(
            "[daemon]\ndram = \"{dram}KiB\"\npoll_us = {}\nadmin_socket = {:?}\n{}\n{tables}\n",
            settings.poll_us,
            folder.path().join("admin.sock"),
            settings.daemon.replace("FOLDER", &place),
        );
        for guest in 0..settings.guests {
            write!(
                toml,
                "[[guest]]\nname = \"vm{guest}\"\nsocket = {:?}\ngrant = \"{}KiB\"\n\
                 queue_pairs = {}\n{}\n",
                socket(folder.path(), guest),
                settings.grant_pages * 4,
                settings.queue_pairs,
                settings.guest,
            )
            .unwrap();
        }
        let config = folder.path().join("daemon.toml");
        fs::write(&config, toml).unwrap();
        fs::File::create(folder.path().join("log")).unwrap();
        let mut host = Self {
            folder,
            settings: settings.clone(),
            process: None,
        };
        host.run(Command::new(binary()));
        host
    }

    /// Starts the daemon by `command`, and waits until its sockets are there.
    fn run(&mut self, mut command: Command) {
        let log = fs::OpenOptions::new()
            .append(true)
            .open(self.folder().join("log"));
        command
            .arg("--config")
            .arg(self.folder().join("daemon.toml"))
            .args(["--log-level", "debug"])
            .stderr(Stdio::from(log.unwrap()));
        if let Some(manager) = &self.settings.manager {
            command.env("NOTIFY_SOCKET", manager);
        }
        let sockets: Vec<_> = (0..self.settings.guests).map(|g| self.socket(g)).collect();
        let sockets: Vec<&Path> = sockets.iter().map(PathBuf::as_path).collect();
        let process = DaemonProcess::start(&mut command, &sockets);
        self.process = Some(process.unwrap_or_else(|error| panic!("{error:?}\n{}", self.log())));
    }

    /// Ends the keeper, by SIGTERM or SIGKILL, and starts another with the descriptors that a service
    /// manager `keeps`.
    pub(crate) fn replace_keeper(&mut self, gently: bool, keeps: &Manager) {
        let mut process = self.process.take().unwrap();
        if gently {
            assert!(
                process.terminate().unwrap().status.success(),
                "{}",
                self.log()
            );
        }
        // Dropped, a process is killed.
        drop(process);
        self.run(hand_over(binary(), keeps.kept()));
    }

    /// Socket of a guest.
    pub(crate) fn socket(&self, guest: usize) -> PathBuf {
        let guests = self.settings.guests;
        assert!(guest < guests, "the host has {guests} guests");
        socket(self.folder.path(), guest)
    }

    /// Socket of the admin API.
    pub(crate) fn admin(&self) -> PathBuf {
        self.folder.path().join("admin.sock")
    }

    /// The folder of other programs.
    pub(crate) fn programs(&self) -> &Path {
        self.settings.programs.as_deref().unwrap()
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The keeper's process id.
    pub(crate) fn keeper(&self) -> u32 {
        self.process.as_ref().unwrap().id()
    }

    /// The worker's process id, if there is one at this moment.
    pub(crate) fn worker(&self) -> Option<Pid> {
        worker_of(self.keeper())
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
        if let Some(programs) = &self.settings.programs {
            // Left behind, it harms nobody.
            let _ = fs::remove_dir_all(programs);
        }
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

/// The worker that a keeper has at this moment.
pub(crate) fn worker_of(keeper: u32) -> Option<Pid> {
    let children = fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children")).ok()?;
    let last = children.split_whitespace().last()?;
    Pid::from_raw(last.parse().ok()?)
}

fn socket(folder: &Path, guest: usize) -> PathBuf {
    folder.join(format!("vm{guest}.sock"))
}

/// The daemon's program: `TMEM_DAEMON`, or built once by cargo in the profile of this test.
pub(crate) fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| program("vhost-device-tmem", "TMEM_DAEMON"))
}

/// The program of a package: what the `variable` says, or else built by cargo in the profile of this test.
pub(crate) fn program(package: &str, variable: &str) -> PathBuf {
    if let Some(path) = env::var_os(variable) {
        return path.into();
    }
    // target/PROFILE/deps/this-test
    let test = env::current_exe().unwrap();
    let profile = test.ancestors().nth(2).unwrap();
    let mut build = tmem_programs::cargo();
    // With the features that the tests of all crates were built with: hardly anything is left to build.
    build.args(["build", "--quiet", "--workspace", "--bin", package]);
    build.arg("--target-dir");
    build.arg(profile.parent().unwrap());
    if profile.ends_with("release") {
        build.arg("--release");
    }
    assert!(
        build.status().unwrap().success(),
        "cargo cannot build {package}"
    );
    profile.join(package)
}
