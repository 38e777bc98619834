// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! System calls whose arguments decide.

use std::collections::BTreeMap;

use libc::{c_int, c_long};
use seccompiler::{BackendError, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompRule};

/// System calls, each with the rules of which one must match; without rules it always matches.
pub(super) type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Flags of `clone` that make a namespace.
const NAMESPACES: c_int = libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET;

/// Flags that stand beside a socket's type.
const SOCKET_FLAGS: c_int = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;

/// What the standard library sets on a descriptor, and a look at whether it is a terminal.
const IOCTLS: [u64; 3] = [libc::FIONBIO, libc::FIOCLEX, libc::TCGETS];

/// What a worker may set of itself.
const PRCTLS_WORKER: [c_int; 5] = [
    // Sleeps that end when they should.
    libc::PR_SET_TIMERSLACK,
    libc::PR_SET_NAME,
    libc::PR_GET_NAME,
    libc::PR_SET_VMA,
    libc::PR_SET_NO_NEW_PRIVS,
];

/// What a process may set of itself before it is sandboxed as a worker.
const PRCTLS_KEEPER: [c_int; 9] = [
    libc::PR_SET_PDEATHSIG,
    libc::PR_SET_DUMPABLE,
    libc::PR_GET_DUMPABLE,
    libc::PR_GET_NO_NEW_PRIVS,
    libc::PR_GET_SECCOMP,
    libc::PR_CAPBSET_READ,
    libc::PR_CAPBSET_DROP,
    libc::PR_CAP_AMBIENT,
    libc::PR_SET_CHILD_SUBREAPER,
];

/// Adds calls that are allowed whatever their arguments.
pub(super) fn always(rules: &mut Rules, calls: &[&[c_long]]) {
    for call in calls.iter().copied().flatten() {
        rules.insert(*call, Vec::new());
    }
}

/// Memory that is not executable.
pub(super) fn plain_memory(rules: &mut Rules) -> Result<(), BackendError> {
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        only(rules, call, vec![unset(2, libc::PROT_EXEC)?])?;
    }
    Ok(())
}

/// Memory that is executable or writable, not both: a loader needs no more.
pub(super) fn loaders_memory(rules: &mut Rules) -> Result<(), BackendError> {
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        for flag in [libc::PROT_EXEC, libc::PROT_WRITE] {
            only(rules, call, vec![unset(2, flag)?])?;
        }
    }
    Ok(())
}

/// Signals to threads of this process: an abort is one.
pub(super) fn own_signals(rules: &mut Rules) -> Result<(), BackendError> {
    only(
        rules,
        libc::SYS_tgkill,
        vec![equal(0, u64::from(std::process::id()))?],
    )
}

/// Whether a descriptor is open: builds with debug assertions ask before they close it.
pub(super) fn ask_for_descriptor(rules: &mut Rules) -> Result<(), BackendError> {
    let ask = u64::from(libc::F_GETFD.unsigned_abs());
    only(rules, libc::SYS_fcntl, vec![equal(1, ask)?])
}

/// Looking at a file by its path, instead of by its descriptor; refused.
pub(super) fn stat_by_path(rules: &mut Rules) -> Result<(), BackendError> {
    for (call, flags) in [(libc::SYS_newfstatat, 3), (libc::SYS_statx, 2)] {
        only(rules, call, vec![unset(flags, libc::AT_EMPTY_PATH)?])?;
    }
    Ok(())
}

/// New threads, and that they get names and a narrower sandbox. `clone3` keeps its flags in memory,
/// where no filter sees them; it is refused elsewhere in a way that makes libraries use `clone`.
pub(super) fn threads(rules: &mut Rules) -> Result<(), BackendError> {
    only(
        rules,
        libc::SYS_clone,
        vec![set(0, libc::CLONE_THREAD)?, unset(0, NAMESPACES)?],
    )?;
    always(rules, &[&[libc::SYS_clone3, libc::SYS_prctl]]);
    only(
        rules,
        libc::SYS_seccomp,
        vec![
            equal(0, libc::SECCOMP_SET_MODE_FILTER.into())?,
            equal(1, 0)?,
        ],
    )?;
    only(
        rules,
        libc::SYS_socketpair,
        vec![equal(0, u64::from(libc::AF_UNIX.unsigned_abs()))?],
    )
}

/// Reading one's own limits.
pub(super) fn own_limits(rules: &mut Rules) -> Result<(), BackendError> {
    only(rules, libc::SYS_prlimit64, vec![equal(0, 0)?, equal(2, 0)?])
}

/// New processes in the namespaces that there are, and Unix sockets.
pub(super) fn processes(rules: &mut Rules) -> Result<(), BackendError> {
    only(rules, libc::SYS_clone, vec![unset(0, NAMESPACES)?])?;
    only(
        rules,
        libc::SYS_socket,
        vec![equal(0, u64::from(libc::AF_UNIX.unsigned_abs()))?],
    )?;
    // Of one's own, and of a child that is being started.
    rules.insert(libc::SYS_prlimit64, Vec::new());
    rules.insert(libc::SYS_tgkill, Vec::new());
    Ok(())
}

/// Stream sockets that may be connected, by TCP, to a socket's file, or both.
pub(super) fn streams(rules: &mut Rules, tcp: bool, unix: bool) -> Result<(), BackendError> {
    let tcp_families: &[c_int] = if tcp {
        &[libc::AF_INET, libc::AF_INET6]
    } else {
        &[]
    };
    let unix_families: &[c_int] = if unix { &[libc::AF_UNIX] } else { &[] };
    for family in tcp_families.iter().chain(unix_families) {
        let family = equal(0, u64::from(family.unsigned_abs()))?;
        // Any flags, but no other type and no other protocol than the usual one.
        let kind = SeccompCondition::new(
            1,
            SeccompCmpArgLen::Qword,
            SeccompCmpOp::MaskedEq(!u64::from(SOCKET_FLAGS.unsigned_abs())),
            u64::from(libc::SOCK_STREAM.unsigned_abs()),
        )?;
        only(rules, libc::SYS_socket, vec![family, kind, equal(2, 0)?])?;
    }
    Ok(())
}

/// Options of sockets and of TCP, no others.
pub(super) fn stream_options(rules: &mut Rules) -> Result<(), BackendError> {
    for level in [libc::SOL_SOCKET, libc::IPPROTO_TCP] {
        let level = equal(1, u64::from(level.unsigned_abs()))?;
        only(rules, libc::SYS_setsockopt, vec![level])?;
    }
    // A runtime wakes itself through a pair.
    only(
        rules,
        libc::SYS_socketpair,
        vec![equal(0, u64::from(libc::AF_UNIX.unsigned_abs()))?],
    )
}

/// Everything that an `ioctl` or `prctl` could be asked for beyond what a worker, or else the keeper,
/// needs: these are refused with an error.
pub(super) fn refused_options(rules: &mut Rules, keeper: bool) -> Result<(), BackendError> {
    let mut ioctls = Vec::new();
    for request in IOCTLS {
        ioctls.push(differs(1, request)?);
    }
    only(rules, libc::SYS_ioctl, ioctls)?;
    let mut prctls = Vec::new();
    let more: &[c_int] = if keeper { &PRCTLS_KEEPER } else { &[] };
    for option in PRCTLS_WORKER.iter().chain(more) {
        prctls.push(differs(0, u64::from(option.unsigned_abs()))?);
    }
    only(rules, libc::SYS_prctl, prctls)?;
    // A process may close its memory to others, not open it.
    let option = u64::from(libc::PR_SET_DUMPABLE.unsigned_abs());
    only(
        rules,
        libc::SYS_prctl,
        vec![same(0, option)?, differs(1, 0)?],
    )
}

/// Adds an alternative for `call`: it matches if all of `conditions` do.
fn only(
    rules: &mut Rules,
    call: c_long,
    conditions: Vec<SeccompCondition>,
) -> Result<(), BackendError> {
    let rule = SeccompRule::new(conditions)?;
    rules.entry(call).or_default().push(rule);
    Ok(())
}

fn equal(argument: u8, value: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, value)
}

/// The kernel looks at the lower half of this argument only, and so does what refuses.
fn same(argument: u8, value: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)
}

/// The opposite.
fn differs(argument: u8, value: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, value)
}

/// All of `flags` are set.
fn set(argument: u8, flags: c_int) -> Result<SeccompCondition, BackendError> {
    let flags = u64::from(flags.cast_unsigned());
    let operator = SeccompCmpOp::MaskedEq(flags);
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, flags)
}

/// None of `flags` is set.
fn unset(argument: u8, flags: c_int) -> Result<SeccompCondition, BackendError> {
    let operator = SeccompCmpOp::MaskedEq(u64::from(flags.cast_unsigned()));
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, 0)
}
