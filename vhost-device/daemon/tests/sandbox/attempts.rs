// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What is tried from inside, and from where it must work.

use std::collections::HashMap;
use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketFlags};
use vhost_device_tmem::sandbox::ThreadKind;

use super::acts::{call, check, pass, read, socket, start, talk, upgrade};
use super::probe::{Around, Role};

/// What a report says where a kernel leaves more than seccomp and Landlock take from a process that
/// cannot have a file tree of its own. The first is said by older kernels only.
const SIGNALS: &str = "does not restrict signals";
const SOCKETS: &str = "sockets";
const TREE: &str = "no namespaces";
const PORTS: &str = "TCP ports";

/// Something to try.
pub(crate) struct Attempt {
    pub(crate) name: &'static str,
    pub(crate) run: fn(&Around) -> io::Result<()>,
    /// Where it must work; everywhere else it must not.
    works: Works,
}

/// Attempts that outside of a sandbox would do harm, leave nobody to tell, or fail for another reason.
const NOT_OUTSIDE: [&str; 9] = [
    "open the memory of process 1",
    "become a program of another folder",
    "trace the parent",
    "mount",
    "start a process in a namespace",
    "set up io_uring",
    "load a BPF program",
    "count another's events",
    "type into a terminal",
];

/// From where something works.
enum Works {
    Nowhere,
    /// Nowhere, but for a process without a file tree of its own, or with stores, whose report says this.
    NowhereUnless(&'static str),
    Keepers,
    /// Where stores are to be reached, in the threads that do that.
    Stores,
    /// The same, but for a process as in `NowhereUnless`.
    StoresUnless(&'static str),
    /// There, and for keepers.
    StoresAndKeepers,
    /// Threads of these kinds, and the worker itself.
    Threads(&'static [ThreadKind]),
    /// The same, and wherever stores are reached.
    ThreadsAndStores(&'static [ThreadKind]),
    Everywhere,
}

use ThreadKind::{Admin, Connection, Control, Mover, Queue, Stores};

/// Whether stores are reached from there.
fn reaches(role: Role) -> bool {
    let threads = [Control, Queue, Mover, Stores];
    role.has_stores() && role.thread().is_none_or(|kind| threads.contains(&kind))
}

impl Attempt {
    const fn new(name: &'static str, works: Works, run: fn(&Around) -> io::Result<()>) -> Self {
        Self { name, run, works }
    }

    /// Whether anything is asked of `role`.
    pub(crate) fn concerns(&self, role: Role) -> bool {
        match self.works {
            _ if role == Role::Outside => !NOT_OUTSIDE.contains(&self.name),
            // That a keeper can do what its workers do is not what its sandbox is about.
            Works::Threads(_) | Works::ThreadsAndStores(_) => !role.keeps(),
            _ => true,
        }
    }

    /// What a report of `role` says if the attempt may work after all.
    pub(crate) fn excuse(&self, role: Role) -> Option<&'static str> {
        match self.works {
            Works::NowhereUnless(words) | Works::StoresUnless(words)
                if role == Role::UserKeeper || role.has_stores() =>
            {
                Some(words)
            }
            _ => None,
        }
    }

    /// Whether it must work for `role`.
    pub(crate) fn works_for(&self, role: Role) -> bool {
        match (&self.works, role) {
            (_, Role::Outside) => true,
            (Works::Nowhere | Works::NowhereUnless(_), _) => false,
            (Works::Keepers, role) => role.keeps(),
            (Works::Stores | Works::StoresUnless(_), role) => reaches(role),
            (Works::StoresAndKeepers, role) => role.keeps() || reaches(role),
            (Works::ThreadsAndStores(_), role) if reaches(role) => true,
            (Works::Threads(kinds) | Works::ThreadsAndStores(kinds), role) => {
                role.thread().is_none_or(|kind| kinds.contains(&kind))
            }
            (Works::Everywhere, _) => true,
        }
    }
}

/// All of them.
pub(crate) static ATTEMPTS: &[Attempt] = &[
    // Files.
    Attempt::new("open /etc/shadow", Works::Nowhere, |_| read("/etc/shadow")),
    Attempt::new("open /etc/passwd", Works::Nowhere, |_| read("/etc/passwd")),
    Attempt::new("open the memory of process 1", Works::Nowhere, |_| {
        File::open("/proc/1/mem").map(drop)
    }),
    Attempt::new("open the parent's memory", Works::Nowhere, |around| {
        File::open(format!("/proc/{}/mem", around.parent)).map(drop)
    }),
    Attempt::new("open a file of another folder", Works::Nowhere, |around| {
        read(around.paths.foreign().join("file"))
    }),
    Attempt::new(
        "look at a file of another folder",
        Works::NowhereUnless(TREE),
        |around| fs::metadata(around.paths.foreign().join("file")).map(drop),
    ),
    Attempt::new("list a folder", Works::Nowhere, |_| {
        fs::read_dir("/etc").map(drop)
    }),
    Attempt::new("make a file", Works::Nowhere, |around| {
        File::create(around.paths.foreign().join("new")).map(drop)
    }),
    Attempt::new("make a file beside the sockets", Works::Nowhere, |around| {
        File::create(around.paths.sockets().join("new")).map(drop)
    }),
    Attempt::new(
        "make a link to a file of the host",
        Works::Nowhere,
        |around| std::os::unix::fs::symlink("/etc/shadow", around.paths.sockets().join("link")),
    ),
    Attempt::new("write to a program", Works::Nowhere, |around| {
        let program = around.paths.programs().join("true");
        File::options().append(true).open(program).map(drop)
    }),
    Attempt::new(
        "remove a file of another folder",
        Works::Nowhere,
        |around| fs::remove_file(around.paths.foreign().join("file")),
    ),
    Attempt::new("remove its own socket's file", Works::Keepers, |around| {
        fs::remove_file(around.paths.own_socket())
    }),
    Attempt::new("read its own figures", Works::Keepers, |_| {
        read("/proc/self/status")
    }),
    // Sockets.
    Attempt::new("make an internet socket", Works::Stores, |_| {
        socket(AddressFamily::INET)
    }),
    Attempt::new("make an IPv6 socket", Works::Stores, |_| {
        socket(AddressFamily::INET6)
    }),
    Attempt::new("make a datagram socket", Works::Nowhere, |_| {
        std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).map(drop)
    }),
    Attempt::new("listen on a TCP port", Works::Nowhere, |_| {
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map(drop)
    }),
    Attempt::new("connect to a store's TCP port", Works::Stores, |around| {
        TcpStream::connect((Ipv4Addr::LOCALHOST, around.store_port)).map(drop)
    }),
    Attempt::new(
        "connect to another TCP port",
        Works::NowhereUnless(PORTS),
        |around| TcpStream::connect((Ipv4Addr::LOCALHOST, around.other_port)).map(drop),
    ),
    Attempt::new(
        "connect to a store's socket file",
        Works::StoresUnless(SOCKETS),
        |around| UnixStream::connect(around.paths.store_socket()).map(drop),
    ),
    Attempt::new(
        "connect to a store in a runtime of its own",
        Works::Stores,
        |around| talk(around.store_port, &around.paths.store_socket()),
    ),
    Attempt::new("make a netlink socket", Works::Nowhere, |_| {
        socket(AddressFamily::NETLINK)
    }),
    Attempt::new("make a packet socket", Works::Nowhere, |_| {
        socket(AddressFamily::PACKET)
    }),
    Attempt::new("make a Unix socket", Works::StoresAndKeepers, |_| {
        socket(AddressFamily::UNIX)
    }),
    Attempt::new(
        "connect to another process's socket file",
        Works::NowhereUnless(SOCKETS),
        |around| UnixStream::connect(around.paths.foreign_socket()).map(drop),
    ),
    Attempt::new(
        "connect to another process's abstract socket",
        Works::NowhereUnless(SIGNALS),
        |around| UnixStream::connect_addr(&around.paths.abstract_socket()?).map(drop),
    ),
    Attempt::new("listen for itself and connect", Works::Keepers, |around| {
        let path = around.paths.sockets().join("private");
        let listener = UnixListener::bind(&path)?;
        let _near = UnixStream::connect(&path)?;
        listener.accept().map(drop)
    }),
    Attempt::new(
        "accept on a listener that was handed over",
        Works::Threads(&[Control, Admin]),
        |around| {
            rustix::fs::fcntl_setfl(&around.listener, rustix::fs::OFlags::NONBLOCK)?;
            match rustix::net::accept_with(&around.listener, SocketFlags::CLOEXEC) {
                // Nobody connects.
                Err(rustix::io::Errno::AGAIN) => Ok(()),
                other => other.map(drop).map_err(io::Error::from),
            }
        },
    ),
    Attempt::new("pass a descriptor", Works::Threads(&[Control]), |around| {
        pass(around)
    }),
    // Programs.
    Attempt::new("start an allowed program", Works::Keepers, |around| {
        start(&around.paths.programs().join("true"))
    }),
    Attempt::new("upgrade to an allowed program", Works::Keepers, |around| {
        upgrade(
            &around.paths.programs().join("true"),
            &around.paths.programs(),
        )
    }),
    Attempt::new(
        "upgrade to a program of another folder",
        Works::Nowhere,
        |around| upgrade(&around.paths.foreign_program(), &around.paths.foreign()),
    ),
    Attempt::new("start a shell", Works::Nowhere, |_| {
        start(Path::new("/bin/sh"))
    }),
    Attempt::new(
        "start a program of another folder",
        Works::Nowhere,
        |around| start(&around.paths.foreign_program()),
    ),
    Attempt::new(
        "become a program of another folder",
        Works::Nowhere,
        |around| {
            let path = around.paths.foreign_program();
            let path = std::ffi::CString::new(path.as_os_str().as_encoded_bytes())?;
            let arguments = [path.as_ptr(), std::ptr::null()];
            // SAFETY: the path is a C string, the arguments end with a null pointer, as do those of an
            // empty environment.
            let result =
                unsafe { libc::execve(path.as_ptr(), arguments.as_ptr(), arguments[1..].as_ptr()) };
            check(result.into())
        },
    ),
    Attempt::new("run code from memory", Works::Nowhere, |_| {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let access = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
        // SAFETY: a new mapping touches no memory that there is.
        let map = unsafe { libc::mmap(std::ptr::null_mut(), 4096, access, flags, -1, 0) };
        if map == libc::MAP_FAILED {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }),
    // Other processes.
    Attempt::new("trace the parent", Works::Nowhere, |around| {
        call(
            libc::SYS_ptrace,
            [libc::PTRACE_ATTACH.into(), around.parent.into(), 0, 0],
        )
    }),
    Attempt::new(
        "read the parent's memory directly",
        Works::Nowhere,
        |around| call(libc::SYS_process_vm_readv, [around.parent.into(), 0, 0, 0]),
    ),
    Attempt::new("take the parent's descriptor", Works::Nowhere, |around| {
        let parent =
            rustix::process::Pid::from_raw(around.parent).ok_or(io::ErrorKind::NotFound)?;
        let parent = rustix::process::pidfd_open(parent, rustix::process::PidfdFlags::empty())?;
        rustix::process::pidfd_getfd(parent, 0, rustix::process::PidfdGetfdFlags::empty())?;
        Ok(())
    }),
    Attempt::new(
        "signal the parent",
        Works::NowhereUnless(SIGNALS),
        |around| call(libc::SYS_kill, [around.parent.into(), 0, 0, 0]),
    ),
    Attempt::new("signal process 1", Works::NowhereUnless(SIGNALS), |_| {
        // Signal 0 hits nobody if it works.
        call(libc::SYS_kill, [1, 0, 0, 0])
    }),
    // The system.
    Attempt::new("mount", Works::Nowhere, |_| {
        // SAFETY: every pointer is a C string.
        let result = unsafe {
            libc::mount(
                c"none".as_ptr(),
                c"/dev".as_ptr(),
                c"tmpfs".as_ptr(),
                0,
                std::ptr::null(),
            )
        };
        check(result.into())
    }),
    Attempt::new("enter a user namespace", Works::Nowhere, |_| {
        call(libc::SYS_unshare, [libc::CLONE_NEWUSER.into(), 0, 0, 0])
    }),
    Attempt::new("start a process in a namespace", Works::Nowhere, |_| {
        let flags = libc::CLONE_NEWUSER | libc::SIGCHLD;
        call(libc::SYS_clone, [flags.into(), 0, 0, 0])
    }),
    Attempt::new("become root", Works::Nowhere, |_| {
        call(libc::SYS_setresuid, [0, 0, 0, 0])
    }),
    Attempt::new("set up io_uring", Works::Nowhere, |_| {
        call(libc::SYS_io_uring_setup, [1, 0, 0, 0])
    }),
    Attempt::new("load a BPF program", Works::Nowhere, |_| {
        call(libc::SYS_bpf, [0, 0, 0, 0])
    }),
    Attempt::new("count another's events", Works::Nowhere, |_| {
        call(libc::SYS_perf_event_open, [0, 0, -1, -1])
    }),
    Attempt::new("use a key ring", Works::Nowhere, |_| {
        call(libc::SYS_keyctl, [0, -3, 0, 0])
    }),
    Attempt::new("type into a terminal", Works::Nowhere, |_| {
        // SAFETY: the request reads one byte.
        let result = unsafe { libc::ioctl(1, libc::TIOCSTI, c"x".as_ptr()) };
        check(result.into())
    }),
    Attempt::new("let others read its memory", Works::Nowhere, |_| {
        call(libc::SYS_prctl, [libc::PR_SET_DUMPABLE.into(), 1, 0, 0])
    }),
    // Work.
    Attempt::new("do nothing", Works::Everywhere, |_| Ok(())),
    Attempt::new("map, grow and give back memory", Works::Everywhere, |_| {
        let mut bytes = vec![1u8; 1 << 20];
        bytes.resize(64 << 20, 2);
        let sum: u64 = bytes.iter().step_by(4096).copied().map(u64::from).sum();
        if sum > 0 {
            Ok(())
        } else {
            Err(io::ErrorKind::InvalidData.into())
        }
    }),
    Attempt::new("sleep, hash, look at the clock", Works::Everywhere, |_| {
        let before = Instant::now();
        std::thread::sleep(Duration::from_millis(1));
        let hash = RandomState::new().hash_one(before);
        let map = HashMap::from([(hash, before.elapsed())]);
        if map.len() == 1 {
            Ok(())
        } else {
            Err(io::ErrorKind::InvalidData.into())
        }
    }),
    Attempt::new(
        "wait for an event",
        Works::ThreadsAndStores(&[Control, Connection, Admin]),
        |_| {
            use rustix::event::{EventfdFlags, epoll, eventfd};
            let event = eventfd(1, EventfdFlags::CLOEXEC)?;
            let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
            epoll::add(
                &poll,
                &event,
                epoll::EventData::new_u64(7),
                epoll::EventFlags::IN,
            )?;
            let mut events = Vec::with_capacity(1);
            let wait = rustix::event::Timespec {
                tv_sec: 1,
                tv_nsec: 0,
            };
            epoll::wait(
                &poll,
                rustix::buffer::spare_capacity(&mut events),
                Some(&wait),
            )?;
            if events.len() == 1 {
                Ok(())
            } else {
                Err(io::ErrorKind::TimedOut.into())
            }
        },
    ),
    Attempt::new(
        "map a shared file and cut holes",
        Works::Threads(&[Control, Connection]),
        |_| {
            let file = rustix::fs::memfd_create("probe", rustix::fs::MemfdFlags::CLOEXEC)?;
            rustix::fs::ftruncate(&file, 1 << 20)?;
            let hole =
                rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
            rustix::fs::fallocate(&file, hole, 0, 1 << 16)?;
            if rustix::fs::fstat(&file)?.st_size == 1 << 20 {
                Ok(())
            } else {
                Err(io::ErrorKind::InvalidData.into())
            }
        },
    ),
    Attempt::new("start a thread", Works::Threads(&[Control]), |_| {
        let thread = std::thread::Builder::new()
            .name("another".into())
            .spawn(|| 7)?;
        thread
            .join()
            .map(drop)
            .map_err(|_| io::ErrorKind::Other.into())
    }),
    Attempt::new("outlive a panic", Works::Everywhere, |_| {
        // SAFETY: there is no other thread that could read the environment.
        unsafe { std::env::set_var("RUST_BACKTRACE", "1") };
        let caught = std::panic::catch_unwind(|| panic!("on purpose"));
        if caught.is_err() {
            Ok(())
        } else {
            Err(io::ErrorKind::Other.into())
        }
    }),
];
