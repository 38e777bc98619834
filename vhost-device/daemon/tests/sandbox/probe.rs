// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One process in one sandbox: how it is started, and what it says.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Output, Stdio};

use clap::ValueEnum;
use vhost_device_tmem::sandbox::{
    KeeperPlan, Mode, Reach, ThreadKind, enter_keeper, enter_thread, enter_worker,
};

use super::attempts::ATTEMPTS;
use super::place::{self, Paths, Place};

/// A number of a user that has nothing, on every system.
const NOBODY: u32 = 65_534;

/// How a probe is told what to do.
const TOLD: [&str; 6] = [
    "TMEM_PROBE_ROLE",
    "TMEM_PROBE_ATTEMPT",
    "TMEM_PROBE_MODE",
    "TMEM_PROBE_DIR",
    "TMEM_PROBE_STORE_PORT",
    "TMEM_PROBE_OTHER_PORT",
];

/// The descriptor that a probe inherits: a listening socket.
const LISTENER: i32 = 100;

/// An attempt that is made before the sandbox: a second thread.
pub(crate) const SECOND_THREAD: &str = "have a second thread";

const WORKED: &str = "outcome: worked";
const REFUSED: &str = "outcome: refused ";
const BROKE: &str = "outcome: broke ";
const REPORT: &str = "report: ";

/// Which sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// None: what is tried works there, so that it is the sandbox that prevents it elsewhere.
    Outside,
    /// The keeper's, started as root.
    Keeper,
    /// The keeper's, started as root without a user to become: nothing depends on file modes then.
    RootKeeper,
    /// The keeper's, started by a user without rights.
    UserKeeper,
    /// A worker's alone, so that nothing of the keeper's does its work.
    Worker,
    /// A worker's, started by a keeper in its sandbox.
    GuardedWorker,
    /// Of a thread of a worker.
    Thread(ThreadKind),
    /// The keeper's, started as root, with stores to be reached.
    StoresKeeper,
    /// A worker's alone, with stores to be reached.
    StoresWorker,
    /// A worker's, started by a keeper in its sandbox, with stores to be reached.
    StoresGuardedWorker,
    /// Of a thread of such a worker.
    StoresThread(ThreadKind),
}

impl Role {
    pub(crate) const ALL: [Self; 20] = [
        Self::Outside,
        Self::Keeper,
        Self::RootKeeper,
        Self::UserKeeper,
        Self::Worker,
        Self::GuardedWorker,
        Self::Thread(ThreadKind::Control),
        Self::Thread(ThreadKind::Connection),
        Self::Thread(ThreadKind::Admin),
        Self::Thread(ThreadKind::Queue),
        Self::Thread(ThreadKind::Mover),
        Self::Thread(ThreadKind::Stores),
        Self::StoresKeeper,
        Self::StoresWorker,
        Self::StoresGuardedWorker,
        Self::StoresThread(ThreadKind::Connection),
        Self::StoresThread(ThreadKind::Admin),
        Self::StoresThread(ThreadKind::Queue),
        Self::StoresThread(ThreadKind::Mover),
        Self::StoresThread(ThreadKind::Stores),
    ];

    pub(crate) fn needs_root(self) -> bool {
        let rooted = [
            Self::Outside,
            Self::Keeper,
            Self::RootKeeper,
            Self::StoresKeeper,
        ];
        rooted.contains(&self)
    }

    /// Whether it is a keeper, of whatever rights.
    pub(crate) fn keeps(self) -> bool {
        let keepers = [
            Self::Keeper,
            Self::RootKeeper,
            Self::UserKeeper,
            Self::StoresKeeper,
        ];
        keepers.contains(&self)
    }

    /// Whether there are stores to be reached.
    pub(crate) fn has_stores(self) -> bool {
        matches!(
            self,
            Self::StoresKeeper
                | Self::StoresWorker
                | Self::StoresGuardedWorker
                | Self::StoresThread(_)
        )
    }

    /// The thread that it is.
    pub(crate) fn thread(self) -> Option<ThreadKind> {
        match self {
            Self::Thread(kind) | Self::StoresThread(kind) => Some(kind),
            _ => None,
        }
    }

    fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.to_string() == name)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Outside => "outside",
            Self::Keeper => "keeper",
            Self::RootKeeper => "keeper that stays root",
            Self::UserKeeper => "keeper without rights",
            Self::Worker => "worker",
            Self::GuardedWorker => "worker of a keeper",
            Self::Thread(ThreadKind::Control) => "control thread",
            Self::Thread(ThreadKind::Connection) => "connection thread",
            Self::Thread(ThreadKind::Admin) => "admin thread",
            Self::Thread(ThreadKind::Queue) => "queue thread",
            Self::Thread(ThreadKind::Mover) => "mover thread",
            Self::Thread(ThreadKind::Stores) => "stores thread",
            Self::StoresKeeper => "keeper with stores",
            Self::StoresWorker => "worker with stores",
            Self::StoresGuardedWorker => "worker with stores of a keeper",
            Self::StoresThread(ThreadKind::Control) => "control thread with stores",
            Self::StoresThread(ThreadKind::Connection) => "connection thread with stores",
            Self::StoresThread(ThreadKind::Admin) => "admin thread with stores",
            Self::StoresThread(ThreadKind::Queue) => "queue thread with stores",
            Self::StoresThread(ThreadKind::Mover) => "mover thread with stores",
            Self::StoresThread(ThreadKind::Stores) => "stores thread with stores",
        })
    }
}

/// How a try went.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// It was done.
    Worked,
    /// An error came back.
    Refused(#[allow(dead_code, reason = "read by Debug")] String),
    /// The kernel ended the process for it.
    Killed,
    /// The sandbox was not entered, or the probe failed in another way.
    Broke(String),
}

pub(crate) fn is_root() -> bool {
    // SAFETY: geteuid takes nothing, touches nothing and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// Starts a probe and waits for what it says.
pub(crate) fn run(role: Role, attempt: &str, mode: &str) -> io::Result<Outcome> {
    let place = Place::new()?;
    let output = start(role, attempt, mode, &place)?;
    Ok(outcome(&output))
}

/// What a process says of its layers.
pub(crate) fn report(role: Role) -> Result<String, String> {
    let place = Place::new().map_err(|error| error.to_string())?;
    let output = start(role, "do nothing", "auto", &place).map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut report = text.lines().filter_map(|line| line.strip_prefix(REPORT));
    // A worker's comes after its keeper's.
    let last = report.next_back().map(str::to_owned);
    last.ok_or_else(|| format!("no report: {output:?}"))
}

fn start(role: Role, attempt: &str, mode: &str, place: &Place) -> io::Result<Output> {
    let mut command = Command::new(place::program()?);
    let dir = place.paths().0;
    let [store, other] = place.ports()?;
    let told = [
        role.to_string(),
        attempt.into(),
        mode.into(),
        dir.display().to_string(),
        store.to_string(),
        other.to_string(),
    ];
    command.env_clear().envs(TOLD.into_iter().zip(told));
    command.stdin(Stdio::null());
    if role == Role::UserKeeper && is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    hand_over(&mut command, place.listener());
    command.output()
}

/// Lets the child have `listener` under the number that it knows.
fn hand_over(command: &mut Command, listener: i32) {
    let hand = move || {
        // SAFETY: dup2 is safe between fork and exec, and the number is nobody else's.
        if unsafe { libc::dup2(listener, LISTENER) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    };
    // SAFETY: the closure makes one system call and touches no memory of others.
    unsafe { command.pre_exec(hand) };
}

fn outcome(output: &Output) -> Outcome {
    if output.status.signal() == Some(libc::SIGSYS) {
        return Outcome::Killed;
    }
    let text = String::from_utf8_lossy(&output.stdout);
    for line in text.lines() {
        if line == WORKED {
            return Outcome::Worked;
        }
        if let Some(error) = line.strip_prefix(REFUSED) {
            return Outcome::Refused(error.into());
        }
        if let Some(error) = line.strip_prefix(BROKE) {
            return Outcome::Broke(error.into());
        }
    }
    Outcome::Broke(format!("{output:?}"))
}

/// What this process is told to try, if it is a probe.
pub(crate) fn told() -> Option<Told> {
    let [role, attempt, mode, dir, store, other] = TOLD.map(std::env::var);
    Some(Told {
        role: Role::of(&role.ok()?)?,
        attempt: attempt.ok()?,
        mode: Mode::from_str(&mode.ok()?, true).ok()?,
        paths: Paths(PathBuf::from(dir.ok()?)),
        store_port: store.ok()?.parse().ok()?,
        other_port: other.ok()?.parse().ok()?,
    })
}

/// What a probe is told.
pub(crate) struct Told {
    role: Role,
    attempt: String,
    mode: Mode,
    paths: Paths,
    store_port: u16,
    other_port: u16,
}

/// What an attempt is made with.
pub(crate) struct Around {
    pub(crate) paths: Paths,
    pub(crate) listener: OwnedFd,
    /// TCP ports of a store, and of somebody else.
    pub(crate) store_port: u16,
    pub(crate) other_port: u16,
    /// The process that started this one, outside of every sandbox.
    pub(crate) parent: i32,
}

impl Told {
    /// Enters the sandbox, tries, and says how it went.
    pub(crate) fn run(self) -> ExitCode {
        // A worker that a keeper starts says so itself.
        match self.enter_and_try() {
            Ok(Some(line)) => println!("{line}"),
            Ok(None) => {}
            Err(error) => println!("{BROKE}{error}"),
        }
        ExitCode::SUCCESS
    }

    fn enter_and_try(self) -> Result<Option<String>, Box<dyn std::error::Error>> {
        // SAFETY: whoever started the probe has put an open listener there, for it alone.
        let listener = unsafe { OwnedFd::from_raw_fd(LISTENER) };
        let around = Around {
            paths: self.paths.clone(),
            listener,
            store_port: self.store_port,
            other_port: self.other_port,
            parent: std::os::unix::process::parent_id().try_into()?,
        };
        let second = (self.attempt == SECOND_THREAD).then(|| std::thread::spawn(std::thread::park));
        let attempt = ATTEMPTS.iter().find(|attempt| attempt.name == self.attempt);
        let tried = move || attempt.map_or(Ok(()), |attempt| (attempt.run)(&around));
        let result = match self.role {
            Role::Outside => tried(),
            Role::Keeper | Role::RootKeeper | Role::UserKeeper | Role::StoresKeeper => {
                self.keep()?;
                tried()
            }
            Role::GuardedWorker | Role::StoresGuardedWorker => {
                // As the keeper does, so that the file may be replaced meanwhile.
                let own = File::open("/proc/self/exe")?;
                self.keep()?;
                let worker = if self.role.has_stores() {
                    Role::StoresWorker
                } else {
                    Role::Worker
                };
                return start_worker(&own, worker).map(|()| None);
            }
            Role::Worker | Role::StoresWorker => {
                let report = enter_worker(self.mode, self.reach().as_ref())?;
                println!("{REPORT}{report}");
                tried()
            }
            Role::Thread(kind) | Role::StoresThread(kind) => {
                let mode = self.mode;
                let report = enter_worker(mode, self.reach().as_ref())?;
                println!("{REPORT}{report}");
                // As a device does it: often, and only the first time counts.
                let narrowed = move || {
                    enter_thread(mode, kind).and_then(|()| enter_thread(mode, kind))?;
                    Ok(tried())
                };
                let thread = std::thread::spawn(move || {
                    narrowed().map_err(|error: vhost_device_tmem::sandbox::Error| error.to_string())
                });
                thread.join().map_err(|_| "the thread panicked")??
            }
        };
        drop(second);
        Ok(Some(match result {
            Ok(()) => WORKED.into(),
            Err(error) => format!("{REFUSED}{error}"),
        }))
    }

    fn reach(&self) -> Option<Reach> {
        self.role.has_stores().then(|| Reach {
            ports: [self.store_port].into(),
            folders: [self.paths.stores()].into(),
        })
    }

    fn keep(&self) -> Result<(), Box<dyn std::error::Error>> {
        let plan = KeeperPlan {
            user: (self.role != Role::RootKeeper).then(|| "nobody".into()),
            writable_dirs: vec![self.paths.sockets()],
            trace_dir: None,
            executable: vec![self.paths.programs(), std::env::current_exe()?],
            reach: self.reach(),
        };
        println!("{REPORT}{}", enter_keeper(self.mode, &plan)?);
        Ok(())
    }
}

/// Goes on as a worker, in a new process of the same program.
fn start_worker(own: &File, role: Role) -> Result<(), Box<dyn std::error::Error>> {
    let mut command = Command::new(format!("/proc/self/fd/{}", own.as_raw_fd()));
    command.env(TOLD[0], role.to_string());
    hand_over(&mut command, LISTENER);
    let child = command.stdin(Stdio::null()).spawn()?;
    let status = child.wait_with_output()?.status;
    match status.signal() {
        // As if it had been this one.
        Some(libc::SIGSYS) => println!("{REFUSED}killed"),
        Some(signal) => return Err(format!("the worker ended by signal {signal}").into()),
        None => {}
    }
    Ok(())
}
