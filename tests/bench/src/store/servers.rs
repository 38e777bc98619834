// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Servers, as processes that are pinned to one processor and end with the benchmark.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Lines};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::pipe::Address;
use crate::{Error, Result, pin};

/// How long a server may take to listen.
const START_MAX: Duration = Duration::from_secs(30);

/// How `remote-store` is started.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ours<'a> {
    pub(super) program: &'a Path,
    /// Pages that it keeps at most.
    pub(super) pages: u32,
    /// Microseconds that it polls before it sleeps.
    pub(super) poll_us: u32,
    /// On a Unix socket instead of TCP.
    pub(super) unix: bool,
    /// Folder with `ca.pem`, `server.pem` and `server.key`: TLS on both sides.
    pub(super) certificates: Option<&'a Path>,
}

/// A running server.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) name: &'static str,
    pub(super) address: Address,
    child: Child,
    _said: Option<Lines<BufReader<ChildStdout>>>,
    _folder: TempDir,
}

impl Server {
    /// Our store.
    pub(super) fn ours(options: Ours<'_>, processor: usize) -> Result<Self> {
        let folder = folder()?;
        let mut command = Command::new(options.program);
        command.arg("serve");
        let socket = folder.path().join("socket");
        let mut listen = OsString::from("unix:");
        listen.push(&socket);
        if options.unix {
            command.arg("--listen").arg(listen);
        } else {
            command.args(["--listen", "tcp://127.0.0.1:0"]);
        }
        command
            .args([
                "--capacity",
                &format!("{}KiB", u64::from(options.pages) * 4),
            ])
            .args(["--shards", "1", "--log-level", "warn"])
            .args(["--poll-us", &options.poll_us.to_string()]);
        if let Some(path) = options.certificates {
            command
                .arg("--cert")
                .arg(path.join("server.pem"))
                .arg("--key")
                .arg(path.join("server.key"))
                .arg("--client-ca")
                .arg(path.join("ca.pem"));
        }
        let mut child = start(&mut command, &folder, Stdio::piped(), processor)?;
        let stdout = child.stdout.take().expect("it is piped");
        let mut said = BufReader::new(stdout).lines();
        let mut address = Address::Unix(socket);
        for line in said.by_ref() {
            let line = line.map_err(Error::system("read what remote-store says"))?;
            if let Some(text) = line.strip_prefix("listening tcp://") {
                let parsed = text.parse().map_err(|_| refused("remote-store", &line))?;
                address = Address::Tcp(parsed);
            }
            if line == "ready" {
                return Ok(Self {
                    name: "remote-store",
                    address,
                    child,
                    _said: Some(said),
                    _folder: folder,
                });
            }
        }
        Err(Self::silent("remote-store", child, &folder))
    }

    /// Valkey, or Redis, without persistence: one thread serves.
    pub(super) fn valkey(program: &Path, processor: usize) -> Result<Self> {
        let (folder, port) = (folder()?, free_port()?);
        let mut command = Command::new(program);
        command
            .args(["--bind", "127.0.0.1", "--port", &port.to_string()])
            .args(["--save", "", "--appendonly", "no", "--daemonize", "no"])
            .args(["--io-threads", "1", "--loglevel", "warning", "--dir"])
            .arg(folder.path());
        Self::other("valkey-server", command, folder, port, processor)
    }

    /// memcached with one worker thread and room for so many pages.
    pub(super) fn memcached(program: &Path, pages: u32, processor: usize) -> Result<Self> {
        let (folder, port) = (folder()?, free_port()?);
        let megabytes = u64::from(pages) * 6 / 1024 + 64;
        let mut command = Command::new(program);
        command
            .args(["-l", "127.0.0.1", "-p", &port.to_string(), "-U", "0"])
            .args(["-t", "1", "-M", "-m", &megabytes.to_string()]);
        if rustix::process::geteuid().is_root() {
            command.args(["-u", "root"]);
        }
        Self::other("memcached", command, folder, port, processor)
    }

    fn other(
        name: &'static str,
        mut command: Command,
        folder: TempDir,
        port: u16,
        processor: usize,
    ) -> Result<Self> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut child = start(&mut command, &folder, Stdio::null(), processor)?;
        let begun = Instant::now();
        while TcpStream::connect(address).is_err() {
            let gone = !matches!(child.try_wait(), Ok(None));
            if gone || begun.elapsed() > START_MAX {
                return Err(Self::silent(name, child, &folder));
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(Self {
            name,
            address: Address::Tcp(address),
            child,
            _said: None,
            _folder: folder,
        })
    }

    /// A server that does not listen: what it said last is why.
    fn silent(name: &'static str, mut child: Child, folder: &TempDir) -> Error {
        // It may be gone already.
        let _ = child.kill();
        let _ = child.wait();
        let log = fs::read_to_string(folder.path().join("log")).unwrap_or_default();
        let last = log.lines().rev().take(3).collect::<Vec<_>>().join("; ");
        refused(name, &format!("nothing when it was started: {last}"))
    }

    pub(super) fn process(&self) -> u32 {
        self.child.id()
    }

    /// Bytes of memory that it uses, shared memory included.
    pub(super) fn memory(&self) -> Result<u64> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.process()))
            .map_err(Error::system("read a server's memory"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        kilobytes
            .map(|kilobytes| kilobytes * 1024)
            .ok_or_else(|| refused(self.name, "no memory"))
    }

    /// How long all of its threads have run so far.
    pub(super) fn busy(&self) -> Duration {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.process()));
        let nanoseconds = (tasks.into_iter().flatten().flatten())
            .filter_map(|task| fs::read_to_string(task.path().join("schedstat")).ok())
            .filter_map(|text| text.split_whitespace().next()?.parse::<u64>().ok())
            .sum();
        Duration::from_nanos(nanoseconds)
    }

    /// Stops it as a scheduler that forgets it would, or lets it go on.
    pub(super) fn freeze(&self, frozen: bool) -> Result<()> {
        let signal = if frozen { Signal::STOP } else { Signal::CONT };
        let process = i32::try_from(self.process())
            .ok()
            .and_then(Pid::from_raw)
            .ok_or_else(|| refused(self.name, "no process"))?;
        kill_process(process, signal).map_err(Error::system("signal a server"))
    }

    /// kill -9.
    pub(super) fn kill(&mut self) -> Result<()> {
        self.child.kill().map_err(Error::system("kill a server"))?;
        (self.child.wait().map(drop)).map_err(Error::system("wait for a server"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have been killed already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn refused(what: &'static str, answer: &str) -> Error {
    Error::Refused {
        what,
        answer: answer.to_owned(),
    }
}

fn folder() -> Result<TempDir> {
    tempfile::tempdir().map_err(Error::system("make a folder for a server"))
}

fn start(
    command: &mut Command,
    folder: &TempDir,
    stdout: Stdio,
    processor: usize,
) -> Result<Child> {
    let log = File::create(folder.path().join("log")).map_err(Error::system("make a log"))?;
    command.stdin(Stdio::null()).stdout(stdout).stderr(log);
    pin::on(processor, || command.spawn())?.map_err(Error::system("start a server"))
}

fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .map_err(Error::system("find a free port"))?;
    Ok(listener.port())
}
