// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The cache: one folder an artefact, named after its kind and the key of its inputs.
//!
//! An artefact is built in `<name>.partial` and renamed when it is complete, so what has its final
//! name can be used. A lock file for each artefact keeps two runs from building the same thing at
//! the same time; the second one waits and then finds it done.

use std::fs::{self, File, FileTimes, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::error::{Error, IoContext, Result};
use crate::progress::Progress;

/// What the name of a folder ends in while it is filled.
const PARTIAL: &str = ".partial";

/// The folder that all artefacts are kept in.
#[derive(Clone, Debug)]
pub struct Cache {
    folder: PathBuf,
}

impl Cache {
    /// Opens the cache at `$TMEM_CACHE`, else `$XDG_CACHE_HOME/virtio-tmem`, else
    /// `~/.cache/virtio-tmem`, and creates the folder.
    ///
    /// # Errors
    /// [`Error::NoCacheFolder`] when no variable names a place, [`Error::Io`] when it cannot be
    /// created.
    pub fn open() -> Result<Self> {
        let variable = |name| std::env::var_os(name).filter(|v| !v.is_empty());
        let folder = variable("TMEM_CACHE")
            .map(PathBuf::from)
            .or_else(|| variable("XDG_CACHE_HOME").map(|d| Path::new(&d).join("virtio-tmem")))
            .or_else(|| variable("HOME").map(|d| Path::new(&d).join(".cache/virtio-tmem")))
            .ok_or(Error::NoCacheFolder)?;
        Self::at(&folder)
    }

    /// Opens a cache at a given place.
    ///
    /// # Errors
    /// [`Error::Io`] when the folder cannot be created.
    pub fn at(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).context("create folder", folder)?;
        let folder = fs::canonicalize(folder).context("open folder", folder)?;
        Ok(Self { folder })
    }

    /// The cache's folder, absolute.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The log file of one kind of step.
    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.folder.join("log").join(format!("{name}.log"))
    }

    /// Gives the folder of the artefact `kind-key`, building it first when it is not there.
    /// `build` gets the folder to fill.
    pub(crate) fn artefact(
        &self,
        kind: &str,
        key: &str,
        progress: &Progress,
        build: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        self.artefact_resumed(kind, key, progress, |partial| {
            remove_folder(partial)?;
            fs::create_dir_all(partial).context("create folder", partial)?;
            build(partial)
        })
    }

    /// As [`artefact`](Self::artefact), but `build` finds in the folder what an interrupted or failed
    /// run with the same key left there: for what takes so long that it should go on from there.
    pub(crate) fn artefact_resumed(
        &self,
        kind: &str,
        key: &str,
        progress: &Progress,
        build: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        let name = format!("{kind}-{key}");
        let ready = self.folder.join(&name);
        let _lock = self.lock(&name, progress)?;
        if !ready.is_dir() {
            let partial = self.folder.join(format!("{name}{PARTIAL}"));
            fs::create_dir_all(&partial).context("create folder", &partial)?;
            build(&partial)?;
            fs::rename(&partial, &ready).context("put in place", &ready)?;
        }
        self.mark_used(&name)?;
        Ok(ready)
    }

    /// Takes the lock `name`; waits, and says so, while another process has it.
    pub(crate) fn lock(&self, name: &str, progress: &Progress) -> Result<File> {
        let folder = self.folder.join("lock");
        fs::create_dir_all(&folder).context("create folder", &folder)?;
        let path = folder.join(name);
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .context("open", &path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                progress.line(&format!("waiting for another run that builds {name}"));
                file.lock().context("lock", &path)?;
            }
            Err(TryLockError::Error(source)) => {
                return Err(Error::Io {
                    action: "lock",
                    path,
                    source,
                });
            }
        }
        Ok(file)
    }

    /// Removes artefacts of a kind, but for the `keep` that were used last, and what interrupted
    /// runs left half built. One whose lock another process has is left alone.
    pub(crate) fn prune(&self, kind: &str, keep: usize) -> Result<()> {
        let mut ready: Vec<(SystemTime, String)> = Vec::new();
        let mut surplus: Vec<String> = Vec::new();
        for entry in fs::read_dir(&self.folder).context("read folder", &self.folder)? {
            let entry = entry.context("read folder", &self.folder)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let rest = name.strip_prefix(kind).and_then(|r| r.strip_prefix('-'));
            let is_key = |k: &str| k.len() == 16 && k.chars().all(|c| c.is_ascii_hexdigit());
            match rest.map(|rest| (rest, rest.strip_suffix(PARTIAL))) {
                Some((_, Some(key))) if is_key(key) => surplus.push(name),
                Some((key, None)) if is_key(key) => {
                    let used = fs::metadata(self.lock_path(&name)).and_then(|m| m.modified());
                    ready.push((used.unwrap_or(SystemTime::UNIX_EPOCH), name));
                }
                _ => {}
            }
        }
        ready.sort();
        let old = ready.len().saturating_sub(keep);
        surplus.extend(ready.into_iter().take(old).map(|(_, name)| name));
        for name in surplus {
            let lock = File::open(self.lock_path(name.trim_end_matches(PARTIAL)));
            // The lock is held until the folder is gone.
            if lock.as_ref().is_ok_and(|lock| lock.try_lock().is_err()) {
                continue;
            }
            remove_folder(&self.folder.join(&name))?;
        }
        Ok(())
    }

    fn lock_path(&self, name: &str) -> PathBuf {
        self.folder.join("lock").join(name)
    }

    /// The lock file's time says when the artefact was last wanted.
    fn mark_used(&self, name: &str) -> Result<()> {
        let path = self.lock_path(name);
        let file = OpenOptions::new()
            .write(true)
            .open(&path)
            .context("open", &path)?;
        file.set_times(FileTimes::new().set_modified(SystemTime::now()))
            .context("touch", &path)
    }
}

/// Removes a folder and everything below; fine when there is none.
pub(crate) fn remove_folder(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).context("remove", folder)
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache() -> (tempfile::TempDir, Cache) {
        let dir = tempfile::tempdir().expect("temporary folder");
        let cache = Cache::at(dir.path()).expect("open");
        (dir, cache)
    }

    #[test]
    fn second_request_finds_the_artefact_built() {
        let (_dir, cache) = cache();
        let progress = Progress::hidden();
        let write = |folder: &Path| fs::write(folder.join("x"), "1").context("write", folder);
        let first = cache.artefact("a", "k", &progress, write).expect("build");
        let second = cache
            .artefact("a", "k", &progress, |_| panic!("built twice"))
            .expect("find");
        assert_eq!(first, second);
        assert!(second.join("x").exists());
    }

    #[test]
    fn failed_build_leaves_nothing_that_looks_ready_and_is_tried_again() {
        let (_dir, cache) = cache();
        let progress = Progress::hidden();
        let fail = |folder: &Path| {
            fs::write(folder.join("half"), "").context("write", folder)?;
            Err(Error::NoCacheFolder)
        };
        assert!(cache.artefact("a", "k", &progress, fail).is_err());
        let ready = cache
            .artefact("a", "k", &progress, |_| Ok(()))
            .expect("second try");
        assert!(
            !ready.join("half").exists(),
            "the partial folder was reused"
        );
    }

    #[test]
    fn resumed_build_finds_what_the_failed_one_left() {
        let (_dir, cache) = cache();
        let progress = Progress::hidden();
        let half = |folder: &Path| {
            fs::write(folder.join("half"), "").context("write", folder)?;
            Err(Error::NoCacheFolder)
        };
        assert!(cache.artefact_resumed("a", "k", &progress, half).is_err());
        let rest = |folder: &Path| {
            assert!(folder.join("half").exists(), "it begins anew");
            Ok(())
        };
        let ready = cache
            .artefact_resumed("a", "k", &progress, rest)
            .expect("second try");
        assert!(ready.join("half").exists(), "what was done is gone");
    }

    #[test]
    fn prune_keeps_the_artefacts_used_last_and_other_kinds() {
        let (_dir, cache) = cache();
        let progress = Progress::hidden();
        let key = |n: u32| format!("{n:016x}");
        for n in 0..4 {
            cache
                .artefact("m", &key(n), &progress, |_| Ok(()))
                .expect("build");
            // The clock of file times may be coarse, so the order is set by hand.
            let lock = cache.folder().join(format!("lock/m-{}", key(n)));
            let when = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(u64::from(n));
            let file = OpenOptions::new().write(true).open(lock).expect("open");
            file.set_times(FileTimes::new().set_modified(when))
                .expect("set");
        }
        cache
            .artefact("mm", &key(9), &progress, |_| Ok(()))
            .expect("build");
        let half_built = cache.folder().join(format!("m-{}{PARTIAL}", key(7)));
        fs::create_dir(&half_built).expect("create");
        cache.prune("m", 2).expect("prune");
        assert!(!half_built.exists());
        let left = |kind: &str, n| cache.folder().join(format!("{kind}-{}", key(n))).exists();
        assert!(!left("m", 0) && !left("m", 1));
        assert!(left("m", 2) && left("m", 3) && left("mm", 9));
    }
}
