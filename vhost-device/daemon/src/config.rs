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
//!     [[guest]]
//!     name = "vm0"                           # letters, digits, `-`, `_` and `.`
//!     socket = "/run/tmem/vm0.sock"
//!     grant = "512MiB"                       # the grants together must fit into dram
//!     queue_pairs = 2                        # 1 to 30; 2 without it
//!     "#,
//! )?;
//! assert_eq!(config.guests[0].grant_pages, 131_072);
//! # Ok::<(), vhost_device_tmem::ConfigError>(())
//! ```

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tmem_abi::PAGE_SIZE;
use tmem_pages::WORKERS_MAX;

use crate::args::Args;
use crate::limits::{NAME_BYTES_MAX, POLL_US_MAX, QUEUE_PAIRS_MAX};
use crate::sandbox;

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
}

/// Where a VMM connects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Socket {
    /// A socket that the daemon makes at this path, and removes at its end.
    Path(PathBuf),
    /// An inherited descriptor that listens already.
    Fd(i32),
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("Cannot read configuration file {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("Cannot use configuration file {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        source: Box<ConfigError>,
    },
    /// Not TOML, an unknown key, a missing one, or a value of another type.
    #[error("Not a configuration: {}", .0.to_string().trim_end())]
    Toml(#[from] toml::de::Error),
    /// Not a size.
    #[error(
        "{key} = {value:?} is not a size: write a whole number and B, KiB, MiB, GiB or TiB, such as \"512MiB\""
    )]
    Size {
        /// Which setting.
        key: String,
        /// What it was set to.
        value: String,
    },
    /// A size that is no whole number of pages, or none, or too many.
    #[error("{key} = {value:?} is not possible: it must be a multiple of 4KiB, from 4KiB to 15TiB")]
    SizeRange {
        /// Which setting.
        key: String,
        /// What it was set to.
        value: String,
    },
    /// A number out of range.
    #[error("{key} = {value} is not possible: {min} to {max} is")]
    Range {
        /// Which setting.
        key: String,
        /// What it was set to.
        value: u64,
        /// The least.
        min: u64,
        /// The most.
        max: u64,
    },
    /// Not a name.
    #[error(
        "{key} = {value:?} is not a guest's name: 1 to 64 letters, digits, '-', '_' and '.' are, the first a letter or digit"
    )]
    Name {
        /// Which setting.
        key: String,
        /// What it was set to.
        value: String,
    },
    /// Two guests with one name or socket.
    #[error("{key} = {value:?} is used twice: each guest needs its own")]
    Twice {
        /// Which setting.
        key: String,
        /// What both were set to.
        value: String,
    },
    /// No guest.
    #[error("There is no guest to serve: add a [[guest]] with name, socket and grant")]
    NoGuest,
    /// Neither file nor socket.
    #[error("There is no guest to serve: give --config FILE, --socket-path PATH or --fd FDNUM")]
    NoSocket,
    /// More is promised than there is.
    #[error(
        "The grants add up to {granted} pages of 4KiB and dram holds {dram}: lower a grant or raise dram to {} MiB at least",
        granted.div_ceil(256)
    )]
    Overcommitted {
        /// Pages promised.
        granted: u64,
        /// Pages that there are.
        dram: u64,
    },
    /// More workers than the engine takes.
    #[error(
        "The guests have {pairs} queue pairs together and {max} is the most: lower queue_pairs, or start another daemon"
    )]
    TooManyPairs {
        /// Pairs of all guests.
        pairs: u64,
        /// The most.
        max: u16,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    daemon: RawDaemon,
    #[serde(default)]
    guest: Vec<RawGuest>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDaemon {
    dram: String,
    frames_file: Option<PathBuf>,
    state_dir: Option<PathBuf>,
    sandbox: Option<sandbox::Mode>,
    user: Option<String>,
    #[serde(default)]
    upgrade_dirs: Vec<PathBuf>,
    crash_limit: Option<u32>,
    crash_window_s: Option<u32>,
    poll_us: Option<u32>,
    admin_socket: Option<PathBuf>,
    admin_group: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawGuest {
    name: String,
    socket: PathBuf,
    grant: String,
    queue_pairs: Option<u16>,
}

impl Config {
    /// Reads a configuration file's text.
    ///
    /// # Errors
    /// [`ConfigError`], which names the setting and what is allowed.
    pub fn from_toml(text: &str) -> Result<Self, ConfigError> {
        let raw: RawFile = toml::from_str(text)?;
        let guests = raw.guest.into_iter().enumerate().map(|(nth, guest)| {
            let key = |key: &str| format!("guest[{nth}].{key}");
            Ok(GuestConfig {
                grant_pages: pages(&key("grant"), &guest.grant)?,
                queue_pairs: guest.queue_pairs.unwrap_or(QUEUE_PAIRS),
                socket: Socket::Path(guest.socket),
                name: guest.name,
            })
        });
        let guests = guests.collect::<Result<Vec<_>, ConfigError>>()?;
        Self {
            dram_frames: frames("daemon.dram", &raw.daemon.dram)?,
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
        let granted = self.guests.iter().map(|guest| guest.grant_pages);
        let granted = granted.fold(0u64, u64::saturating_add);
        let dram = u64::from(self.dram_frames);
        if granted > dram {
            return Err(ConfigError::Overcommitted { granted, dram });
        }
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

/// Reads a size in bytes: a whole number and a unit of 1024s.
fn size(key: &str, text: &str) -> Result<u64, ConfigError> {
    let error = || ConfigError::Size {
        key: key.to_owned(),
        value: text.to_owned(),
    };
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim() {
        "B" => 0,
        "KiB" | "K" => 10,
        "MiB" | "M" => 20,
        "GiB" | "G" => 30,
        "TiB" | "T" => 40,
        _ => return Err(error()),
    };
    let number: u64 = number.parse().map_err(|_| error())?;
    number.checked_mul(1 << shift).ok_or_else(error)
}

/// Reads a size in whole pages.
fn pages(key: &str, text: &str) -> Result<u64, ConfigError> {
    let bytes = size(key, text)?;
    let page = PAGE_SIZE as u64;
    if bytes == 0 || bytes % page != 0 || bytes > 15 << 40 {
        return Err(ConfigError::SizeRange {
            key: key.to_owned(),
            value: text.to_owned(),
        });
    }
    Ok(bytes / page)
}

/// Reads a size in frames.
fn frames(key: &str, text: &str) -> Result<u32, ConfigError> {
    let pages = pages(key, text)?;
    u32::try_from(pages).map_err(|_| ConfigError::SizeRange {
        key: key.to_owned(),
        value: text.to_owned(),
    })
}

fn range<T: Into<u64> + Copy>(key: &str, value: T, min: T, max: T) -> Result<(), ConfigError> {
    let (value, min, max) = (value.into(), min.into(), max.into());
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(ConfigError::Range {
        key: key.to_owned(),
        value,
        min,
        max,
    })
}

fn name(key: &str, name: &str) -> Result<(), ConfigError> {
    let starts = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    let goes_on = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if starts && name.chars().all(goes_on) && name.len() <= NAME_BYTES_MAX {
        return Ok(());
    }
    Err(ConfigError::Name {
        key: key.to_owned(),
        value: name.to_owned(),
    })
}

#[cfg(test)]
mod tests;
