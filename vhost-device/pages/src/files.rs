// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The two files that outlive a process, and who may have them.
//!
//! Three locks, for three mistakes: two programs that are given the same path (`flock`, which a
//! descriptor takes along wherever it is passed), a new process on descriptors that the last one
//! still uses (a record lock, which belongs to a process and ends with its last thread), and two
//! engines in one process (a list).

use std::fs::OpenOptions;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use parking_lot::Mutex;
use rustix::fs::{
    FlockOperation, MemfdFlags, fcntl_lock, flock, fstat, fstatfs, ftruncate, memfd_create,
};
use rustix::io::Errno;

use crate::error::EngineError;
use crate::handle::PAGE_SIZE;
use crate::layout::{Found, MapLayout, read_header};

/// What `statfs` calls hugetlbfs.
const HUGETLBFS_MAGIC: u64 = 0x9584_58f6;

/// The shared-memory files that hold an engine: whoever has their descriptors can go on with it
/// after the process that used them is gone.
#[derive(Debug)]
pub struct EngineFiles {
    /// What is where: guests, pools, the frame table, the index of dense pools.
    pub map: OwnedFd,
    /// The pages' bytes alone; may be on hugetlbfs.
    pub frames: OwnedFd,
}

impl EngineFiles {
    /// Two empty files of anonymous shared memory, gone with their last descriptor.
    ///
    /// # Errors
    /// [`EngineError::Unreadable`] if the system gives none.
    pub fn anonymous() -> Result<Self, EngineError> {
        let file = |name: &str| memfd_create(name, MemfdFlags::CLOEXEC).map_err(unreadable);
        Ok(Self {
            map: file("tmem-map")?,
            frames: file("tmem-frames")?,
        })
    }

    /// The files at two paths, made for their owner alone if they are missing, and locked against every other program
    /// until the last descriptor of them is closed. There must be room for the frames: a page that
    /// the file system cannot hold ends the process.
    ///
    /// # Errors
    /// [`EngineError`] if one cannot be opened, or another program has it.
    pub fn open(map: &Path, frames: &Path) -> Result<Self, EngineError> {
        Ok(Self {
            map: open(map)?,
            frames: open(frames)?,
        })
    }

    /// The same files once more. Closing any descriptor of the map ends a process' claim to it, so
    /// one that runs an engine keeps its copies as long as the engine.
    ///
    /// # Errors
    /// [`EngineError::Unreadable`] if there are no descriptors left.
    pub fn try_clone(&self) -> Result<Self, EngineError> {
        let clone = |file: &OwnedFd| {
            let clone = file.try_clone();
            clone.map_err(|source| EngineError::Unreadable { source })
        };
        Ok(Self {
            map: clone(&self.map)?,
            frames: clone(&self.frames)?,
        })
    }

    /// Whether this program can go on with what the map holds, by its header. Changes nothing, and
    /// takes no lock; an empty map is fine.
    ///
    /// # Errors
    /// [`EngineError`] that says why not.
    pub fn check(&self) -> Result<(), EngineError> {
        match read_header(self.map.as_fd())? {
            Found::Empty => Ok(()),
            Found::Map(layout) => self.check_frames(&layout),
        }
    }

    /// Whether a process uses the map, this one included. One that was killed does so until its
    /// memory is gone, which comes before its locks.
    ///
    /// # Errors
    /// [`EngineError::Unreadable`] if it cannot be told.
    pub fn in_use(&self) -> Result<bool, EngineError> {
        is_claimed(&self.map)
    }

    /// Whether the frames are as many as the map says.
    pub(crate) fn check_frames(&self, layout: &MapLayout) -> Result<(), EngineError> {
        let expected = layout.frames_bytes(self.frames_block()?) as u64;
        let length = fstat(&self.frames).map_err(unreadable)?.st_size;
        let bytes = u64::try_from(length).unwrap_or(0);
        if bytes == expected {
            Ok(())
        } else {
            Err(EngineError::FramesLength { bytes, expected })
        }
    }

    /// Makes both files as long as `layout` says, all zeroes.
    pub(crate) fn make(&self, layout: &MapLayout) -> Result<(), EngineError> {
        let frames_bytes = layout.frames_bytes(self.frames_block()?) as u64;
        let make = || {
            ftruncate(&self.frames, 0)?;
            ftruncate(&self.frames, frames_bytes)?;
            ftruncate(&self.map, 0)?;
            ftruncate(&self.map, layout.bytes as u64)?;
            // From here on the map is an engine's.
            layout.write_header(self.map.as_fd())
        };
        make().map_err(|source| EngineError::Memory {
            frames: layout.counts.all_frames(),
            guests_max: layout.counts.guests,
            source: source.into(),
        })
    }

    /// The size of a huge page, if the frames are made of them.
    pub(crate) fn huge_block(&self) -> Result<Option<usize>, EngineError> {
        let stat = fstatfs(&self.frames).map_err(unreadable)?;
        let huge = u64::try_from(stat.f_type).is_ok_and(|kind| kind == HUGETLBFS_MAGIC);
        Ok(usize::try_from(stat.f_bsize).ok().filter(|_| huge))
    }

    fn frames_block(&self) -> Result<usize, EngineError> {
        Ok(self.huge_block()?.unwrap_or(PAGE_SIZE))
    }
}

fn unreadable(source: Errno) -> EngineError {
    EngineError::Unreadable {
        source: source.into(),
    }
}

fn open(path: &Path) -> Result<OwnedFd, EngineError> {
    let failed = |source| EngineError::Open {
        path: path.into(),
        source,
    };
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        // Whoever can read it, reads guests' memory.
        .mode(0o600)
        .open(path)
        .map_err(failed)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file.into()),
        Err(Errno::WOULDBLOCK) => Err(EngineError::Locked { path: path.into() }),
        Err(source) => Err(failed(source.into())),
    }
}

/// Whether a process has this map, this one included.
fn is_claimed(map: &OwnedFd) -> Result<bool, EngineError> {
    let stat = fstat(map).map_err(unreadable)?;
    if USED.lock().contains(&(stat.st_dev, stat.st_ino)) {
        return Ok(true);
    }
    match fcntl_lock(map, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => fcntl_lock(map, FlockOperation::Unlock)
            .map(|()| false)
            .map_err(unreadable),
        Err(Errno::ACCESS | Errno::AGAIN) => Ok(true),
        Err(source) => Err(unreadable(source)),
    }
}

/// Device and inode of the maps that this process uses.
static USED: Mutex<Vec<(u64, u64)>> = Mutex::new(Vec::new());

/// The right of one engine to use a map.
#[derive(Debug)]
pub(crate) struct Claim {
    file: (u64, u64),
}

impl Claim {
    /// Claims a map for this process, as long as no descriptor of it is closed, and for one engine
    /// in it.
    pub(crate) fn new(map: &OwnedFd) -> Result<Self, EngineError> {
        let stat = fstat(map).map_err(unreadable)?;
        let file = (stat.st_dev, stat.st_ino);
        let mut used = USED.lock();
        if used.contains(&file) {
            return Err(EngineError::InUse);
        }
        match fcntl_lock(map, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::ACCESS | Errno::AGAIN) => return Err(EngineError::InUse),
            Err(source) => return Err(unreadable(source)),
        }
        used.push(file);
        Ok(Self { file })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        USED.lock().retain(|file| *file != self.file);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn path_that_another_program_has_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (map, frames) = (dir.path().join("map"), dir.path().join("frames"));
        let files = EngineFiles::open(&map, &frames).unwrap();
        files.check().unwrap();
        for path in [&map, &frames] {
            let mode = std::fs::metadata(path).unwrap().permissions().mode();
            assert_eq!(mode & 0o077, 0, "others can read guests' memory");
        }
        let other = EngineFiles::open(&map, &dir.path().join("more")).unwrap_err();
        assert!(matches!(other, EngineError::Locked { path } if path == map));
        let other = EngineFiles::open(&dir.path().join("more"), &frames).unwrap_err();
        assert!(matches!(other, EngineError::Locked { path } if path == frames));
        // A copy keeps the lock.
        let copy = files.try_clone().unwrap();
        drop(files);
        assert!(EngineFiles::open(&map, &frames).is_err());
        drop(copy);
        assert!(EngineFiles::open(&map, &frames).is_ok());
    }

    #[test]
    fn map_has_one_engine_of_a_process() {
        let files = EngineFiles::anonymous().unwrap();
        assert!(!files.in_use().unwrap());
        let claim = Claim::new(&files.map).unwrap();
        assert!(files.in_use().unwrap());
        assert!(matches!(Claim::new(&files.map), Err(EngineError::InUse)));
        drop(claim);
        assert!(Claim::new(&files.map).is_ok());
    }
}
