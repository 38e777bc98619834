// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! From a TOML file or flags to a checked configuration.
//!
//! ```
//! let config = vhost_device_tmem::Config::from_toml(
//!     r#"
//!     [daemon]
//!     dram = "1GiB"                          # host memory for pages; required
//!     admin_socket = "/run/tmem/admin.sock"  # for tmemctl; none without it
//!     admin_group = "tmem"                   # who may use it besides root and the daemon's user
//!     poll_us = 50                           # 0: workers never poll
//!     frames_file = "/dev/hugepages/tmem"    # anonymous memory without it
//!
//!     trace_dir = "/var/lib/tmem/traces"     # for page traces; none without it
//!     overcommit = false                     # true: grants may exceed what the tiers hold
//!
//!     [dram]                                 # may hold `size` in place of daemon.dram
//!     max = "2GiB"                           # what it can be resized to; its size without it
//!     low_watermark = "5%"                   # with less of it free pages leave it for the next tier,
//!     high_watermark = "10%"                 # until this much is free
//!
//!     [pm]                                   # a file that pages are demoted to; none without it
//!     path = "/var/lib/tmem/pm"
//!     size = "8GiB"
//!     durability = "process"                 # "host": a page in it outlives a crash of the host
//!     keep_over_reboot = false               # true, with "host": found again after a reboot
//!
//!     [remote]                               # what lies behind the network; none without it
//!     kind = "stores"                        # "emulated": this process stands in; "valkey": a cluster
//!     size = "8GiB"
//!     replicas = 2                           # copies of each page, 1 to 3
//!     ack = "all"                            # "first": the host keeps what is not everywhere yet
//!     min_copies = 1                         # with fewer a page stays where it was
//!     namespace = "host7"                    # its pages' name on the stores; the host's name without it
//!     advert_ms = 100                        # how often stores say that they live
//!     hedge = "auto"                         # when a get asks another store; "off", or a time
//!     repair_bandwidth = "100MiB"            # a second, for repair and drains
//!     ports = [7450]                         # TCP ports that stores may be added at while it runs
//!
//!     [remote.tls]                           # needed beyond this host, but for `insecure = true`
//!     ca = "/etc/tmem/ca.pem"
//!     cert = "/etc/tmem/client.pem"
//!     key = "/etc/tmem/client.key"
//!
//!     [[remote.store]]
//!     address = "10.0.0.1:7440"              # or [fd00::1]:7440, store1.example:7440, unix:/run/store
//!     label = "rack1"                        # its name for people; the address without it
//!
//!     [[remote.store]]
//!     address = "10.0.0.2:7440"
//!
//!     [link.remote]                          # what it costs to get there; [link.pm] as well
//!     in = "latency=5us bandwidth=25Gbit/s"
//!     out = "latency=5us bandwidth=25Gbit/s"
//!
//!     [balloon]                              # what concerns all balloons
//!     budget = "4GiB"                        # what guests on auto may keep together; no limit without it
//!     reserve = "1GiB"                       # what of the host's memory they have to leave free
//!
//!     [[guest]]
//!     name = "vm0"                           # letters, digits, `-`, `_` and `.`
//!     socket = "/run/tmem/vm0.sock"
//!     grant = "512MiB"                       # the grants together must fit into the tiers
//!     queue_pairs = 2                        # 1 to 30; 2 without it
//!     dram_cap = "256MiB"                    # the most that it may have of dram; no cap without it
//!     weight = 100                           # its part of what several want; 1 to 10000
//!     floor = "64MiB"                        # what it always has room for in dram; nothing without it
//!     policy = "s3-fifo"                     # which of its pages leaves first
//!
//!     [guest.balloon]                        # what it keeps of its own memory
//!     enabled = true                         # false: its device has no balloon
//!     reporting = true                       # pages that are free in it are freed here, too
//!     huge_pages = false                     # true: huge pages are freed; see docs/balloon.md
//!     size = "768MiB"                        # what it keeps; all without it
//!     auto = false                           # true: the daemon decides
//!     floor = "256MiB"                       # the least that it keeps
//!     ceiling = "1GiB"                       # the most that it keeps while the daemon decides
//!     weight = 100                           # its part of the budget; 1 to 10000
//!     "#,
//! )?;
//! assert_eq!(config.guests[0].grant_pages, 131_072);
//! assert_eq!(config.guests[0].limits.dram_cap_pages, Some(65_536));
//! # Ok::<(), vhost_device_tmem::ConfigError>(())
//! ```

mod address;
mod balloon;
mod error;
mod raw;
mod stores;
#[cfg(test)]
mod tests;
mod tiers;
mod value;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tmem_pages::WORKERS_MAX;

use crate::args::Args;
use crate::balloon::BalloonConfig;
use crate::limits::{POLL_US_MAX, QUEUE_PAIRS_MAX};
use crate::sandbox;

pub use address::{AddressError, StoreAddress};
pub use balloon::HostBalloonConfig;
pub use error::ConfigError;
pub use stores::{
    DiskConfig, Hedge, RemoteConfig, RemoteKind, StoreConfig, StoresConfig, TlsConfig, ValkeyConfig,
};
pub use tiers::{DramConfig, GuestLimits, LinkConfig, PmConfig, WEIGHT};
pub(crate) use value::is_name;

use raw::RawFile;
use tiers::{Tiers, limits};
use value::{frames, name, pages, range};

const QUEUE_PAIRS: u16 = 2;
const POLL_US: u32 = 50;
const DRAM: &str = "1GiB";
const NAME: &str = "guest";
const CRASH_LIMIT: u32 = 10;
const CRASH_WINDOW_S: u32 = 10;

/// Everything that the daemon is told; checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// Frames of host memory for pages, 4096 bytes each.
    pub dram_frames: u32,
    /// What else is to be known of that memory.
    #[serde(default)]
    pub dram: DramConfig,
    /// The file that pages are demoted to, if there is one.
    #[serde(default)]
    pub pm: Option<PmConfig>,
    /// The farthest tier, if there is one.
    #[serde(default)]
    pub remote: Option<RemoteConfig>,
    /// What the links of all guests are set to.
    #[serde(default)]
    pub links: Vec<LinkConfig>,
    /// What concerns all balloons together.
    #[serde(default)]
    pub balloon: HostBalloonConfig,
    /// Guests may be promised more than the tiers hold.
    #[serde(default)]
    pub overcommit: bool,
    /// The folder that page traces are written to; without one none is taken.
    #[serde(default)]
    pub trace_dir: Option<PathBuf>,
    /// The file that the frames lie in; in the state's folder, or anonymous memory, without one.
    pub frames_file: Option<PathBuf>,
    /// The folder of the state that outlives the daemon; without one it ends with the daemon.
    pub state_dir: Option<PathBuf>,
    /// How far the daemon's processes fence themselves in.
    pub sandbox: sandbox::Mode,
    /// The user to become when started as root.
    pub user: Option<String>,
    /// Folders, besides that of the daemon's own program, that other versions are started from.
    pub upgrade_dirs: Vec<PathBuf>,
    /// Workers that die in a row, each within `crash_window` after it was ready, before no other is
    /// started.
    pub crash_limit: u32,
    /// See `crash_limit`.
    pub crash_window: Duration,
    /// The longest that a worker polls, in µs; 0: never.
    pub poll_us: u32,
    /// The admin API, if it is served.
    pub admin: Option<AdminConfig>,
    /// The guests, at least one.
    pub guests: Vec<GuestConfig>,
}

/// Where the admin API is served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdminConfig {
    /// Path of the socket.
    pub socket: PathBuf,
    /// The group that may use it, besides root and the daemon's own user.
    pub group: Option<String>,
}

/// One guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestConfig {
    /// Its name, to which its pools belong.
    pub name: String,
    /// Where its VMM connects.
    pub socket: Socket,
    /// Pages that its persistent pools are promised.
    pub grant_pages: u64,
    /// Get/put queue pairs of its device.
    pub queue_pairs: u16,
    /// Its part of the tiers, beyond the grant.
    #[serde(default)]
    pub limits: GuestLimits,
    /// Its balloon.
    #[serde(default)]
    pub balloon: BalloonConfig,
}

/// Where a VMM connects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Socket {
    /// A socket that the daemon makes at this path, and removes at its end.
    Path(PathBuf),
    /// An inherited descriptor that listens already.
    Fd(i32),
}

impl Config {
    /// Reads a configuration file's text.
    ///
    /// # Errors
    /// [`ConfigError`], which names the setting and what is allowed.
    pub fn from_toml(text: &str) -> Result<Self, ConfigError> {
        let raw: RawFile = toml::from_str(text)?;
        let tiers = Tiers::of(&raw)?;
        let guests = raw.guest.into_iter().enumerate().map(|(nth, guest)| {
            let key = |key: &str| format!("guest[{nth}].{key}");
            Ok(GuestConfig {
                grant_pages: pages(&key("grant"), &guest.grant)?,
                queue_pairs: guest.queue_pairs.unwrap_or(QUEUE_PAIRS),
                limits: limits(nth, &guest)?,
                balloon: balloon::balloon(nth, &guest.balloon)?,
                socket: Socket::Path(guest.socket),
                name: guest.name,
            })
        });
        let guests = guests.collect::<Result<Vec<_>, ConfigError>>()?;
        Self {
            dram_frames: tiers.dram_frames,
            dram: tiers.dram,
            pm: tiers.pm,
            remote: tiers.remote,
            links: tiers.links,
            balloon: HostBalloonConfig::of(&raw.balloon)?,
            overcommit: raw.daemon.overcommit,
            trace_dir: raw.daemon.trace_dir,
            frames_file: raw.daemon.frames_file,
            state_dir: raw.daemon.state_dir,
            sandbox: raw.daemon.sandbox.unwrap_or_default(),
            user: raw.daemon.user,
            upgrade_dirs: raw.daemon.upgrade_dirs,
            crash_limit: raw.daemon.crash_limit.unwrap_or(CRASH_LIMIT),
            crash_window: seconds(raw.daemon.crash_window_s),
            poll_us: raw.daemon.poll_us.unwrap_or(POLL_US),
            admin: raw.daemon.admin_socket.map(|socket| AdminConfig {
                socket,
                group: raw.daemon.admin_group,
            }),
            guests,
        }
        .checked()
    }

    /// Reads a configuration file.
    ///
    /// # Errors
    /// [`ConfigError`], which names the file, the setting and what is allowed.
    pub fn from_file(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::from_toml(&text).map_err(|source| ConfigError::File {
            path: path.to_owned(),
            source: Box::new(source),
        })
    }

    /// Reads what the flags say, and the file that they name if they do.
    ///
    /// # Errors
    /// [`ConfigError`], which names the flag and what is allowed.
    pub fn from_args(args: &Args) -> Result<Self, ConfigError> {
        if let Some(path) = &args.config {
            let mut config = Self::from_file(path)?;
            if let Some(socket) = &args.admin_socket {
                config.admin = Some(AdminConfig {
                    socket: socket.clone(),
                    group: args.admin_group.clone(),
                });
            }
            config.sandbox = args.sandbox.unwrap_or(config.sandbox);
            config.user = args.user.clone().or(config.user);
            config.crash_limit = args.crash_limit.unwrap_or(config.crash_limit);
            config
                .upgrade_dirs
                .extend(args.upgrade_dirs.iter().cloned());
            return Ok(config);
        }
        let socket = match (&args.socket_path, args.fd) {
            (Some(path), _) => Socket::Path(path.clone()),
            (None, Some(fd)) => Socket::Fd(fd),
            (None, None) => return Err(ConfigError::NoSocket),
        };
        let dram_frames = frames("--dram", args.dram.as_deref().unwrap_or(DRAM))?;
        let grant_pages = match &args.grant {
            Some(grant) => pages("--grant", grant)?,
            None => u64::from(dram_frames),
        };
        Self {
            dram_frames,
            dram: DramConfig::default(),
            pm: None,
            remote: None,
            links: Vec::new(),
            balloon: HostBalloonConfig::default(),
            overcommit: false,
            trace_dir: None,
            frames_file: args.frames_file.clone(),
            state_dir: args.state_dir.clone(),
            sandbox: args.sandbox.unwrap_or_default(),
            user: args.user.clone(),
            upgrade_dirs: args.upgrade_dirs.clone(),
            crash_limit: args.crash_limit.unwrap_or(CRASH_LIMIT),
            crash_window: seconds(None),
            poll_us: args.poll_us.unwrap_or(POLL_US),
            admin: args.admin_socket.clone().map(|socket| AdminConfig {
                socket,
                group: args.admin_group.clone(),
            }),
            guests: vec![GuestConfig {
                name: args.name.clone().unwrap_or_else(|| NAME.to_owned()),
                socket,
                grant_pages,
                queue_pairs: args.queue_pairs.unwrap_or(QUEUE_PAIRS),
                limits: GuestLimits::default(),
                balloon: BalloonConfig::default(),
            }],
        }
        .checked()
    }

    /// Checks what concerns several settings, and ranges. For a configuration made by hand.
    ///
    /// # Errors
    /// [`ConfigError`], which names the setting and what is allowed.
    pub fn checked(self) -> Result<Self, ConfigError> {
        if self.guests.is_empty() {
            return Err(ConfigError::NoGuest);
        }
        range("poll_us", self.poll_us, 0, POLL_US_MAX)?;
        range("crash_limit", self.crash_limit, 1, u32::MAX)?;
        range("dram (in pages)", self.dram_frames, 1, u32::MAX - 1)?;
        let mut names = HashSet::new();
        let mut sockets = HashSet::new();
        for (nth, guest) in self.guests.iter().enumerate() {
            let key = |key: &str| format!("guest[{nth}].{key}");
            name(&key("name"), &guest.name)?;
            range(&key("queue_pairs"), guest.queue_pairs, 1, QUEUE_PAIRS_MAX)?;
            if !names.insert(&guest.name) {
                return Err(ConfigError::Twice {
                    key: key("name"),
                    value: guest.name.clone(),
                });
            }
            if let Socket::Path(path) = &guest.socket
                && !sockets.insert(path)
            {
                return Err(ConfigError::Twice {
                    key: key("socket"),
                    value: path.display().to_string(),
                });
            }
        }
        self.check_tiers()?;
        self.check_balloons()?;
        let pairs = self.queue_pairs();
        if pairs > u64::from(WORKERS_MAX) {
            return Err(ConfigError::TooManyPairs {
                pairs,
                max: WORKERS_MAX,
            });
        }
        Ok(self)
    }

    /// Queue pairs of all guests together.
    #[must_use]
    pub fn queue_pairs(&self) -> u64 {
        let pairs = self.guests.iter().map(|guest| u64::from(guest.queue_pairs));
        pairs.sum()
    }
}

fn seconds(given: Option<u32>) -> Duration {
    Duration::from_secs(u64::from(given.unwrap_or(CRASH_WINDOW_S)))
}
