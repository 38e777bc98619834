// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! seccomp: which system calls exist.
//!
//! ```text
//! keeper          starts processes, makes Unix sockets, opens what Landlock lets it
//!   └ worker      neither; has its descriptors, talks, accepts, starts threads
//!       ├ Control      all of that: it starts the others
//!       ├ Connection   talks on its socket and maps what it is sent
//!       ├ Admin        accepts and talks
//!       ├ Queue        memory, event descriptors, waiting, the tiers' files
//!       ├ Mover        the same, without a guest
//!       └ Stores       the same, and talks on sockets that it connects
//! ```
//! Where there are stores to be connected to, Queue and Mover do that too.
//!
//! Filters add up: a call must please all of them. One that a filter does not know ends the process
//! (SIGSYS), since it comes from a defect or from an attacker, and a worker is started anew. The
//! kernel logs its number: `type=1326 … syscall=N` in the audit log or `dmesg`. `--sandbox none` runs
//! without, for finding out under a tracer. Calls that libraries try in vain, such as looking for a
//! file while panicking, are answered with an error instead.

mod calls;
mod rules;

use std::cell::Cell;
use std::io;
use std::sync::OnceLock;

use seccompiler::{
    BackendError, BpfProgram, Error as SeccompError, SeccompAction, SeccompFilter, apply_filter,
};

use self::rules::Rules;
use super::{Absent, Error, Layer, Mode, Reach, State};

/// What a worker's thread is for, and so what it may call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ThreadKind {
    /// Starts and ends the others: no less than the worker itself.
    Control,
    /// Answers one VMM's control messages.
    Connection,
    /// Serves a guest's queues.
    Queue,
    /// Serves the admin API.
    Admin,
    /// Moves pages between tiers.
    Mover,
    /// Watches the stores of the remote tier, and repairs what lies on them.
    Stores,
}

/// Which sockets may be connected.
#[derive(Clone, Copy, Debug, Default)]
struct Streams {
    tcp: bool,
    unix: bool,
}

impl Streams {
    fn of(reach: Option<&Reach>) -> Self {
        reach.map_or_else(Self::default, |reach| Self {
            tcp: !reach.ports.is_empty(),
            unix: !reach.folders.is_empty(),
        })
    }

    const fn any(self) -> bool {
        self.tcp || self.unix
    }
}

/// Those of this process, once it is a worker in its sandbox: its threads follow from that.
static STREAMS: OnceLock<Streams> = OnceLock::new();

thread_local! {
    /// What this thread has narrowed itself to.
    static ENTERED: Cell<Option<ThreadKind>> = const { Cell::new(None) };
}

/// Narrows the calling thread, and those that it starts, to what its kind calls. Call it first thing
/// in the thread, or again at any time, which costs next to nothing.
///
/// # Errors
/// [`Error::Failed`] if the kernel does not take the filter; in [`Mode::Auto`] a kernel without
/// seccomp is none.
pub fn enter_thread(mode: Mode, kind: ThreadKind) -> Result<(), Error> {
    if mode == Mode::None || ENTERED.get() == Some(kind) {
        return Ok(());
    }
    match program(kind).and_then(|program| program.map_or(Ok(()), apply)) {
        Ok(()) => {}
        // enter_worker has reported this.
        Err(Absent::Reason(_)) if mode == Mode::Auto => {}
        Err(Absent::Reason(reason)) => {
            let layer = Layer::Seccomp;
            return Err(Error::Missing { layer, reason });
        }
        Err(Absent::Broke { step, source }) => {
            let layer = Layer::Seccomp;
            return Err(Error::Failed {
                layer,
                step,
                source,
            });
        }
    }
    ENTERED.set(Some(kind));
    Ok(())
}

/// The filter of a kind of thread, made once for the process.
fn program(kind: ThreadKind) -> Result<Option<&'static BpfProgram>, Absent> {
    static PROGRAMS: [OnceLock<BpfProgram>; 5] = [const { OnceLock::new() }; 5];
    let cell = match kind {
        ThreadKind::Control => return Ok(None),
        ThreadKind::Connection => &PROGRAMS[0],
        ThreadKind::Queue => &PROGRAMS[1],
        ThreadKind::Admin => &PROGRAMS[2],
        ThreadKind::Mover => &PROGRAMS[3],
        ThreadKind::Stores => &PROGRAMS[4],
    };
    if cell.get().is_none() {
        let program = thread_rules(kind)
            .and_then(|rules| compile(rules, SeccompAction::KillProcess, SeccompAction::Allow))
            .map_err(uncompiled)?;
        // If another thread was faster, its program is the same.
        let _ = cell.set(program);
    }
    Ok(cell.get())
}

fn thread_rules(kind: ThreadKind) -> Result<Rules, BackendError> {
    let mut rules = Rules::new();
    rules::always(&mut rules, &[calls::THREAD, calls::THREAD_OLD]);
    // The worker's filter answers these with an error, which this one must not forestall.
    rules::always(&mut rules, &[calls::REFUSED, calls::REFUSED_OLD]);
    rules::always(&mut rules, &[&[libc::SYS_ioctl, libc::SYS_prctl]]);
    rules::plain_memory(&mut rules)?;
    rules::own_signals(&mut rules)?;
    match kind {
        ThreadKind::Queue | ThreadKind::Control | ThreadKind::Mover | ThreadKind::Stores => {
            rules::always(&mut rules, &[calls::STORE]);
            let streams = STREAMS.get().copied().unwrap_or_default();
            if streams.any() {
                rules::always(&mut rules, &[calls::CONNECT]);
                rules::streams(&mut rules, streams.tcp, streams.unix)?;
                rules::stream_options(&mut rules)?;
            } else {
                rules::ask_for_descriptor(&mut rules)?;
            }
        }
        ThreadKind::Connection => {
            rules::always(&mut rules, &[calls::TALK, calls::SERVE]);
        }
        ThreadKind::Admin => {
            // It changes tiers' sizes.
            rules::always(&mut rules, &[calls::TALK, calls::ACCEPT, calls::STORE]);
        }
    }
    Ok(rules)
}

fn worker_rules(streams: Streams) -> Result<Rules, BackendError> {
    let mut rules = Rules::new();
    rules::always(&mut rules, &[calls::THREAD, calls::THREAD_OLD]);
    rules::always(&mut rules, &[calls::REFUSED, calls::REFUSED_OLD]);
    rules::always(&mut rules, &[calls::TALK, calls::SERVE, calls::ACCEPT]);
    rules::always(
        &mut rules,
        &[calls::START, calls::STORE, &[libc::SYS_ioctl]],
    );
    rules::plain_memory(&mut rules)?;
    rules::own_signals(&mut rules)?;
    rules::threads(&mut rules)?;
    rules::own_limits(&mut rules)?;
    if streams.any() {
        rules::always(&mut rules, &[calls::CONNECT]);
        rules::streams(&mut rules, streams.tcp, streams.unix)?;
    }
    Ok(rules)
}

fn keeper_rules(streams: Streams) -> Result<Rules, BackendError> {
    let mut rules = Rules::new();
    // Of its workers; it has Unix sockets of its own in any case.
    rules::streams(&mut rules, streams.tcp, false)?;
    rules::threads(&mut rules)?;
    rules::processes(&mut rules)?;
    rules::loaders_memory(&mut rules)?;
    rules::always(&mut rules, &[calls::THREAD, calls::THREAD_OLD]);
    rules::always(&mut rules, &[calls::REFUSED, calls::REFUSED_OLD]);
    rules::always(&mut rules, &[calls::TALK, calls::SERVE, calls::ACCEPT]);
    rules::always(
        &mut rules,
        &[calls::START, calls::STORE, calls::KEEPER, calls::KEEPER_OLD],
    );
    rules::always(&mut rules, &[&[libc::SYS_ioctl]]);
    Ok(rules)
}

/// Leaves the keeper, and what it starts, the calls of the keeper.
pub(super) fn restrict_keeper(reach: Option<&Reach>) -> Result<State, Absent> {
    let mut refused = Rules::new();
    rules::refused_options(&mut refused, true).map_err(uncompiled)?;
    restrict(refused, keeper_rules(Streams::of(reach)))
}

/// Leaves a worker the calls of a worker.
pub(super) fn restrict_worker(reach: Option<&Reach>) -> Result<State, Absent> {
    // A process becomes a worker once.
    let streams = *STREAMS.get_or_init(|| Streams::of(reach));
    let mut refused = Rules::new();
    rules::always(&mut refused, &[calls::REFUSED, calls::REFUSED_OLD]);
    rules::stat_by_path(&mut refused)
        .and_then(|()| rules::refused_options(&mut refused, false))
        .map_err(uncompiled)?;
    restrict(refused, worker_rules(streams))
}

fn restrict(refused: Rules, allowed: Result<Rules, BackendError>) -> Result<State, Absent> {
    let mut unknown = Rules::new();
    rules::always(&mut unknown, &[&[libc::SYS_clone3]]);
    let (nosys, perm) = (libc::ENOSYS.unsigned_abs(), libc::EPERM.unsigned_abs());
    let programs = [
        compile(unknown, SeccompAction::Allow, SeccompAction::Errno(nosys)),
        compile(refused, SeccompAction::Allow, SeccompAction::Errno(perm)),
        allowed
            .and_then(|allowed| compile(allowed, SeccompAction::KillProcess, SeccompAction::Allow)),
    ];
    // All are made before one holds.
    let programs = programs
        .into_iter()
        .collect::<Result<Vec<_>, _>>()
        .map_err(uncompiled)?;
    for program in &programs {
        apply(program)?;
    }
    Ok(State::Entered)
}

fn compile(
    rules: Rules,
    otherwise: SeccompAction,
    matching: SeccompAction,
) -> Result<BpfProgram, BackendError> {
    let machine = std::env::consts::ARCH.try_into()?;
    SeccompFilter::new(rules, otherwise, matching, machine)?.try_into()
}

fn apply(program: &BpfProgram) -> Result<(), Absent> {
    apply_filter(program).map_err(|error| match error {
        SeccompError::Seccomp(error) if error.raw_os_error() == Some(libc::ENOSYS) => {
            Absent::Reason("the kernel has no seccomp filters".into())
        }
        SeccompError::Seccomp(error) | SeccompError::Prctl(error) => {
            Absent::broke("applying a filter")(error)
        }
        error => Absent::broke("applying a filter")(io::Error::other(error)),
    })
}

fn uncompiled(error: BackendError) -> Absent {
    match error {
        BackendError::InvalidTargetArch(machine) => {
            Absent::Reason(format!("there is no list of system calls for {machine}"))
        }
        error => Absent::broke("making a filter")(io::Error::other(error)),
    }
}
