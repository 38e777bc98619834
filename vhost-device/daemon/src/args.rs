// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The command line. Man pages and completions are made from it.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

pub use crate::sandbox::Mode as SandboxMode;

const EXAMPLES: &str = "\
Examples:
  One guest, with half of the host memory promised to it:
    vhost-device-tmem --socket-path /run/tmem/vm0.sock --name vm0 --grant 512MiB --dram 1GiB \\
        --admin-socket /run/tmem/admin.sock
  Several guests:
    vhost-device-tmem --config /etc/tmem/tmem.toml
  QEMU's side, 10.2 or newer (num_vqs is 3 + 2 for each queue pair; memory must be shared):
    -machine q35,memory-backend=mem0 -object memory-backend-memfd,id=mem0,size=1G,share=on \\
    -chardev socket,id=c0,path=/run/tmem/vm0.sock \\
    -device vhost-user-test-device-pci,chardev=c0,virtio-id=13,num_vqs=7,vq_size=256,config_size=64

Exit codes: 0 ended by a signal, 1 cannot start, 2 wrong usage.";

/// Keeps the cold pages of virtual machines: the vhost-user back-end of the virtio-tmem device.
///
/// Serves several guests from one configuration file, or one guest named by flags. Ends at SIGTERM
/// or SIGINT. Does not put itself into the background.
#[derive(Clone, Debug, Parser)]
#[command(name = "vhost-device-tmem", version, about, long_about, after_help = EXAMPLES)]
pub struct Args {
    /// Read the daemon's and the guests' settings from this TOML file
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = ["socket_path", "fd", "name", "grant", "dram", "queue_pairs", "poll_us", "frames_file", "state_dir"]
    )]
    pub config: Option<PathBuf>,

    /// Listen for the guest's VMM on this Unix socket
    #[arg(short, long, value_name = "PATH")]
    pub socket_path: Option<PathBuf>,

    /// Listen for the guest's VMM on this inherited descriptor, a listening Unix socket
    #[arg(long, value_name = "FDNUM", conflicts_with = "socket_path")]
    pub fd: Option<i32>,

    /// The guest's name, to which its pools belong [default: guest]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,

    /// Memory that the guest's persistent pools are promised, such as 512MiB [default: all of --dram]
    #[arg(long, value_name = "SIZE")]
    pub grant: Option<String>,

    /// Host memory for pages, such as 1GiB [default: 1GiB]
    #[arg(long, value_name = "SIZE")]
    pub dram: Option<String>,

    /// Get/put queue pairs of the device, about one for each virtual CPU [default: 2]
    #[arg(long, value_name = "N")]
    pub queue_pairs: Option<u16>,

    /// The longest that a queue worker polls before it sleeps, in microseconds; 0: never
    /// [default: 50]
    #[arg(long, value_name = "MICROSECONDS")]
    pub poll_us: Option<u32>,

    /// Keep the pages in this file, on tmpfs or hugetlbfs for instance [default: anonymous memory]
    #[arg(long, value_name = "PATH")]
    pub frames_file: Option<PathBuf>,

    /// Keep the pages, and what says where each is, in files in this folder, so that they outlive the
    /// daemon; on tmpfs, such as /dev/shm [default: anonymous memory, which ends with the daemon]
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,

    /// How far the daemon fences itself in: `none`; `auto`, as far as the kernel and the rights it
    /// was started with allow; `strict`, wholly or not at all [default: auto]
    #[arg(long, value_name = "MODE")]
    pub sandbox: Option<SandboxMode>,

    /// Become this user when started as root
    #[arg(long, value_name = "USER")]
    pub user: Option<String>,

    /// Start other versions, that an admin upgrades to, from this folder too, besides the one of this
    /// program; may be given several times
    #[arg(long = "upgrade-dir", value_name = "DIR")]
    pub upgrade_dirs: Vec<PathBuf>,

    /// Start no more workers after so many died in a row, each within seconds [default: 10]
    #[arg(long, value_name = "N")]
    pub crash_limit: Option<u32>,

    /// Run as one process, which no worker's death can be hidden behind; for debuggers and benchmarks
    #[arg(long)]
    pub single_process: bool,

    /// Be a worker; only a keeper starts one
    #[arg(long, hide = true)]
    pub worker: bool,

    /// Serve the admin API, which tmemctl talks to, on this Unix socket [default: none]
    #[arg(long, value_name = "PATH")]
    pub admin_socket: Option<PathBuf>,

    /// Let this group use the admin API, besides root and the daemon's own user
    #[arg(long, value_name = "GROUP", requires = "admin_socket")]
    pub admin_group: Option<String>,

    /// Print what this back-end can do, as JSON, and exit
    #[arg(long)]
    pub print_capabilities: bool,

    /// What to log: error, warn, info, debug, trace, or filters as in `info,vhost_device_tmem=debug`
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub log_level: String,

    /// How to log, always on standard error
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}
