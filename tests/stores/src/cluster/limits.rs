// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Little room: a file system of a few mebibytes, and a bound on a process's memory.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::Pid;

/// A small file system in memory. It is gone with this value.
#[derive(Debug)]
pub struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// Mounts one of `mebibytes` on a folder, which is made.
    ///
    /// # Errors
    /// If this process may not mount.
    pub fn mount(path: &Path, mebibytes: u32) -> Result<Self> {
        fs::create_dir_all(path).with_context(|| format!("Cannot make {}", path.display()))?;
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={mebibytes}m"), "tmpfs"])
            .arg(path)
            .output()
            .context("Cannot run mount")?;
        let told = String::from_utf8_lossy(&mounted.stderr);
        ensure!(mounted.status.success(), "Cannot mount a tmpfs: {told}");
        Ok(Self { path: path.into() })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes up what room there is left.
    ///
    /// # Errors
    /// If the file system is not there.
    pub fn fill(&self) -> Result<()> {
        let block = [0x55; 4096];
        let mut file = fs::File::create(self.path.join("filler"))?;
        while std::io::Write::write_all(&mut file, &block).is_ok() {}
        Ok(())
    }

    /// Gives it back.
    ///
    /// # Errors
    /// If the file system is not there.
    pub fn make_room(&self) -> Result<()> {
        Ok(fs::remove_file(self.path.join("filler"))?)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a process that is about to end may still have a file open.
        let _ = Command::new("umount").arg("-l").arg(&self.path).output();
    }
}

/// A bound on the memory of processes. It is gone with this value, when they have ended.
#[derive(Debug)]
pub struct MemoryLimit {
    group: PathBuf,
}

/// Where groups with a memory controller are made, and the name of the file with the limit.
fn controller() -> Option<(&'static Path, &'static str)> {
    let unified = Path::new("/sys/fs/cgroup");
    let controllers = fs::read_to_string(unified.join("cgroup.controllers")).unwrap_or_default();
    if controllers.split_whitespace().any(|name| name == "memory") {
        return Some((unified, "memory.max"));
    }
    let memory = Path::new("/sys/fs/cgroup/memory");
    memory
        .join("memory.limit_in_bytes")
        .is_file()
        .then_some((memory, "memory.limit_in_bytes"))
}

impl MemoryLimit {
    /// Makes a group whose processes may have `mebibytes`; nothing, with the reason, where there are
    /// no such groups.
    pub fn new(mebibytes: u64) -> Result<Self> {
        let (parent, limit) = controller().context("No cgroup has a memory controller here")?;
        let group = parent.join(format!("tmem-{}-{mebibytes}", std::process::id()));
        if limit == "memory.max" {
            // Children have the controller only if their parent hands it down.
            let _ = fs::write(parent.join("cgroup.subtree_control"), "+memory");
        }
        fs::create_dir(&group).with_context(|| format!("Cannot make {}", group.display()))?;
        let made = Self { group };
        let path = made.group.join(limit);
        fs::write(&path, (mebibytes << 20).to_string())
            .with_context(|| format!("Cannot write {}", path.display()))?;
        // Otherwise what does not fit goes to swap.
        for (name, value) in [
            ("memory.swap.max", "0".to_owned()),
            ("memory.memsw.limit_in_bytes", (mebibytes << 20).to_string()),
        ] {
            let path = made.group.join(name);
            if path.is_file() {
                let _ = fs::write(path, value);
            }
        }
        Ok(made)
    }

    /// Puts a process under the bound.
    ///
    /// # Errors
    /// If the process has ended.
    pub fn hold(&self, process: Pid) -> Result<()> {
        let number = process.as_raw_nonzero().to_string();
        Ok(fs::write(self.group.join("cgroup.procs"), number)?)
    }
}

impl Drop for MemoryLimit {
    fn drop(&mut self) {
        // The kernel takes a moment to see that a process has left.
        for _ in 0..50 {
            if fs::remove_dir(&self.group).is_ok() {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}
