// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The system calls, by what they are for.
//!
//! A list is as wide as its callers need: the C library, Rust's standard library and the vhost-user
//! and tokio crates call more than this program's own text shows, and a panic more than a good day.

use libc::c_long;

/// Any thread: memory, waiting, its event descriptors, its end.
pub(super) const THREAD: &[c_long] = &[
    // Descriptors that are open.
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_pread64,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_pwrite64,
    libc::SYS_lseek,
    libc::SYS_close,
    // The standard library asks whether a descriptor is open before it closes it, in debug builds.
    libc::SYS_fcntl,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_eventfd2,
    // Memory; making it executable is not among it, see `rules`.
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_fallocate,
    libc::SYS_membarrier,
    // Waiting.
    libc::SYS_futex,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_ppoll,
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_gettimeofday,
    libc::SYS_sched_yield,
    libc::SYS_restart_syscall,
    // The C library's bookkeeping of a thread.
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_getcpu,
    libc::SYS_sched_getaffinity,
    libc::SYS_getrandom,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// The same on x86-64, which has older forms of some.
#[cfg(target_arch = "x86_64")]
pub(super) const THREAD_OLD: &[c_long] = &[libc::SYS_epoll_wait, libc::SYS_poll, libc::SYS_time];
#[cfg(not(target_arch = "x86_64"))]
pub(super) const THREAD_OLD: &[c_long] = &[];

/// What a store of pages in a file calls besides: whoever puts, gets or moves pages.
pub(super) const STORE: &[c_long] = &[
    libc::SYS_preadv,
    libc::SYS_preadv2,
    libc::SYS_pwritev,
    libc::SYS_pwritev2,
    libc::SYS_fadvise64,
    libc::SYS_sync_file_range,
    libc::SYS_fdatasync,
    libc::SYS_fsync,
    libc::SYS_msync,
    libc::SYS_fstatfs,
    libc::SYS_ftruncate,
];

/// Talking on a socket that is connected.
pub(super) const TALK: &[c_long] = &[
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_shutdown,
    libc::SYS_getsockopt,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_fcntl,
];

/// What a thread that reads and writes pages on stores calls besides: a runtime of its own, connecting,
/// and bytes, but no descriptors. Which sockets it may make, `rules` says.
pub(super) const CONNECT: &[c_long] = &[
    libc::SYS_connect,
    libc::SYS_sendto,
    libc::SYS_recvfrom,
    libc::SYS_shutdown,
    libc::SYS_getsockopt,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_fcntl,
    libc::SYS_epoll_create1,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
];

/// What a vhost-user message may ask of its receiver, besides talk.
pub(super) const SERVE: &[c_long] = &[
    libc::SYS_ftruncate,
    libc::SYS_fstatfs,
    libc::SYS_memfd_create,
    libc::SYS_dup,
    libc::SYS_epoll_create1,
    libc::SYS_msync,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_sched_setaffinity,
];

/// Accepting, and what tokio needs to start and to run.
pub(super) const ACCEPT: &[c_long] = &[
    libc::SYS_accept4,
    libc::SYS_setsockopt,
    libc::SYS_epoll_create1,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    libc::SYS_geteuid,
    libc::SYS_getuid,
];

/// A worker's first thread: what remains to be done once it is sandboxed.
pub(super) const START: &[c_long] = &[
    libc::SYS_accept,
    libc::SYS_dup3,
    libc::SYS_pipe2,
    libc::SYS_getegid,
    libc::SYS_getgid,
    libc::SYS_signalfd4,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_timerfd_gettime,
    libc::SYS_sysinfo,
    libc::SYS_uname,
    libc::SYS_getrusage,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_mlock,
    libc::SYS_munlock,
    libc::SYS_getppid,
];

/// Libraries ask for these and go on when they are refused: the panic handler looks for its program,
/// the allocator for the number of processors. They are answered with an error.
pub(super) const REFUSED: &[c_long] = &[
    libc::SYS_openat,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_readlinkat,
    libc::SYS_getcwd,
    libc::SYS_statfs,
];

/// The same on x86-64, which has older forms of some.
#[cfg(target_arch = "x86_64")]
pub(super) const REFUSED_OLD: &[c_long] = &[
    libc::SYS_open,
    libc::SYS_access,
    libc::SYS_readlink,
    libc::SYS_stat,
    libc::SYS_lstat,
];
#[cfg(not(target_arch = "x86_64"))]
pub(super) const REFUSED_OLD: &[c_long] = &[];

/// The keeper's own, and what a worker calls until it is sandboxed itself.
pub(super) const KEEPER: &[c_long] = &[
    // Starting a worker and watching it.
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_wait4,
    libc::SYS_waitid,
    libc::SYS_kill,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_send_signal,
    libc::SYS_setsid,
    libc::SYS_setpgid,
    libc::SYS_getpgid,
    libc::SYS_chdir,
    libc::SYS_umask,
    libc::SYS_close_range,
    // A listener for each connection.
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_connect,
    libc::SYS_unlinkat,
    // Opening the tiers' files as a worker that is not sandboxed yet.
    libc::SYS_flock,
    // Opening a worker's program beneath its folder.
    libc::SYS_openat2,
    // The loader and the C library, before main.
    libc::SYS_set_tid_address,
    libc::SYS_getdents64,
    libc::SYS_rt_sigpending,
    libc::SYS_rt_sigsuspend,
    // A sandbox within this one.
    libc::SYS_capget,
    libc::SYS_capset,
    libc::SYS_landlock_create_ruleset,
    libc::SYS_landlock_add_rule,
    libc::SYS_landlock_restrict_self,
];

/// The same on x86-64, which has older forms of some.
#[cfg(target_arch = "x86_64")]
pub(super) const KEEPER_OLD: &[c_long] = &[
    libc::SYS_arch_prctl,
    libc::SYS_fork,
    libc::SYS_vfork,
    libc::SYS_dup2,
    libc::SYS_pipe,
    libc::SYS_unlink,
    libc::SYS_getpgrp,
];
#[cfg(not(target_arch = "x86_64"))]
pub(super) const KEEPER_OLD: &[c_long] = &[];
