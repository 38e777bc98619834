// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How the daemon's processes give up what they do not need.
//!
//! ```text
//! keeper   bind, open, look up names      with the rights it was started with
//!          check_limits                   room for every guest, or a clear refusal
//!          enter_keeper                   namespaces, identity, capabilities, no-new-privs, Landlock, seccomp
//!            └─ exec worker               inherits all of it
//!                 enter_worker            no file system, no new sockets, no exec
//!                   └─ enter_thread       what this kind of thread calls, and nothing else
//! ```
//! Each step can only take away, so the order is from the widest to the narrowest, and each step is
//! taken before the next has threads: Landlock and seccomp bind the calling thread and what it
//! starts, so a thread that ran already would stay outside.
//!
//! # What is in the folder
//! | file | subject |
//! | --- | --- |
//! | `limits` | the process's own limits against the number of guests |
//! | `identity`, `capabilities`, `privileges` | who the process is, and that it can never be more |
//! | `namespaces`, `tree` | a network without interfaces, a file tree with next to nothing in it |
//! | `files` | Landlock: which files may be touched, whom signals may reach |
//! | `seccomp` | which system calls exist at all |
//! | `binary` | whether a program may be started as a worker |
//!
//! # With remote stores
//! A worker whose remote tier is on stores has to connect to them, and for that alone the fence has a
//! gate, a [`Reach`]: TCP to some ports, Unix sockets in some folders. Ports keep the host's network in
//! sight, so the namespace of the network is left out then; Landlock keeps to the ports, and seccomp to
//! stream sockets that connect. Nothing may listen, and no datagram leaves. Without a `Reach` there is
//! no gate.
//!
//! # What it must not do
//! Hide that something is missing. In [`Mode::Auto`] a layer that the kernel or the process's rights
//! do not allow is named in the [`Report`] with its reason; in [`Mode::Strict`] it is an error. A
//! layer that fails half-way is an error in both.

mod binary;
mod capabilities;
mod files;
mod identity;
mod limits;
mod namespaces;
mod privileges;
mod report;
mod seccomp;
mod tree;

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use binary::{BinaryError, TrustedBinary, trusted_binary};
pub use limits::{Demand, LimitError, check_limits};
pub use report::{Layer, LayerState, Report, State};
pub use seccomp::{ThreadKind, enter_thread};

/// How much of the sandbox is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Nothing: for debuggers, and for finding out which system call a worker died of.
    None,
    /// Every layer that the kernel and the process's rights allow; what is missing is reported.
    #[default]
    Auto,
    /// Every layer, or the daemon does not start.
    Strict,
}

/// What the keeper must still reach once it is sandboxed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeeperPlan {
    /// The user to become when started as root. Its supplementary groups are taken too.
    pub user: Option<String>,
    /// Folders of the sockets: files in them can be removed and sockets made, nothing else.
    pub writable_dirs: Vec<PathBuf>,
    /// The folder of page traces: files can be made in it.
    pub trace_dir: Option<PathBuf>,
    /// Files, and folders of files, that may be started.
    pub executable: Vec<PathBuf>,
    /// What workers must be able to connect to, if anything.
    pub reach: Option<Reach>,
}

/// What a worker may connect to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// TCP ports, of any host.
    pub ports: BTreeSet<u16>,
    /// Folders of Unix sockets.
    pub folders: BTreeSet<PathBuf>,
}

impl Reach {
    /// Whether it needs the host's network.
    fn is_beyond_files(&self) -> bool {
        !self.ports.is_empty()
    }
}

/// Why a process does not enter its sandbox. It must not go on then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A layer that strict mode asks for is not to be had.
    #[error(
        "Cannot enter the sandbox's layer {layer}: {reason}; give the daemon what is missing, or start it with --sandbox auto"
    )]
    Missing {
        /// The layer.
        layer: Layer,
        /// Why.
        reason: String,
    },
    /// A step failed that should have worked.
    #[error("Cannot enter the sandbox's layer {layer}: {step} failed; --sandbox none does without")]
    Failed {
        /// The layer.
        layer: Layer,
        /// What was tried.
        step: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// Threads that run already would stay outside.
    #[error("Cannot enter the sandbox with {0} threads running; it must come before the second")]
    Threads(usize),
    /// The number of threads cannot be found out.
    #[error("Cannot count this process's threads in /proc/self/task; mount /proc")]
    Proc(#[source] io::Error),
}

/// Why a layer was not entered.
#[derive(Debug)]
enum Absent {
    /// The kernel or the process's rights do not allow it. Nothing was changed that matters.
    Reason(String),
    /// It was begun and could not be finished.
    Broke { step: String, source: io::Error },
}

impl Absent {
    /// A failed step, from any error that the kernel or a library gives.
    fn broke(step: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let step = step.into();
        move |source| Self::Broke { step, source }
    }
}

/// Sandboxes the keeper: call with one thread, after its sockets are bound and its files are open,
/// before the first worker is started.
///
/// As root it takes a mount, network, IPC and UTS namespace of its own, then becomes `plan.user`.
/// Afterwards it sees the system's libraries, `plan.executable`, `plan.writable_dirs`, its own
/// processes in `/proc`, and `/dev/null`. Names of users and groups and host names cannot be looked
/// up any more.
///
/// # Errors
/// [`Error`]. The process may have given up part of its rights, so it must end.
pub fn enter_keeper(mode: Mode, plan: &KeeperPlan) -> Result<Report, Error> {
    if mode == Mode::None {
        return Ok(Report::none());
    }
    refuse_threads()?;
    // While the user database can be read.
    let target = identity::Target::choose(plan.user.as_deref());
    let mut steps = report::Steps::new(mode);
    steps.take(Layer::Namespaces, || namespaces::enter(plan))?;
    // Takes a capability, and changing the identity takes those away.
    let bounded = capabilities::empty_bounding_set();
    steps.take(Layer::Identity, || target?.become_it())?;
    steps.take(Layer::Capabilities, || {
        bounded.and_then(|()| capabilities::drop_all())
    })?;
    steps.take(Layer::NoNewPrivileges, privileges::fix)?;
    steps.take(Layer::Landlock, || files::restrict_keeper(plan))?;
    let reach = plan.reach.as_ref();
    steps.take(Layer::Seccomp, || seccomp::restrict_keeper(reach))?;
    Ok(steps.report())
}

/// Sandboxes a worker, on top of the keeper's sandbox that it was started in: call with one thread,
/// first thing, when every descriptor that it will need has been handed over or opened. It can connect
/// to nothing but `reach`, and not even to that if its keeper was not told the same.
///
/// # Errors
/// [`Error`]. The process must end.
pub fn enter_worker(mode: Mode, reach: Option<&Reach>) -> Result<Report, Error> {
    if mode == Mode::None {
        return Ok(Report::none());
    }
    refuse_threads()?;
    let mut steps = report::Steps::new(mode);
    steps.take(Layer::Namespaces, || namespaces::inherited(reach))?;
    steps.take(Layer::Identity, identity::unprivileged)?;
    steps.take(Layer::Capabilities, capabilities::drop_all)?;
    steps.take(Layer::NoNewPrivileges, privileges::fix)?;
    steps.take(Layer::Landlock, || files::restrict_worker(reach))?;
    steps.take(Layer::Seccomp, || seccomp::restrict_worker(reach))?;
    Ok(steps.report())
}

/// The user and group that [`KeeperPlan::user`] stands for; nothing if this process will not become it,
/// because it is not root or there is no such user.
#[must_use]
pub fn user_to_become(name: &str) -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let name = std::ffi::CString::new(name).ok()?;
    identity::ids(&name).ok().flatten()
}

fn refuse_threads() -> Result<(), Error> {
    let threads = std::fs::read_dir("/proc/self/task")
        .map_err(Error::Proc)?
        .count();
    if threads > 1 {
        return Err(Error::Threads(threads));
    }
    Ok(())
}
