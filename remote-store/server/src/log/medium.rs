// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the log lies on: a file, or in tests something that can lose power.
//!
//! The log assumes of it: what was read was written, or the read fails; what was written before a
//! [`Medium::sync`] that succeeded outlives the host; of what was written after it any part may be lost
//! or torn when the host ends, and nothing when only the process does.

use std::fmt::Debug;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, FlockOperation, fallocate, flock};
use rustix::io::Errno;

use super::error::LogError;

/// What the log lies on.
pub trait Medium: Debug + Send + Sync {
    /// For people.
    fn name(&self) -> String;

    /// Reads all of `into`.
    ///
    /// # Errors
    /// The system's.
    fn read(&self, at: u64, into: &mut [u8]) -> io::Result<()>;

    /// Writes all of `bytes`.
    ///
    /// # Errors
    /// The system's: any part of them may be written.
    fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()>;

    /// All that was written before will outlive the host.
    ///
    /// # Errors
    /// The system's: nobody knows then what does.
    fn sync(&self) -> io::Result<()>;
}

/// A file.
#[derive(Debug)]
pub struct FileMedium {
    file: File,
    path: PathBuf,
}

impl FileMedium {
    /// Opens the file at `path`, or makes it, with room for `size` bytes, and locks it.
    ///
    /// # Errors
    /// [`LogError`] if it cannot be opened, another program has it, it has another size, or there is no
    /// room on its file system.
    pub fn open(path: &Path, size: u64) -> Result<Self, LogError> {
        let failed = |doing| {
            let path = path.to_owned();
            move |source: io::Error| LogError::Unusable {
                path,
                doing,
                source,
            }
        };
        let mut options = OpenOptions::new();
        options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600);
        let file = options.open(path).map_err(failed("open"))?;
        match flock(file.as_fd(), FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                return Err(LogError::Locked {
                    path: path.to_owned(),
                });
            }
            Err(error) => return Err(failed("lock")(error.into())),
        }
        let length = file.metadata().map_err(failed("read"))?.len();
        if length == 0 {
            allocate(&file, size).map_err(|error| {
                // Half a file would be taken for a log of another size the next time.
                let _ = file.set_len(0);
                match error.kind() {
                    io::ErrorKind::StorageFull => LogError::NoRoom {
                        path: path.to_owned(),
                        size,
                    },
                    _ => failed("allocate")(error),
                }
            })?;
        } else if length != size {
            return Err(LogError::OtherSize {
                path: path.to_owned(),
                length,
                size,
            });
        }
        let path = path.to_owned();
        Ok(Self { file, path })
    }
}

/// Takes the room at once: a log that finds its disk full later would have to refuse flushes.
fn allocate(file: &File, size: u64) -> io::Result<()> {
    match fallocate(file.as_fd(), FallocateFlags::empty(), 0, size) {
        Err(Errno::OPNOTSUPP) => {}
        result => return Ok(result?),
    }
    let zeros = vec![0; 1 << 20];
    let mut at = 0;
    while at < size {
        let count = usize::try_from(size - at)
            .unwrap_or(usize::MAX)
            .min(zeros.len());
        file.write_all_at(&zeros[..count], at)?;
        at += count as u64;
    }
    file.sync_all()
}

impl Medium for FileMedium {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn read(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(into, at)
    }

    fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, at)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}
