// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Whether a program may be started as a worker. An admin may ask for an upgrade to any path; what
//! is started is a file that only root or the daemon's own user could have put there.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, openat, openat2};
use rustix::process::geteuid;

/// Permission to write, for the group and for everyone.
const OTHERS_WRITE: u32 = 0o022;

/// Permission to execute, for anyone.
const ANY_EXECUTE: u32 = 0o111;

/// A program that has been found fit, held open: whatever becomes of its path, this is what starts.
#[derive(Debug)]
pub struct TrustedBinary {
    file: OwnedFd,
    path: PathBuf,
}

/// Why a program is not started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BinaryError {
    /// It lies elsewhere.
    #[error("Cannot start {path}: it is in none of the configured folders ({allowed})")]
    Elsewhere {
        /// As asked for.
        path: PathBuf,
        /// The folders.
        allowed: String,
    },
    /// It cannot be opened there.
    #[error("Cannot start {path}: it cannot be opened without leaving its configured folder")]
    Open {
        /// As asked for.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// It is no program.
    #[error("Cannot start {0}: it is no executable file")]
    NoProgram(PathBuf),
    /// Somebody else could have written it.
    #[error(
        "Cannot start a worker: {path} belongs to user {owner} and has mode {mode:03o}; it must belong to root or the daemon's user, and nobody else may write to it"
    )]
    Untrusted {
        /// The program, or a folder on the way to it.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// Its permissions.
        mode: u32,
    },
}

impl TrustedBinary {
    /// The path that it was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A command that starts exactly this file. The command must be spawned before `self` is dropped.
    /// Takes `/proc`, and a program that is no script.
    #[must_use]
    pub fn command(&self) -> Command {
        // The link belongs to whichever process follows it, and the child has the descriptor too.
        let mut command = Command::new(format!("/proc/self/fd/{}", self.file.as_raw_fd()));
        command.arg0(&self.path);
        command
    }
}

/// Opens the program at `path` if it lies in one of `allowed`, folders or files, and neither it nor
/// a folder on the way from there could have been written by anyone but root or the daemon's user.
/// Symbolic links are followed as long as they stay in the folder.
///
/// # Errors
/// [`BinaryError`].
pub fn trusted_binary(path: &Path, allowed: &[PathBuf]) -> Result<TrustedBinary, BinaryError> {
    let Some((folder, inside)) = allowed.iter().find_map(|entry| place(path, entry)) else {
        let allowed: Vec<_> = allowed
            .iter()
            .map(|entry| entry.display().to_string())
            .collect();
        return Err(BinaryError::Elsewhere {
            path: path.to_owned(),
            allowed: allowed.join(", "),
        });
    };
    let cannot_open = |error: rustix::io::Errno| BinaryError::Open {
        path: path.to_owned(),
        source: error.into(),
    };
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let root =
        openat(CWD, folder, flags | OFlags::DIRECTORY, Mode::empty()).map_err(cannot_open)?;
    check(root.as_fd(), folder, FileType::Directory)?;
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let mut so_far = PathBuf::new();
    let components: Vec<_> = inside.components().collect();
    for (i, component) in components.iter().enumerate() {
        so_far.push(component);
        let file = openat2(&root, &so_far, flags, Mode::empty(), beneath).map_err(cannot_open)?;
        if i + 1 < components.len() {
            check(file.as_fd(), &folder.join(&so_far), FileType::Directory)?;
            continue;
        }
        check(file.as_fd(), path, FileType::RegularFile)?;
        return Ok(TrustedBinary {
            file,
            path: path.to_owned(),
        });
    }
    Err(BinaryError::NoProgram(path.to_owned()))
}

/// The folder that `path` is looked up in, and its place there, if `entry` allows it.
fn place<'a>(path: &'a Path, entry: &'a Path) -> Option<(&'a Path, &'a Path)> {
    // By its words alone; what the file system makes of them is checked when it is opened.
    let plain =
        |path: &Path| path.is_absolute() && !path.components().any(|c| c == Component::ParentDir);
    if !plain(path) || !plain(entry) {
        return None;
    }
    let inside = path.strip_prefix(entry).ok()?;
    if inside.as_os_str().is_empty() {
        // The entry is a file.
        return Some((path.parent()?, Path::new(path.file_name()?)));
    }
    Some((entry, inside))
}

fn check(file: BorrowedFd<'_>, path: &Path, kind: FileType) -> Result<(), BinaryError> {
    let stat = fstat(file).map_err(|error| BinaryError::Open {
        path: path.to_owned(),
        source: error.into(),
    })?;
    let executable = kind == FileType::Directory || stat.st_mode & ANY_EXECUTE != 0;
    if FileType::from_raw_mode(stat.st_mode) != kind || !executable {
        return Err(BinaryError::NoProgram(path.to_owned()));
    }
    let trusted = stat.st_uid == 0 || stat.st_uid == geteuid().as_raw();
    if !trusted || stat.st_mode & OTHERS_WRITE != 0 {
        return Err(BinaryError::Untrusted {
            path: path.to_owned(),
            owner: stat.st_uid,
            mode: stat.st_mode & 0o7777,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    /// A folder with a copy of a small program in it, and nobody else's right to write.
    fn folder() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        let path = dir.path().join("worker");
        fs::copy("/bin/true", &path).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        (dir, path)
    }

    fn open(path: &Path, dir: &Path) -> Result<TrustedBinary, BinaryError> {
        trusted_binary(path, &[PathBuf::from("/nowhere"), dir.to_owned()])
    }

    #[test]
    fn a_program_in_its_folder_starts_even_if_its_path_is_replaced() {
        let (dir, path) = folder();
        let binary = open(&path, dir.path()).unwrap();
        assert_eq!(binary.path(), path);
        fs::remove_file(&path).unwrap();
        fs::copy("/bin/false", &path).unwrap();
        assert!(binary.command().status().unwrap().success());
        let named = trusted_binary(&path, std::slice::from_ref(&path)).unwrap();
        assert!(!named.command().status().unwrap().success());
    }

    #[test]
    fn what_lies_elsewhere_is_not_started_whatever_path_leads_there() {
        let (dir, path) = folder();
        let (_other_dir, other) = folder();
        let elsewhere = |path: &Path| {
            let error = open(path, dir.path()).unwrap_err();
            assert!(matches!(error, BinaryError::Elsewhere { .. }), "{error}");
        };
        elsewhere(&other);
        elsewhere(&dir.path().join("../bin/true"));
        elsewhere(Path::new("worker"));
        let link = dir.path().join("link");
        symlink(&other, &link).unwrap();
        assert!(matches!(
            open(&link, dir.path()),
            Err(BinaryError::Open { .. })
        ));
        let near = dir.path().join("near");
        symlink(path.file_name().unwrap(), &near).unwrap();
        open(&near, dir.path()).unwrap();
    }

    #[test]
    fn what_others_can_write_is_not_started() {
        let (dir, path) = folder();
        for mode in [0o775, 0o757, 0o777] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let error = open(&path, dir.path()).unwrap_err();
            assert!(
                matches!(error, BinaryError::Untrusted { .. }),
                "{mode:o}: {error}"
            );
        }
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(
            open(&path, dir.path()),
            Err(BinaryError::Untrusted { .. })
        ));
        let inner = dir.path().join("inner");
        fs::create_dir(&inner).unwrap();
        fs::set_permissions(&inner, Permissions::from_mode(0o777)).unwrap();
        fs::copy(&path, inner.join("worker")).unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        let within = open(&inner.join("worker"), dir.path());
        assert!(matches!(within, Err(BinaryError::Untrusted { .. })));
    }

    #[test]
    fn a_strangers_program_is_not_started() {
        let (dir, path) = folder();
        if !geteuid().is_root() {
            println!("not exercised: only root can give a file away");
            return;
        }
        std::os::unix::fs::chown(&path, Some(4711), None).unwrap();
        let error = open(&path, dir.path()).unwrap_err();
        assert!(
            matches!(error, BinaryError::Untrusted { owner: 4711, .. }),
            "{error}"
        );
    }

    #[test]
    fn what_is_no_program_is_not_started() {
        let (dir, path) = folder();
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(
            open(&path, dir.path()),
            Err(BinaryError::NoProgram(_))
        ));
        let folder = dir.path().join("folder");
        fs::create_dir(&folder).unwrap();
        assert!(matches!(
            open(&folder, dir.path()),
            Err(BinaryError::NoProgram(_))
        ));
        assert!(matches!(
            open(&dir.path().join("none"), dir.path()),
            Err(BinaryError::Open { .. })
        ));
    }
}
